"""Images of fractal sets: Mandelbrot, Julia, Sierpinski and iterated function systems."""

import cmath
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.fractals._patterns_affine import (
    attractor_frame,
    play_chaos_game,
    read_probabilities,
    read_transforms,
)
from neuros_mechint.fractals._patterns_escape import (
    escape_image,
    in_the_largest_parts,
    pixel_centres,
)

__all__ = ["FractalPatterns"]

Device = torch.device | str | None


@dataclass(frozen=True, slots=True)
class FractalPatterns:
    r"""Square images of fractal sets, in [0, 1], row 0 at the top.

    The sets of Mandelbrot and Julia are where the image is exactly 1; around them stands the
    number of iterations until the escape, over `max_iter`. Sierpinski's sets are 1 on 0. The
    image of an iterated function system is the density of its points over the largest one.

    Examples:
        >>> patterns = FractalPatterns()
        >>> carpet = patterns.generate_sierpinski(order=5, kind="carpet")
        >>> carpet.shape, int(carpet.sum()) == 8**5
        (torch.Size([243, 243]), True)
        >>> disc = patterns.generate_julia(200, 0j) == 1
        >>> round(float(disc.sum()) * (4 / 200) ** 2, 2)
        3.14

    References:
        Mandelbrot (1980). Fractal aspects of the iteration of z -> λz(1 - z) for complex λ and z.
        Annals of the New York Academy of Sciences 357.
        https://doi.org/10.1111/j.1749-6632.1980.tb29690.x
        Barnsley & Demko (1985). Iterated function systems and the global construction of
        fractals. Proceedings of the Royal Society A 399. https://doi.org/10.1098/rspa.1985.0057
    """

    def generate_mandelbrot(
        self,
        size: int,
        zoom: float = 1.0,
        center: tuple[float, float] = (-0.5, 0.0),
        max_iter: int = 256,
        *,
        smooth: bool = True,
        dtype: torch.dtype | None = None,
        device: Device = None,
    ) -> Tensor:
        r"""Draw the set of c for which $z \to z^2 + c$ from 0 stays bounded.

        Args:
            size: pixels of a side, at least 2.
            zoom: the square is `3 / zoom` wide.
            center: of the square.
            max_iter: iterations after which a pixel counts as inside.
            smooth: whether the number of iterations has a fraction, so that no bands show.
            dtype: of the result; the default one when None. The map is iterated in float64.
            device: of the result.

        Returns:
            `(size, size)`: 1 inside, iterations over `max_iter` outside.

        Raises:
            ValueError: if a setting is out of its range or the zoom beyond double precision.

        Examples:
            >>> image = FractalPatterns().generate_mandelbrot(3)
            >>> (image == 1).int().tolist()
            [[0, 0, 0], [1, 1, 0], [0, 0, 0]]
        """
        _check(size, zoom, center, max_iter)
        real, imaginary = pixel_centres(size, 3 / zoom, center, device)
        # Below the axis stands the mirror image of what is above.
        mirrored = center[1] == 0
        rows = imaginary[: -(-size // 2)] if mirrored else imaginary
        a, b = real.repeat(len(rows)), rows.repeat_interleave(size)
        outside = ~in_the_largest_parts(a, b)
        a_out, b_out = a[outside], b[outside]
        zero = torch.zeros_like(a_out)
        times = torch.full_like(a, math.inf)
        times[outside] = escape_image((zero, zero), (a_out, b_out), 2.0, max_iter, smooth=smooth)
        times = times.view(-1, size)
        if mirrored:
            times = torch.cat([times, times[: size // 2].flip(0)])
        return _as_image(times, max_iter, dtype)

    def generate_julia(
        self,
        size: int,
        c: complex,
        zoom: float = 1.0,
        center: tuple[float, float] = (0.0, 0.0),
        max_iter: int = 256,
        *,
        smooth: bool = True,
        dtype: torch.dtype | None = None,
        device: Device = None,
    ) -> Tensor:
        r"""Draw the filled Julia set: the starts from which $z \to z^2 + c$ stays bounded.

        Args:
            size: as in `generate_mandelbrot`.
            c: the constant of the map.
            zoom: the square is `4 / zoom` wide.
            center: as in `generate_mandelbrot`.
            max_iter: as in `generate_mandelbrot`.
            smooth: as in `generate_mandelbrot`.
            dtype: as in `generate_mandelbrot`.
            device: as in `generate_mandelbrot`.

        Returns:
            `(size, size)`: 1 inside, iterations over `max_iter` outside.

        Raises:
            ValueError: as in `generate_mandelbrot`, or if `c` is not finite.

        Examples:
            >>> (FractalPatterns().generate_julia(4, 0j) == 1).int().sum().item()
            4
        """
        _check(size, zoom, center, max_iter)
        if not cmath.isfinite(c):
            raise ValueError(f"c must be finite, got {c}")
        real, imaginary = pixel_centres(size, 4 / zoom, center, device)
        # -z has the orbit of z: half a turn leaves the set as it is.
        turned = center == (0.0, 0.0)
        rows = imaginary[: -(-size // 2)] if turned else imaginary
        x, y = real.repeat(len(rows)), rows.repeat_interleave(size)
        constant = torch.full_like(x, c.real), torch.full_like(x, c.imag)
        # From |z|^2 - |c| > |z| on it only grows.
        radius = max(2.0, (1 + math.sqrt(1 + 4 * abs(c))) / 2)
        times = escape_image((x, y), constant, radius, max_iter, smooth=smooth).view(-1, size)
        if turned:
            times = torch.cat([times, times[: size // 2].flip(0, 1)])
        return _as_image(times, max_iter, dtype)

    def generate_sierpinski(
        self,
        size: int | None = None,
        *,
        order: int | None = None,
        kind: Literal["triangle", "carpet"] = "triangle",
        dtype: torch.dtype | None = None,
        device: Device = None,
    ) -> Tensor:
        r"""Draw Sierpinski's triangle ($D = \ln 3 / \ln 2$) or carpet ($D = \ln 8 / \ln 3$).

        The triangle is the right-angled one, Pascal's triangle modulo 2: its image under a shear
        has equal sides and the same dimension.

        Args:
            size: pixels of a side, at least 2; each shows, at its centre, the set of the
                finest order whose cells are no smaller than a pixel.
            order: divisions, at least 1: the sides are then $2^{order}$ or $3^{order}$ pixels, on
                which the set of that order is drawn exactly.
            kind: which set.
            dtype: of the result; the default one when None.
            device: of the result.

        Returns:
            `(size, size)` of 0 and 1.

        Raises:
            ValueError: unless one of `size` and `order` is given, and `kind` is known.

        Examples:
            >>> FractalPatterns().generate_sierpinski(order=2, dtype=torch.int)
            tensor([[1, 0, 0, 0],
                    [1, 1, 0, 0],
                    [1, 0, 1, 0],
                    [1, 1, 1, 1]], dtype=torch.int32)
        """
        if kind not in ("triangle", "carpet"):
            raise ValueError(f"kind must be 'triangle' or 'carpet', got {kind!r}")
        base = 2 if kind == "triangle" else 3
        order, size = _read_order(size, order, base)
        # Exact whole numbers: the cell of the finest set that holds the centre of a pixel.
        pixel = torch.arange(size, device=device)
        cell = (2 * pixel + 1) * base**order // (2 * size)
        on = torch.ones(size, size, dtype=torch.bool, device=device)
        for _ in range(order):
            digit, cell = cell % base, cell // base
            row, column = digit[:, None], digit
            on &= (column <= row) if kind == "triangle" else ~((row == 1) & (column == 1))
        return on.to(torch.get_default_dtype() if dtype is None else dtype)

    def generate_ifs(
        self,
        size: int,
        transforms: Tensor | NDArray[Any] | Sequence[Any],
        n_points: int,
        probabilities: Tensor | NDArray[Any] | Sequence[float] | None = None,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: Device = None,
    ) -> Tensor:
        r"""Draw the attractor of affine maps by the chaos game.

        The frame is the smallest square about the attractor, found from the maps alone: it does
        not move with the draw. Many walkers play at once, each from a point of the attractor.

        Args:
            size: pixels of a side, at least 2.
            transforms: `(n, 2, 3)` contractions $[A \mid b]$, $w(x) = A x + b$, y upwards.
            n_points: points to draw, at least 1.
            probabilities: of the maps; their $|\det A|$, at least 1 % of the sum, when None.
            generator: source of randomness.
            dtype: of the result; the default one when None.
            device: of the result.

        Returns:
            `(size, size)`: points of a pixel over those of the fullest one.

        Raises:
            ValueError: if a size is too small, a map does not contract, or the probabilities do
                not fit.

        Examples:
            >>> corners = [[0, 0], [0.5, 0], [0, 0.5]]
            >>> maps = [[[0.5, 0, x], [0, 0.5, y]] for x, y in corners]
            >>> image = FractalPatterns().generate_ifs(4, maps, 10_000)
            >>> (image > 0).int().tolist()
            [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]]
        """
        if size < 2 or n_points < 1:
            raise ValueError(
                f"size must be at least 2 and n_points at least 1, got {size} and {n_points}"
            )
        maps = read_transforms(transforms)
        shares = read_probabilities(probabilities, maps)
        counts = play_chaos_game(
            maps.to(device),
            shares.to(device),
            n_points,
            size,
            attractor_frame(maps),
            generator=generator,
        )
        image = (counts / counts.max()).view(size, size).flip(0)
        return image.to(torch.get_default_dtype() if dtype is None else dtype)


def _check(size: int, zoom: float, center: tuple[float, float], max_iter: int) -> None:
    if size < 2 or max_iter < 1:
        raise ValueError(
            f"size must be at least 2 and max_iter at least 1, got {size} and {max_iter}"
        )
    if not 0 < zoom < math.inf or not all(map(math.isfinite, center)):
        raise ValueError(f"zoom must be positive and center finite, got {zoom} and {center}")


def _read_order(size: int | None, order: int | None, base: int) -> tuple[int, int]:
    """The order to draw and the pixels of a side."""
    if (size is None) == (order is None):
        raise ValueError(f"give either size or order, got size = {size} and order = {order}")
    if order is not None:
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        return order, base**order
    if size is None or size < 2:
        raise ValueError(f"size must be at least 2, got {size}")
    # The last order whose cells are no smaller than a pixel.
    return max(1, sum(base**k <= size for k in range(1, 64))), size


def _as_image(
    times: Float[Tensor, "row column"], max_iter: int, dtype: torch.dtype | None
) -> Float[Tensor, "row column"]:
    dtype = torch.get_default_dtype() if dtype is None else dtype
    # Rounding to the dtype must not carry an escaped pixel into the set.
    below_one = 1 - torch.finfo(dtype).eps / 2
    image = (times / max_iter).to(dtype).clamp(max=below_one)
    return torch.where(times.isinf(), 1.0, image)
