"""Buffers and modes as they were: what a forward of ours changed is put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Snapshot", "evaluating", "preserved"]


class Snapshot:
    """Copies of all buffers of a model, with the tensors that held them."""

    def __init__(self, model: nn.Module) -> None:
        self._held: list[tuple[nn.Module, str, Tensor | None, Tensor | None]] = [
            (module, name, buffer, None if buffer is None else buffer.detach().clone())
            for module in model.modules()
            for name, buffer in vars(module)["_buffers"].items()
        ]

    def changed(self) -> bool:
        """Whether any buffer is another tensor or holds other numbers."""
        return any(
            vars(module)["_buffers"].get(name) is not buffer or not _same(buffer, copy)
            for module, name, buffer, copy in self._held
        )

    def restore(self) -> None:
        """Put every changed buffer back, into the tensor that held it."""
        for module, name, buffer, copy in self._held:
            vars(module)["_buffers"][name] = buffer
            if buffer is not None and copy is not None and not _same(buffer, copy):
                with torch.no_grad():
                    buffer.copy_(copy)


@contextmanager
def preserved(model: nn.Module) -> Iterator[Snapshot]:
    """Run a block and restore the model's buffers after it, also when it raises."""
    snapshot = Snapshot(model)
    try:
        yield snapshot
    finally:
        snapshot.restore()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a block in evaluation mode; every module gets its own mode and buffers back."""
    # Attributes, not `model.eval()`: an overridden `train` may change weights, as LoRA layers do.
    modes = [(module, module.training) for module in model.modules()]
    with preserved(model):
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, training in modes:
                module.training = training


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    # A NaN in a buffer equals itself here: it did not change.
    if a.shape != b.shape:
        return False
    return torch.equal(a, b) or torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)
