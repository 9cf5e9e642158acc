r"""Networks of excitatory and inhibitory units: feed-forward classifiers and recurrent ones."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as nnf

from neuros_mechint._arrays import Number, one_of
from neuros_mechint.biophysical._dales_linear import DalesLinear
from neuros_mechint.biophysical._dales_weight import (
    MAGNITUDES,
    SignedWeight,
    balanced_magnitudes,
    split,
)

__all__ = ["EINetworkClassifier", "RNNOutput", "RecurrentDalesNetwork"]

# Rates of presynaptic units must not be negative, or a weight's sign says nothing.
_RATES: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nnf.relu,
    "softplus": nnf.softplus,
    "sigmoid": torch.sigmoid,
}
_READOUTS = ("excitatory", "all")


class RNNOutput(NamedTuple):
    """What a recurrent network does.

    Attributes:
        output: Readout of the rates (batch, time, output_size).
        hidden: State x, before the activation (batch, time, hidden_size).
    """

    output: Tensor
    hidden: Tensor


def _readers(n_units: int, ei_ratio: Number, parametrization: str, readout: str) -> int:
    """How many of the first units are read."""
    one_of("readout", readout, _READOUTS)
    # The units of a `dann` network all excite: inhibition is each layer's own.
    if readout == "all" or parametrization == "dann":
        return n_units
    n_exc, _ = split(n_units, ei_ratio)
    if n_exc == 0:
        raise ValueError(
            f"readout='excitatory' needs an excitatory unit, but ei_ratio={ei_ratio} leaves none "
            f"of {n_units}; raise it, or pass readout='all'"
        )
    return n_exc


class EINetworkClassifier(nn.Module):
    """Multilayer perceptron whose hidden units excite or inhibit, never both.

    Args:
        in_features: Inputs.
        hidden_sizes: Units of each hidden layer.
        n_classes: Classes.
        ei_ratio: Share of the units that excite.
        activation: "relu", "softplus" or "sigmoid": rates are at least zero.
        parametrization: As in `DalesLinear`.
        readout: "excitatory" reads only units that excite, as long-range projections do, with
            weights at least zero; "all" reads all. With "dann" all units excite.
        signed_input: Whether inputs may be negative; then the first layer is a plain linear one.
            Otherwise the inputs are units of the same ei_ratio, the first of which excite.
        generator: Source of the first weights.

    Raises:
        ValueError: When a size, the ratio or a name is out of its range.

    Examples:
        >>> EINetworkClassifier(64, [32], 10)(torch.zeros(5, 64)).shape
        torch.Size([5, 10])

    References:
        Cornford et al. (2021), ICLR. doi:10.1101/2020.11.02.364968
    """

    def __init__(
        self,
        in_features: int,
        hidden_sizes: Sequence[int],
        n_classes: int,
        *,
        ei_ratio: Number = 0.8,
        activation: str = "relu",
        parametrization: str = "abs",
        readout: str = "excitatory",
        signed_input: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        one_of("activation", activation, tuple(_RATES))
        sizes = list(hidden_sizes)
        if not sizes or min(in_features, n_classes, *sizes) < 1:
            raise ValueError(
                "in_features, n_classes and at least one entry of hidden_sizes must be >= 1, got "
                f"{in_features}, {n_classes} and {sizes}"
            )
        self.in_features, self.signed_input = in_features, signed_input
        self.rate = _RATES[activation]
        self.n_read = _readers(sizes[-1], ei_ratio, parametrization, readout)

        def dale(n_in: int, n_out: int, ratio: Number = ei_ratio) -> DalesLinear:
            return DalesLinear(
                n_in, n_out, ratio, parametrization=parametrization, generator=generator
            )

        first: nn.Module
        if signed_input:
            first = _plain(in_features, sizes[0], generator)
        else:
            first = dale(in_features, sizes[0])
        hidden = [dale(a, b) for a, b in pairwise(sizes)]
        self.hidden = nn.ModuleList([first, *hidden])
        only = readout == "excitatory" and parametrization != "dann"
        self.readout = dale(self.n_read, n_classes, 1.0 if only else ei_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of inputs.

        Args:
            x: (..., in_features).

        Returns:
            (..., n_classes).

        Raises:
            ValueError: When the last axis is not in_features, or an input is negative that must
                not be.
        """
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x must be (..., in_features = {self.in_features}), got shape {tuple(x.shape)}"
            )
        if not self.signed_input and bool((x < 0).any()):
            raise ValueError("x must be at least 0 with signed_input=False; pass signed_input=True")
        for layer in self.hidden:
            x = self.rate(layer(x))
        logits: Tensor = self.readout(x[..., : self.n_read])
        return logits


def _plain(n_in: int, n_out: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer whose outputs have variance 2 for inputs of mean square 1 (He et al. 2015)."""
    layer = nn.Linear(n_in, n_out)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / n_in), generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class RecurrentDalesNetwork(nn.Module):
    r"""Recurrent rate network of excitatory and inhibitory units.

    With $\alpha = dt / \tau$ and rates $r = f(x)$,

    $$x \leftarrow (1 - \alpha) x + \alpha (W_{rec} r + W_{in} u + b)
    + \sqrt{2 \alpha}\, \sigma \xi,$$

    columns of $W_{rec}$ and of the readout of one sign. At the start excitation and inhibition
    cancel in every row that has both, and the spectral radius is the given one.

    Args:
        input_size: Inputs.
        hidden_size: Recurrent units.
        output_size: Outputs.
        ei_ratio: Share of the units that excite.
        tau: Time constant, ms.
        dt: Step, ms, at most tau.
        noise_std: $\sigma$ of the noise.
        activation: "relu", "softplus" or "sigmoid".
        spectral_radius: Largest absolute eigenvalue of the first recurrent weights.
        self_connections: Whether units may drive themselves.
        mask: Where there may be recurrent weights (hidden_size, hidden_size), boolean; None:
            everywhere.
        readout: "excitatory" reads only units that excite, with weights at least zero; "all".
        parametrization: "abs", "relu", "softplus" or "clamp".
        generator: Source of the first weights.

    Raises:
        ValueError: When an argument is out of its range, or the mask leaves no cycle.

    Examples:
        >>> network = RecurrentDalesNetwork(3, 50, 2)
        >>> float(torch.linalg.eigvals(network.recurrent_weight).abs().max().detach()) - 1.5 < 1e-3
        True
        >>> network(torch.zeros(4, 7, 3)).output.shape
        torch.Size([4, 7, 2])

    References:
        Song, Yang & Wang (2016), PLOS Comput. Biol. 12, e1004792.
        doi:10.1371/journal.pcbi.1004792
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        ei_ratio: Number = 0.8,
        tau: Number = 100.0,
        dt: Number = 20.0,
        noise_std: Number = 0.0,
        activation: str = "relu",
        spectral_radius: Number = 1.5,
        self_connections: bool = False,
        mask: Tensor | None = None,
        readout: str = "excitatory",
        parametrization: str = "abs",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        one_of("activation", activation, tuple(_RATES))
        one_of("parametrization", parametrization, MAGNITUDES)
        if not 0 < dt <= tau:
            raise ValueError(f"dt must be positive and at most tau = {tau} ms, got {dt}")
        if noise_std < 0 or spectral_radius <= 0:
            raise ValueError(
                "noise_std must be at least 0 and spectral_radius positive, got "
                f"{noise_std} and {spectral_radius}"
            )
        if min(input_size, output_size) < 1:
            raise ValueError(f"sizes must be at least 1, got {input_size} and {output_size}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.alpha, self.noise_std, self.rate = dt / tau, noise_std, _RATES[activation]
        self.n_exc, self.n_inh = split(hidden_size, ei_ratio)
        allowed = _allowed(mask, hidden_size, self_connections=self_connections)
        size = balanced_magnitudes(hidden_size, self.n_exc, self.n_inh, generator)
        size = _scaled(size.double() * allowed, self.n_exc, float(spectral_radius)).to(size)
        signs = torch.cat([torch.ones(self.n_exc), -torch.ones(self.n_inh)])
        self.recurrent = SignedWeight(size, signs, parametrization, allowed)
        self.input = _plain(input_size, hidden_size, generator)
        self.n_read = _readers(hidden_size, ei_ratio, parametrization, readout)
        self.readout = DalesLinear(
            self.n_read,
            output_size,
            1.0 if readout == "excitatory" else ei_ratio,
            parametrization=parametrization,
            generator=generator,
        )

    @property
    def recurrent_weight(self) -> Tensor:
        """The effective matrix (post, pre), signed and masked."""
        effective: Tensor = self.recurrent()
        return effective

    def forward(
        self, u: Tensor, h0: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> RNNOutput:
        """Response to inputs.

        Args:
            u: (batch, time, input_size).
            h0: State before the first step (batch, hidden_size); None: zero.
            generator: Source of the noise.

        Returns:
            Outputs and states; the last state continues a run as h0.

        Raises:
            ValueError: When a shape does not fit.
        """
        if u.ndim != 3 or u.shape[1] < 1 or u.shape[2] != self.input_size:
            raise ValueError(
                f"u must be (batch, time >= 1, input_size = {self.input_size}), got shape "
                f"{tuple(u.shape)}"
            )
        needed = (u.shape[0], self.hidden_size)
        x = u.new_zeros(needed) if h0 is None else h0
        if tuple(x.shape) != needed:
            raise ValueError(f"h0 must be (batch, hidden_size) = {needed}, got {tuple(x.shape)}")
        weight, drive = self.recurrent_weight, self.input(u)
        states: list[Tensor] = []
        for row in drive.unbind(1):
            x = (1 - self.alpha) * x + self.alpha * (self.rate(x) @ weight.T + row)
            if self.noise_std:
                xi = torch.randn(needed, generator=generator, dtype=x.dtype, device=x.device)
                x = x + math.sqrt(2 * self.alpha) * self.noise_std * xi
            states.append(x)
        hidden = torch.stack(states, dim=1)
        return RNNOutput(self.readout(self.rate(hidden)[..., : self.n_read]), hidden)


def _allowed(mask: Tensor | None, n: int, *, self_connections: bool) -> Bool[Tensor, "post pre"]:
    allowed = torch.ones(n, n, dtype=torch.bool) if mask is None else mask
    if tuple(allowed.shape) != (n, n) or allowed.dtype != torch.bool:
        raise ValueError(
            f"mask must be boolean of shape (hidden_size, hidden_size) = ({n}, {n}), got "
            f"{allowed.dtype} of shape {tuple(allowed.shape)}"
        )
    return allowed if self_connections else allowed & ~torch.eye(n, dtype=torch.bool)


def _scaled(
    size: Float[Tensor, "post pre"], n_exc: int, spectral_radius: float
) -> Float[Tensor, "post pre"]:
    """Sizes whose rows cancel, of the given spectral radius."""
    excitation, inhibition = size[:, :n_exc].sum(1), size[:, n_exc:].sum(1)
    both = (excitation > 0) & (inhibition > 0)
    gain = torch.where(both, excitation / inhibition, 1.0)
    size = torch.cat([size[:, :n_exc], size[:, n_exc:] * gain[:, None]], dim=1)
    signed = torch.cat([size[:, :n_exc], -size[:, n_exc:]], dim=1)
    radius = float(torch.linalg.eigvals(signed).abs().max())
    if radius < 1e-6 * float(size.max()) or radius == 0:
        raise ValueError(
            "the recurrent weights have no cycle, so no scale gives them a spectral radius; allow "
            "more of them in mask, or pass self_connections=True"
        )
    return size * (spectral_radius / radius)
