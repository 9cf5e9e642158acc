"""Windows of many channels as points of a flat space: logarithms of their covariance."""

from typing import Any

import numpy as np

from neuros_sourceweigher._map_text import check_dim, read_map, space_of, write_map
from neuros_sourceweigher._quadratic import pairs
from neuros_sourceweigher._rows import like, read_rows

__all__: list[str] = []

# Values of the windows worked on at a time.
_BLOCK = 2**22


class CovarianceMap:
    r"""Matrix logarithm of the channel covariance of each window, $\phi(X) = \mathrm{vec} \log C$.

    Distances of feature vectors are log-Euclidean distances of covariances (off-diagonals count
    $\sqrt 2$), so they do not change when the same reordering or rotation is applied to the
    channels of all domains. For EEG, ECoG and other recordings of many channels.

    Args:
        dim: Number of channels c.
        shrinkage: Share of $\mathrm{tr}(C) / c \cdot I$ mixed into each covariance, in (0, 1]; it
            keeps the logarithm finite for short windows.

    Raises:
        ValueError: For a setting out of its range.

    Examples:
        >>> window = np.sqrt(1.5) * np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> CovarianceMap(dim=2, shrinkage=1e-9).transform([window * [1.0, 2.0]]).round(4) + 0.0
        array([[0.6931, 0.    , 2.0794]])

    References:
        Arsigny et al. 2006, Magnetic Resonance in Medicine, doi:10.1002/mrm.20965.
    """

    def __init__(self, *, dim: int, shrinkage: float = 1e-3) -> None:
        self.dim = check_dim(dim)
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage needs a number in (0, 1], got {shrinkage!r}")
        self.shrinkage = float(shrinkage)

    def __repr__(self) -> str:
        return f"CovarianceMap(dim={self.dim}, shrinkage={self.shrinkage!r})"

    def _settings(self) -> dict[str, Any]:
        return {"dim": self.dim, "shrinkage": self.shrinkage}

    @property
    def n_features(self) -> int:
        """Length p = c (c + 1) / 2 of the feature vectors."""
        return self.dim * (self.dim + 1) // 2

    @property
    def space(self) -> str:
        """Name of the feature space, for `DomainStatistics.space`."""
        return space_of("CovarianceMap", self._settings(), None)

    def transform(self, x: Any) -> Any:
        """Map windows to features.

        Args:
            x: (n, time, c) windows, array or tensor, with at least two samples each.

        Returns:
            (n, p): float64 for arrays; for tensors a tensor of the same device and precision
            (half precision becomes float32).

        Raises:
            ValueError: For another shape, NaN or infinity, or a window that is constant.
            TypeError: For complex or non-numeric samples.
        """
        library, windows = read_rows(x, 3, "(n, time, channel)")
        _, time, channels = windows.shape
        if channels != self.dim or time < 2:
            raise ValueError(
                f"x needs {self.dim} channels and 2 or more samples per window, got "
                f"shape {tuple(windows.shape)}"
            )
        step = max(1, _BLOCK // (time * channels))
        starts = range(0, max(len(windows), 1), step)
        parts = [self._logarithm(windows[i : i + step], library) for i in starts]
        return parts[0] if len(parts) == 1 else library.concatenate(parts)

    def _logarithm(self, windows: Any, library: Any) -> Any:
        centred = windows - windows.mean(1)[:, None, :]
        cov = centred.swapaxes(1, 2) @ centred / (windows.shape[1] - 1)
        i, j, factor = pairs(self.dim)
        diagonal = like(np.flatnonzero(i == j), windows, library)
        left, right = like(i, windows, library), like(j, windows, library)
        power = cov[:, left, right][:, diagonal].sum(1) / self.dim
        if not bool((power > 0).all()):
            raise ValueError("x needs windows that vary, got a window constant in every channel")
        eye = like(np.eye(self.dim), windows, library)
        cov = (1 - self.shrinkage) * cov + self.shrinkage * power[:, None, None] * eye
        values, vectors = library.linalg.eigh(cov)
        log = (vectors * library.log(values)[:, None, :]) @ vectors.swapaxes(1, 2)
        return log[:, left, right] * like(factor, windows, library)

    def to_json(self) -> str:
        """Return JSON that rebuilds the map."""
        return write_map("CovarianceMap", self._settings(), None)

    @classmethod
    def from_json(cls, text: str | bytes) -> "CovarianceMap":
        """Rebuild from `to_json`; a ValueError for the text of another map or a newer schema."""
        return cls(**read_map("CovarianceMap", text)[0])
