"""The commands of `neuros-data`, one module each."""
