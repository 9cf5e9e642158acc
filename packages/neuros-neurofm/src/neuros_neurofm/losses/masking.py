"""Hide a part of a batch, so that a model can be asked for it."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from neuros_neurofm.losses._entries import read_entries, spared, uniform
from neuros_neurofm.losses._regions import hide_regions, keep_one_region, read_regions

__all__ = ["NeuralMasker"]

_MODES: Final = (
    "random",
    "temporal",
    "neuron",
    "co-smooth",
    "forward-pred",
    "inter-region",
    "intra-region",
    "modality",
)


class NeuralMasker:
    """Hide valid entries of a batch and keep what they were.

    | mode | what is hidden |
    |---|---|
    | `random` | single entries, each with probability `ratio` |
    | `temporal` | blocks of `span` samples, all channels, each with probability `ratio` |
    | `neuron` | whole channels of a row, each with probability `ratio` |
    | `co-smooth` | `round(ratio * C)` whole channels, the same in every row (never all of them) |
    | `forward-pred` | the last `round(ratio * n)` of the n recorded samples of every row |
    | `inter-region` | whole regions of a row, each with probability `ratio`; one is always kept |
    | `intra-region` | channels of one region per row, each with probability `ratio`; one is kept |
    | `modality` | whole modalities of a row, each with probability `ratio`; one is always kept |

    Each modality is masked on its own, as the modalities have time axes of their own.

    The modes of regions read `batch["regions"]`, {modality: integer ids, (channel,) or (batch,
    channel)}; a negative id is an unknown region. `inter-region` never hides a channel of unknown
    region. `intra-region` draws the region of every row and makes all other channels invalid and
    zero as well, without asking for them: they are not in `masked`. Modalities whose regions are
    not named are left as they are.

    Args:
        mode: One of the modes above.
        ratio: Share of the entries that is hidden, in [0, 1].
        span: Samples per block of the mode `temporal`; 1 in every other mode.

    Raises:
        ValueError: An unknown mode, a ratio outside [0, 1], or a span that the mode cannot use.

    Examples:
        >>> import torch
        >>> batch = {"spike": torch.ones(2, 50, 4)}
        >>> masked = NeuralMasker("forward-pred", 0.2)(batch, torch.Generator())
        >>> int(masked["masked"]["spike"].sum()), bool(masked["masks"]["spike"][0, -1].any())
        (80, False)

    References:
        Zhang, Y. et al. (2024). Towards a "universal translator" for neural dynamics at
        single-cell, single-spike resolution. NeurIPS 37. https://doi.org/10.48550/arXiv.2407.14668
    """

    def __init__(self, mode: str, ratio: float, *, span: int = 1) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"ratio must lie in [0, 1], got {ratio}")
        if span < 1 or (span > 1 and mode != "temporal"):
            raise ValueError(f"span must be 1, or >= 1 in the mode temporal, got {span} in {mode}")
        self.mode = mode
        self.ratio = ratio
        self.span = span

    def __repr__(self) -> str:
        return f"NeuralMasker(mode={self.mode!r}, ratio={self.ratio}, span={self.span})"

    def __call__(self, batch: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
        """Return a new batch in which the hidden entries are invalid and zero.

        Args:
            batch: A `neuros_core.Batch` of tensors; modalities are (batch, time, channel).
            generator: Where the randomness comes from.

        Returns:
            The batch with new values and `masks`, and two further keys: `targets`
            {modality: the values before} and `masked` {modality: bool, hidden and valid before}.

        Raises:
            TypeError: Regions that are no integers.
            ValueError: The batch has no modality, a modality does not have three axes, or a mode
                of regions finds none, or of another number of channels.
        """
        targets, valid = read_entries(batch)
        if self.mode.endswith("-region"):
            hidden, out = self._by_region(batch, valid, generator)
        else:
            hidden = out = self._hidden(valid, generator)
        # What is taken out of the input is what is asked for, but in the mode intra-region.
        taken = {m: out[m] & valid[m] for m in targets}
        return {
            **batch,
            **{m: x.masked_fill(taken[m], 0) for m, x in targets.items()},
            "masks": {m: valid[m] & ~taken[m] for m in targets},
            "targets": targets,
            "masked": {m: hidden[m] & valid[m] for m in targets},
        }

    def _by_region(
        self, batch: Mapping[str, Any], valid: dict[str, Tensor], generator: Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What is asked for, and what is taken out of the input."""
        hidden = {m: torch.zeros_like(mask) for m, mask in valid.items()}
        out = dict(hidden)
        for m, members in read_regions(batch, valid).items():
            if self.mode == "inter-region":
                asked = taken = hide_regions(members, self.ratio, generator)
            else:
                inside, asked = keep_one_region(members, self.ratio, generator)
                taken = asked | ~inside
            hidden[m] = asked[:, None].expand_as(valid[m])
            out[m] = taken[:, None].expand_as(valid[m])
        return hidden, out

    def _hidden(self, valid: dict[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        if self.mode == "modality":
            return _hide_modalities(valid, self.ratio, generator)
        return {m: self._hide(mask, generator) for m, mask in valid.items()}

    def _hide(self, valid: Tensor, generator: Generator) -> Tensor:
        match self.mode:
            case "random":
                return _hide_entries(valid, self.ratio, generator)
            case "temporal":
                return _hide_blocks(valid, self.ratio, self.span, generator)
            case "neuron":
                return _hide_channels(valid, self.ratio, generator)
            case "co-smooth":
                return _hold_out_channels(valid, self.ratio, generator)
            case _:
                return _hide_end(valid, self.ratio)


def _hide_entries(
    valid: Bool[Tensor, "batch time channel"], ratio: float, generator: Generator
) -> Bool[Tensor, "batch time channel"]:
    return uniform(tuple(valid.shape), generator, valid) < ratio


def _hide_blocks(
    valid: Bool[Tensor, "batch time channel"], ratio: float, span: int, generator: Generator
) -> Bool[Tensor, "batch time channel"]:
    n_rows, n_times, _ = valid.shape
    # The grid of blocks starts at a random phase, or the same samples would always be edges.
    phase = torch.randint(span, (n_rows, 1), generator=generator, device=generator.device)
    times = torch.arange(n_times, device=valid.device)
    block = (times + phase.to(valid.device)).div(span, rounding_mode="floor")
    drawn = uniform((n_rows, n_times // span + 2), generator, valid) < ratio
    return drawn.gather(1, block)[:, :, None].expand_as(valid)


def _hide_channels(
    valid: Bool[Tensor, "batch time channel"], ratio: float, generator: Generator
) -> Bool[Tensor, "batch time channel"]:
    n_rows, _, n_channels = valid.shape
    return (uniform((n_rows, 1, n_channels), generator, valid) < ratio).expand_as(valid)


def _hold_out_channels(
    valid: Bool[Tensor, "batch time channel"], ratio: float, generator: Generator
) -> Bool[Tensor, "batch time channel"]:
    n_channels = valid.shape[-1]
    # One channel stays visible: nothing can be smoothed from nothing.
    n_hidden = max(min(round(ratio * n_channels), n_channels - 1), 0)
    rank = uniform((n_channels,), generator, valid).argsort().argsort()
    return (rank < n_hidden).expand_as(valid)


def _hide_end(
    valid: Bool[Tensor, "batch time channel"], ratio: float
) -> Bool[Tensor, "batch time channel"]:
    recorded = valid.any(dim=-1)
    # Counted from the end, over recorded samples only: rows of a padded batch differ in length.
    from_end = recorded.flip(1).cumsum(1).flip(1)
    n_hidden = (ratio * recorded.sum(1, keepdim=True)).round()
    return (recorded & (from_end <= n_hidden))[:, :, None].expand_as(valid)


def _hide_modalities(
    valid: Mapping[str, Bool[Tensor, "batch _ _"]], ratio: float, generator: Generator
) -> dict[str, Tensor]:
    present = torch.stack([mask.any(dim=2).any(dim=1) for mask in valid.values()], dim=1)
    hidden = present & (uniform(tuple(present.shape), generator, present) < ratio)
    columns = spared(present, hidden, generator).unbind(dim=1)
    return {
        m: column[:, None, None].expand_as(mask)
        for (m, mask), column in zip(valid.items(), columns, strict=True)
    }
