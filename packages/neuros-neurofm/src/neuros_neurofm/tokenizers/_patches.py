"""Validation of a raw recording and its division into patches of time."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional

from neuros_neurofm.tokenizers._memory import NOTHING, Memory

__all__ = [
    "Patched",
    "checked_mask",
    "checked_signal",
    "patch_signal",
    "patch_size",
    "sample_times",
    "token_times",
]


class Patched(NamedTuple):
    """A recording padded to whole patches; entries that are not valid hold 0.

    Attributes:
        x: (batch, patch, sample, channel).
        valid: The same shape, False where padded or masked.
    """

    x: Tensor
    valid: Tensor


def patch_size(
    modality: str, sampling_rate: float | None, patch: float | None, default_s: float | None
) -> int:
    """Samples per token: `patch` is in seconds where the rate is known, else in samples."""
    if sampling_rate is not None and not (math.isfinite(sampling_rate) and sampling_rate > 0):
        raise ValueError(f"{modality}: sampling_rate must be > 0 Hz, got {sampling_rate}")
    if patch is not None and not (math.isfinite(patch) and patch > 0):
        raise ValueError(f"{modality}: patch must be > 0, got {patch}")
    if sampling_rate is not None:
        seconds = default_s if patch is None else patch
        return 1 if seconds is None else max(1, round(seconds * sampling_rate))
    if patch is not None and patch != int(patch):
        raise ValueError(
            f"{modality}: patch = {patch} needs a sampling_rate to be read as seconds; "
            f"without one patch is a whole number of samples"
        )
    return 1 if patch is None else int(patch)


def checked_mask(modality: str, mask: Tensor | None, x: Tensor) -> Tensor:
    """The mask as a boolean tensor of the shape of `x`."""
    if mask is None:
        return torch.ones_like(x, dtype=torch.bool)
    if mask.dtype != torch.bool:
        raise TypeError(f"{modality}: mask must be bool (True = valid), got {mask.dtype}")
    if mask.ndim != 3 or any(m not in {1, n} for m, n in zip(mask.shape, x.shape, strict=True)):
        raise ValueError(
            f"{modality}: mask must be 3-D and broadcast to (batch, time, channel) = "
            f"{tuple(x.shape)}, got {tuple(mask.shape)}"
        )
    return mask.expand(x.shape)


def checked_signal(
    modality: str, x: object, mask: Tensor | None, dtype: torch.dtype, *, counts: bool = False
) -> tuple[Tensor, Tensor]:
    """`x` in `dtype` with 0 at masked entries, and its full boolean mask.

    Raises:
        TypeError: `x` is not a real tensor, or the mask is not boolean.
        ValueError: wrong shape, NaN or infinity at a valid entry, or a negative count.
    """
    if not isinstance(x, Tensor) or x.is_complex():
        raise TypeError(
            f"{modality}: x must be a real tensor (batch, time, channel), got {type(x)}"
        )
    if x.ndim != 3:
        raise ValueError(
            f"{modality}: x must have 3 axes (batch, time, channel), got {x.ndim} with shape "
            f"{tuple(x.shape)}; add the missing axis with x[None] or x[..., None]"
        )
    if 0 in x.shape:
        raise ValueError(
            f"{modality}: x needs at least 1 row, 1 sample and 1 channel, got {tuple(x.shape)}"
        )
    valid = checked_mask(modality, mask, x)
    clean = torch.where(valid, x, torch.zeros_like(x)).to(dtype)
    # An exported program has no branch on values: it computes with whatever it is given.
    if not torch.compiler.is_exporting():
        _check_values(modality, x, valid, counts=counts)
    return clean, valid


def _check_values(
    modality: str,
    x: Tensor,
    valid: Bool[Tensor, "batch time channel"],
    *,
    counts: bool,
) -> None:
    bad = int((~torch.isfinite(x) & valid).sum())
    if bad:
        raise ValueError(
            f"{modality}: {bad} NaN or infinite values among the valid samples; "
            f"set mask to False there"
        )
    if counts and bool(((x < 0) & valid).any()):
        raise ValueError(
            f"{modality}: spike counts must be >= 0, got a minimum of {float(x[valid].min()):g}; "
            f"pass raw counts, not standardised ones"
        )


def patch_signal(
    x: Float[Tensor, "batch time channel"], valid: Bool[Tensor, "batch time channel"], size: int
) -> Patched:
    """Whole patches of `size` samples; the last is padded with invalid zeros."""
    batch, length, channels = x.shape
    n = -(-length // size)
    pad = (0, 0, 0, n * size - length)
    return Patched(
        functional.pad(x, pad).view(batch, n, size, channels),
        functional.pad(valid, pad, value=False).view(batch, n, size, channels),
    )


def sample_times(
    modality: str,
    seen: Bool[Tensor, "batch time"],
    *,
    rate: float,
    times: Tensor | None,
    memory: Memory = NOTHING,
) -> Float64[Tensor, "batch time"]:
    """Seconds at which each sample is known: (i + 1) / rate, or its own time.

    Raises:
        ValueError: times of another shape, that decrease or are not finite at valid samples.
    """
    if times is None:
        ones = torch.ones(1, seen.shape[1], device=seen.device, dtype=torch.float64)
        return (memory.accumulate("position", ones) / rate).expand(seen.shape)
    if times.shape not in {seen.shape, seen.shape[1:]}:
        raise ValueError(
            f"{modality}: times must be (batch, time) = {tuple(seen.shape)} seconds, "
            f"got {tuple(times.shape)}"
        )
    t = times.to(torch.float64).expand(seen.shape)
    running = memory.maximum("clock", torch.where(seen, t, -torch.inf))
    if not torch.compiler.is_exporting():
        _check_times(modality, t, seen, running)
    # Times of masked samples (padding) carry no meaning: they repeat the last valid one.
    return torch.where(seen, t, running.clamp_min(0.0))


def _check_times(
    modality: str,
    times: Float64[Tensor, "batch time"],
    seen: Bool[Tensor, "batch time"],
    running: Float64[Tensor, "batch time"],
) -> None:
    if bool((~torch.isfinite(times) & seen).any()):
        raise ValueError(f"{modality}: times of valid samples must be finite seconds")
    if bool((seen & (times < running)).any()):
        raise ValueError(f"{modality}: times must not decrease along a row; sort the samples")


def token_times(
    at: Float64[Tensor, "batch time"],
    seen: Bool[Tensor, "batch time"],
    size: int,
    memory: Memory = NOTHING,
) -> tuple[Float64[Tensor, "batch patch"], Bool[Tensor, "batch patch"]]:
    """Time at which each patch is complete, and whether it has any valid sample.

    A patch counts as complete at its last valid sample, so that masking the end of a row gives the
    tokens of the shorter row.
    """
    batch, length = seen.shape
    pad = -(-length // size) * size - length
    last = torch.where(seen, at, -torch.inf)
    per_patch = functional.pad(last, (0, pad), value=-torch.inf).view(batch, -1, size).amax(-1)
    mask = torch.isfinite(per_patch)
    # An empty patch takes its nominal end: its value is masked, but the row stays sorted.
    nominal = functional.pad(at, (0, pad), mode="replicate").view(batch, -1, size)[..., -1]
    return memory.maximum("token", torch.where(mask, per_patch, nominal)), mask
