"""What a population transformer is pretrained on: swapped channels and consecutive ensembles."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional

__all__ = [
    "PretextHeads",
    "PretextLogits",
    "PretextLoss",
    "PretextTask",
    "draw_pretext_task",
    "popt_pretext_loss",
]


class PretextTask(NamedTuple):
    """One question per row: two ensembles of channels, some of whose channels were swapped.

    Attributes:
        tokens: What the transformer sees, (batch, channel, d_model); channels keep their place.
        mask: True where a channel belongs to one of the two ensembles, (batch, channel).
        second: True for the channels of the second ensemble, (batch, channel).
        consecutive: True where the second ensemble shows the time right after the first, (batch,).
        replaced: True where a token is that of another channel at another time, (batch, channel).
    """

    tokens: Tensor
    mask: Tensor
    second: Tensor
    consecutive: Tensor
    replaced: Tensor


class PretextLogits(NamedTuple):
    """Answers to a `PretextTask`, as log odds.

    Attributes:
        consecutive: Of the second ensemble following the first, (batch,).
        replaced: Of a channel having been replaced, (batch, channel).
    """

    consecutive: Tensor
    replaced: Tensor


class PretextLoss(NamedTuple):
    """Both objectives and their sum, each a scalar in nats.

    Attributes:
        total: What is trained on.
        consecutive: The objective of the ensembles.
        replaced: The objective of the channels.
    """

    total: Tensor
    consecutive: Tensor
    replaced: Tensor


class PretextHeads(nn.Module):
    """Asks a `PopT` both questions: a linear head on its class vector, one on its tokens.

    A learned vector, added to the tokens of the second ensemble, tells the two apart. The heads are
    thrown away after pretraining.

    Args:
        d_model: Width of the tokens.

    Examples:
        >>> import torch
        >>> from neuros_neurofm.models import PopT
        >>> generator = torch.Generator().manual_seed(0)
        >>> states = torch.randn(4, 10, 6, 16, generator=generator)
        >>> task = draw_pretext_task(states, generator=generator)
        >>> logits = PretextHeads(16)(PopT(16, depth=1), task)
        >>> logits.consecutive.shape, logits.replaced.shape
        (torch.Size([4]), torch.Size([4, 6]))
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.second = nn.Parameter(torch.randn(d_model))
        self.on_class = nn.Linear(d_model, 1)
        self.on_tokens = nn.Linear(d_model, 1)

    def forward(
        self,
        popt: Callable[[Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor]],
        task: PretextTask,
        coords: Tensor | None = None,
    ) -> PretextLogits:
        """The answers of `popt`.

        Args:
            popt: A `PopT`, or any `(tokens, coords, mask) -> (cls, tokens)`.
            task: From `draw_pretext_task`.
            coords: Positions of the channels in metres, (batch, channel, 3).

        Returns:
            The log odds.
        """
        tokens = task.tokens + task.second[..., None] * self.second
        cls, mixed = popt(tokens, coords, task.mask)
        return PretextLogits(self.on_class(cls).squeeze(-1), self.on_tokens(mixed).squeeze(-1))


def draw_pretext_task(
    states: Tensor,
    *,
    generator: Generator,
    mask: Tensor | None = None,
    replaced_fraction: float = 0.1,
    min_channels: int | None = None,
) -> PretextTask:
    """Draw the questions of Chau et al. (2025) from a stretch of every recording.

    In each row the channels are split at random into two ensembles of equal size (the second has
    one more where their number is odd). The first is shown at a random time t; the second, with
    even odds, at t + 1 or at a time at least two steps away from t. Then every channel is replaced
    with probability `replaced_fraction` by another channel of the row at a time that neither
    ensemble shows.

    Args:
        states: Embedded activity of consecutive times, (batch, time, channel, d_model), at least 4
            times and 2 channels; the vectors say nothing about their time.
        generator: Where the randomness comes from.
        mask: True = valid, (batch, channel), the same at all times; at least 2 in every row.
        replaced_fraction: Probability of a channel to be replaced, in [0, 1]; 0.1 in the paper.
        min_channels: Use a random number of channels per row, from this (>= 2) up to all valid
            ones, so that the transformer meets ensembles of every size; None: use all.

    Returns:
        The task; channels outside the ensembles are False in its mask and 0 in its tokens.

    Raises:
        ValueError: Wrong shapes, too few times or channels, or a setting out of range.

    Examples:
        >>> import torch
        >>> states = torch.randn(1, 10, 6, 16)
        >>> task = draw_pretext_task(states, generator=torch.Generator().manual_seed(0))
        >>> task.second.sum().item(), task.mask.all().item()
        (3, True)

    References:
        Chau, G. et al. (2025). Population transformer: learning population-level representations
        of neural activity. ICLR. https://doi.org/10.48550/arXiv.2406.03044
    """
    valid = _checked_mask(states, mask)
    if not 0.0 <= replaced_fraction <= 1.0:
        raise ValueError(f"replaced_fraction must lie in [0, 1], got {replaced_fraction}")
    if min_channels is not None and min_channels < 2:
        raise ValueError(f"min_channels must be >= 2, one per ensemble, got {min_channels}")
    batch, n_times, n_channels, _ = states.shape
    # Invalid channels sort last: the rank of a valid one is uniform over its row.
    order = _uniform((batch, n_channels), generator, states).masked_fill(~valid, 2.0).argsort(1)
    rank = order.argsort(dim=1)
    n_used = _ensemble_sizes(valid.sum(dim=1), min_channels, generator)
    used = rank < n_used[:, None]
    second = used & (rank >= (n_used // 2)[:, None])
    consecutive = _uniform((batch,), generator, states) < 0.5
    first_time, second_time = _draw_times(n_times, consecutive, generator)
    replaced = used & (_uniform((batch, n_channels), generator, states) < replaced_fraction)
    own_time = torch.where(second, second_time[:, None], first_time[:, None])
    shown = torch.stack([first_time, second_time], dim=1)
    donor_time = _draw_other_times(n_times, shown, n_channels, generator)
    donor_channel = _draw_other_channels(valid, order, rank, generator)
    rows = torch.arange(batch, device=states.device)[:, None]
    own_channel = torch.arange(n_channels, device=states.device)
    tokens = states[
        rows,
        torch.where(replaced, donor_time, own_time),
        torch.where(replaced, donor_channel, own_channel),
    ]
    tokens = tokens.masked_fill(~used[..., None], 0.0)
    return PretextTask(tokens, used, second, consecutive, replaced)


def popt_pretext_loss(logits: PretextLogits, task: PretextTask) -> PretextLoss:
    r"""Sum of the two pretraining objectives of Chau et al. (2025).

    Both are binary cross-entropies: whether the two ensembles are consecutive (mean over rows), and
    which channels were replaced. As replaced channels are rare, replaced and untouched ones weigh
    the same: $\frac12 (\bar L_{replaced} + \bar L_{untouched})$, each a mean over the channels of
    the whole batch. That is the expected loss of the authors' code, which scores the replaced
    channels and a random choice of as many untouched ones. A batch in which no channel (or every
    channel) was replaced has one of the means only. Guessing costs $\ln 2$ in each objective.

    Args:
        logits: Answers, as `PretextHeads` gives them.
        task: What was asked.

    Returns:
        The losses, computed in float32 at least.

    Raises:
        ValueError: Answers whose shape is not that of the task.

    Examples:
        >>> import torch
        >>> states = torch.randn(2, 10, 6, 16)
        >>> task = draw_pretext_task(states, generator=torch.Generator().manual_seed(0))
        >>> guess = PretextLogits(torch.zeros(2), torch.zeros(2, 6))
        >>> round(float(popt_pretext_loss(guess, task).total), 4)  # 2 ln 2
        1.3863

    References:
        Chau, G. et al. (2025). Population transformer: learning population-level representations
        of neural activity. ICLR. https://doi.org/10.48550/arXiv.2406.03044
    """
    for name in PretextLogits._fields:
        answer, asked = getattr(logits, name), getattr(task, name)
        if answer.shape != asked.shape:
            raise ValueError(
                f"logits.{name} must have the shape {tuple(asked.shape)} of the task, "
                f"got {tuple(answer.shape)}"
            )
    consecutive = _cross_entropy(logits.consecutive, task.consecutive).mean()
    each = _cross_entropy(logits.replaced, task.replaced)
    replaced = _balanced_mean(each, task.replaced, task.mask & ~task.replaced)
    return PretextLoss(consecutive + replaced, consecutive, replaced)


def _checked_mask(states: Tensor, mask: Tensor | None) -> Tensor:
    few = states.ndim == 4 and (states.shape[1] < 4 or states.shape[2] < 2)
    if few or states.ndim != 4 or states.numel() == 0:
        raise ValueError(
            "states must be (batch, time, channel, d_model) with at least 4 times and 2 channels, "
            f"got shape {tuple(states.shape)}"
        )
    shape = (states.shape[0], states.shape[2])
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=states.device)
    if mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be (batch, channel) = {shape} booleans, "
            f"got shape {tuple(mask.shape)}, {mask.dtype}"
        )
    fewest = int(mask.sum(dim=1).min())
    if fewest < 2:
        raise ValueError(
            f"every row needs at least 2 valid channels, one per ensemble, got a row with {fewest}"
        )
    return mask


def _ensemble_sizes(
    n_valid: Int[Tensor, " batch"], min_channels: int | None, generator: Generator
) -> Int[Tensor, " batch"]:
    if min_channels is None:
        return n_valid
    fewest = n_valid.clamp(max=min_channels)
    return fewest + _integers(n_valid - fewest + 1, generator)


def _draw_times(
    n_times: int, consecutive: Bool[Tensor, " batch"], generator: Generator
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """A time with a successor, and that successor or a time at least two steps away."""
    first = _integers(torch.full_like(consecutive, n_times - 1, dtype=torch.long), generator)
    # The times 0 ... first-2 and first+2 ... end, counted through; at least one with 4 times.
    n_before = (first - 1).clamp(min=0)
    n_after = (n_times - 2 - first).clamp(min=0)
    place = _integers(n_before + n_after, generator)
    apart = torch.where(place < n_before, place, place - n_before + first + 2)
    return first, torch.where(consecutive, first + 1, apart)


def _draw_other_times(
    n_times: int, shown: Int[Tensor, "batch 2"], n_channels: int, generator: Generator
) -> Int[Tensor, "batch channel"]:
    """A time per channel that neither ensemble shows, all equally likely."""
    low, high = shown.amin(dim=1, keepdim=True), shown.amax(dim=1, keepdim=True)
    bound = torch.full((shown.shape[0], n_channels), n_times - 2, device=shown.device)
    time = _integers(bound, generator)
    time = time + (time >= low)
    return time + (time >= high)


def _draw_other_channels(
    valid: Bool[Tensor, "batch channel"],
    order: Int[Tensor, "batch channel"],
    rank: Int[Tensor, "batch channel"],
    generator: Generator,
) -> Int[Tensor, "batch channel"]:
    """Another valid channel of the row per channel, all equally likely."""
    n_valid = valid.sum(dim=1, keepdim=True)
    ahead = 1 + _integers((n_valid - 1).expand_as(rank), generator)
    return order.gather(1, (rank + ahead) % n_valid)


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return functional.binary_cross_entropy_with_logits(
        logits, truth.to(logits.dtype), reduction="none"
    )


def _balanced_mean(
    loss: Float[Tensor, "batch channel"],
    positive: Bool[Tensor, "batch channel"],
    negative: Bool[Tensor, "batch channel"],
) -> Float[Tensor, ""]:
    counts = torch.stack([positive.sum(), negative.sum()])
    sums = torch.stack([loss.masked_fill(~kind, 0.0).sum() for kind in (positive, negative)])
    present: Tensor = (counts > 0).sum().clamp(min=1)
    return (sums / counts.clamp(min=1)).sum() / present


def _uniform(shape: tuple[int, ...], generator: Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device).to(like.device)


def _integers(bound: Int[Tensor, "*batch"], generator: Generator) -> Int[Tensor, "*batch"]:
    """Uniform integers in 0 ... bound - 1, elementwise."""
    uniform = torch.rand(
        bound.shape, generator=generator, device=generator.device, dtype=torch.float64
    ).to(bound.device)
    return (uniform * bound).long()
