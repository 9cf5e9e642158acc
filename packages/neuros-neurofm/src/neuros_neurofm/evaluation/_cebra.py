"""Nearest neighbours in an embedding by CEBRA, where that package is installed."""

from importlib import import_module
from importlib.util import find_spec

import numpy as np

from neuros_neurofm.evaluation._arrays import Array

_COUNTS = (1, 4, 16, 64)


def has_cebra() -> bool:
    """Whether the package can be imported."""
    return find_spec("cebra") is not None


class CEBRADecoder:
    """CEBRA-Behavior (10 samples around each, 8 dimensions) and the mean over near neighbours.

    The package draws from generators of its own that cannot be seeded: two fits differ slightly.
    """

    def __init__(self, *, steps: int) -> None:
        self.steps, self.n_neighbours = steps, 1
        self._y: Array = np.zeros((0, 0))

    def fit(self, x: list[Array], y: list[Array]) -> "CEBRADecoder":
        """Embed the training segments with their targets as the contrast."""
        from scipy.spatial import cKDTree

        self._y = np.concatenate(y)
        stacked = np.concatenate(x).astype(np.float32)
        self._network = import_module("cebra").CEBRA(
            model_architecture="offset10-model",
            batch_size=min(512, len(stacked)),
            max_iterations=self.steps,
            output_dimension=8,
            conditional="time_delta",
            device="cpu",
            verbose=False,
        )
        self._network.fit(stacked, self._y.astype(np.float32))
        self._tree = cKDTree(np.concatenate([self._embed(part) for part in x]))
        return self

    def counts(self) -> list[int]:
        """Numbers of neighbours to choose from."""
        return [count for count in _COUNTS if count <= len(self._y)]

    def with_neighbours(self, count: int) -> "CEBRADecoder":
        """Average over so many neighbours from now on."""
        self.n_neighbours = count
        return self

    def predict(self, x: Array) -> Array:
        """Average the targets of the nearest training samples, (time, dim)."""
        _, index = self._tree.query(self._embed(x), k=[*range(1, self.n_neighbours + 1)])
        return np.asarray(self._y[index].mean(axis=1))

    def _embed(self, x: Array) -> Array:
        return np.asarray(self._network.transform(x.astype(np.float32)), dtype=np.float64)
