r"""What a site tells about its data, and the mixture weights that come back.

`DomainStatistics` are counts and moments: they merge exactly and no recording can be read from
them. `SourceWeights` are a point of the probability simplex with the certificate of its solver.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core._domain_weights import ClassSourceWeights, MixtureDiagnosis, SourceWeights
from neuros_core._exact import (
    as_real,
    check_count,
    check_schema,
    check_texts,
    freeze,
)
from neuros_core.errors import check_finite

__all__ = [
    "ClassSourceWeights",
    "DomainStatistics",
    "MixtureDiagnosis",
    "SourceWeights",
    "load_statistics",
    "save_statistics",
]

# Centred rows at a time: enough for a fast product, few enough to stay near the cache.
_BLOCK_BYTES = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class DomainStatistics:
    r"""Count, mean and covariance of the feature vectors of one domain.

    Args:
        name: The domain (a session, an animal, a site).
        n: Number of samples behind the moments.
        mean: (d,) in the unit of the features.
        cov: (d, d), unbiased (divided by $n - 1$); None when it was not kept.
        space: Name of the feature space. Statistics of different spaces are never combined.
        classes: Statistics per class, keyed by the label as text; kept in sorted order.

    Raises:
        ValueError: When a moment is not finite, of the wrong shape, or `cov` is not a covariance.

    Examples:
        >>> a = DomainStatistics.from_samples([[0.0], [2.0]], name="session")
        >>> b = DomainStatistics.from_samples([[4.0]], name="session")
        >>> pooled = a.merge(b)
        >>> pooled.n, pooled.mean.tolist(), pooled.cov.tolist()
        (3, [2.0], [[4.0]])

    References:
        Chan, Golub & LeVeque 1983, The American Statistician, doi:10.1080/00031305.1983.10483115.
    """

    name: str
    n: int
    mean: NDArray[np.float64]
    cov: NDArray[np.float64] | None = None
    space: str = ""
    classes: Mapping[str, "DomainStatistics"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_texts("name", [self.name])
        put = object.__setattr__
        put(self, "n", check_count(f"{self.name}: n", self.n))
        put(self, "mean", freeze(f"{self.name}: mean", self.mean, 1))
        if self.cov is not None:
            put(self, "cov", freeze(f"{self.name}: cov", self.cov, 2))
            _check_covariance(f"{self.name}: cov", self.cov, self.d)
        for part in self.classes.values():
            self._check_same_space(part)
        put(self, "classes", MappingProxyType(dict(sorted(self.classes.items()))))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy cannot be pickled, and NumPy forgets the read-only flag.
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self), (*(values | {"classes": dict(self.classes)}).values(),)

    @property
    def d(self) -> int:
        """Number of features."""
        return int(self.mean.shape[0])

    def _check_same_space(self, other: "DomainStatistics") -> None:
        if (self.space, self.d) != (other.space, other.d):
            raise ValueError(
                "statistics need the same feature space to be combined, got "
                f"{self.name!r} in {self.space!r} with d={self.d} and "
                f"{other.name!r} in {other.space!r} with d={other.d}"
            )

    @classmethod
    def from_samples(
        cls,
        x: ArrayLike,
        *,
        name: str,
        space: str = "",
        y: Sequence[object] | NDArray[Any] | None = None,
        with_cov: bool = True,
    ) -> "DomainStatistics":
        """Reduce samples to their statistics.

        Args:
            x: (n, d) feature vectors.
            name: The domain.
            space: Name of the feature space.
            y: (n,) labels; each becomes a class under `str(label)`.
            with_cov: Keep the covariance (needs n >= 2, else it stays None).

        Raises:
            ValueError: When `x` is not a finite (n, d) array with n >= 1, or `y` has another n.
        """
        x = as_real("x", x, 2)
        if not len(x):
            raise ValueError(f"x needs at least one row, got shape {x.shape}")
        classes = {}
        if y is not None:
            labels = np.array([str(label) for label in y])
            if len(labels) != len(x):
                raise ValueError(f"y needs one label per row of x = {len(x)}, got {len(labels)}")
            classes = {
                str(k): cls.from_samples(
                    x[labels == k], name=str(k), space=space, with_cov=with_cov
                )
                for k in np.unique(labels)
            }
        mean, scatter = _moments(x, with_cov=with_cov)
        cov = None if scatter is None or len(x) == 1 else scatter / (len(x) - 1)
        return cls(name, len(x), mean, cov, space, classes)

    def merge(self, other: "DomainStatistics") -> "DomainStatistics":
        """Return the exact statistics of both sets of samples together, under this name.

        A single sample has no spread of its own, so it merges exactly although its `cov` is None;
        otherwise the result keeps a covariance only when both sides have one. A class that one
        side lacks is taken over from the other.

        Raises:
            ValueError: When the spaces differ, or one side has classes and the other has none.
        """
        self._check_same_space(other)
        if bool(self.classes) != bool(other.classes):
            bare = other if self.classes else self
            raise ValueError(
                f"merging needs classes on both sides or on none, got none in {bare.name!r} "
                f"(n={bare.n}); drop them with dataclasses.replace(statistics, classes={{}})"
            )
        n = self.n + other.n
        delta = other.mean - self.mean
        # From the larger side, so that the correction of the mean is the smaller one.
        mean = (
            self.mean + delta * (other.n / n)
            if self.n >= other.n
            else other.mean - delta * (self.n / n)
        )
        cov = None
        own, theirs = _scatter(self), _scatter(other)
        if own is not None and theirs is not None:
            cov = own + theirs + np.outer(delta, delta) * (self.n * (other.n / n))
            cov /= n - 1
        classes = dict(self.classes)
        for label, part in other.classes.items():
            classes[label] = classes[label].merge(part) if label in classes else part
        return DomainStatistics(self.name, n, mean, cov, self.space, classes)

    def update(
        self, x: ArrayLike, *, y: Sequence[object] | NDArray[Any] | None = None
    ) -> "DomainStatistics":
        """Return the statistics after more samples `x` (n, d), labelled `y` if these are."""
        with_cov = self.cov is not None or self.n == 1
        more = DomainStatistics.from_samples(
            x, name=self.name, space=self.space, y=y, with_cov=with_cov
        )
        return self.merge(more)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, with `"schema": 1`."""
        return {
            "schema": 1,
            "name": self.name,
            "n": self.n,
            "mean": self.mean.tolist(),
            "cov": None if self.cov is None else self.cov.tolist(),
            "space": self.space,
            "classes": {label: part.to_dict() for label, part in self.classes.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DomainStatistics":
        """Rebuild from `to_dict`.

        Raises:
            ValueError: For a newer schema, and for missing or unknown fields.
        """
        given = check_schema(cls, values)
        parts = {k: cls.from_dict(part) for k, part in given.pop("classes", {}).items()}
        return cls(**given, classes=parts)

    def to_json(self) -> str:
        """Return JSON from which every float comes back bit for bit."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "DomainStatistics":
        """Rebuild from `to_json`."""
        return cls.from_dict(json.loads(text))


def _check_covariance(name: str, cov: NDArray[np.float64], d: int) -> None:
    if cov.shape != (d, d):
        raise ValueError(f"{name} needs shape {(d, d)} like the mean, got {cov.shape}")
    largest = float(np.abs(cov).max(initial=0.0))
    if largest == 0.0:
        return
    unit = cov / largest
    skew = float(np.abs(unit - unit.T).max())
    if skew > 1e-8:
        raise ValueError(f"{name} needs a symmetric matrix, got a relative asymmetry of {skew:.3g}")
    try:
        # Success proves the smallest eigenvalue > -1e-9 max, at a tenth of the time of eigvalsh.
        np.linalg.cholesky(unit + 1e-9 * np.eye(d))
    except np.linalg.LinAlgError:
        values = np.linalg.eigvalsh(unit)
        if values[0] < -1e-8 * values[-1]:
            raise ValueError(
                f"{name} needs eigenvalues >= 0, got {values[0] * largest:.6g} beside a largest "
                f"of {values[-1] * largest:.6g}"
            ) from None


def _scatter(part: DomainStatistics) -> NDArray[np.float64] | None:
    """Sum of squares about the mean; zero for a single sample."""
    if part.cov is not None:
        return part.cov * (part.n - 1)
    return np.zeros((part.d, part.d)) if part.n == 1 else None


def _moments(
    x: NDArray[Any], *, with_cov: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Mean and sum of squares about it, in two passes and blocks of rows."""
    n, d = x.shape
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.asarray(x.mean(axis=0, dtype=np.float64))
        if not np.isfinite(mean).all():
            check_finite("x", x)
        rest, scatter = np.zeros(d), np.zeros((d, d)) if with_cov else None
        rows = min(n, max(1, _BLOCK_BYTES // (8 * max(d, 1))))
        buffer, ones = np.empty((rows, d)), np.ones(rows)
        for start in range(0, n, rows):
            centred = buffer[: min(rows, n - start)]
            np.subtract(x[start : start + rows], mean, out=centred)
            rest += ones[: len(centred)] @ centred
            if scatter is not None:
                scatter += centred.T @ centred
        # What the first pass rounded away (Chan 1983, eq. 1.7): counts at offsets such as 1e8.
        rest /= n
        if scatter is not None:
            scatter -= n * np.outer(rest, rest)
        return mean + rest, scatter


def save_statistics(path: str | Path, statistics: Sequence[DomainStatistics]) -> None:
    """Write statistics to one `.npz` file, whole or not at all.

    Args:
        path: The file; replaced when it is there.
        statistics: Domains in the order in which they are read back.
    """
    arrays: dict[str, NDArray[Any]] = {}

    def put(part: DomainStatistics) -> dict[str, Any]:
        key = str(len(arrays))
        arrays["mean" + key] = part.mean
        if part.cov is not None:
            arrays["cov" + key] = part.cov
        names = {"name": part.name, "n": part.n, "space": part.space, "key": key}
        return names | {"classes": {label: put(c) for label, c in part.classes.items()}}

    index = json.dumps({"schema": 1, "domains": [put(part) for part in statistics]})
    arrays["index"] = np.frombuffer(index.encode(), dtype=np.uint8)
    path = Path(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def load_statistics(path: str | Path) -> list[DomainStatistics]:
    """Read what `save_statistics` wrote; every float comes back bit for bit.

    Raises:
        ValueError: When the file is no such file or of a newer schema.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in archive.files}
    if "index" not in arrays:
        raise ValueError(f"{path} needs an entry 'index' as save_statistics writes it")
    index = json.loads(arrays["index"].tobytes())
    if index["schema"] != 1:
        raise ValueError(
            f"{path} needs schema 1, got {index['schema']!r}; a newer neuros-core reads it"
        )

    def take(entry: Mapping[str, Any]) -> DomainStatistics:
        return DomainStatistics(
            entry["name"],
            entry["n"],
            arrays["mean" + entry["key"]],
            arrays.get("cov" + entry["key"]),
            entry["space"],
            {label: take(part) for label, part in entry["classes"].items()},
        )

    return [take(entry) for entry in index["domains"]]
