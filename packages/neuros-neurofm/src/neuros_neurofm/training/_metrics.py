"""Exact means of losses over batches of unequal size, and the hash of a set of tensors."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

Sum: TypeAlias = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class RunningMeans:
    """Means over targets, kept as sums on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing was added."""
        return not self._sums

    def add(self, means: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> None:
        """Add means with the number of targets behind each."""
        for name, mean in means.items():
            count = counts[name].to(mean.device)
            total = mean.detach().double() * count
            self._sums[name] = self._sums.get(name, torch.zeros_like(total)) + total
            self._counts[name] = self._counts.get(name, torch.zeros_like(count)) + count

    def compute(self, over: Sum = dict) -> dict[str, float]:
        """Return every mean, and their sum as `loss`; a term without targets is 0.

        `over` adds up numbers over the processes.
        """
        sums, counts = over(self._sums), over(self._counts)
        terms = {name: float(total / counts[name].clamp(min=1)) for name, total in sums.items()}
        return {"loss": sum(terms.values()), **terms}

    def reset(self) -> None:
        """Forget everything."""
        self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take the sums."""
        self._sums = {name: x.to(device) for name, x in state["sums"].items()}
        self._counts = {name: x.to(device) for name, x in state["counts"].items()}


def content_hash(tensors: Mapping[str, Any]) -> str:
    """Hash names, shapes, types and bytes of the tensors among the values, in the order of names.

    Returns:
        sha256 as 64 hex digits, the same on every device.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        if not isinstance(value, Tensor):
            continue
        digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
