r"""Which weights of a latent circuit the data determine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuros_mechint.circuits._latent_problem import LatentProblem, Weights
from neuros_mechint.circuits._latent_sensitivity import sensitivity_triangle
from neuros_mechint.circuits._latent_weights import Constraint

__all__ = ["CircuitIdentifiability", "aligned", "exchangeable", "identify"]

# A weight counts as determined when its error is below a tenth of the RMS recurrent weight.
_SHARE = 0.1
# Restarts count as equally good within one per cent of the best loss, or a millionth of variance.
_NEAR, _NOTHING = 1.01, 1e-6


@dataclass(frozen=True)
class CircuitIdentifiability:
    r"""What the data say about each recurrent weight.

    The sensitivity $\partial x / \partial \theta$ of the states (and outputs) to the free weights
    is taken at the best restart, and what a rotation of the embedding could take up is projected
    out. Its inverse square at the level of the residuals within the circuit's span is the
    covariance of the weights.

    Attributes:
        singular_values: Of the sensitivity, largest first, (free,).
        rank: How many of them are above rounding.
        condition: Largest over smallest; inf when the rank is not full.
        standard_error: Of every entry of `w_rec`, (latent, latent); inf where it moves along a
            direction that changes nothing.
        identifiable: Standard error below a tenth of the RMS recurrent weight.
        restart_sd: Standard deviation of every entry over the near-best restarts, after aligning
            exchangeable nodes; NaN when only one restart is near-best.
        n_near_best: Restarts within 1 % of the best loss.
        silent: Nodes that never leave zero.
        exchangeable: Groups of nodes that could swap their names.
        r2: $R^2$ of the best restart.
    """

    singular_values: Tensor
    rank: int
    condition: float
    standard_error: Tensor
    identifiable: Tensor
    restart_sd: Tensor
    n_near_best: int
    silent: Tensor
    exchangeable: tuple[tuple[int, ...], ...]
    r2: float
    _limit: float

    @property
    def flagged(self) -> Tensor:
        """Entries not to be read, (latent, latent).

        Those that are not identifiable, those on which equally good restarts disagree, and all when
        no second restart came as near: the standard error speaks of one minimum, and nothing then
        shows that there is no other.
        """
        return ~self.identifiable | ~(self.restart_sd <= self._limit)

    def summary(self) -> str:
        """The verdict in words."""
        n_flagged, n = int(self.flagged.sum()), self.flagged.numel()
        if n_flagged:
            verdict = (
                f"R2 = {self.r2:.3f} does not determine the wiring: {n_flagged} of {n} recurrent "
                "weights are not identified."
            )
        else:
            verdict = f"R2 = {self.r2:.3f}, and all {n} recurrent weights are identified."
        n_free = self.singular_values.numel()
        parts = [
            verdict,
            f"Sensitivity: rank {self.rank} of {n_free}, condition {self.condition:.3g}.",
            f"Restarts within 1 % of the best loss: {self.n_near_best}.",
        ]
        if self.n_near_best < 2:
            parts.append("No second restart confirms the best one; raise n_restarts or n_epochs.")
        if len(self.silent):
            parts.append(f"Silent nodes: {self.silent.tolist()}.")
        if self.exchangeable:
            parts.append(f"Nodes known up to order: {[list(g) for g in self.exchangeable]}.")
        return "\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, the flagged entries and the summary."""
        fields = {name: value for name, value in vars(self).items() if name != "_limit"}
        return fields | {"flagged": self.flagged, "summary": self.summary()}


def identify(
    problem: LatentProblem,
    weights: Weights,
    q: Float[Tensor, "restart unit latent"],
    losses: Float[Tensor, "restart"],
    r2: float,
) -> CircuitIdentifiability:
    """The report on the best restart, in the light of the others; all in float64."""
    best = int(losses.argmin())
    here: Weights = (weights[0][best], weights[1][best], weights[2][best])
    rows = problem.rows(problem.latents(weights))
    variances = _residual_variances(problem, here, q[best], rows[:, best])
    one: Weights = (here[0][None], here[1][None], here[2][None])
    triangle = sensitivity_triangle(problem, one, (variances[0] / variances[1]) ** 0.5)
    singular, vectors = _spectrum(triangle)
    tolerance = singular[:1] * torch.finfo(singular.dtype).eps * problem.responses.shape[0]
    known = singular > tolerance
    error = _standard_errors(singular, vectors, known, variances[0])
    n = problem.n_latent
    errors = error[: n * n].reshape(n, n)
    limit = _SHARE * float(here[0].square().mean().sqrt())
    near = (losses <= _NEAR * losses[best] + _NOTHING).nonzero()[:, 0]
    groups = exchangeable(problem.constraints)
    moved = aligned(weights[0][near], rows[:, near], rows[:, best], groups)
    size = rows[:, best].abs()
    return CircuitIdentifiability(
        singular_values=singular,
        rank=int(known.sum()),
        condition=float(singular[0] / singular[-1]) if bool(known.all()) else float("inf"),
        standard_error=errors,
        identifiable=errors < limit,
        restart_sd=moved.std(0) if len(near) > 1 else torch.full_like(errors, torch.nan),
        n_near_best=len(near),
        silent=(size.amax(0) <= 1e-9 * size.max()).nonzero()[:, 0],
        exchangeable=groups,
        r2=r2,
        _limit=limit,
    )


def _residual_variances(
    problem: LatentProblem, weights: Weights, q: Tensor, rows: Float[Tensor, "sample latent"]
) -> tuple[float, float]:
    """Variance of what is left of one response within the circuit's span, and of one output."""
    n = q.shape[1]
    w = torch.ones(len(rows)).to(rows) if problem.weights is None else problem.weights
    n_used = float((w > 0).sum())
    # Within the span a circuit that misses something leaves more than the noise; outside it
    # leaves the noise alone, and would hide that.
    left = float((w[:, None] * (problem.responses @ q - rows).square()).sum())
    n_numbers = problem.n_free + n * (n - 1) / 2
    # Exact data leave rounding only, which is no measure of anything but must divide.
    floor = torch.finfo(rows.dtype).eps ** 2 * problem.power / (n_used * len(q))
    variance = max(left / max(n_used * n - n_numbers, 1.0), floor)
    if problem.outputs is None:
        return variance, variance
    missed = float((w[:, None] * (problem.outputs - rows @ weights[2].mT).square()).sum())
    return variance, max(missed / max(n_used * problem.outputs.shape[1], 1.0), floor)


def _spectrum(triangle: Float[Tensor, "row free"]) -> tuple[Tensor, Tensor]:
    n_free = triangle.shape[1]
    # Few samples leave fewer rows than weights; what they lack is a singular value of zero.
    padded = torch.cat([triangle, triangle.new_zeros(max(0, n_free - len(triangle)), n_free)])
    _, singular, vectors = torch.linalg.svd(padded, full_matrices=False)
    return singular, vectors


def _standard_errors(
    singular: Float[Tensor, "free"],
    vectors: Float[Tensor, "free free"],
    known: Bool[Tensor, "free"],
    variance: float,
) -> Float[Tensor, "free"]:
    spread = (vectors[known] / singular[known, None]).square().sum(0)
    errors = (variance * spread).sqrt()
    # Any share of a direction that changes nothing leaves the weight free.
    return errors.masked_fill((vectors[~known].square() > 1e-12).any(0), torch.inf)


def exchangeable(constraints: Sequence[Constraint]) -> tuple[tuple[int, ...], ...]:
    """Groups of two and more nodes that carry the same constraints, and so the same name."""
    rec, inp, out = constraints
    tags = torch.cat([inp.mask, inp.sign, out.mask.mT, out.sign.mT, rec.sign[:1].mT], -1)
    groups: dict[tuple[float, ...], list[int]] = {}
    for k, tag in enumerate(tags.tolist()):
        groups.setdefault(tuple(tag), []).append(k)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def aligned(
    w_rec: Float[Tensor, "restart latent latent"],
    rows: Float[Tensor, "sample restart latent"],
    reference: Float[Tensor, "sample latent"],
    groups: tuple[tuple[int, ...], ...],
) -> Float[Tensor, "restart latent latent"]:
    """Recurrent weights with exchangeable nodes in the order of the reference's states."""
    from scipy.optimize import linear_sum_assignment

    found = w_rec.clone()
    for k in range(len(w_rec)):
        order = torch.arange(w_rec.shape[-1], device=w_rec.device)
        for group in groups:
            members = torch.tensor(group, device=w_rec.device)
            cost = torch.cdist(reference[:, members].mT, rows[:, k, members].mT)
            _, matched = linear_sum_assignment(cost.cpu().numpy())
            order[members] = members[torch.from_numpy(matched).to(members)]
        found[k] = w_rec[k][order][:, order]
    return found
