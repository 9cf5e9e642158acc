"""Nearest neighbours in an embedding by CEBRA, where that package is installed."""

from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from neuros_neurofm.evaluation._arrays import Array

_COUNTS = (1, 4, 16, 64)
_DIMENSION = 8
_LEAST = 10
# Samples after the present one that an architecture reads.
_AHEAD = {"offset1-model": 0, "offset10-model": 4}


def has_cebra() -> bool:
    """Whether the package can be imported."""
    return find_spec("cebra") is not None


class CEBRADecoder:
    """CEBRA-Behavior and the mean over near neighbours in its embedding.

    The package draws from generators of its own that cannot be seeded: two fits differ slightly.
    Its default architecture reads 10 samples, of which 4 lie in the future. A causal decoder gets
    its input 4 samples late, so that the last of the 10 is the present one.
    """

    def __init__(
        self,
        *,
        steps: int,
        labels: bool = False,
        architecture: str = "offset10-model",
        causal: bool = True,
    ) -> None:
        self.steps, self.labels, self.n_neighbours = steps, labels, 1
        self.architecture = architecture
        self.delay = _AHEAD[architecture] if causal else 0
        self._y: Array = np.zeros((0, 0))

    def fit(self, x: list[Array], y: list[Array]) -> "CEBRADecoder":
        """Embed the training segments with their targets as the contrast."""
        from scipy.spatial import cKDTree

        self._y = np.concatenate(y)
        stacked = np.concatenate([self._late(part) for part in x])
        self._network = import_module("cebra").CEBRA(
            model_architecture=self.architecture,
            batch_size=min(512, len(stacked)),
            max_iterations=self.steps,
            output_dimension=_DIMENSION,
            conditional="time_delta",
            device="cpu",
            verbose=False,
        )
        # Integers are classes to the package, floats are variables.
        contrast = self._y.argmax(axis=1) if self.labels else self._y.astype(np.float32)
        self._network.fit(stacked, contrast)
        self._tree = cKDTree(np.concatenate([self._embed(part) for part in x]))
        return self

    def counts(self) -> list[int]:
        """Numbers of neighbours to choose from."""
        return [count for count in _COUNTS if count <= len(self._y)]

    @property
    def n_parameters(self) -> int:
        """Weights of the fitted network."""
        return sum(weight.numel() for weight in self._network.model_.parameters())

    def with_neighbours(self, count: int) -> "CEBRADecoder":
        """Average over so many neighbours from now on."""
        self.n_neighbours = count
        return self

    def predict(self, x: Array) -> Array:
        """Average the targets of the nearest training samples, (time, dim)."""
        _, index = self._tree.query(self._embed(x), k=[*range(1, self.n_neighbours + 1)])
        return np.asarray(self._y[index].mean(axis=1))

    def _embed(self, x: Array) -> Array:
        # The package refuses stretches shorter than what its networks read.
        missing = max(_LEAST - len(x), 0)
        padded = np.pad(self._late(x), ((missing, 0), (0, 0)), mode="edge")
        return np.asarray(self._network.transform(padded), dtype=np.float64)[missing:]

    def _late(self, x: Array) -> NDArray[np.float32]:
        """The input so many samples late; the first one lasts until then."""
        index = np.maximum(np.arange(len(x)) - self.delay, 0)
        return x[index].astype(np.float32)
