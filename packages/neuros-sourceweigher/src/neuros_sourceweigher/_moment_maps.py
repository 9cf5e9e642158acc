"""Polynomial feature maps: the inputs themselves, and their products."""

from typing import Any

from numpy.typing import ArrayLike

from neuros_sourceweigher._map_text import check_dim, read_map, space_of, write_map
from neuros_sourceweigher._quadratic import pairs
from neuros_sourceweigher._rows import Standardizer, like, map_rows

__all__: list[str] = []


class IdentityMap:
    r"""The inputs as they are, $\phi(x) = x$: matches means, blind to sources of equal mean.

    Args:
        dim: Number of inputs d.

    Raises:
        ValueError: When `dim` is not a whole number >= 1.

    Examples:
        >>> phi = IdentityMap(dim=2).fit_standardizer([1.0, 0.0], [4.0, 1.0])
        >>> phi.transform([[3.0, 5.0]])
        array([[1., 5.]])
    """

    def __init__(self, *, dim: int) -> None:
        self.dim = check_dim(dim)
        self._standardizer: Standardizer | None = None

    def __repr__(self) -> str:
        return f"IdentityMap(dim={self.dim})"

    @property
    def n_features(self) -> int:
        """Length p of the feature vectors."""
        return self.dim

    @property
    def space(self) -> str:
        """Name of the feature space, for `DomainStatistics.space`."""
        return space_of("IdentityMap", {"dim": self.dim}, self._standardizer)

    def fit_standardizer(self, mean: ArrayLike, var: ArrayLike) -> "IdentityMap":
        """Return the map that first brings pooled inputs to mean 0 and variance 1.

        Args:
            mean: (d,) pooled mean of all domains.
            var: (d,) pooled variance, > 0.

        Raises:
            ValueError: For another shape, NaN, or a variance that is not positive.
        """
        standardizer = Standardizer.fit(mean, var, self.dim)
        return self.from_json(write_map("IdentityMap", {"dim": self.dim}, standardizer))

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
        return map_rows(x, self.dim, self.n_features, self._standardizer, lambda z, _: z)

    def to_json(self) -> str:
        """Return JSON that rebuilds the map bit for bit."""
        return write_map("IdentityMap", {"dim": self.dim}, self._standardizer)

    @classmethod
    def from_json(cls, text: str | bytes) -> "IdentityMap":
        """Rebuild from `to_json`; a ValueError for the text of another map or a newer schema."""
        settings, standardizer = read_map("IdentityMap", text)
        rebuilt = cls(**settings)
        rebuilt._standardizer = standardizer
        return rebuilt


class QuadraticMap:
    r"""Inputs and their products, $\phi(x) = (x_i, c_{ij} x_i x_j)_{i \le j}$.

    $c_{ij} = \sqrt 2$ off the diagonal, so that distances of second moments are Frobenius
    distances. Central covariances of a mixture are no mixture of covariances; raw second moments
    are. `SourceWeigher(moments="mean+cov")` builds the means of these features from `mean` and
    `cov` without samples.

    Args:
        dim: Number of inputs d.

    Raises:
        ValueError: When `dim` is not a whole number >= 1.

    Examples:
        >>> QuadraticMap(dim=2).transform([[1.0, 3.0]]).round(4)
        array([[1.    , 3.    , 1.    , 4.2426, 9.    ]])
    """

    def __init__(self, *, dim: int) -> None:
        self.dim = check_dim(dim)
        self._standardizer: Standardizer | None = None

    def __repr__(self) -> str:
        return f"QuadraticMap(dim={self.dim})"

    @property
    def n_features(self) -> int:
        """Length p = d (d + 3) / 2 of the feature vectors."""
        return self.dim * (self.dim + 3) // 2

    @property
    def space(self) -> str:
        """Name of the feature space, for `DomainStatistics.space`."""
        return space_of("QuadraticMap", {"dim": self.dim}, self._standardizer)

    def fit_standardizer(self, mean: ArrayLike, var: ArrayLike) -> "QuadraticMap":
        """Return the map that first brings pooled inputs to mean 0 and variance 1.

        Args:
            mean: (d,) pooled mean of all domains.
            var: (d,) pooled variance, > 0.

        Raises:
            ValueError: For another shape, NaN, or a variance that is not positive.
        """
        standardizer = Standardizer.fit(mean, var, self.dim)
        return self.from_json(write_map("QuadraticMap", {"dim": self.dim}, standardizer))

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
        i, j, factor = pairs(self.dim)

        def phi(z: Any, library: Any) -> Any:
            left, right = like(i, z, library), like(j, z, library)
            products = z[:, left] * z[:, right] * like(factor, z, library)
            return library.concatenate([z, products], 1)

        return map_rows(x, self.dim, self.n_features, self._standardizer, phi)

    def to_json(self) -> str:
        """Return JSON that rebuilds the map bit for bit."""
        return write_map("QuadraticMap", {"dim": self.dim}, self._standardizer)

    @classmethod
    def from_json(cls, text: str | bytes) -> "QuadraticMap":
        """Rebuild from `to_json`; a ValueError for the text of another map or a newer schema."""
        settings, standardizer = read_map("QuadraticMap", text)
        rebuilt = cls(**settings)
        rebuilt._standardizer = standardizer
        return rebuilt
