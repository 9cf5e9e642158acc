r"""A linear layer that obeys Dale's law by construction."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from neuros_mechint._arrays import Number, one_of
from neuros_mechint.biophysical._dales_weight import (
    MAGNITUDES,
    SignedWeight,
    balanced_magnitudes,
    nonnegative,
    split,
)

__all__ = ["DANNWeights", "DalesLinear"]


class DANNWeights(NamedTuple):
    """The matrices of a layer with feed-forward inhibition, all at least zero.

    Attributes:
        excitatory: Inputs to outputs (out, in).
        to_interneurons: Inputs to interneurons (n_inh, in).
        from_interneurons: Interneurons to outputs (out, n_inh), subtracted.
    """

    excitatory: Tensor
    to_interneurons: Tensor
    from_interneurons: Tensor


class _Subtractive(nn.Module):
    """Excitation minus what interneurons relay (Cornford et al. 2021)."""

    def __init__(
        self, n_in: int, n_out: int, n_inh: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        s = 1 / math.sqrt(n_in)
        first = [
            torch.empty(shape).exponential_(generator=generator)
            for shape in ((n_out, n_in), (n_inh, n_in), (n_out, n_inh))
        ]
        self.excitatory = nn.Parameter(s * first[0])
        # At equal rates an interneuron has the mean excitation, and the outputs average
        # interneurons: the two pathways cancel in expectation.
        self.to_interneurons = nn.Parameter(first[1] / first[1].mean(1, keepdim=True) * s)
        self.from_interneurons = nn.Parameter(first[2] / first[2].sum(1, keepdim=True))

    def parts(self) -> DANNWeights:
        return DANNWeights(
            nonnegative(self.excitatory),
            nonnegative(self.to_interneurons),
            nonnegative(self.from_interneurons),
        )

    def forward(self) -> Tensor:
        excitatory, to_interneurons, from_interneurons = self.parts()
        return excitatory - from_interneurons @ to_interneurons


class DalesLinear(nn.Module):
    r"""$y = x W^T + b$ with one sign per column of $W$: Dale's law of the presynaptic units.

    The law presumes that rates x are at least zero. W is a function of free parameters, so no
    step of an optimizer can break it:

    - `abs` $|V| D$, `relu` $\max(V, 0) D$, `softplus` $\log(1 + e^V) D$, with $D$ the signs;
    - `clamp` the projection of $V$; at zero a gradient passes if it leads inside, so that a
      weight can come back (with `relu` it cannot);
    - `dann` all inputs excite, and inhibition comes from interneurons of the layer's own:
      $W = W_{ex} - W_{ei} W_{ix}$ with all three at least zero. Here the law holds for these
      matrices (`dann_weights`), and `weight`, their sum over both paths, has both signs.

    The first weights are balanced: rows sum to zero in expectation, and with all inputs at rate 1
    the outputs have variance 1.

    Args:
        in_features: Presynaptic units.
        out_features: Postsynaptic units.
        ei_ratio: Share of the presynaptic units that excite; with `dann` the outputs' share of
            outputs and interneurons together.
        bias: Whether there is a bias.
        parametrization: "abs", "relu", "softplus", "clamp" or "dann".
        generator: Source of the first weights.

    Attributes:
        n_exc: Presynaptic units that excite; these are the first.
        n_inh: Presynaptic units that inhibit; with `dann` the interneurons.

    Raises:
        ValueError: When a size, the ratio or the parametrization is out of its range.

    Examples:
        >>> layer = DalesLinear(10, 4, generator=torch.Generator().manual_seed(0))
        >>> bool((layer.weight[:, :8] >= 0).all()), bool((layer.weight[:, 8:] <= 0).all())
        (True, True)

    References:
        Song, Yang & Wang (2016), PLOS Comput. Biol. 12, e1004792.
        doi:10.1371/journal.pcbi.1004792
        Cornford et al. (2021), ICLR. doi:10.1101/2020.11.02.364968
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        ei_ratio: Number = 0.8,
        *,
        bias: bool = True,
        parametrization: str = "abs",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        one_of("parametrization", parametrization, (*MAGNITUDES, "dann"))
        self.n_exc, self.n_inh = split(in_features, ei_ratio)
        if out_features < 1:
            raise ValueError(f"out_features must be at least 1, got {out_features}")
        self.in_features, self.out_features = in_features, out_features
        self.ei_ratio, self.parametrization = ei_ratio, parametrization
        self.source: SignedWeight | _Subtractive
        if parametrization == "dann":
            if ei_ratio == 0:
                raise ValueError("ei_ratio must be positive with 'dann', whose inputs all excite")
            self.n_exc = in_features
            self.n_inh = round(out_features * (1 - ei_ratio) / ei_ratio)
            # Below 1 only an explicit ratio of 1 means no interneuron.
            self.n_inh = max(self.n_inh, int(ei_ratio < 1))
            self.source = _Subtractive(in_features, out_features, self.n_inh, generator)
        else:
            signs = torch.cat([torch.ones(self.n_exc), -torch.ones(self.n_inh)])
            size = balanced_magnitudes(out_features, self.n_exc, self.n_inh, generator)
            self.source = SignedWeight(size, signs, parametrization)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def extra_repr(self) -> str:
        """Sizes and parametrization, for `repr`."""
        return (
            f"{self.in_features}, {self.out_features}, ei_ratio={self.ei_ratio}, "
            f"bias={self.bias is not None}, parametrization={self.parametrization!r}"
        )

    @property
    def weight(self) -> Tensor:
        """The effective matrix (out_features, in_features)."""
        effective: Tensor = self.source()
        return effective

    @property
    def dann_weights(self) -> DANNWeights:
        """The three matrices of `dann`, all at least zero.

        Raises:
            ValueError: When the layer has another parametrization.
        """
        if isinstance(self.source, _Subtractive):
            return self.source.parts()
        raise ValueError(f"dann_weights needs parametrization='dann', got {self.parametrization!r}")

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of rates.

        Args:
            x: Presynaptic rates (..., in_features), at least zero for the law to have a meaning.

        Returns:
            (..., out_features).

        Raises:
            ValueError: When the last axis is not in_features.
        """
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x must be (..., in_features = {self.in_features}), got shape {tuple(x.shape)}"
            )
        return nnf.linear(x, self.weight, self.bias)
