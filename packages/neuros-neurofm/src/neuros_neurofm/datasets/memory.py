"""Tasks that only a memory of a stated length can solve, to compare backbones."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

__all__ = ["MemoryTask", "memory_task"]


class MemoryTask(NamedTuple):
    """Sequences in, sequences out.

    Attributes:
        inputs: (trial, time, channel + 1) for `copy`, (trial, time, channel) for `delayed_sum`.
        targets: (trial, time, channel); 0 where nothing is asked.
        mask: True where the answer counts, (trial, time).
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor


def memory_task(
    task: str,
    length: int,
    *,
    generator: Generator,
    n_trials: int = 128,
    n_items: int = 4,
    n_channels: int = 8,
) -> MemoryTask:
    r"""Trials of `length + 2 * n_items` steps whose answer lies `length` steps back and more.

    - `copy`: symbols, one-hot over `n_channels`, are shown at the steps 0 ... n_items - 1; then the
      input is 0 for `length` steps; then the last channel of the input, 0 so far, is 1 for
      `n_items` steps, at which the symbols are asked for in their order. The targets at these steps
      equal the inputs `length + n_items` steps before. Guessing is right with probability
      1 / n_channels, and its cross-entropy is ln(n_channels).
    - `delayed_sum`: every channel is Gaussian noise of variance 1, and
      $y_t = \sum_{j=0}^{n-1} x_{t - length - j}$ with n = `n_items` is asked for wherever all its
      terms exist. The best constant answer, 0, has a mean squared error of `n_items`.

    Args:
        task: `copy` or `delayed_sum`.
        length: Steps of delay, >= 0.
        generator: Where the randomness comes from; the tensors lie on its device.
        n_trials: Number of trials.
        n_items: Symbols to copy, or terms of the sum.
        n_channels: Symbols to choose from, or independent sums.

    Returns:
        Inputs and targets (float32) and the mask.

    Raises:
        ValueError: An unknown task, a negative length, or a size below 1.

    Examples:
        >>> import torch
        >>> task = memory_task("copy", 20, generator=torch.Generator().manual_seed(0))
        >>> task.inputs.shape, torch.equal(task.targets[:, 24:], task.inputs[:, :4, :-1])
        (torch.Size([128, 28, 9]), True)
        >>> task = memory_task("delayed_sum", 2, n_items=1, generator=torch.Generator())
        >>> torch.equal(task.targets[:, 2:], task.inputs[:, :-2])
        True

    References:
        Hochreiter, S. & Schmidhuber, J. (1997). Long short-term memory. Neural Computation, 9(8).
        https://doi.org/10.1162/neco.1997.9.8.1735
        Arjovsky, M., Shah, A. & Bengio, Y. (2016). Unitary evolution recurrent neural networks.
        ICML. https://doi.org/10.48550/arXiv.1511.06464
    """
    if task not in {"copy", "delayed_sum"}:
        raise ValueError(f"task must be copy or delayed_sum, got {task!r}")
    if length < 0:
        raise ValueError(f"length must be >= 0 steps, got {length}")
    for name, size in (("n_trials", n_trials), ("n_items", n_items), ("n_channels", n_channels)):
        if size < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")
    if task == "copy":
        return _copy(length, n_trials, n_items, n_channels, generator)
    return _delayed_sum(length, n_trials, n_items, n_channels, generator)


def _copy(
    length: int, n_trials: int, n_items: int, n_channels: int, generator: Generator
) -> MemoryTask:
    device = generator.device
    drawn = torch.randint(n_channels, (n_trials, n_items), generator=generator, device=device)
    symbols = functional.one_hot(drawn, n_channels).float()
    wait = length + n_items
    shown = functional.pad(symbols, (0, 0, 0, wait))
    targets = functional.pad(symbols, (0, 0, wait, 0))
    mask = (torch.arange(length + 2 * n_items, device=device) >= wait).repeat(n_trials, 1)
    return MemoryTask(torch.cat([shown, mask[..., None].float()], dim=-1), targets, mask)


def _delayed_sum(
    length: int, n_trials: int, n_items: int, n_channels: int, generator: Generator
) -> MemoryTask:
    n_times = length + 2 * n_items
    inputs = torch.randn(
        n_trials, n_times, n_channels, generator=generator, device=generator.device
    )
    first = length + n_items - 1
    # Row k of the windows sums the inputs k ... k + n_items - 1, whose last is `length` steps back.
    sums = inputs.unfold(1, n_items, 1).sum(dim=-1)[:, : n_times - first]
    mask = (torch.arange(n_times, device=generator.device) >= first).repeat(n_trials, 1)
    return MemoryTask(inputs, functional.pad(sums, (0, 0, first, 0)), mask)
