"""Spikes with a surrogate gradient."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from neuros_mechint._arrays import compute_dtype, one_of
from neuros_mechint._autograd import applied
from neuros_mechint.biophysical._arguments import floating

__all__ = ["SURROGATES", "Surrogate", "SurrogateGradient", "spike"]

Surrogate: TypeAlias = str | Callable[[Tensor], Tensor]


def _fast_sigmoid(x: Tensor, k: float) -> Tensor:
    return (1 + k * x.abs()).pow(-2)


def _sigmoid(x: Tensor, k: float) -> Tensor:
    # The product of the two tails keeps its digits where 1 - sigmoid would cancel.
    return k * torch.sigmoid(k * x) * torch.sigmoid(-k * x)


def _atan(x: Tensor, k: float) -> Tensor:
    return k / 2 / (1 + (math.pi * k / 2 * x).square())


def _triangle(x: Tensor, k: float) -> Tensor:
    return k * (1 - k * x.abs()).clamp(min=0)


def _gaussian(x: Tensor, k: float) -> Tensor:
    return k / math.sqrt(2 * math.pi) * torch.exp(-(k * x).square() / 2)


def _boxcar(x: Tensor, k: float) -> Tensor:
    return k / 2 * ((k * x).abs() <= 1).to(x.dtype)


def _straight_through(x: Tensor, _k: float) -> Tensor:
    return torch.ones_like(x)


_KINDS: dict[str, tuple[Callable[[Tensor, float], Tensor], float]] = {
    "fast_sigmoid": (_fast_sigmoid, 25.0),
    "sigmoid": (_sigmoid, 25.0),
    "atan": (_atan, 2.0),
    "triangle": (_triangle, 1.0),
    "gaussian": (_gaussian, 2.0),
    "boxcar": (_boxcar, 1.0),
    "straight_through": (_straight_through, 1.0),
}
SURROGATES: tuple[str, ...] = tuple(_KINDS)


def check_surrogate(kind: Surrogate, slope: float | None) -> None:
    """Refuse what is neither a kind nor a function, and slopes that are not positive.

    Raises:
        TypeError: When the kind is neither a word nor callable.
        ValueError: When the word is not on the list, or the slope is not positive.
    """
    if not isinstance(kind, str):
        if not callable(kind):
            raise TypeError(
                "surrogate must be the name of a kind or a function of x, "
                f"got {type(kind).__name__}"
            )
        return
    one_of("surrogate", kind, SURROGATES)
    if slope is not None and not 0 < slope < math.inf:
        raise ValueError(f"slope must be positive and finite, got {slope}")


def default_slope(kind: str) -> float:
    """The slope that a kind has if none is given."""
    return _KINDS[kind][1]


def surrogate_slope(x: Tensor, kind: Surrogate, slope: float | None) -> Tensor:
    """The derivative g(x) that stands for that of the step."""
    if not isinstance(kind, str):
        return kind(x)
    function, default = _KINDS[kind]
    # 16 bits overflow in the squares.
    wide = x.to(compute_dtype(x.dtype))
    return function(wide, default if slope is None else slope).to(x.dtype)


class SurrogateGradient(torch.autograd.Function):
    r"""Step function $\Theta(x)$ whose derivative is replaced by a smooth $g(x)$.

    The forward pass gives 1 where `x > 0` and 0 elsewhere, at `x = 0` too. The backward pass
    multiplies by $g$, with $k$ the slope:

    - `fast_sigmoid`: $(1 + k|x|)^{-2}$, peak 1
    - `sigmoid`: $k\,\sigma(kx)(1 - \sigma(kx))$
    - `atan`: $(k/2) / (1 + (\pi k x / 2)^2)$
    - `triangle`: $k \max(0, 1 - k|x|)$
    - `gaussian`: $k (2\pi)^{-1/2} e^{-(kx)^2/2}$
    - `boxcar`: $k/2$ where $|kx| \le 1$
    - `straight_through`: 1

    All but the first and the last integrate to 1. Call `SurrogateGradient.apply(x, kind, slope)`;
    a slope of None takes the kind's own (25, 25, 2, 1, 2, 1).

    Raises:
        TypeError: When the kind is neither a word nor a function.
        ValueError: When the kind is unknown or the slope is not positive.

    Examples:
        >>> x = torch.tensor([-0.04, 0.0, 0.04], requires_grad=True)
        >>> s = SurrogateGradient.apply(x)
        >>> torch.autograd.backward(s.sum())
        >>> s.tolist(), x.grad.tolist()
        ([0.0, 0.0, 1.0], [0.25, 1.0, 0.25])

    References:
        Zenke, F., & Ganguli, S. (2018). SuperSpike: supervised learning in multilayer spiking
        neural networks. Neural Computation, 30, 1514-1541. doi:10.1162/neco_a_01086

        Neftci, E. O., Mostafa, H., & Zenke, F. (2019). Surrogate gradient learning in spiking
        neural networks. IEEE Signal Processing Magazine, 36, 51-63.
        doi:10.1109/MSP.2019.2931595
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, kind: Surrogate = "fast_sigmoid", slope: float | None = 25.0) -> Tensor:
        """1 where x is positive, else 0."""
        check_surrogate(kind, slope)
        return (x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        """Keep x for the way back."""
        x, ctx.kind, ctx.slope = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient times g(x)."""
        (x,) = ctx.saved_tensors
        made = grads[0] * surrogate_slope(x, ctx.kind, ctx.slope)
        return (made, None, None)


def spike(x: Tensor, surrogate: Surrogate = "fast_sigmoid", slope: float | None = None) -> Tensor:
    r"""Spikes $\Theta(x)$ of a distance to threshold, with a surrogate gradient.

    Args:
        x: Potential minus threshold, of any shape.
        surrogate: A kind of `SurrogateGradient`, or a function of x that gives $g(x)$.
        slope: Steepness $k$; None takes the kind's default. Not used with a function.

    Returns:
        1 where x is positive, else 0, in the shape and dtype of x.

    Raises:
        TypeError: When x is not a floating tensor, or the surrogate is of no usable type.
        ValueError: When the kind is unknown or the slope is not positive.

    Examples:
        >>> spike(torch.tensor([-1.0, 0.0, 0.5]), "atan").tolist()
        [0.0, 0.0, 1.0]
    """
    floating("x", x)
    made: Tensor = applied(SurrogateGradient, x, surrogate, slope)
    return made
