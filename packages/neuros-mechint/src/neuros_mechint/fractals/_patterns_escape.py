"""Escape times of the quadratic map, with only the pixels that are still inside the loop."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["escape_image", "in_the_largest_parts", "pixel_centres"]

# Iterations between two looks at who has left; a look costs as much as one of them.
_STRIDE = 4
# Iterations after the escape, by which |z| is so large that the smooth count is smooth.
_BEYOND = 3


def pixel_centres(
    size: int, width: float, center: tuple[float, float], device: torch.device | str | None
) -> tuple[Float[Tensor, " column"], Float[Tensor, " row"]]:
    """Coordinates of the centres of the pixels of a square, row 0 at the top.

    Args:
        size: pixels of a side.
        width: of the square.
        center: of the square.
        device: of the result.

    Returns:
        Real parts of the columns and imaginary parts of the rows, float64.

    Raises:
        ValueError: if float64 cannot tell neighbouring pixels apart.

    Examples:
        >>> x, y = pixel_centres(2, 4.0, (0.0, 1.0), None)
        >>> x.tolist(), y.tolist()
        ([-1.0, 1.0], [2.0, 0.0])
    """
    pixel = width / size
    finest = 8 * torch.finfo(torch.float64).eps * max(1.0, *map(abs, center))
    if not pixel > finest:
        raise ValueError(
            f"zoom and size give pixels of {pixel:.1e}, and double precision needs more than "
            f"{finest:.1e} there; zoom in less"
        )
    # Halves and their negatives are exact, so that both sides of an axis get the same digits.
    steps = torch.arange(size, dtype=torch.float64, device=device) + (0.5 - size / 2)
    return center[0] + steps * pixel, center[1] - steps * pixel


def in_the_largest_parts(
    real: Float[Tensor, " pixel"], imaginary: Float[Tensor, " pixel"]
) -> Bool[Tensor, " pixel"]:
    r"""Whether c lies in the main cardioid or the disc of period 2 of the Mandelbrot set.

    Args:
        real: of c.
        imaginary: of c.

    Returns:
        True where $q (q + x - 1/4) \le y^2 / 4$ with $q = (x - 1/4)^2 + y^2$, or
        $(x + 1)^2 + y^2 \le 1/16$.

    Examples:
        >>> x = torch.tensor([0.0, -1.0, 0.3]).double()
        >>> in_the_largest_parts(x, torch.zeros(3).double()).tolist()
        [True, True, False]
    """
    square = imaginary.square()
    shifted = real - 0.25
    q = shifted.square() + square
    # A difference, as infinity is not below infinity far outside.
    return (q * (q + shifted) - square / 4 <= 0) | ((real + 1).square() + square <= 1 / 16)


def escape_image(
    start: tuple[Float[Tensor, " pixel"], Float[Tensor, " pixel"]],
    constant: tuple[Float[Tensor, " pixel"], Float[Tensor, " pixel"]],
    radius: float,
    max_iter: int,
    *,
    smooth: bool,
) -> Float[Tensor, " pixel"]:
    r"""Iterations of $z \to z^2 + c$ until $|z|$ exceeds a radius.

    Args:
        start: real and imaginary parts of the first z.
        constant: of c.
        radius: from which on nothing comes back.
        max_iter: largest number of iterations.
        smooth: whether the number of iterations has a fraction, $n - \log_2(\ln|z| / \ln R)$.

    Returns:
        The number of iterations, in [0, max_iter); infinite where nothing left.

    Examples:
        >>> zero, c = torch.zeros(2).double(), torch.tensor([0.0, 1.5]).double()
        >>> escape_image((zero, zero), (c, zero), 2.0, 50, smooth=False).tolist()
        [inf, 2.0]
    """
    # Copies: the loop below writes over its numbers.
    orbit = torch.stack([*start, *constant])
    times = torch.full_like(orbit[0], math.inf)
    pixels = torch.arange(len(times), device=times.device)
    buffers = torch.empty_like(orbit[:2])
    done = 0
    while done < max_iter and len(pixels):
        steps = min(_STRIDE, max_iter - done)
        before = None if smooth else orbit.clone()
        _advance(orbit, buffers, steps)
        # Those that left have grown without a bound by now, or are not a number.
        inside = _inside(orbit, buffers, radius)
        kept = inside.nonzero()[:, 0]
        if len(kept) < len(pixels):
            gone = (~inside).nonzero()[:, 0]
            if before is None:
                left = steps + _fraction(orbit.index_select(1, gone), radius)
            else:
                left = _whole(before.index_select(1, gone), radius, steps)
            # A fraction may lie past the last count, or before 0 where a start is far outside.
            times[pixels[gone]] = (done + left).clamp(0, math.nextafter(max_iter, 0))
            pixels, orbit = pixels[kept], orbit.index_select(1, kept)
            buffers = buffers.view(-1)[: orbit[:2].numel()].view(2, -1)
        done += steps
    return times


def _advance(
    orbit: Float[Tensor, "4 pixel"], buffers: Float[Tensor, "2 pixel"], steps: int
) -> None:
    """Iterate the map in place; without new memory it takes half the time."""
    x, y, a, b = orbit
    less, more = buffers
    for _ in range(steps):
        torch.sub(x, y, out=less)
        torch.add(x, y, out=more)
        y.mul_(x)
        # Twice is exact: a fused product rounds as a plain one, anywhere in a vector.
        torch.add(b, y, alpha=2, out=y)
        torch.mul(less, more, out=x).add_(a)


def _inside(
    orbit: Float[Tensor, "4 pixel"], buffers: Float[Tensor, "2 pixel"], radius: float
) -> Bool[Tensor, " pixel"]:
    torch.mul(orbit[:2], orbit[:2], out=buffers)
    return buffers[0].add_(buffers[1]) <= radius**2


def _fraction(orbit: Float[Tensor, "4 pixel"], radius: float) -> Float[Tensor, " pixel"]:
    """Iterations from the end of the stride back to the radius: negative, as a real number."""
    _advance(orbit, torch.empty_like(orbit[:2]), _BEYOND)
    back = torch.log2(torch.hypot(orbit[0], orbit[1]).log() / math.log(radius))
    # Far from the set the square overflows: those have left before the first iteration.
    return (_BEYOND - back).nan_to_num(nan=-math.inf)


def _whole(orbit: Float[Tensor, "4 pixel"], radius: float, steps: int) -> Float[Tensor, " pixel"]:
    """Iteration of the escape of pixels that leave within so many steps."""
    buffers = torch.empty_like(orbit[:2])
    count = torch.zeros_like(orbit[0])
    for _ in range(steps):
        count += _inside(orbit, buffers, radius)
        _advance(orbit, buffers, 1)
    return count
