"""First kernels from data: the patches of activity that recur with most energy."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as nnf

if TYPE_CHECKING:
    from neuros_mechint.circuits.dunl import DUNLModel

__all__ = ["start_from_data"]

_SEEDS = 32
_ALIGNMENTS = 4
_REMOVALS = 8
# Two patches resemble each other when one explains this share of the other's energy.
_ALIKE = 0.6


def start_from_data(
    model: "DUNLModel",
    signals: Float[Tensor, "batch unit time"],
    support: Tensor | None,
    generator: torch.Generator | None,
) -> Float[Tensor, "*unit factor tap"]:
    """Kernels found one after the other, each in what the ones before it leave.

    With known event times a kernel is the mean of activity around its events.
    """
    counts = model.coder.likelihood.name != "gaussian"
    # Events lift the mean above the baseline, and what is left of it would count as energy; the
    # median of sparse counts is 0 whatever their rate.
    level = signals.mean(-1) if counts else signals.median(-1).values
    residual = signals - level[..., None]
    if model.coder.share_kernels:
        rows = residual.flatten(0, 1)
        return _factors(model, rows, None if support is None else support.flatten(0, 1), generator)
    made = [
        _factors(model, rows, None if support is None else support[:, n], generator)
        for n, rows in enumerate(residual.unbind(1))
    ]
    return torch.stack(made)


def _factors(
    model: "DUNLModel",
    rows: Float[Tensor, "batch time"],
    support: Tensor | None,
    generator: torch.Generator | None,
) -> Float[Tensor, "factor tap"]:
    taps, kernels, rows = model.kernel_length, [], rows.clone()
    for k in range(model.n_factors):
        if support is not None:
            windows = rows.unfold(-1, taps, 1)
            kernel = (windows * support[:, k, :, None]).sum((0, 1))
        else:
            kernel = _recurring(rows, taps, generator, nonneg=model.coder.nonneg_codes)
            rows = _without(rows, kernel, nonneg=model.coder.nonneg_codes)
        kernels.append(kernel.clamp(min=0) + 1e-3 if model.nonneg_kernels else kernel)
    return nnf.normalize(torch.stack(kernels), dim=-1)


def _recurring(
    rows: Float[Tensor, "batch time"],
    taps: int,
    generator: torch.Generator | None,
    *,
    nonneg: bool,
) -> Float[Tensor, " tap"]:
    """Of patches with much energy the one that recurs most, averaged with its likes and centred.

    The patch with the most energy of all is an overlap of events as a rule, and does not recur.
    """
    energy = rows.square().unfold(-1, taps, 1).sum(-1)
    high = energy.flatten().topk(max(1, energy.numel() // 5)).indices
    drawn = high[torch.randint(len(high), (_SEEDS,), generator=generator).to(rows.device)]
    patches = rows.unfold(-1, taps, 1).flatten(0, 1)[drawn]
    kernels = nnf.normalize(patches, dim=-1)
    for _ in range(_ALIGNMENTS):
        at, size = _best_match(rows, kernels, nonneg=nonneg)
        kernels = _centred_means(rows, at, size, taps)
    return kernels[_best_match(rows, kernels, nonneg=nonneg)[1].square().sum(0).argmax()]


def _best_match(
    rows: Float[Tensor, "batch time"], kernels: Float[Tensor, "seed tap"], *, nonneg: bool
) -> tuple[Int[Tensor, "batch seed"], Float[Tensor, "batch seed"]]:
    """Where in every row a kernel fits best, and its size there; 0 where nothing resembles it."""
    product = nnf.conv1d(rows[:, None], kernels[:, None])
    energy = rows.square().unfold(-1, kernels.shape[-1], 1).sum(-1)[:, None]
    size = product if nonneg else product.abs()
    size = torch.where(product.square() > _ALIKE * energy, size, 0.0)
    at = size.argmax(-1)
    found = size.gather(-1, at[..., None]) > 0
    return at, torch.where(found, product.gather(-1, at[..., None]), 0.0)[..., 0]


def _centred_means(
    rows: Float[Tensor, "batch time"],
    at: Int[Tensor, "batch seed"],
    size: Float[Tensor, "batch seed"],
    taps: int,
) -> Float[Tensor, "seed tap"]:
    """Mean patches, each at the shift, up to half a kernel, at which the mean has most energy."""
    reach = taps // 2
    padded = nnf.pad(rows, (reach, reach))
    where = at[..., None] + torch.arange(taps + 2 * reach, device=rows.device)
    batch = torch.arange(len(rows), device=rows.device)[:, None, None]
    wide = (size[..., None] * padded[batch, where]).sum(0)
    windows = wide.unfold(-1, taps, 1)
    best = windows.square().sum(-1).argmax(-1)
    return nnf.normalize(windows[torch.arange(len(best), device=rows.device), best], dim=-1)


def _without(
    rows: Float[Tensor, "batch time"], kernel: Float[Tensor, " tap"], *, nonneg: bool
) -> Float[Tensor, "batch time"]:
    """The rows with the occurrences of a kernel taken away."""
    steps = torch.arange(kernel.shape[-1], device=rows.device)
    for _ in range(_REMOVALS):
        at, size = _best_match(rows, kernel[None], nonneg=nonneg)
        rows = rows.scatter_add(-1, at + steps, -size * kernel)
    return rows
