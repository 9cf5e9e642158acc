r"""The loss of many latent circuits on one data set, with the embedding eliminated."""

import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.circuits._latent_scan import scan
from neuros_mechint.circuits._latent_weights import Activation, Constraint

__all__ = ["LatentProblem", "Weights", "cayley", "procrustes"]

Weights = tuple[Tensor, Tensor, Tensor]


def procrustes(
    cross: Float[Tensor, "restart unit latent"],
) -> Float[Tensor, "restart unit latent"]:
    r"""The orthonormal $Q$ nearest to $Y^\top X$: $U V^\top$ of its singular value decomposition.

    Examples:
        >>> procrustes(torch.tensor([[[3.0], [4.0]]]))[0].T
        tensor([[0.6000, 0.8000]])
    """
    # A tall matrix goes through its triangle: LAPACK is called on n x n in place of N x n.
    tall, triangle = torch.linalg.qr(cross)
    u, _, vh = torch.linalg.svd(triangle)
    nearest: Tensor = tall @ (u @ vh)
    return nearest


def cayley(
    raw: Float[Tensor, "restart unit unit"], n_latent: int
) -> Float[Tensor, "restart unit latent"]:
    r"""First columns of $(I + A)(I - A)^{-1}$, $A = B - B^\top$: the published embedding.

    Examples:
        >>> cayley(torch.zeros(1, 3, 3), 1)[0, :, 0]
        tensor([1., 0., 0.])
    """
    A = raw - raw.mT
    eye = torch.eye(raw.shape[-1], dtype=raw.dtype, device=raw.device)
    # (I + A) and (I - A)^-1 commute.
    solved: Tensor = torch.linalg.solve(eye - A, (eye + A)[..., :n_latent])
    return solved


class LatentProblem:
    r"""Responses, stimuli and outputs of one fit, and the loss of vectors of free weights.

    Args:
        responses: (trials, time, units).
        stimuli: (trials, time, inputs).
        outputs: (trials, time, outputs) or None.
        weights: Of every sample, (trials, time), or None.
        constraints: Of `w_rec`, `w_in` and `w_out`.
        alpha: Step over time constant.
        activation: The nonlinearity.
        output_weight: Weight of the squared error of the outputs.
        weight_decay: Weight of half the squared weights.
        l1: Weight of the absolute values of `w_rec`.
    """

    def __init__(
        self,
        responses: Tensor,
        stimuli: Tensor,
        outputs: Tensor | None,
        weights: Tensor | None,
        *,
        constraints: Sequence[Constraint],
        alpha: float,
        activation: Activation,
        output_weight: float = 1.0,
        weight_decay: float = 0.0,
        l1: float = 0.0,
    ) -> None:
        self.alpha, self.activation = alpha, activation
        self.output_weight, self.weight_decay, self.l1 = output_weight, weight_decay, l1
        device, dtype = responses.device, responses.dtype
        self.constraints = [
            Constraint(c.mask.to(device), c.sign.to(device, dtype)) for c in constraints
        ]
        self.sizes = [int(c.mask.sum()) for c in self.constraints]
        self.n_latent, self.n_free = constraints[0].mask.shape[0], sum(self.sizes)
        # Rows run over time first, as the states do.
        self.weights = None if weights is None else weights.T.reshape(-1).to(dtype)
        self.responses = responses.transpose(0, 1).reshape(-1, responses.shape[-1])
        self.stimuli = stimuli.permute(1, 2, 0)
        self.outputs = (
            None if outputs is None else outputs.transpose(0, 1).reshape(-1, outputs.shape[-1])
        )
        self.n_samples = len(self.responses) if weights is None else float(weights.sum())
        self.weighted = self._times_weights(self.responses)
        self.power = float((self.weighted * self.responses).sum())
        self.variance = self.spread(self.responses)

    def _times_weights(self, rows: Tensor) -> Tensor:
        return rows if self.weights is None else rows * self.weights[:, None]

    def spread(self, rows: Float[Tensor, "sample channel"]) -> float:
        """Squared distance from the mean over trials and time, summed."""
        mean = self._times_weights(rows).sum(0) / self.n_samples
        return float(self._times_weights((rows - mean).square()).sum())

    def to(self, dtype: torch.dtype) -> "LatentProblem":
        """The same problem in another precision."""
        n_time, _, n_trials = self.stimuli.shape

        def as_trials(rows: Tensor) -> Tensor:
            return rows.reshape(n_time, n_trials, -1).transpose(0, 1).to(dtype)

        weights = self.weights
        return LatentProblem(
            as_trials(self.responses),
            self.stimuli.permute(2, 0, 1).to(dtype),
            None if self.outputs is None else as_trials(self.outputs),
            None if weights is None else as_trials(weights)[..., 0],
            constraints=self.constraints,
            alpha=self.alpha,
            activation=self.activation,
            output_weight=self.output_weight,
            weight_decay=self.weight_decay,
            l1=self.l1,
        )

    def pack(self, weights: Weights) -> Float[Tensor, "restart free"]:
        """The free entries of the three weights, one vector a restart."""
        return torch.cat(
            [w[:, c.mask] for w, c in zip(weights, self.constraints, strict=True)], dim=-1
        ).to(self.responses)

    def unpack(self, free: Float[Tensor, "restart free"]) -> Weights:
        """The three weights that a vector stands for; they obey their constraints."""
        found = []
        ends = itertools.accumulate(self.sizes)
        for end, size, c in zip(ends, self.sizes, self.constraints, strict=True):
            part = free[:, end - size : end]
            raw = free.new_zeros(len(free), c.mask.numel())
            places = c.mask.reshape(-1).nonzero()[:, 0]
            raw = raw.index_copy(1, places, part).reshape(len(free), *c.mask.shape)
            found.append(c.apply(raw))
        return found[0], found[1], found[2]

    def latents(self, weights: Weights, noise: Tensor | None = None) -> Tensor:
        """States of every restart, (time, restart, latent, trial)."""
        w_rec, w_in, _ = weights
        drive = torch.matmul(w_in, self.stimuli[:, None])
        drive = drive if noise is None else drive + noise
        return scan(w_rec, drive, self.alpha, self.activation)

    def rows(self, latents: Float[Tensor, "time restart latent trial"]) -> Tensor:
        """States as (sample, restart, latent)."""
        return latents.permute(0, 3, 1, 2).reshape(-1, latents.shape[1], latents.shape[2])

    def cross(self, rows: Float[Tensor, "sample restart latent"]) -> Tensor:
        r"""$Y^\top X$ of every restart, (restart, unit, latent)."""
        flat = self.weighted.T @ rows.reshape(len(rows), -1)
        return flat.reshape(-1, *rows.shape[1:]).transpose(0, 1)

    def squares(self, rows: Float[Tensor, "sample restart latent"]) -> Float[Tensor, "restart"]:
        r"""$\|X\|^2$ of every restart."""
        return self._times_weights(rows.square().sum(-1)).sum(0)

    def loss(
        self,
        free: Float[Tensor, "restart free"],
        *,
        embedding: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Float[Tensor, "restart"]:
        r"""Normalised squared error of the responses, plus that of the outputs, plus penalties.

        Without `embedding` it is the loss of the best one,
        $(\|Y\|^2 + \|X\|^2 - 2 \|Y^\top X\|_*) / \|Y - \bar Y\|^2$; the derivative of the best
        embedding does not enter its gradient (Golub & Pereyra 1973).
        """
        weights = self.unpack(free)
        rows = self.rows(self.latents(weights, noise))
        cross = self.cross(rows)
        if embedding is None:
            with torch.no_grad():
                embedding = procrustes(cross)
        error = self.power + self.squares(rows) - 2 * (embedding * cross).sum((-2, -1))
        return error / self.variance + self._extra(weights, rows)

    def _extra(self, weights: Weights, rows: Tensor) -> Tensor:
        extra = rows.new_zeros(rows.shape[1])
        if self.outputs is not None:
            read = torch.einsum("srn,rkn->srk", rows, weights[2])
            squared = (read - self.outputs[:, None]).square().sum(-1)
            extra = (
                extra + self.output_weight * self._times_weights(squared).sum(0) / self.n_samples
            )
        if self.weight_decay:
            extra = extra + sum(0.5 * self.weight_decay * w.square().sum((-2, -1)) for w in weights)
        if self.l1:
            extra = extra + self.l1 * weights[0].abs().sum((-2, -1))
        return extra

    def draw_noise(
        self, n_restarts: int, noise_std: float, generator: torch.Generator | None
    ) -> Tensor | None:
        r"""Noise of the pre-activation, $\sqrt{2 \alpha} \sigma N(0, 1)$, or None without any."""
        if not noise_std:
            return None
        n_time, _, n_trials = self.stimuli.shape
        drawn = torch.randn(n_time, n_restarts, self.n_latent, n_trials, generator=generator)
        return math.sqrt(2 * self.alpha) * noise_std * drawn.to(self.responses)
