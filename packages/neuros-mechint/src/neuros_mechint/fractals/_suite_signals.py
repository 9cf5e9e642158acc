"""The signals of the benchmark suite: one function per signal, drawn from a generator."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.fractals._cascade import MultiplicativeCascade
from neuros_mechint.fractals._colored_noise import ColoredNoise
from neuros_mechint.fractals._fractional_motion import FractionalBrownianMotion

__all__ = ["Recipe", "all_recipes"]

_HURST = (0.1, 0.3, 0.5, 0.7, 0.9)
_BETA = (0.5, 1.0, 1.5, 2.0, 3.0)
_WEIERSTRASS = (0.3, 0.5, 0.8)
# Moments between which the width of a multifractal spectrum is stated, as the estimator's own.
_WIDEST = torch.tensor([-5.0, 5.0], dtype=torch.float64)
_MOTION = FractionalBrownianMotion()

Draw = Callable[[int, torch.Generator], Tensor]
Point = tuple[float, float, float]


class Recipe(NamedTuple):
    """A signal that can be drawn again and again, and what is true of it."""

    name: str
    draw: Draw
    truth: dict[str, float]


def all_recipes() -> list[Recipe]:
    """List the signals, in the order of the suite.

    Returns:
        One recipe each.

    Examples:
        >>> len(all_recipes())
        27
    """
    return [
        *(Recipe(f"fGn H={H}", partial(_noise, H=H), _of_noise(H)) for H in _HURST),
        *(Recipe(f"fBm H={H}", partial(_path, H=H), _of_path(H)) for H in _HURST),
        *(Recipe(f"1/f^{b}", partial(_colored, beta=b), _of_power_law(b)) for b in _BETA),
        *(
            Recipe(f"Weierstrass H={H}", partial(_weierstrass, H=H), {"dimension": 2 - H})
            for H in _WEIERSTRASS
        ),
        _cascade("binomial cascade", MultiplicativeCascade(), [0.7, 0.3]),
        _cascade("lognormal cascade", MultiplicativeCascade(kind="lognormal", sigma=0.2), None),
        Recipe("white noise", _white, _of_noise(0.5) | {"dimension": 2.0}),
        Recipe("sine", _sine, {"dimension": 1.0}),
        # Nothing of a constant scales: estimators say nan.
        Recipe("constant", _constant, {}),
        Recipe("fGn H=0.7 with trend", _with_trend, _of_noise(0.7)),
        Recipe("fGn H=0.7 with gaps", _with_gaps, _of_noise(0.7)),
        Recipe("fGn H=0.7 with artefacts", _with_artefacts, _of_noise(0.7)),
        Recipe(
            "Lorenz x",
            _lorenz,
            {"dimension": 1.0, "correlation_dimension": 2.05, "lyapunov": 0.9056},
        ),
    ]


def _of_noise(H: float) -> dict[str, float]:
    return {"hurst": H, "alpha": H, "beta": 2 * H - 1, "mf_width": 0.0}


def _of_path(H: float) -> dict[str, float]:
    return {"path_hurst": H, "alpha": H + 1, "beta": 2 * H + 1, "dimension": 2 - H, "mf_width": 0.0}


def _of_power_law(beta: float) -> dict[str, float]:
    truth = {"beta": beta, "alpha": (beta + 1) / 2}
    return truth | {"dimension": (5 - beta) / 2} if beta > 1 else truth


def _cascade(name: str, cascade: MultiplicativeCascade, weights: list[float] | None) -> Recipe:
    def draw(n: int, generator: torch.Generator) -> Tensor:
        n_levels = max(1, (n - 1).bit_length())
        mass = cascade.generate(n_levels, weights=weights, generator=generator, dtype=torch.float64)
        return mass[:n]

    second = float(cascade.tau(torch.tensor(2.0), weights=weights))
    # Holder exponents at both ends: the derivative of tau.
    q = _WIDEST.clone().requires_grad_()
    alpha = torch.autograd.grad(cascade.tau(q, weights=weights).sum(), q)[0]
    width = float(alpha[0] - alpha[1])
    return Recipe(name, draw, {"alpha": (second + 1) / 2, "beta": second, "mf_width": width})


def _noise(n: int, generator: torch.Generator, *, H: float) -> Float[Tensor, " time"]:
    return _MOTION.increments(n, H, generator=generator, dtype=torch.float64)


def _path(n: int, generator: torch.Generator, *, H: float) -> Float[Tensor, " time"]:
    return _MOTION.generate(n, H, generator=generator, dtype=torch.float64)


def _colored(n: int, generator: torch.Generator, *, beta: float) -> Float[Tensor, " time"]:
    return ColoredNoise().generate(n, beta, generator=generator, dtype=torch.float64)


def _white(n: int, generator: torch.Generator) -> Float[Tensor, " time"]:
    return torch.randn(n, generator=generator, dtype=torch.float64)


def _sine(n: int, generator: torch.Generator) -> Float[Tensor, " time"]:
    phase = torch.rand(1, generator=generator, dtype=torch.float64)
    time = torch.arange(n, dtype=torch.float64) / n
    return torch.sin(2 * math.pi * (8 * time + phase))


def _constant(n: int, generator: torch.Generator) -> Float[Tensor, " time"]:
    return torch.randn(1, generator=generator, dtype=torch.float64).expand(n).clone()


def _weierstrass(n: int, generator: torch.Generator, *, H: float) -> Float[Tensor, " time"]:
    r"""$\sum_k \lambda^{-kH} \cos(2\pi (\lambda^k t + \phi_k))$ with $\lambda = 3/2$."""
    # Up to 1e10 cycles: far beyond what the samples resolve, and its phase keeps six digits.
    k = torch.arange(math.ceil(math.log(1e10) / math.log(1.5)), dtype=torch.float64)
    frequency = torch.pow(1.5, k)
    phase = torch.rand(len(k), generator=generator, dtype=torch.float64)
    time = torch.arange(n, dtype=torch.float64) / n
    cycles = time[:, None] * frequency + phase
    return torch.cos(2 * math.pi * cycles.frac()) @ torch.pow(frequency, -H)


def _with_trend(n: int, generator: torch.Generator) -> Float[Tensor, " time"]:
    time = torch.linspace(-1, 1, n, dtype=torch.float64)
    return _noise(n, generator, H=0.7) + 3 * time.square() + 2 * time


def _with_gaps(n: int, generator: torch.Generator) -> Float[Tensor, " time"]:
    """Five gaps of 1 % each, bridged by straight lines as a recording is."""
    x = _noise(n, generator, H=0.7)
    length = max(n // 100, 1)
    # One gap in each fifth, so that they never meet.
    offsets = torch.rand(5, generator=generator, dtype=torch.float64) * (n // 5 - length - 2)
    for fifth, offset in enumerate(offsets.tolist()):
        start = fifth * (n // 5) + int(offset) + 1
        share = torch.arange(1, length + 1, dtype=torch.float64) / (length + 1)
        x[start : start + length] = torch.lerp(x[start - 1], x[start + length], share)
    return x


def _with_artefacts(n: int, generator: torch.Generator) -> Float[Tensor, " time"]:
    """Five samples in a hundred replaced by numbers ten times as large."""
    x = _noise(n, generator, H=0.7)
    hit = torch.randperm(n, generator=generator)[: n // 20]
    x[hit] = 10 * torch.randn(len(hit), generator=generator, dtype=torch.float64)
    return x


def _lorenz(n: int, generator: torch.Generator) -> Float[Tensor, " time"]:
    """First coordinate at steps of 0.01, by Runge and Kutta; a recursion, so a loop over time."""
    start = torch.randn(3, generator=generator, dtype=torch.float64) + 1
    p = (float(start[0]), float(start[1]), float(start[2]))
    samples = []
    # Ten units of time bring any start onto the attractor.
    for k in range(n + 1000):
        p = _lorenz_step(p, 0.01)
        if k >= 1000:
            samples.append(p[0])
    return torch.tensor(samples, dtype=torch.float64)


def _lorenz_step(p: Point, dt: float) -> Point:
    half = dt / 2
    a = _flow(p)
    b = _flow((p[0] + half * a[0], p[1] + half * a[1], p[2] + half * a[2]))
    c = _flow((p[0] + half * b[0], p[1] + half * b[1], p[2] + half * b[2]))
    d = _flow((p[0] + dt * c[0], p[1] + dt * c[1], p[2] + dt * c[2]))
    return (
        p[0] + dt / 6 * (a[0] + 2 * b[0] + 2 * c[0] + d[0]),
        p[1] + dt / 6 * (a[1] + 2 * b[1] + 2 * c[1] + d[1]),
        p[2] + dt / 6 * (a[2] + 2 * b[2] + 2 * c[2] + d[2]),
    )


def _flow(p: Point) -> Point:
    return 10 * (p[1] - p[0]), p[0] * (28 - p[2]) - p[1], p[0] * p[1] - 8 / 3 * p[2]
