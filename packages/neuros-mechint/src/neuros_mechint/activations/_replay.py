"""A batch whose modules are called on the rows that are edited before they end, and no others."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from neuros_mechint.activations._container import Path, leaves, map_leaves
from neuros_mechint.activations._prefix import Recorded
from neuros_mechint.activations._rows import Layout, Window, tile

__all__ = ["replayed"]


@contextmanager
def replayed(
    counts: Mapping[nn.Module, int], records: Mapping[nn.Module, Recorded], layout: Layout
) -> Iterator[None]:
    """Let modules serve some copies of the input only; the others get what was recorded.

    A forward that another tool put on the instance is called through, and comes back as it was.

    Args:
        counts: How many sets are edited before a module ends; with 0 it is not called at all.
        records: What the unedited call of each module got and gave.
        layout: Where the copies lie.
    """
    absent = object()
    found = {module: vars(module).get("forward", absent) for module in counts}
    try:
        for module, n_active in counts.items():
            record = records[module]
            if n_active:
                partly = _Partly(module.forward, record, layout.window(n_active))
                vars(module)["forward"] = partly
            else:
                vars(module)["forward"] = partial(_constant, record.output, layout)
        yield
    finally:
        for module, forward in found.items():
            if forward is absent:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward


def _constant(output: Any, layout: Layout, *_args: Any, **_kwargs: Any) -> Any:
    return map_leaves(partial(_tile_leaf, layout), output)


def _tile_leaf(layout: Layout, _path: Path, leaf: Any) -> Any:
    # Dimension 0 is a guess here; the unedited copy in every batch tells when it was wrong.
    if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == layout.n_rows:
        return tile(leaf, 0, layout.copies)
    return leaf


@dataclass
class _Partly:
    """Calls a module on a window of the batch."""

    forward: Callable[..., Any]
    record: Recorded
    window: Window
    outputs: dict[Path, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.outputs = dict(leaves(self.record.output))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        fewer_args, fewer_kwargs = map_leaves(self._cut, (args, kwargs))
        output = self.forward(*fewer_args, **fewer_kwargs)
        # What carries no rows, or carries them elsewhere, was called with all of them.
        untouched = fewer_args is args and fewer_kwargs is kwargs
        return output if untouched else map_leaves(self._fill, output)

    def _cut(self, path: Path, leaf: Any) -> Any:
        layout = self.window.layout
        # Another tensor may be as long as the batch by chance; the unedited one was not.
        grew = self.record.lengths.get(path) == layout.n_rows
        if grew and leaf.shape[0] == layout.n_rows * layout.copies:
            return self.window.cut(leaf)
        return leaf

    def _fill(self, path: Path, leaf: Any) -> Any:
        return self.window.fill(leaf, self.outputs[path]) if isinstance(leaf, Tensor) else leaf
