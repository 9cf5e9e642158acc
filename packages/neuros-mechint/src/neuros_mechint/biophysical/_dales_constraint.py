r"""Dale's law on plain matrices: projection, check, penalty."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint._arrays import Number
from neuros_mechint.biophysical._arguments import floating
from neuros_mechint.biophysical._dales_linear import DalesLinear
from neuros_mechint.biophysical._dales_weight import split

__all__ = ["DalesLawConstraint", "DalesLossRegularizer"]


def _presynaptic(weight: Tensor, n: int) -> None:
    floating("weight", weight)
    if weight.ndim < 1 or weight.shape[-1] != n:
        raise ValueError(
            f"the last axis of weight is the presynaptic one and must have {n} entries, got shape "
            f"{tuple(weight.shape)}; weights are (post, pre), transpose a (pre, post) matrix"
        )


def _wrong(weight: Float[Tensor, "*post pre"], signs: Float[Tensor, " pre"]) -> Tensor:
    """Size of every entry that has the wrong sign."""
    return torch.relu(-weight * signs.to(weight))


class DalesLawConstraint:
    r"""One sign per presynaptic unit, that is, per column of a matrix (post, pre).

    $W_{ij} s_j \ge 0$ for all targets $i$: unit $j$ excites or inhibits all of them. The first
    units excite.

    Args:
        n_neurons: Presynaptic units.
        ei_ratio: Share of them that excite, in [0, 1].

    Attributes:
        n_exc: Units that excite, the floor of n_neurons * ei_ratio.
        n_inh: Units that inhibit.
        signs: +1 or -1 for each unit (n_neurons,).

    Raises:
        ValueError: When there is no unit or the ratio is not in [0, 1].

    Examples:
        >>> law = DalesLawConstraint(3, ei_ratio=0.67)
        >>> law.apply(torch.tensor([[1.0, -2.0, 3.0]]))
        tensor([[1., 0., 0.]])

    References:
        Song, Yang & Wang (2016), PLOS Comput. Biol. 12, e1004792.
        doi:10.1371/journal.pcbi.1004792
    """

    def __init__(self, n_neurons: int, ei_ratio: Number = 0.8) -> None:
        self.n_exc, self.n_inh = split(n_neurons, ei_ratio)
        self.n_neurons, self.ei_ratio = n_neurons, ei_ratio
        self.signs = torch.cat([torch.ones(self.n_exc), -torch.ones(self.n_inh)])

    def __repr__(self) -> str:
        return f"DalesLawConstraint({self.n_neurons}, ei_ratio={self.ei_ratio})"

    @torch.no_grad()
    def apply(self, weight: Tensor) -> Tensor:
        """Set the entries of the wrong sign to zero, in place: the nearest matrix that obeys.

        Args:
            weight: (..., post, pre).

        Returns:
            The same tensor.

        Raises:
            TypeError: When it is not a floating tensor.
            ValueError: When its last axis is not the presynaptic one.
        """
        _presynaptic(weight, self.n_neurons)
        return weight.masked_fill_(weight * self.signs.to(weight) < 0, 0.0)

    @torch.no_grad()
    def satisfied(self, weight: Tensor) -> bool:
        """Whether no entry of weight (..., post, pre) has the wrong sign.

        Examples:
            >>> DalesLawConstraint(2, ei_ratio=0.5).satisfied(torch.tensor([[1.0, 1.0]]))
            False
        """
        _presynaptic(weight, self.n_neurons)
        return not bool((weight * self.signs.to(weight) < 0).any())

    @torch.no_grad()
    def violation(self, weight: Tensor) -> float:
        """Share of the absolute weight (..., post, pre) that has the wrong sign, in [0, 1].

        Examples:
            >>> DalesLawConstraint(2, ei_ratio=0.5).violation(torch.tensor([[3.0, 1.0]]))
            0.25
        """
        _presynaptic(weight, self.n_neurons)
        mass = float(weight.abs().sum())
        return float(_wrong(weight, self.signs).sum()) / mass if mass else 0.0


class DalesLossRegularizer(nn.Module):
    r"""Penalty on weights of the wrong sign, zero exactly where Dale's law holds.

    $$\lambda \operatorname{mean}_{ij} \max(0, -s_j W_{ij})^p,$$

    summed over the layers of a module. `DalesLinear` layers obey by construction and are left out.

    Args:
        weight: $\lambda$, at least 0.
        ei_ratio: Share of the presynaptic units that excite, where no signs are given.
        signs: Signs of the presynaptic units (pre,), +1 or -1; None: the first units excite.
        p: Power, at least 1.

    Raises:
        ValueError: When an argument is out of its range.

    Examples:
        >>> penalty = DalesLossRegularizer(signs=torch.tensor([1.0, -1.0]))
        >>> penalty(torch.tensor([[1.0, 2.0], [3.0, -4.0]]))
        tensor(1.)
    """

    signs: Tensor | None

    def __init__(
        self,
        weight: Number = 1.0,
        *,
        ei_ratio: Number = 0.8,
        signs: Tensor | None = None,
        p: Number = 2,
    ) -> None:
        super().__init__()
        split(1, ei_ratio)
        if weight < 0:
            raise ValueError(f"weight must be at least 0, got {weight}")
        if p < 1:
            raise ValueError(f"p must be at least 1, got {p}")
        if signs is not None and (signs.ndim != 1 or not bool((signs.abs() == 1).all())):
            raise ValueError("signs must be +1 or -1 for each presynaptic unit, shape (pre,)")
        self.weight, self.ei_ratio, self.p = weight, ei_ratio, p
        self.register_buffer("signs", signs)

    def forward(self, weight: Tensor | nn.Module) -> Tensor:
        """The penalty.

        Args:
            weight: Matrix (..., post, pre), or a module, of which every layer with a weight
                (out_features, in_features) counts whose in_features fits the signs.

        Returns:
            A scalar.

        Raises:
            TypeError: When it is neither a floating tensor nor a module.
            ValueError: When the last axis does not fit the signs, or no layer of a module does.
        """
        if isinstance(weight, nn.Module):
            return torch.stack([self._of(each) for each in self._weights(weight)]).sum()
        _presynaptic(weight, weight.shape[-1] if self.signs is None else len(self.signs))
        return self._of(weight)

    def _of(self, weight: Tensor) -> Tensor:
        signs = self.signs
        if signs is None:
            signs = DalesLawConstraint(weight.shape[-1], self.ei_ratio).signs
        mean: Tensor = self.weight * _wrong(weight, signs).pow(self.p).mean()
        return mean

    def _weights(self, module: nn.Module) -> Iterator[Tensor]:
        n_pre = None if self.signs is None else len(self.signs)
        found = False
        for layer in module.modules():
            if isinstance(layer, DalesLinear):
                # It obeys: a module of such layers has the penalty zero.
                if n_pre in {None, layer.in_features}:
                    found = True
                    yield layer.weight.new_zeros(1, layer.in_features)
                continue
            weight = getattr(layer, "weight", None)
            n_in = getattr(layer, "in_features", None)
            if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[-1] != n_in:
                continue
            if n_pre in {None, n_in}:
                found = True
                yield weight
        if not found:
            needed = "" if n_pre is None else f" of in_features {n_pre}"
            raise ValueError(f"{type(module).__name__} has no linear layer{needed} to penalise")
