"""What a fit of latent circuits found."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.circuits._latent_identifiability import CircuitIdentifiability
from neuros_mechint.circuits._latent_problem import LatentProblem, procrustes

if TYPE_CHECKING:
    from neuros_mechint.circuits.latent_rnn import LatentCircuitModel

__all__ = ["CircuitFitResult", "evaluated", "r_squared"]


@dataclass(frozen=True)
class CircuitFitResult:
    r"""All restarts of a fit, R of them, in the order in which they were drawn.

    Attributes:
        model: The best restart.
        loss: Loss of every restart at its best embedding, (R,).
        r2: $1 - \|Y - X Q^\top\|^2 / \|Y - \bar Y\|^2$ of the fitted samples, (R,).
        r2_output: The same of the outputs, (R,); None without outputs.
        r2_subspace: $1 - \|Y - Y Q Q^\top\|^2 / \|Y - \bar Y\|^2$: what the embedded subspace
            holds, whatever the circuit does in it, (R,).
        r2_projected: $R^2$ of the states as a prediction of the projected responses $Y Q$, (R,).
        w_rec: (R, latent, latent).
        w_in: (R, latent, inputs).
        w_out: (R, outputs, latent).
        q: (R, units, latent).
        order: Restarts from the best to the worst, (R,).
        identifiability: Which recurrent weights the data determine.
        history: Loss of every epoch of Adam, (epochs, R), NaN where a restart was stopped.
        elapsed: Seconds.
    """

    model: "LatentCircuitModel"
    loss: Tensor
    r2: Tensor
    r2_output: Tensor | None
    r2_subspace: Tensor
    r2_projected: Tensor
    w_rec: Tensor
    w_in: Tensor
    w_out: Tensor
    q: Tensor
    order: Tensor
    identifiability: CircuitIdentifiability
    history: Tensor
    elapsed: float

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; the model as its state, the report on identifiability as a dict."""
        fields = dict(vars(self))
        fields["model"] = self.model.state_dict()
        fields["identifiability"] = self.identifiability.to_dict()
        return fields


def r_squared(
    truth: Float[Tensor, "sample channel"],
    predicted: Float[Tensor, "*batch sample channel"],
    weights: Float[Tensor, "sample"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Share of the variance about the mean that a prediction leaves no residual of."""
    w = truth.new_ones(len(truth)) if weights is None else weights
    mean = (w[:, None] * truth).sum(0) / w.sum()
    total = (w[:, None] * (truth - mean).square()).sum()
    return 1 - (w[:, None] * (truth - predicted).square()).sum((-2, -1)) / total


def evaluated(problem: LatentProblem, free: Float[Tensor, "restart free"]) -> dict[str, Any]:
    """Losses, scores and weights of every restart, each at its best embedding."""
    with torch.no_grad():
        weights = problem.unpack(free)
        rows = problem.rows(problem.latents(weights))
        q = procrustes(problem.cross(rows))
        found: dict[str, Any] = dict(zip(("w_rec", "w_in", "w_out"), weights, strict=True))
        found |= {"q": q, "loss": problem.loss(free, embedding=q), "r2_output": None}
        responses, w = problem.responses, problem.weights
        scores = []
        for k in range(len(free)):
            x, projected = rows[:, k], responses @ q[k]
            read = x @ weights[2][k].mT
            row = [
                r_squared(responses, x @ q[k].mT, w),
                r_squared(responses, projected @ q[k].mT, w),
                r_squared(projected, x, w),
            ]
            if problem.outputs is not None:
                row.append(r_squared(problem.outputs, read, w))
            scores.append(torch.stack(row))
        names = ("r2", "r2_subspace", "r2_projected", "r2_output")
        # Without outputs there are three columns.
        found |= dict(zip(names, torch.stack(scores, -1), strict=False))
        found["order"] = found["loss"].argsort(stable=True)
    return found
