r"""How the states of latent circuits change with their weights, step by step."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.circuits._latent_problem import LatentProblem, Weights

__all__ = ["sensitivity_triangle"]

# Rows of the sensitivity that are gathered before they are folded into a square.
_ROWS = 4096


def sensitivity_triangle(
    problem: LatentProblem, weights: Weights, output_scale: float
) -> Float[Tensor, "row free"]:
    r"""A matrix R with $R^\top R = J^\top J$ for one circuit, the embedding projected out of J.

    A rotation of the embedding within its own span changes the prediction by $X \Omega$ with
    antisymmetric $\Omega$, and whatever leaves the span is orthogonal to every change of the
    states. So the embedding is projected out by that of the directions $X \Omega$ alone (Kaufman
    1975, doi:10.1007/BF01932995). Rows are folded in as they come: J is never held whole.
    """
    n_turns = problem.n_latent * (problem.n_latent - 1) // 2
    triangle = weights[0].new_zeros(0, n_turns + problem.n_free)
    for rows in _sensitivities(problem, weights, output_scale):
        triangle = torch.linalg.qr(torch.cat([triangle, rows[0]]), mode="r").R
    turns, rest = triangle[:, :n_turns], triangle[:, n_turns:]
    # Silent nodes make turns that do nothing; only directions that turns reach are taken away.
    left, sizes, _ = torch.linalg.svd(turns, full_matrices=False)
    left = left[:, sizes > 1e-10 * sizes.amax()] if len(sizes) else left
    projected: Tensor = rest - left @ (left.mT @ rest)
    return projected


def _sensitivities(
    problem: LatentProblem, weights: Weights, output_scale: float
) -> Iterator[Float[Tensor, "restart row column"]]:
    """Blocks of rows of the directions of the embedding and of J, side by side."""
    n = problem.n_latent
    pairs = torch.triu_indices(n, n, 1, device=weights[0].device)
    columns = torch.arange(pairs.shape[1], device=weights[0].device)
    blocks: list[Tensor] = []
    for x, tangent, w in _tangents(problem, weights):
        n_restarts, _, n_trials = x.shape
        turn = x.new_zeros(n_restarts, n, n_trials, len(columns))
        turn[:, pairs[0], :, columns] = x[:, pairs[1]].transpose(0, 1)
        turn[:, pairs[1], :, columns] = -x[:, pairs[0]].transpose(0, 1)
        rows = [torch.cat([turn, tangent], -1)]
        if problem.outputs is not None:
            read = torch.einsum("rkn,rnbp->rkbp", weights[2], tangent)
            read = output_scale * (read + _output_source(problem, x))
            rows.append(torch.cat([turn.new_zeros(*read.shape[:3], len(columns)), read], -1))
        blocks += [(w.sqrt()[:, None] * r).flatten(1, 2) for r in rows]
        if sum(b.shape[1] for b in blocks) >= _ROWS:
            yield torch.cat(blocks, 1)
            blocks = []
    if blocks:
        yield torch.cat(blocks, 1)


def _output_source(
    problem: LatentProblem, x: Float[Tensor, "restart latent trial"]
) -> Float[Tensor, "restart output trial free"]:
    """How the output weights change the outputs of given states."""
    mask = problem.constraints[2].mask
    free = mask.nonzero()
    source = x.new_zeros(len(x), len(mask), x.shape[-1], problem.n_free)
    columns = torch.arange(problem.n_free - len(free), problem.n_free, device=x.device)
    source[:, free[:, 0], :, columns] = x[:, free[:, 1]].transpose(0, 1)
    return source


def _tangents(problem: LatentProblem, weights: Weights) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """States (restart, latent, trial), their sensitivities (..., free), and sample weights."""
    w_rec, w_in, _ = weights
    n_trials, (n_restarts, n, _) = problem.stimuli.shape[-1], w_rec.shape
    rec, inp = (c.mask.nonzero() for c in problem.constraints[:2])
    # Which node a weight acts on, and which state or input it multiplies.
    node = torch.cat([rec[:, 0], inp[:, 0]])
    source = torch.cat([rec[:, 1], n + inp[:, 1]])
    columns = torch.arange(len(node), device=w_rec.device)
    x = w_rec.new_zeros(n_restarts, n, n_trials)
    tangent = w_rec.new_zeros(n_restarts, n, n_trials, problem.n_free)
    w = w_rec.new_ones(n_trials)
    for t in range(len(problem.stimuli)):
        if problem.weights is not None:
            w = problem.weights[t * n_trials : (t + 1) * n_trials]
        yield x, tangent, w
        u = problem.stimuli[t].expand(n_restarts, -1, -1)
        pre = w_rec @ x + w_in @ u
        driven = (w_rec @ tangent.flatten(2)).reshape(tangent.shape)
        driven[:, node, :, columns] += torch.cat([x, u], 1)[:, source].transpose(0, 1)
        slope = problem.activation.derivative(pre)[..., None]
        tangent = torch.lerp(tangent, driven.mul_(slope), problem.alpha)
        x = torch.lerp(x, problem.activation.function(pre), problem.alpha)
