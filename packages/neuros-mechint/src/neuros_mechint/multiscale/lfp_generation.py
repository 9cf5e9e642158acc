"""From spikes to the field potential: a kernel in time, and how units reach electrodes."""

import math
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint._kernels import exponential, rise_and_decay, rise_scale
from neuros_mechint.multiscale._lfp_arguments import as_floating, check_rate
from neuros_mechint.multiscale._lfp_convolution import convolved, mixed

__all__ = ["LFPGenerator"]

LFPKernel: TypeAlias = Literal["exponential", "alpha", "biexponential", "realistic"]
Normalization: TypeAlias = Literal["peak", "area"]

# Telenczuk et al. 2020: mm/ms, mm, ms; widths and soma-layer amplitudes in microvolts.
_VELOCITY, _REACH, _LATENCY = 0.2, 0.2, 10.4
# Of inhibitory and of excitatory units.
_WIDTHS, _AMPLITUDES = (2.1, 3.15), (3.0, 0.48)
# exp(-8^2 / 2) is below 1e-13.
_CUT = 8.0


class LFPGenerator(nn.Module):
    r"""Field potential of spikes: each train convolved with a kernel, and units mixed.

    | kernel | $K(t)$, $t \ge 0$ in ms |
    |---|---|
    | `"exponential"` | $e^{-t/\tau}$ |
    | `"alpha"` | $(t/\tau) e^{1 - t/\tau}$ |
    | `"biexponential"` | $(e^{-t/\tau} - e^{-t/\tau_r}) / \mathrm{peak}$ |
    | `"realistic"` | $A e^{-r/\lambda} \exp(-(t - d - r/v_a)^2 / 2\sigma^2)$ |

    The last is the field around a cortical spike, in microvolts: $v_a = 0.2$ mm/ms,
    $\lambda = 0.2$ mm, $d = 10.4$ ms, and $\sigma = 3.15$ ms, $A = 0.48$ for excitatory,
    $\sigma = 2.1$ ms, $A = 3$ for inhibitory units, the amplitudes of the layer of the somata; r is
    the distance of unit and electrode. Kernels are sampled at multiples of the sampling interval;
    nothing happens before the spike.

    Without weights and positions each train is a channel of its own. With positions, units reach
    electrodes as $e^{-r/\lambda}$ for the first three kernels too.

    Args:
        kernel_type: Which kernel.
        tau: Time constant of the decay, ms; `"realistic"` has times of its own.
        tau_rise: Time constant of the rise, ms, for `"biexponential"`; None takes tau / 5.
        weights: How units add up in channels, (channels, units); an `nn.Parameter` is learnt.
        unit_positions: Places of the units in mm, (units, 3).
        electrode_positions: Places of the electrodes in mm, (channels, 3).
        excitatory: Which units excite, (units,), for `"realistic"`.
        normalize: Whether the peak of the first three kernels is 1, or their integral over ms.

    Raises:
        TypeError: When a tensor is not of the right kind.
        ValueError: When a number, a shape or a combination of arguments makes no kernel.

    Examples:
        >>> spikes = torch.zeros(1, 4)
        >>> spikes[0, 1] = 1.0
        >>> field = LFPGenerator("exponential", tau=1 / math.log(2)).generate(spikes)
        >>> field.round(decimals=3).tolist()
        [[0.0, 1.0, 0.5, 0.25]]

    References:
        Telenczuk, Telenczuk & Destexhe (2020). A kernel-based method to calculate local field
        potentials from networks of spiking neurons. J. Neurosci. Methods 344, 108871.
        doi:10.1016/j.jneumeth.2020.108871
    """

    weights: Tensor | None
    unit_positions: Tensor | None
    electrode_positions: Tensor | None
    excitatory: Tensor | None

    def __init__(
        self,
        kernel_type: LFPKernel = "exponential",
        tau: Number = 10.0,
        *,
        tau_rise: Number | None = None,
        weights: Array | None = None,
        unit_positions: Array | None = None,
        electrode_positions: Array | None = None,
        excitatory: Array | None = None,
        normalize: Normalization = "peak",
    ) -> None:
        super().__init__()
        one_of("kernel_type", kernel_type, get_args(LFPKernel))
        one_of("normalize", normalize, get_args(Normalization))
        self.kernel_type: LFPKernel = kernel_type
        self.normalize: Normalization = normalize
        self.tau = float(tau)
        self.tau_rise = _rise(kernel_type, self.tau, tau_rise)
        _keep(self, "weights", _matrix("weights", weights, ("channels", "units"), None))
        for name, value in (
            ("unit_positions", unit_positions),
            ("electrode_positions", electrode_positions),
        ):
            _keep(self, name, _matrix(name, value, (name.split("_")[0] + "s", "3"), 3))
        _keep(self, "excitatory", _flags(excitatory))
        self._check_combination()

    def extra_repr(self) -> str:
        """Numbers of the generator, for printing."""
        shapes = {
            name: tuple(value.shape)
            for name in ("weights", "unit_positions", "electrode_positions")
            if (value := getattr(self, name)) is not None
        }
        parts = [repr(self.kernel_type)]
        if self.kernel_type != "realistic":
            parts += [f"tau={self.tau:g}", f"normalize={self.normalize!r}"]
        if self.kernel_type == "biexponential":
            parts.append(f"tau_rise={self.tau_rise:g}")
        return ", ".join(parts + [f"{name}={shape}" for name, shape in shapes.items()])

    def forward(self, spike_trains: Array, sampling_rate: Number = 1000.0) -> Tensor:
        """Field potential of spikes, as `generate`."""
        return self.generate(spike_trains, sampling_rate)

    def generate(self, spike_trains: Array, sampling_rate: Number = 1000.0) -> Tensor:
        """Field potential of spikes.

        Args:
            spike_trains: Spikes per sample (..., units, time); a rate is as good as a spike.
            sampling_rate: Samples per second.

        Returns:
            Potential (..., channels, time) in the dtype of the spikes; without weights and
            positions of the shape of the spikes.

        Raises:
            TypeError: When the spikes are no floating tensor or array.
            ValueError: When they are empty or not finite, or their units are not those of the
                weights or positions.

        Examples:
            >>> mixing = torch.tensor([[1.0, -1.0]])
            >>> LFPGenerator(weights=mixing).generate(torch.eye(2, 5)).shape
            torch.Size([1, 5])
        """
        given = as_floating("spike_trains", spike_trains)
        check_rate(sampling_rate)
        n_units = self._n_units()
        axes = ("time",) if n_units is None else ("units", "time")
        x = as_real("spike_trains", given, axes=axes, at_least=(1,) * len(axes))
        if n_units is not None and x.shape[-2] != n_units:
            raise ValueError(
                f"spike_trains has {x.shape[-2]} units, but the generator is made for {n_units}"
            )
        step = 1000 / float(sampling_rate)
        field = self._around(x, step) if self.kernel_type == "realistic" else self._sum(x, step)
        return field.to(given.dtype)

    def _sum(self, x: Tensor, step: float) -> Tensor:
        """One kernel for all: units are mixed before the convolution."""
        t = torch.arange(x.shape[-1], dtype=torch.float64, device=x.device) * step
        rise, decay = t.new_tensor(self.tau_rise), t.new_tensor(self.tau)
        if self.kernel_type == "exponential":
            kernel = exponential(t, decay) / (self.tau if self.normalize == "area" else 1.0)
        else:
            scale = rise_scale(rise, decay, self.normalize)
            kernel = rise_and_decay(t, rise, decay) * scale
        if self.weights is not None:
            x = self.weights.to(x) @ x
        elif self.unit_positions is not None:
            x = (-self._distances() / _REACH).exp().to(x) @ x
        return convolved(x, kernel.to(x))

    def _around(self, x: Tensor, step: float) -> Tensor:
        """A kernel for every unit at every electrode."""
        away = self._distances().to(x.device, torch.float64)
        kind = torch.zeros(0) if self.excitatory is None else self.excitatory
        width, size = (
            away.new_tensor(numbers)[kind.to(x.device, torch.long)]
            for numbers in (_WIDTHS, _AMPLITUDES)
        )
        delay = _LATENCY + away / _VELOCITY
        longest = float((delay + _CUT * width).max().detach())
        n_lags = min(x.shape[-1], math.floor(longest / step) + 1)
        t = torch.arange(n_lags, dtype=torch.float64, device=x.device) * step
        turn = (t - delay.unsqueeze(-1)) / width.unsqueeze(-1)
        amplitude = size * (-away / _REACH).exp()
        return mixed(x, (amplitude.unsqueeze(-1) * (-0.5 * turn.square()).exp()).to(x))

    def _distances(self) -> Tensor:
        """Distances of electrodes and units, (channels, units)."""
        if self.unit_positions is None or self.electrode_positions is None:
            raise ValueError("a distance needs unit_positions and electrode_positions")
        apart = self.electrode_positions.unsqueeze(1) - self.unit_positions
        distances: Tensor = torch.linalg.vector_norm(apart, dim=-1)
        return distances

    def _n_units(self) -> int | None:
        if self.weights is not None:
            return self.weights.shape[1]
        return None if self.unit_positions is None else self.unit_positions.shape[0]

    def _check_combination(self) -> None:
        placed = self.unit_positions is not None
        if placed != (self.electrode_positions is not None):
            raise ValueError("unit_positions and electrode_positions come together; give both")
        if placed and self.weights is not None:
            raise ValueError("give weights or positions, not both: positions make weights")
        if self.kernel_type != "realistic":
            if self.excitatory is not None:
                raise ValueError("excitatory belongs to kernel_type 'realistic'; leave it out")
            return
        if self.unit_positions is None or self.excitatory is None:
            raise ValueError(
                "kernel_type 'realistic' needs unit_positions, electrode_positions and excitatory"
            )
        n_units = self.unit_positions.shape[0]
        if self.excitatory.shape != (n_units,):
            raise ValueError(
                f"excitatory must be (units,) = ({n_units},), got {tuple(self.excitatory.shape)}"
            )


def _rise(kernel_type: str, tau: float, tau_rise: Number | None) -> float:
    """Time constant of the rise; that of the decay where a kernel has only one."""
    if not 0 < tau < math.inf:
        raise ValueError(f"tau must be positive and finite, in ms, got {tau:g}")
    if kernel_type != "biexponential":
        if tau_rise is not None:
            raise ValueError(
                f"tau_rise belongs to kernel_type 'biexponential', got {kernel_type!r}"
            )
        return tau
    rise = tau / 5 if tau_rise is None else float(tau_rise)
    if not 0 < rise <= tau:
        raise ValueError(f"tau_rise must be positive and at most tau = {tau:g} ms, got {rise:g}")
    return rise


def _matrix(
    name: str, value: Array | None, axes: tuple[str, str], width: int | None
) -> Tensor | None:
    """A checked matrix; a float keeps its bits, a parameter stays one."""
    if value is None:
        return None
    tensor = as_floating(name, value)
    if tensor.ndim != 2 or 0 in tensor.shape or (width is not None and tensor.shape[1] != width):
        raise ValueError(f"{name} must be ({', '.join(axes)}), got shape {tuple(tensor.shape)}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds NaN or inf")
    return tensor


def _flags(value: Array | None) -> Tensor | None:
    if value is None:
        return None
    tensor = torch.as_tensor(value)
    if tensor.dtype != torch.bool:
        raise TypeError(f"excitatory must be a boolean tensor or array, got {tensor.dtype}")
    return tensor


def _keep(module: nn.Module, name: str, value: Tensor | None) -> None:
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    else:
        module.register_buffer(name, value)
