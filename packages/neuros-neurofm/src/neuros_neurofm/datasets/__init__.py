"""Synthetic data of known truth: populations driven by latent dynamics, and tests of memory."""

from neuros_neurofm.datasets.memory import MemoryTask, memory_task
from neuros_neurofm.datasets.population import SyntheticSession, synthetic_population

__all__ = ["MemoryTask", "SyntheticSession", "memory_task", "synthetic_population"]
