"""Mixture weights over source domains, with the certificate and the diagnosis of their fit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core._exact import check_schema, check_texts, freeze
from neuros_core.errors import check_finite, check_probability_vector

__all__: list[str] = []


@dataclass(frozen=True, slots=True)
class MixtureDiagnosis:
    """What the residual and the sources say about the weights; None where a method cannot say.

    Args:
        residual: Distance of target and mixture in units of the target's own noise.
        j_stat: Hansen's J statistic.
        dof: Degrees of freedom of J.
        p_value: Probability of a larger J when a mixture of the sources is the truth.
        in_hull: Whether the target can be a mixture of the sources.
        identifiable: Whether the data tell the sources of the support apart.
        condition: Condition number of the centred source columns, at most 1 / eps.
        ambiguous: Groups of sources that cannot be told apart.
    """

    residual: float | None = None
    j_stat: float | None = None
    dof: int | None = None
    p_value: float | None = None
    in_hull: bool | None = None
    identifiable: bool | None = None
    condition: float | None = None
    ambiguous: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        for name in ("residual", "j_stat", "p_value", "condition"):
            if getattr(self, name) is not None:
                check_finite(name, getattr(self, name))


@dataclass(frozen=True, slots=True, eq=False)
class SourceWeights:
    r"""A point of the probability simplex: the share of each source domain.

    Args:
        names: (K,) domains, unique.
        weights: (K,) >= 0 with sum 1 (checked, never renormalised).
        method: What computed them.
        objective: The minimised function at the weights; None when nothing was minimised.
        gap: Certified bound on objective minus optimum; None when nothing was minimised.
        stderr: (K,) standard errors.
        interval: (K, 2) lower and upper bounds.
        diagnosis: What is known about the fit.
        meta: Further values that JSON can hold.

    Raises:
        ValueError: When the weights are off the simplex or shapes disagree.

    Examples:
        >>> w = SourceWeights.uniform(["a", "b"]).mix(SourceWeights(("a", "b"), [1, 0], "x"), 0.5)
        >>> w["a"], w.effective_sources
        (0.75, 1.6)
    """

    names: tuple[str, ...]
    weights: NDArray[np.float64]
    method: str
    objective: float | None = None
    gap: float | None = None
    stderr: NDArray[np.float64] | None = None
    interval: NDArray[np.float64] | None = None
    diagnosis: MixtureDiagnosis | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "names", check_texts("names", self.names))
        K = len(self.names)
        for name, shape in (("weights", (K,)), ("stderr", (K,)), ("interval", (K, 2))):
            value = getattr(self, name)
            if value is not None or name == "weights":
                put(self, name, freeze(name, value, len(shape)))
                if getattr(self, name).shape != shape:
                    given = getattr(self, name).shape
                    raise ValueError(f"{name} needs shape {shape} for {K} names, got {given}")
        check_probability_vector("weights", self.weights)
        for name in ("objective", "gap"):
            if getattr(self, name) is not None:
                check_finite(name, getattr(self, name))
        put(self, "meta", MappingProxyType(dict(self.meta)))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy cannot be pickled, and NumPy forgets the read-only flag.
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self), (*(values | {"meta": dict(self.meta)}).values(),)

    def __getitem__(self, name: str) -> float:
        if name not in self.names:
            raise KeyError(f"{name!r} is none of the sources {', '.join(map(repr, self.names))}")
        return float(self.weights[self.names.index(name)])

    @classmethod
    def uniform(cls, names: Sequence[str]) -> "SourceWeights":
        """Return equal weights, which are the optimum of nothing."""
        return cls(tuple(names), np.full(len(names), 1 / max(len(names), 1)), "uniform")

    def as_dict(self) -> dict[str, float]:
        """Return the weight of each name."""
        return dict(zip(self.names, self.weights.tolist(), strict=True))

    @property
    def support(self) -> tuple[str, ...]:
        """Names with a weight above zero."""
        return tuple(n for n, w in zip(self.names, self.weights, strict=True) if w > 0)

    @property
    def effective_sources(self) -> float:
        r"""Number of equally weighted sources with the same concentration, $1 / \sum_k w_k^2$."""
        return float(1 / np.square(self.weights).sum())

    @property
    def entropy(self) -> float:
        r"""Shannon entropy in nats, $-\sum_k w_k \ln w_k$."""
        w = self.weights[self.weights > 0]
        return float(-(w * np.log(w)).sum())

    def mix(self, other: "SourceWeights", t: float) -> "SourceWeights":
        """Return `(1 - t) * self + t * other`; the same names in any order, t in [0, 1]."""
        if set(self.names) != set(other.names):
            odd = sorted(set(self.names) ^ set(other.names))
            raise ValueError(f"mix needs the same names on both sides, only on one: {odd}")
        _check_share("t", t)
        theirs = np.array([other[name] for name in self.names])
        w = (1 - t) * self.weights + t * theirs
        return SourceWeights(self.names, w, f"mix({self.method}, {other.method}, {t:g})")

    def floor(self, eps: float) -> "SourceWeights":
        r"""Return $(1 - \epsilon) w + \epsilon / K$: no source falls below $\epsilon / K$."""
        _check_share("eps", eps)
        w = (1 - eps) * self.weights + eps / len(self.names)
        return SourceWeights(self.names, w, f"floor({self.method}, {eps:g})")

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, with `"schema": 1`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {k: v.tolist() for k, v in values.items() if isinstance(v, np.ndarray)}
        diagnosis = None if self.diagnosis is None else asdict(self.diagnosis)
        plain = {"names": list(self.names), "diagnosis": diagnosis, "meta": dict(self.meta)}
        return {"schema": 1} | values | arrays | plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SourceWeights":
        """Rebuild from `to_dict`; a ValueError for a newer schema, missing or unknown fields."""
        given = check_schema(cls, values)
        if given.get("diagnosis") is not None:
            groups = tuple(tuple(group) for group in given["diagnosis"]["ambiguous"])
            given["diagnosis"] = MixtureDiagnosis(**given["diagnosis"] | {"ambiguous": groups})
        return cls(**given | {"names": tuple(given["names"])})

    def to_json(self) -> str:
        """Return JSON from which every float comes back bit for bit."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "SourceWeights":
        """Rebuild from `to_json`."""
        return cls.from_dict(json.loads(text))


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} needs a share in [0, 1], got {value!r}")


@dataclass(frozen=True, slots=True, eq=False)
class ClassSourceWeights:
    """Joint weights of sources and classes.

    Args:
        names: (K,) domains, unique.
        classes: (C,) labels, unique.
        joint: (K, C) >= 0 with sum 1.

    Examples:
        >>> w = ClassSourceWeights(("a", "b"), ("rest", "move"), [[0.5, 0.0], [0.5, 0.0]])
        >>> w.class_prior.tolist(), w.conditional.tolist()
        ([1.0, 0.0], [[0.5, 0.5], [0.5, 0.5]])
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    joint: NDArray[np.float64]

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "names", check_texts("names", self.names))
        put(self, "classes", check_texts("classes", self.classes))
        put(self, "joint", freeze("joint", self.joint, 2))
        if self.joint.shape != (len(self.names), len(self.classes)):
            shape = (len(self.names), len(self.classes))
            raise ValueError(f"joint needs shape {shape} (K, C), got {self.joint.shape}")
        check_probability_vector("joint", self.joint.reshape(-1))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.names, self.classes, self.joint)

    @property
    def source(self) -> NDArray[np.float64]:
        """Share of each source, (K,)."""
        return np.asarray(self.joint.sum(axis=1))

    @property
    def class_prior(self) -> NDArray[np.float64]:
        """Share of each class, (C,)."""
        return np.asarray(self.joint.sum(axis=0))

    @property
    def conditional(self) -> NDArray[np.float64]:
        """Share of each source within each class, (K, C); a class of prior 0 gets `source`."""
        prior = self.class_prior
        shares = self.joint / np.where(prior > 0, prior, 1.0)
        whole = self.source / self.source.sum()
        return np.asarray(np.where(prior > 0, shares, whole[:, None]))
