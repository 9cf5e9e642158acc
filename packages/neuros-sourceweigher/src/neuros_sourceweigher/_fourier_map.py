r"""Random Fourier features: a finite space in which means differ as distributions do."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_sourceweigher._map_text import check_dim, read_map, space_of, write_map
from neuros_sourceweigher._rows import Standardizer, like, map_rows

__all__: list[str] = []

Array = NDArray[np.float64]


class RandomFourierMap:
    r"""Features $\phi(x) = m^{-1/2} (\cos W x, \sin W x)$ of the Gaussian kernel.

    With the rows of $W$ normal of variance $1 / h^2$, $\phi(x) \cdot \phi(y)$ estimates
    $\exp(-\|x - y\|^2 / 2 h^2)$, so the squared distance of feature means estimates the squared
    maximum mean discrepancy. Only feature means and covariances leave a site; every site that has
    the same settings has the same $W$.

    Args:
        dim: Number of inputs d.
        n_features: Length p = 2 m of the feature vectors.
        bandwidth: $h > 0$ (see `median_bandwidth`); several give the mean of their kernels, with
            equally many features each.
        seed: Of $W$.
        orthogonal: Draw rows in blocks of d orthogonal ones with the lengths of normal vectors,
            which lowers the variance of the kernel estimate.

    Raises:
        ValueError: For a setting out of its range.

    Examples:
        >>> phi = RandomFourierMap(dim=2, n_features=4096, bandwidth=1.0)
        >>> x, y = phi.transform([[0.0, 0.0], [1.0, 1.0]])
        >>> bool(abs(x @ y - np.exp(-1.0)) < 0.02), round(float(x @ x), 12)
        (True, 1.0)

    References:
        Rahimi & Recht 2007, Random Features for Large-Scale Kernel Machines, NeurIPS 20.
        Yu et al. 2016, Orthogonal Random Features, arXiv:1610.09072.
    """

    def __init__(
        self,
        *,
        dim: int,
        n_features: int = 512,
        bandwidth: float | tuple[float, ...],
        seed: int = 0,
        orthogonal: bool = True,
    ) -> None:
        self.dim = check_dim(dim)
        scales = (bandwidth,) if isinstance(bandwidth, int | float) else tuple(bandwidth)
        if not scales or not all(0 < float(h) < np.inf for h in scales):
            raise ValueError(f"bandwidth needs finite numbers > 0, got {bandwidth!r}")
        if n_features < 2 or n_features % (2 * len(scales)):
            raise ValueError(
                "n_features needs a positive multiple of 2 per bandwidth = "
                f"{2 * len(scales)}, got {n_features!r}"
            )
        self.n_features = int(n_features)
        self.bandwidth = tuple(float(h) for h in scales)
        self.seed = int(seed)
        self.orthogonal = bool(orthogonal)
        self._standardizer: Standardizer | None = None
        self.W = self._draw()

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self._settings().items())
        return f"RandomFourierMap({shown})"

    def _settings(self) -> dict[str, Any]:
        return {
            "dim": self.dim,
            "n_features": self.n_features,
            "bandwidth": self.bandwidth,
            "seed": self.seed,
            "orthogonal": self.orthogonal,
        }

    def _draw(self) -> Array:
        rng = np.random.Generator(np.random.PCG64(self.seed))
        rows = self.n_features // 2 // len(self.bandwidth)
        parts = [
            (_orthogonal_rows if self.orthogonal else _normal_rows)(rng, rows, self.dim) / h
            for h in self.bandwidth
        ]
        W = np.concatenate(parts)
        W.flags.writeable = False
        return W

    @property
    def space(self) -> str:
        """Name of the feature space, for `DomainStatistics.space`."""
        return space_of("RandomFourierMap", self._settings(), self._standardizer)

    def fit_standardizer(self, mean: ArrayLike, var: ArrayLike) -> "RandomFourierMap":
        """Return the map that first brings pooled inputs to mean 0 and variance 1.

        The bandwidth then is in units of the pooled standard deviation.

        Args:
            mean: (d,) pooled mean of all domains.
            var: (d,) pooled variance, > 0.

        Raises:
            ValueError: For another shape, NaN, or a variance that is not positive.
        """
        standardizer = Standardizer.fit(mean, var, self.dim)
        return self.from_json(
            write_map(
                "RandomFourierMap", {**self._settings(), "sha256": _digest(self.W)}, standardizer
            )
        )

    def transform(self, x: Any) -> Any:
        """Map samples to features.

        Args:
            x: (n, d) array, or tensor of any device.

        Returns:
            (n, p): float64 for arrays; for tensors a tensor of the same device and precision
            (half precision becomes float32).

        Raises:
            ValueError: For another shape, NaN or infinity.
            TypeError: For complex or non-numeric samples.
        """
        size = float(np.sqrt(2.0 / self.n_features))

        def phi(z: Any, library: Any) -> Any:
            angle = z @ like(self.W, z, library).T
            return library.concatenate([library.cos(angle), library.sin(angle)], 1) * size

        return map_rows(x, self.dim, self.n_features, self._standardizer, phi)

    def to_json(self) -> str:
        """Return JSON that rebuilds the map bit for bit, with the hash of $W$ to prove it."""
        settings = {**self._settings(), "sha256": _digest(self.W)}
        return write_map("RandomFourierMap", settings, self._standardizer)

    @classmethod
    def from_json(cls, text: str | bytes) -> "RandomFourierMap":
        """Rebuild from `to_json`.

        Raises:
            ValueError: For the text of another map or a newer schema, and when this machine draws
                another $W$ from the seed than the machine that wrote the text.
        """
        settings, standardizer = read_map("RandomFourierMap", text)
        digest = settings.pop("sha256")
        rebuilt = cls(**settings | {"bandwidth": tuple(settings["bandwidth"])})
        if _digest(rebuilt.W) != digest:
            raise ValueError(
                f"W needs the SHA-256 {digest}, got {_digest(rebuilt.W)}: the text was changed, or "
                "NumPy draws other normal numbers here; statistics of both must not be combined"
            )
        rebuilt._standardizer = standardizer
        return rebuilt


def _digest(W: Array) -> str:
    return hashlib.sha256(W.astype("<f8").tobytes()).hexdigest()


def _normal_rows(rng: np.random.Generator, rows: int, dim: int) -> Array:
    return rng.standard_normal((rows, dim))


def _orthogonal_rows(rng: np.random.Generator, rows: int, dim: int) -> Array:
    """Blocks of orthogonal rows (Yu et al. 2016), each with the length of a normal vector."""
    blocks = []
    for start in range(0, rows, dim):
        directions = _orthonormal(rng.standard_normal((dim, dim))[: min(dim, rows - start)])
        lengths = np.sqrt(_sum_last(np.square(rng.standard_normal((dim, dim)))))
        blocks.append(directions * lengths[: len(directions), None])
    return np.concatenate(blocks)


def _orthonormal(rows: Array) -> Array:
    """Gram-Schmidt with elementwise operations alone.

    LAPACK and BLAS sum in an order that depends on the machine; here every rounding is fixed by
    IEEE 754, so all sites get the same bits.
    """
    rows = rows.copy()
    for i in range(len(rows)):
        rows[i] /= np.sqrt(_sum_last(np.square(rows[i])))
        rest = rows[i + 1 :]
        rest -= _sum_last(rest * rows[i])[:, None] * rows[i]
    return rows


def _sum_last(x: Array) -> Array:
    """Sum over the last axis, pairwise in a fixed order."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        odd = x[..., 2 * half :]
        x = x[..., :half] + x[..., half : 2 * half]
        if odd.shape[-1]:
            x[..., :1] += odd
    return x[..., 0]
