"""How much one set of variables says about another."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from neuros_mechint._arrays import Array, as_real, one_of
from neuros_mechint.dynamics._information_estimators import (
    copula_normal,
    discrete_codes,
    discrete_information,
    gaussian_information,
    gross_information,
    ksg_information,
    separated,
)
from neuros_mechint.dynamics._information_null import (
    Null,
    among_neighbours,
    p_value,
    reordered,
    turned_residuals,
    within_groups,
)

__all__ = ["InformationSignificance", "MutualInformation"]

Method = Literal["ksg1", "ksg2", "gaussian", "gcmi", "discrete", "gross"]
Units = Literal["nats", "bits"]


@dataclass(frozen=True)
class InformationSignificance:
    """A measure of dependence beside its values without dependence.

    Attributes:
        value: The measure, (...).
        p_value: Share of the null at least as large, (1 + count) / (1 + n_perm), (...).
        null: The measure of the reordered samples, (n_perm, ...).
    """

    value: Tensor
    p_value: Tensor
    null: Tensor

    @property
    def effective(self) -> Tensor:
        """The measure less the mean of its null, (...)."""
        return self.value - self.null.mean(0)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a report."""
        return {
            "value": self.value.tolist(),
            "effective": self.effective.tolist(),
            "p_value": self.p_value.tolist(),
            "n_perm": len(self.null),
        }


class MutualInformation:
    r"""Mutual information $I(x; y)$, also given a third variable.

    - `"ksg1"`: $\psi(k) + \psi(N) - \langle\psi(n_x + 1) + \psi(n_y + 1)\rangle$, where $n_x$ and
      $n_y$ count the samples closer than the k-th neighbour of the joint space (Kraskov eq. 8,
      maximum norm). `"ksg2"` is their eq. 9, with one rectangle per sample.
    - `"gaussian"`: $\frac12 \ln(|C_x| |C_y| / |C_{xy}|)$ of the sample covariances.
    - `"gcmi"`: the same of the normal quantiles of the ranks, less its bias; a lower bound that no
      monotone map of a feature changes (Ince 2017).
    - `"discrete"`: plug-in over the distinct rows. `"gross"`: mixed discrete and continuous data
      (Gao 2017).

    The neighbour methods need about $e^{I}$ samples: a strong dependence is underestimated. Their
    values may lie below 0. Features of unequal scale should be standardised before. Batches of up
    to 400 samples are one tensor of distances; with more, every item has its own tree, which has
    no batched form and costs less.

    Args:
        method: Which estimator.
        k: Neighbours of the neighbour methods.
        units: `"nats"` or `"bits"`.
        normalize: Map to 0..1: $\sqrt{1 - e^{-2 I}}$, which is the absolute correlation of two
            Gaussian scalars; for `"discrete"`, I over the mean entropy.
        clip: Whether values below 0 become 0.

    Examples:
        Two fair coins that are one coin share a bit:

        >>> coin = torch.tensor([0.0, 1.0]).repeat(50)
        >>> float(MutualInformation(method="discrete", units="bits").compute(coin, coin))
        1.0

    References:
        Kraskov, Stoegbauer & Grassberger (2004). Estimating mutual information. Physical Review E
        69, 066138. doi:10.1103/PhysRevE.69.066138

        Frenzel & Pompe (2007). Partial mutual information for coupling analysis of multivariate
        time series. Physical Review Letters 99, 204101. doi:10.1103/PhysRevLett.99.204101

        Ince et al. (2017). A statistical framework for neuroimaging data analysis based on mutual
        information estimated via a Gaussian copula. Human Brain Mapping 38. doi:10.1002/hbm.23471

        Gao, Kannan, Oh & Viswanath (2017). Estimating mutual information for discrete-continuous
        mixtures. NeurIPS 30. arXiv:1709.06212

        Runge (2018). Conditional independence testing based on a nearest-neighbor estimator of
        conditional mutual information. AISTATS 21. arXiv:1709.01447
    """

    def __init__(
        self,
        *,
        method: Method = "ksg1",
        k: int = 3,
        units: Units = "nats",
        normalize: bool = False,
        clip: bool = False,
    ) -> None:
        one_of("method", method, get_args(Method))
        one_of("units", units, get_args(Units))
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.method: Method = method
        self.k = k
        self.units: Units = units
        self.normalize = normalize
        self.clip = clip

    def __repr__(self) -> str:
        return (
            f"MutualInformation(method={self.method!r}, k={self.k}, units={self.units!r}, "
            f"normalize={self.normalize}, clip={self.clip})"
        )

    def compute(self, x: Array, y: Array, given: Array | None = None) -> Tensor:
        """Information between x and y, in the units of the estimator.

        Args:
            x: First variable, (samples,) or (..., samples, features).
            y: Second variable of the same samples.
            given: What is known already; then the information is conditional.

        Returns:
            One value per batch item, (...).

        Raises:
            TypeError: When an argument is not a real tensor or array.
            ValueError: When samples differ or are too few, or the method takes no `given`.
        """
        blocks = self._blocks(x, y, given)
        value = self._value(self._prepared(blocks))
        return value.to(torch.promote_types(blocks[0].dtype, blocks[1].dtype))

    def significance(
        self,
        x: Array,
        y: Array,
        given: Array | None = None,
        *,
        n_perm: int = 200,
        null: Null = "shuffle",
        generator: torch.Generator | None = None,
    ) -> InformationSignificance:
        r"""Compare with the information of reordered samples of x.

        With `given`, the null is $x \perp y \mid z$, not that x is independent of both: samples of
        equal z trade places for `"discrete"`, those of nearly the same z for `"ksg1"` (Runge 2018),
        and for `"gaussian"` and `"gcmi"` the residuals of x on z do. Neighbours that trade places
        must resemble each other in z, which takes some hundred samples per feature of z.

        Args:
            x: First variable, (samples,) or (..., samples, features).
            y: Second variable of the same samples.
            given: What is known already. The null keeps what x and y each share with it.
            n_perm: Draws of the null.
            null: `"shuffle"` for independent samples; `"shift"`, a circular shift, for time series,
                whose own memory it keeps.
            generator: Source of the draws; None starts one from seed 0.

        Returns:
            The value, its p-value and the null.

        Raises:
            TypeError: As for `compute`.
            ValueError: As for `compute`, when `n_perm` or `null` is out of range, or for a shift
                with `given` by a method that has none.
        """
        blocks = self._prepared(self._blocks(x, y, given))
        value = self._value(blocks)
        drawn = [
            self._value([x, *blocks[1:]]) for x in self._draws(blocks, n_perm, null, generator)
        ]
        found = torch.stack(drawn)
        return InformationSignificance(value, p_value(value, found), found)

    def _draws(
        self, blocks: list[Tensor], n_perm: int, null: Null, generator: torch.Generator | None
    ) -> Iterator[Tensor]:
        """The samples of x as they would be without the dependence in question."""
        x = blocks[0]
        orders = reordered(x.shape[-2], n_perm, null, generator)
        if len(blocks) == 2:
            return (x[..., order, :] for order in orders)
        given = blocks[2]
        if self.method == "gaussian":
            return turned_residuals(x, given, orders)
        if self.method == "gcmi":
            return turned_residuals(copula_normal(x), copula_normal(given), orders)
        if null == "shift":
            raise ValueError(
                f"null 'shift' with given needs method 'gaussian' or 'gcmi', got {self.method!r}; "
                "with null='shuffle' samples of like given trade places"
            )
        if self.method == "discrete":
            return within_groups(x, discrete_codes(given), n_perm, generator)
        return among_neighbours(x, given, n_perm, generator)

    def _blocks(self, x: Array, y: Array, given: Array | None) -> list[Tensor]:
        named = {"x": x, "y": y} | ({} if given is None else {"given": given})
        if given is not None and self.method in {"ksg2", "gross"}:
            raise ValueError(
                f"method {self.method!r} takes no given; use 'ksg1', 'gaussian', 'gcmi' or "
                "'discrete'"
            )
        blocks = [_as_samples(name, value) for name, value in named.items()]
        sizes = [block.shape[-2] for block in blocks]
        if len(set(sizes)) > 1:
            raise ValueError(f"{', '.join(named)} must have the same samples, got {sizes}")
        if self.method in {"ksg1", "ksg2", "gross"} and sizes[0] <= self.k:
            raise ValueError(f"x needs more than k = {self.k} samples, got {sizes[0]}; lower k")
        width = sum(block.shape[-1] for block in blocks)
        if self.method in {"gaussian", "gcmi"} and sizes[0] <= width + 1:
            raise ValueError(
                f"x needs more than {width + 1} samples for {width} features, got {sizes[0]}"
            )
        batch = np.broadcast_shapes(*(tuple(block.shape[:-2]) for block in blocks))
        return [block.expand(*batch, *block.shape[-2:]) for block in blocks]

    def _prepared(self, blocks: list[Tensor]) -> list[Tensor]:
        """Blocks in double precision; for the neighbour methods without repeated values."""
        doubles = [block.double() for block in blocks]
        if self.method in {"gaussian", "gcmi"}:
            return doubles
        apart = [block.detach() for block in doubles]
        return separated(apart) if self.method in {"ksg1", "ksg2"} else apart

    def _value(self, blocks: list[Tensor]) -> Tensor:
        x, y = blocks[:2]
        given = blocks[2] if len(blocks) > 2 else None
        scale = torch.ones((), dtype=torch.float64)
        if self.method in {"gaussian", "gcmi"}:
            value = _gaussian(blocks, given, copula=self.method == "gcmi")
        elif self.method == "discrete":
            value, scale = discrete_information(x, y, given)
        elif self.method == "gross":
            value = gross_information(x, y, self.k)
        else:
            value = ksg_information(x, y, given, self.k, second=self.method == "ksg2")
        if self.clip or self.normalize:
            value = value.clamp(min=0)
        if self.normalize:
            if self.method != "discrete":
                return (-torch.expm1(-2 * value)).sqrt()
            return torch.where(scale > 0, value / scale.where(scale > 0, 1.0), 0.0)
        return value / math.log(2) if self.units == "bits" else value


def _gaussian(blocks: list[Tensor], given: Tensor | None, *, copula: bool) -> Tensor:
    if not copula:
        return gaussian_information(blocks[0], blocks[1], given, unbiased=False)
    x, y = copula_normal(blocks[0]), copula_normal(blocks[1])
    z = None if given is None else copula_normal(given)
    return gaussian_information(x, y, z, unbiased=True)


def _as_samples(name: str, value: Array) -> Tensor:
    if getattr(value, "ndim", 0) == 1:
        return as_real(name, value, axes=("samples",), at_least=(2,)).unsqueeze(-1)
    return as_real(name, value)
