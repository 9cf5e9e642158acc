"""How often signals with their phases out of step couple as strongly."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["check_surrogates", "phase_shifted", "surrogate_p_values"]

_Draw: TypeAlias = Callable[[torch.Generator], Tensor]


def check_surrogates(surrogates: int) -> None:
    """Refuse a negative number of draws.

    Raises:
        ValueError: When it is negative.
    """
    if surrogates < 0:
        raise ValueError(f"surrogates must be at least 0, got {surrogates}")


def surrogate_p_values(
    values: Tensor,
    draw: _Draw,
    surrogates: int,
    generator: torch.Generator | None,
    fixed: Tensor,
) -> Tensor | None:
    """Share of draws at least as large, (1 + count) / (1 + surrogates); None without draws.

    Args:
        values: The measure of the signals themselves.
        draw: The measure of one draw, shaped as values.
        surrogates: Number of draws.
        generator: Source of the draws; None starts one from seed 0.
        fixed: Where no draw can say anything; the p-value is 1 there.
    """
    if surrogates == 0:
        return None
    source = torch.Generator().manual_seed(0) if generator is None else generator
    count = torch.ones_like(values)
    with torch.no_grad():
        for _ in range(surrogates):
            count += draw(source).abs() >= values.abs()
    return (count / (1 + surrogates)).masked_fill(fixed, 1.0)


def phase_shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Signals of the same power spectra, every phase drawn anew along the last axis."""
    transform = torch.fft.rfft(x)
    angle = torch.rand(
        transform.shape, generator=generator, device=generator.device, dtype=x.dtype
    ).to(x.device)
    # The mean and, for an even length, the Nyquist bin have no phase.
    angle[..., 0] = 0
    if x.shape[-1] % 2 == 0:
        angle[..., -1] = 0
    turned = transform * torch.polar(torch.ones_like(angle), 2 * torch.pi * angle)
    shifted: Tensor = torch.fft.irfft(turned, n=x.shape[-1])
    return shifted
