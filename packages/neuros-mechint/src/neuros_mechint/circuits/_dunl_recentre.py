"""Moves kernels to where their energy is.

A kernel that starts a few samples late, with codes as early, explains almost as much, and no small
step leads from there to the kernel that is whole. The activity regressed on codes over more lags
than a kernel has shows what lies beyond its ends.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as nnf

from neuros_mechint.circuits._dunl_encoder import SparseProblem

__all__ = ["recentred"]

# Elements of the regressors in memory at most; more trials than that are left out.
_MOST = 20_000_000
_ENOUGH = 0.99


@torch.no_grad()
def recentred(
    problem: SparseProblem, codes: Float[Tensor, "batch group factor event"]
) -> Float[Tensor, "group factor tap"]:
    """The taps of the widened kernels that hold their energy, as unit kernels."""
    kernels, n_time = problem.kernels, problem.activity.shape[-1]
    groups, factors, taps = kernels.shape
    reach = taps // 4
    wide = taps + 2 * reach
    keep = max(1, _MOST // (groups * factors * wide * n_time))
    drive, baseline, _ = problem.drive(codes)
    # In units of the drive: for counts the slope of the mean turns one into the other.
    gain = problem.likelihood.curvature(drive).mean(-1, keepdim=True)
    miss = (problem.activity - problem.likelihood.mean(drive)) / gain
    target = (miss + drive - baseline[..., None])[:keep]
    lagged = nnf.pad(codes[:keep], (taps - 1 + reach, taps - 1 + reach))
    # Row j holds the codes delayed by j - reach samples.
    lagged = lagged.unfold(-1, n_time, 1).flip(-2)[..., :wide, :].flatten(2, 3)
    gram = torch.einsum("bgit,bgjt->gij", lagged, lagged)
    right = torch.einsum("bgit,bgt->gi", lagged, target)
    # A factor that never acts has no regressors; the ridge leaves its kernel alone.
    size = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    ridge = 1e-4 * size.clamp(min=1e-12) * torch.eye(gram.shape[-1]).to(gram)
    start = nnf.pad(kernels, (reach, reach)).flatten(1)
    right = right - torch.einsum("gij,gj->gi", gram, start)
    full = (start + torch.linalg.solve(gram + ridge, right)).unflatten(1, (factors, wide))
    windows = full.unfold(-1, taps, 1)
    energy = windows.square().sum(-1)
    # Where the ends are near zero several windows hold all: the last puts the code at the onset.
    enough = energy >= _ENOUGH * energy.amax(-1, keepdim=True)
    best = (enough * torch.arange(1, 2 * reach + 2, device=energy.device)).argmax(-1)
    chosen = windows.gather(-2, best[..., None, None].expand(-1, -1, 1, taps))[..., 0, :]
    return nnf.normalize(chosen, dim=-1)
