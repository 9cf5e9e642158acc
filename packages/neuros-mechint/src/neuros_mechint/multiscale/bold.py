"""From neural activity to the BOLD signal: the balloon model."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint._numbers import (
    NumberOrTensor,
    as_number,
    hold_numbers,
    joint_shape,
    positive,
    shown_numbers,
)
from neuros_mechint.multiscale._lfp_arguments import as_floating, check_rate

__all__ = ["BalloonWindkessel"]

Coefficients: TypeAlias = Literal["friston", "revised"]

# Longest step of the integration in seconds: its error stays below 1e-6 of the peak.
_LONGEST = 0.02
# Flow never falls below this share of its value at rest; there the model has no meaning.
_LEAST_LOG_FLOW = math.log(0.01)


class BalloonWindkessel(nn.Module):
    r"""Blood flow, volume and oxygenation driven by neural activity z, and the BOLD signal.

    $$\dot s = \epsilon z - \kappa s - \gamma (f - 1), \quad \dot f = s, \quad
    \tau \dot v = f - v^{1/\alpha}, \quad
    \tau \dot q = \frac{f}{\rho} \left(1 - (1-\rho)^{1/f}\right) - v^{1/\alpha - 1} q$$

    $$\mathrm{BOLD} = V_0 \left[k_1 (1 - q) + k_2 (1 - q / v) + k_3 (1 - v)\right]$$

    Flow f, volume v and deoxyhaemoglobin q are integrated as logarithms, so they stay positive, by
    the classical Runge-Kutta method in steps of at most 20 ms; z is constant during a sample. Flow
    is held above 1 % of its value at rest, where strong inhibition would take it through 0.

    Args:
        kappa: Decay of the vasodilatory signal, 1/s.
        gamma: Its feedback from flow, 1/s^2.
        tau: Transit time of blood, s.
        alpha: Stiffness exponent of the vessels (Grubb).
        rho: Share of oxygen extracted at rest.
        V0: Share of volume that is venous blood; the unit of the result follows it.
        epsilon: Efficacy of activity, 1/s.
        coefficients: `"friston"`, k = (7 rho, 2, 2 rho - 0.2), or `"revised"` for 1.5 T,
            k = (4.3 nu0 rho TE, r r0 rho TE, 1 - r) with nu0 = 40.3 and r0 = 25 per s, TE = 0.04 s
            and r = 0.5.
        learnable: Names of numbers that become parameters.

        Every number is a float or a tensor that broadcasts to the leading axes of the activity.

    Raises:
        TypeError: When a number is neither a float nor a floating tensor.
        ValueError: When a number is not positive, rho is not below 1, or a name is unknown.

    Examples:
        Constant activity takes flow to $1 + \epsilon z / \gamma$:

        >>> model = BalloonWindkessel()
        >>> states = model.states(torch.full((2000,), 0.41), sampling_rate=100.0)
        >>> round(float(states["flow"][-1]), 2)
        2.0

        A pulse of one second has its peak after 3.4 s:

        >>> pulse = (torch.arange(500) < 100).float()
        >>> (int(model(pulse, sampling_rate=100.0).argmax()) + 1) / 100
        3.38

    References:
        Friston et al. (2003), NeuroImage 19, 1273-1302. doi:10.1016/S1053-8119(03)00202-7
        Stephan et al. (2007), NeuroImage 38, 387-401. doi:10.1016/j.neuroimage.2007.07.040
    """

    def __init__(
        self,
        *,
        kappa: NumberOrTensor = 0.65,
        gamma: NumberOrTensor = 0.41,
        tau: NumberOrTensor = 0.98,
        alpha: NumberOrTensor = 0.32,
        rho: NumberOrTensor = 0.34,
        V0: NumberOrTensor = 0.02,
        epsilon: NumberOrTensor = 1.0,
        coefficients: Coefficients = "friston",
        learnable: Sequence[str] = (),
    ) -> None:
        super().__init__()
        one_of("coefficients", coefficients, get_args(Coefficients))
        self.coefficients: Coefficients = coefficients
        numbers: dict[str, NumberOrTensor] = {
            "kappa": kappa, "gamma": gamma, "tau": tau, "alpha": alpha, "rho": rho, "V0": V0,
            "epsilon": epsilon,
        }  # fmt: skip
        self.number_names = tuple(numbers)
        positive(numbers)
        hold_numbers(self, numbers, learnable)
        extracted = float(as_number("rho", rho).detach().max())
        if extracted >= 1:
            raise ValueError(f"rho must be below 1, got {extracted:g}")

    @classmethod
    def tvb(cls) -> "BalloonWindkessel":
        """The numbers of The Virtual Brain, whose V0 is in percent.

        Its analyzer subtracts the mean of its input by default; this model does not.

        Examples:
            >>> float(BalloonWindkessel.tvb().V0)
            4.0
        """
        return cls(
            kappa=1 / 1.54, gamma=1 / 1.44, tau=0.98, alpha=0.32, rho=0.4, V0=4.0,
            coefficients="revised",
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Numbers of the model, for printing."""
        return f"{shown_numbers(self, self.number_names)}, coefficients={self.coefficients!r}"

    def forward(self, z: Array, sampling_rate: Number) -> Tensor:
        """BOLD signal of neural activity.

        Args:
            z: Activity (..., time), 0 at rest.
            sampling_rate: Samples per second.

        Returns:
            BOLD (..., time): entry t is the signal at (t + 1) / sampling_rate, in the unit of V0
            and the dtype of z.

        Raises:
            TypeError: When z is no floating tensor or array.
            ValueError: When z is empty or not finite, numbers do not broadcast to it, or activity
                is so strong that the integration leaves the finite numbers.
        """
        states = self.states(z, sampling_rate)
        like = states["flow"]
        p = {name: getattr(self, name).to(like).unsqueeze(-1) for name in self.number_names}
        k1, k2, k3 = self._weights(p["rho"])
        v, q = states["volume"], states["deoxyhaemoglobin"]
        bold: Tensor = p["V0"] * (k1 * (1 - q) + k2 * (1 - q / v) + k3 * (1 - v))
        return bold.to(as_floating("z", z).dtype)

    def states(self, z: Array, sampling_rate: Number) -> dict[str, Tensor]:
        """The four states behind the signal.

        Args:
            z: Activity (..., time), 0 at rest.
            sampling_rate: Samples per second.

        Returns:
            `signal` in 1/s, and `flow`, `volume` and `deoxyhaemoglobin` relative to rest, each
            (..., time), in the dtype of the computation.

        Raises:
            TypeError: When z is no floating tensor or array.
            ValueError: When z is empty or not finite, numbers do not broadcast to it, or activity
                is so strong that the integration leaves the finite numbers.
        """
        check_rate(sampling_rate)
        wide = as_real("z", as_floating("z", z), axes=("time",), at_least=(1,))
        p = {name: getattr(self, name).to(wide) for name in self.number_names}
        shape = joint_shape(wide.shape[:-1], p, "the leading axes")
        n_steps = max(1, math.ceil(1 / (sampling_rate * _LONGEST) - 1e-9))
        h = 1 / (sampling_rate * n_steps)
        drives = (p["epsilon"].unsqueeze(-1) * wide).expand(*shape, -1)
        p |= {"stiffness": 1 / p["alpha"] - 1, "left_over": torch.log1p(-p["rho"])}
        over_time = _integrated(drives, h, n_steps, p)
        if not bool(torch.isfinite(over_time[..., -1].detach()).all()):
            raise ValueError(
                f"activity of up to {float(wide.detach().abs().max()):g} is too strong for the "
                "balloon; scale z so that epsilon z stays below about 100"
            )
        signal, *logs = over_time.unbind(0)
        names = ("flow", "volume", "deoxyhaemoglobin")
        return {"signal": signal} | {n: x.exp() for n, x in zip(names, logs, strict=True)}

    def _weights(self, rho: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """The weights k1, k2, k3 of the signal."""
        if self.coefficients == "friston":
            return 7 * rho, 2.0, 2 * rho - 0.2
        nu0, r0, echo, ratio = 40.3, 25.0, 0.04, 0.5
        return 4.3 * nu0 * rho * echo, ratio * r0 * rho * echo, 1 - ratio


def _integrated(
    drives: Float[Tensor, "*batch time"], h: float, n_steps: int, p: Mapping[str, Tensor]
) -> Float[Tensor, "4 *batch time"]:
    """States at the end of every sample, from rest."""
    y = drives.new_zeros(4, *drives.shape[:-1])
    rows = []
    # Indexing would leave a full-size zero tensor for every sample on the way back.
    for drive in drives.unbind(-1):
        for _ in range(n_steps):
            y = _advanced(y, drive, h, p)
        rows.append(y)
    return torch.stack(rows, -1)


# Shapes are checked once around the loop: in it, the check would cost more than the step.
def _advanced(y: Tensor, drive: Tensor, h: float, p: Mapping[str, Tensor]) -> Tensor:
    """One step of the classical Runge-Kutta method."""
    k1 = _slopes(y, drive, p)
    k2 = _slopes(y + 0.5 * h * k1, drive, p)
    k3 = _slopes(y + 0.5 * h * k2, drive, p)
    k4 = _slopes(y + h * k3, drive, p)
    s, log_f, log_v, log_q = (y + h / 6 * (k1 + 2 * (k2 + k3) + k4)).unbind(0)
    return torch.stack([s, log_f.clamp(min=_LEAST_LOG_FLOW), log_v, log_q])


def _slopes(y: Tensor, drive: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    s, log_f, log_v, log_q = y.unbind(0)
    log_f = log_f.clamp(min=_LEAST_LOG_FLOW)
    f = log_f.exp()
    # What leaves the balloon, relative to its volume.
    out = (p["stiffness"] * log_v).exp()
    extracted = torch.expm1(p["left_over"] / f) / -p["rho"]
    return torch.stack(
        [
            drive - p["kappa"] * s - p["gamma"] * (f - 1),
            s / f,
            ((log_f - log_v).exp() - out) / p["tau"],
            ((log_f - log_q).exp() * extracted - out) / p["tau"],
        ]
    )
