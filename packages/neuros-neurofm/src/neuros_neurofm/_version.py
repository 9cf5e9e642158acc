"""The installed version, read when somebody asks for it."""

from importlib.metadata import version

__version__ = version("neuros-neurofm")
