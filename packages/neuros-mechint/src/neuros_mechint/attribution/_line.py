"""A straight line between two activations, and the model's target and gradient along it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint.activations import Edit, EditContext, Leaf, Site, SiteLike, intervene
from neuros_mechint.activations._container import get_leaf
from neuros_mechint.activations._inputs import call_arguments, count_rows, tile_rows
from neuros_mechint.activations._rows import batch_axis
from neuros_mechint.activations.site import as_site
from neuros_mechint.attribution._ends import as_baseline, captured, paths_of_floats, placed
from neuros_mechint.attribution._target import Target, read_target

__all__ = ["Line", "draw_line"]

Ends = tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]
Lift = Callable[[Tensor, Tensor], Tensor]


class Line:
    """Points `a + t (b - a)` of all tensors of one place at once, run as copies of the input.

    Args:
        model: The model.
        inputs: Everything else that the model reads comes from here.
        ends: Start and end of each tensor of the place.
        place: A site, with one pair of ends per call, or paths into the arguments.
        target: What to read from the output.
        batch_size: Most rows in one forward.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        ends: Sequence[Ends],
        place: Site | Sequence[tuple[Any, ...]],
        *,
        target: Target,
        batch_size: int,
    ) -> None:
        self.model, self.place, self.target = model, place, target
        self.arguments = call_arguments(model, inputs)
        self.n_rows = count_rows(self.arguments)
        self.ends = list(ends)
        # Dimension of each tensor that carries the batch; two copies of the input tell it.
        self.axes = [0] * len(self.ends)
        self.copies_per_forward = max(1, batch_size // self.n_rows)

    def run(
        self,
        t: Float[Tensor, "copies column"],
        edits: Mapping[SiteLike, Edit] | None = None,
        lift: Lift | None = None,
    ) -> tuple[Float[Tensor, "copies value"], list[Tensor]]:
        """Run the model at some points; return the targets and the leaves, with rows first.

        Args:
            t: Position of every row of every copy, or one for all rows of a copy.
            edits: Installed after the line.
            lift: Given a leaf and its direction, what takes the leaf's place in the forward.
        """
        copies = len(t)
        points = _Points(self, t.expand(copies, self.n_rows), lift)
        args, kwargs = tile_rows(self.arguments, self.n_rows, copies)
        own: dict[SiteLike, Edit] = {}
        if isinstance(self.place, Site):
            own = {self.place: points}
        else:
            context = EditContext(Site("", io="input"), self.model)
            values = {path: points.point(k, context) for k, path in enumerate(self.place)}
            args, kwargs = placed((args, kwargs), values)
        with intervene(self.model, own), intervene(self.model, edits):
            output = self.model(*args, **kwargs)
        if len(points.leaves) != len(self.ends):
            raise ValueError(
                f"site '{self.place}' was reached {len(points.leaves)} times on the line and "
                f"{len(self.ends)} times at its ends; name one call, as in '{self.place}@0'"
            )
        return read_target(output, self.target, copies, self.n_rows), points.leaves

    def endpoints(
        self, edits: Mapping[SiteLike, Edit] | None = None
    ) -> Float[Tensor, "copies value"]:
        """Target at the start and at the end of the line, in float64."""
        device = self.ends[0][0].device
        t = torch.tensor([[0.0], [1.0]], dtype=torch.float64, device=device)
        with torch.no_grad():
            return self.run(t, edits)[0].double()

    def chunks(self, n_copies: int) -> Iterator[slice]:
        """Slices of copies that fit into one forward."""
        for start in range(0, n_copies, self.copies_per_forward):
            yield slice(start, min(n_copies, start + self.copies_per_forward))

    def directions(self) -> list[Tensor]:
        """Difference of the ends of each tensor, rows first."""
        return [
            (end - start).movedim(axis, 0)
            for (start, end), axis in zip(self.ends, self.axes, strict=True)
        ]

    def values(self, gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Attributions from the gradients integrated over the line, in the shape of the ends."""
        return tuple(
            (gradient * direction).movedim(0, axis).to(start.dtype)
            for gradient, direction, axis, (start, _) in zip(
                gradients, self.directions(), self.axes, self.ends, strict=True
            )
        )

    def per_row(self, parts: Sequence[Tensor], like: Tensor) -> Float[Tensor, "value"]:
        """Sum of attributions over everything but the rows, in float64."""
        rows = sum(
            part.movedim(axis, 0).reshape(self.n_rows, -1).double().sum(1)
            for part, axis in zip(parts, self.axes, strict=True)
        )
        total = torch.as_tensor(rows)
        return total if like.shape[-1] == self.n_rows else total.sum(0, keepdim=True)


def draw_line(
    model: nn.Module,
    x: Any,
    baseline: Any,
    *,
    site: SiteLike | None,
    target: Target,
    batch_size: int,
    from_zero: bool = False,
) -> Line:
    """Line from the baseline's run to the input's, at the inputs or at a site.

    With `from_zero` and without a baseline the line starts at zeros at the site itself.

    Raises:
        ValueError: When the two ends do not fit each other, or `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size needs at least 1 row, got {batch_size}")
    if site is None:
        arguments = call_arguments(model, x)
        paths = paths_of_floats(arguments, count_rows(arguments))
        other = call_arguments(model, as_baseline(x, baseline))
        ends = [(get_leaf(other, path), get_leaf(arguments, path).detach()) for path in paths]
        return Line(model, x, ends, paths, target=target, batch_size=batch_size)
    found = as_site(model, site)
    stops = captured(model, x, found)
    if from_zero and baseline is None:
        starts = tuple(torch.zeros_like(stop) for stop in stops)
    else:
        starts = captured(model, as_baseline(x, baseline), found)
    if [a.shape for a in starts] != [b.shape for b in stops]:
        raise ValueError(
            f"site '{found}' has shapes {[tuple(b.shape) for b in stops]} for x and "
            f"{[tuple(a.shape) for a in starts]} for the baseline; they need to be equal"
        )
    ends = list(zip(starts, stops, strict=True))
    return Line(model, x, ends, found, target=target, batch_size=batch_size)


class _Points:
    """The edit that puts points of a line at a site, one call after the other."""

    def __init__(self, line: Line, t: Float[Tensor, "copies batch"], lift: Lift | None) -> None:
        self.line, self.t, self.lift = line, t, lift
        self.leaves: list[Tensor] = []

    def __call__(self, value: Tensor, context: EditContext) -> Tensor:
        k, copies = len(self.leaves), len(self.t)
        if k >= len(self.line.ends):
            raise ValueError(
                f"site '{context.site}' was reached more often on the line than the "
                f"{len(self.line.ends)} times at its ends; name one call, as in '{context.site}@0'"
            )
        if copies > 1:
            self.line.axes[k] = batch_dimension(
                context.site, self.line.ends[k][0].shape, value.shape, copies
            )
        return self.point(k, context).movedim(0, self.line.axes[k])

    def point(self, k: int, context: EditContext) -> Tensor:
        """Make the leaf of tensor `k` and return what the model is to read."""
        start, end = (e.movedim(self.line.axes[k], 0) for e in self.line.ends[k])
        t = self.t.to(start.dtype).reshape(*self.t.shape, *[1] * (start.ndim - 1))
        leaf = Leaf()(torch.lerp(start, end, t).flatten(0, 1), context)
        self.leaves.append(leaf)
        # A model that changes its input in place must not change the leaf.
        if self.lift is None:
            return leaf.clone()
        return self.lift(leaf, (end - start).repeat(len(t), *[1] * (start.ndim - 1)))


def batch_dimension(site: Site, one: torch.Size, many: torch.Size, copies: int) -> int:
    """Dimension of a site's value that grew with the number of copies.

    Raises:
        ValueError: When there is none.
    """
    try:
        axis = batch_axis(one, many, copies)
    except ValueError:
        axis = None
    if axis is None:
        raise ValueError(
            f"site '{site}' does not carry the batch: its shape {tuple(one)} became {tuple(many)} "
            f"for {copies} copies of the input"
        )
    return axis
