"""Box-counting dimension of images, volumes and clouds of points."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from neuros_mechint.fractals._conventions import (
    Signals,
    deliver,
    read_signals,
    warn_degenerate,
)
from neuros_mechint.fractals._dfa import slope_weights

__all__ = ["BoxCount", "BoxCountingDimension"]

# Halvings of the extent of a cloud of points.
_HALVINGS = range(3, 8)


class BoxCount(NamedTuple):
    """Dimension and the counts it was fitted to.

    Attributes:
        dimension: minus the slope of ln N against ln of the size, of the shape of the batch.
        sizes: sides of the boxes, in pixels or in the unit of the points.
        counts: occupied boxes, with the sizes last, float64.
    """

    dimension: Tensor | NDArray[Any]
    sizes: tuple[float, ...]
    counts: Tensor | NDArray[Any]


class BoxCountingDimension:
    r"""Scaling of the number of boxes that a set occupies with their size, $N(s) \propto s^{-D}$.

    Where the boxes lie is arbitrary, and a bad place counts too many: each size takes the smallest
    count over several offsets of the grid.

    Args:
        sizes: sides of the boxes in pixels; powers of two up to a quarter of the shortest side
            when None. Sets made by thirds, such as the carpet, want powers of three.
        n_offsets: offsets of the grid along each axis.

    Raises:
        ValueError: if there are fewer than two sizes, one below 1, or no offset.

    Examples:
        >>> square = torch.ones(64, 64)
        >>> round(BoxCountingDimension().compute(square).dimension.item(), 9)
        2.0
        >>> round(BoxCountingDimension().compute(torch.eye(64)).dimension.item(), 9)
        1.0

    References:
        Falconer (2014). Fractal Geometry, 3rd ed., ch. 2. Wiley.
    """

    def __init__(self, *, sizes: Sequence[int] | None = None, n_offsets: int = 4) -> None:
        if n_offsets < 1:
            raise ValueError(f"n_offsets must be at least 1, got {n_offsets}")
        if sizes is not None and (len(set(sizes)) < 2 or min(sizes) < 1):
            raise ValueError(f"sizes must be at least 2 different numbers >= 1, got {sizes}")
        self.sizes = None if sizes is None else tuple(sorted({int(s) for s in sizes}))
        self.n_offsets = n_offsets

    def __repr__(self) -> str:
        return f"BoxCountingDimension(sizes={self.sizes}, n_offsets={self.n_offsets})"

    def compute(self, image: Tensor | NDArray[Any], *, ndim: int = 2) -> BoxCount:
        """Estimate the dimension of the pixels that are not zero.

        Args:
            image: `(..., height, width)`, or `(..., depth, height, width)` with `ndim` 3.
            ndim: axes of an image, 1 to 3.

        Returns:
            One dimension per image; an empty image gives nan and one warning. NumPy arrays for an
            array.

        Raises:
            ValueError: if the image has fewer axes than `ndim`, is smaller than the largest box,
                or is not finite.
            TypeError: if it is neither a tensor nor an array.

        Examples:
            >>> BoxCountingDimension(sizes=[1, 2]).compute(torch.ones(3, 8, 8)).counts[0].tolist()
            [64.0, 16.0]
        """
        signals = read_signals(image, -1, name="image")
        tensor = signals.view.detach()
        if not 1 <= ndim <= 3 or tensor.ndim < ndim:
            raise ValueError(
                f"image needs at least ndim axes, 1 to 3, got ndim = {ndim} and the shape "
                f"{tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError("image must be finite, got NaN or infinity")
        shape = tensor.shape[-ndim:]
        sizes = self._sizes_for(min(shape))
        occupied = (tensor != 0).reshape(-1, 1, *shape).float()
        counts = torch.stack([self._count(occupied, s, ndim) for s in sizes], -1)
        counts = counts.view(*tensor.shape[:-ndim], len(sizes))
        warn_degenerate(~(counts > 0).all(-1), "are empty")
        return _fit(signals, counts, tuple(map(float, sizes)))

    def of_points(self, points: Tensor | NDArray[Any]) -> BoxCount:
        """Estimate the dimension of a cloud of points.

        Boxes are the largest extent of the cloud over 8, 16, ..., 128 (`sizes` in its unit, when
        given).

        Args:
            points: `(N, d)` coordinates.

        Returns:
            One dimension.

        Raises:
            ValueError: if there are fewer than two points, all at one place, or not finite.
            TypeError: if `points` is neither a tensor nor an array.

        Examples:
            >>> line = torch.linspace(0, 1, 5000)[:, None] * torch.tensor([1.0, 2.0])
            >>> round(BoxCountingDimension().of_points(line).dimension.item(), 2)
            1.0
        """
        signals = read_signals(points, -1, name="points")
        x = signals.view.detach().double()
        if x.ndim != 2 or len(x) < 2 or not bool(x.isfinite().all()):
            raise ValueError(
                f"points needs a finite (N, d) array of at least 2 points, got {tuple(x.shape)}"
            )
        x = x - x.amin(0)
        extent = float(x.max())
        if extent == 0:
            raise ValueError("points needs two different places, got one")
        if self.sizes is None:
            sizes = tuple(extent / 2**k for k in reversed(_HALVINGS))
        else:
            sizes = tuple(map(float, self.sizes))
        counts = []
        for size in sizes:
            shifts = [i * size / self.n_offsets for i in range(self.n_offsets)]
            # A point on the far edge belongs to the last box, not to one more.
            cells = [((x + shift) / size * (1 - 1e-12)).floor().long() for shift in shifts]
            counts.append(min(_n_different(c) for c in cells))
        return _fit(signals, torch.tensor(counts, dtype=torch.float64), sizes)

    def _sizes_for(self, side: int) -> tuple[int, ...]:
        sizes = self.sizes
        if sizes is None:
            sizes = tuple(2**k for k in range(max(side // 4, 1).bit_length()))
        if len(sizes) < 2 or sizes[-1] > side:
            raise ValueError(
                f"image needs sides for boxes of {sizes}, got a shortest side of {side}; pass "
                "smaller sizes or a larger image"
            )
        return sizes

    def _count(
        self, occupied: Float[Tensor, "batch 1 *space"], size: int, ndim: int
    ) -> Float[Tensor, " batch"]:
        """Smallest number of occupied boxes of one size over the offsets of the grid."""
        pool = (nn.functional.max_pool1d, nn.functional.max_pool2d, nn.functional.max_pool3d)
        shifts = sorted({i * size // self.n_offsets for i in range(self.n_offsets)})
        least: Tensor | None = None
        for offset in itertools.product(shifts, repeat=ndim):
            # Axes are padded from the last to the first.
            padding = [
                side
                for axis in range(ndim - 1, -1, -1)
                for side in (offset[axis], -(occupied.shape[axis + 2] + offset[axis]) % size)
            ]
            boxes = pool[ndim - 1](nn.functional.pad(occupied, padding), size)
            count = boxes.flatten(1).sum(-1, dtype=torch.float64)
            least = count if least is None else torch.minimum(least, count)
        return occupied.new_zeros(len(occupied)).double() if least is None else least


def _n_different(cells: Int[Tensor, "point axis"]) -> int:
    """Number of different rows, without sorting rows: number the places axis by axis."""
    label = torch.zeros(len(cells), dtype=torch.long)
    for axis in cells.unbind(-1):
        label = torch.unique(label * (int(axis.max()) + 1) + axis, return_inverse=True)[1]
    return int(label.max()) + 1


def _fit(
    signals: Signals, counts: Float[Tensor, "*batch size"], sizes: tuple[float, ...]
) -> BoxCount:
    occupied: Bool[Tensor, "*batch"] = (counts > 0).all(-1)
    logs = torch.where(occupied[..., None], counts, 1.0).log()
    slope = -(logs * slope_weights(sizes).to(logs.device)).sum(-1)
    dimension = torch.where(occupied, slope, math.nan).to(signals.dtype)
    return BoxCount(deliver(signals, dimension), sizes, deliver(signals, counts))
