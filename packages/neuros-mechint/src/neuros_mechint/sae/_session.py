"""One coder in training: its optimizer, its dead features, its record."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuros_mechint.sae._coder import Coder
from neuros_mechint.sae._geometry import geometric_median, norm_scales, unit_rows, without_parallel
from neuros_mechint.sae._losses import Evaluation, evaluate
from neuros_mechint.sae._recipe import Recipe, TrainLog
from neuros_mechint.sae._sparse import SparseCode
from neuros_mechint.sae._supervision import Supervision
from neuros_mechint.sae._units import restart, set_scales, set_unit_norms

__all__ = ["Session"]


@dataclass(eq=False)
class _Record:
    loss: list[float] = field(default_factory=list)
    l0: list[float] = field(default_factory=list)
    terms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, result: Evaluation, l0: float) -> None:
        for name in result.terms.keys() - self.terms.keys():
            self.terms[name] = [0.0] * len(self.loss)
        for name, values in self.terms.items():
            values.append(float(result.terms[name].detach()) if name in result.terms else 0.0)
        self.loss.append(float(result.loss.detach()))
        self.l0.append(l0)


class Session:
    """Training state of one coder.

    Args:
        coder: The coder; trained in place.
        recipe: How.
        total_rows: Rows that training will see, or None when nobody knows.
        seed: Start of the draws of resampling.
        supervision: Loss of the labels that come with the rows; None without labels.
    """

    def __init__(
        self,
        coder: Coder,
        recipe: Recipe,
        total_rows: int | None,
        seed: int,
        supervision: Supervision | None = None,
    ) -> None:
        self.coder = coder
        self.supervision = supervision
        self.recipe = recipe
        self.total_rows = total_rows
        self.lr = recipe.lr or 2e-4 / (coder.dictionary_size / 2**14) ** 0.5
        self.dead_after = recipe.dead_after or min(10**6, (total_rows or 10**7) // 10)
        device = coder.W_dec.device
        self.silent = torch.zeros(coder.dictionary_size, dtype=torch.long, device=device)
        # Gao 2024 takes this epsilon: the gradients of rare features are far below 1.
        self.optimizer = torch.optim.Adam(coder.parameters(), self.lr, eps=6.25e-10, fused=True)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.step = self.tokens = self.revived = self.since_check = 0
        self.record = _Record()

    @property
    def n_tensors(self) -> int:
        """Number of tensors of a batch: those that the coder takes, and labels."""
        return self.coder.n_parts + (self.supervision is not None)

    @property
    def dead(self) -> Bool[Tensor, "feature"]:
        """Features that have not fired for `dead_after` rows."""
        return self.silent >= self.dead_after

    @torch.no_grad()
    def start(self, x: Float[Tensor, "batch n_in"], y: Float[Tensor, "batch n_out"]) -> None:
        """Set the units of training and, in a new coder, the decoder's bias."""
        coder = self.coder
        scales = norm_scales(x, coder.in_widths), norm_scales(y, coder.out_widths)
        if coder.b_dec.any():
            set_scales(coder, *scales)
            set_unit_norms(coder)
        else:
            for stored, scale in zip(coder.scales, scales, strict=True):
                stored.copy_(scale)
            coder.b_dec.copy_(geometric_median(coder.scaled_output(y)))

    @property
    def progress(self) -> float:
        """Share of the training that is behind; 0 all along when nobody knows its length."""
        return min(self.tokens / self.total_rows, 1.0) if self.total_rows else 0.0

    def train(
        self,
        x: Float[Tensor, "batch n_in"],
        y: Float[Tensor, "batch n_out"],
        labels: Bool[Tensor, "batch concept"] | None = None,
    ) -> None:
        """Take one optimizer step.

        Args:
            x: Inputs in raw units.
            y: Targets in raw units; for an autoencoder the same tensor as `x`.
            labels: What the supervision takes.
        """
        coder = self.coder
        scaled = coder.scaled_input(x)
        target = scaled if y is x else coder.scaled_output(y)
        dead = self.dead if self.recipe.revive == "auxk" else None
        self.optimizer.zero_grad(set_to_none=True)
        result = self._supervised(evaluate(coder, scaled, target, dead), scaled, labels)
        torch.autograd.backward(result.loss)
        self._update()
        l0 = self._observe(result.code, len(x))
        self.record.add(result, l0)
        self.step += 1
        if self.recipe.revive == "resample" and self.progress < 0.8:
            self._resample(scaled, target, result)
        for callback in self.recipe.callbacks:
            callback.on_step_end(self, self.step, self.record.loss[-1])

    def _supervised(
        self,
        result: Evaluation,
        x: Float[Tensor, "batch n_in"],
        labels: Bool[Tensor, "batch concept"] | None,
    ) -> Evaluation:
        if self.supervision is None or labels is None:
            return result
        term = self.supervision.loss(self.coder, x, labels.to(x.device))
        return result._replace(loss=result.loss + term, terms={**result.terms, "concept": term})

    @torch.no_grad()
    def _update(self) -> None:
        W_dec = self.coder.W_dec
        if W_dec.grad is not None:
            W_dec.grad.copy_(without_parallel(W_dec.grad, W_dec))
        rate = self.lr * min(1.0, 5.0 * (1.0 - self.progress))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        W_dec.div_(torch.linalg.vector_norm(W_dec, dim=1, keepdim=True))

    @torch.no_grad()
    def _observe(self, code: Tensor | SparseCode, n_rows: int) -> float:
        """Count who fired; the mean number of active features."""
        fired, l0 = _firing(code)
        self.tokens += n_rows
        self.silent += n_rows
        self.silent[fired] = 0
        if self.coder.activation == "batchtopk" and isinstance(code, SparseCode):
            self._track_threshold(code.values)
        return l0 / n_rows

    def _track_threshold(self, values: Float[Tensor, "entry"]) -> None:
        positive = values[values > 0]
        if len(positive):
            # Bussmann 2024 averages the smallest active value over batches; here the last hundred.
            rate = 0.01 if bool(self.coder.threshold) else 1.0
            self.coder.threshold.lerp_(positive.min(), rate)

    @torch.no_grad()
    def _resample(self, x: Tensor, y: Tensor, result: Evaluation) -> None:
        """Start dead features anew at badly reconstructed rows (Bricken 2023, appendix).

        Rows are drawn in proportion to the squared loss; a feature takes the row's direction, its
        encoder a fifth of the mean norm of the living ones, and Adam forgets its moments.
        """
        self.since_check += len(x)
        which = self.dead.nonzero()[: len(x), 0]
        if self.since_check < self.dead_after or not len(which):
            return
        self.since_check = 0
        coder = self.coder
        weight = (y - result.reconstruction).square().sum(1).square()
        if int(weight.count_nonzero()) < len(which):
            return
        rows = torch.multinomial(weight, len(which), generator=self.generator)
        alive = torch.linalg.vector_norm(coder.W_enc[~self.dead], dim=1)
        norm = 0.2 * (alive.mean() if len(alive) else alive.new_ones(()))
        inputs = x[rows] - coder.b_dec if coder.autoencodes else x[rows]
        restart(coder, which, unit_rows(inputs) * norm, y[rows] - coder.b_dec)
        for moments in self.optimizer.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                if moments[name].shape[0] == coder.dictionary_size:
                    moments[name][which] = 0
        self.silent[which] = 0
        self.revived += len(which)

    def end_epoch(self, epoch: int) -> None:
        """Tell the callbacks that an epoch is over."""
        if self.record.loss:
            metrics = {"loss": self.record.loss[-1], "l0": self.record.l0[-1]}
            for callback in self.recipe.callbacks:
                callback.on_epoch_end(self, epoch, metrics)

    def log(self) -> TrainLog:
        """Return the record as tensors."""
        return TrainLog(
            steps=self.step,
            tokens=self.tokens,
            loss=torch.tensor(self.record.loss),
            l0=torch.tensor(self.record.l0),
            terms={name: torch.tensor(values) for name, values in self.record.terms.items()},
            dead_fraction=float(self.dead.float().mean()),
            revived=self.revived,
        )

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "coder": self.coder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "silent": self.silent,
            "counts": [self.step, self.tokens, self.revived, self.since_check],
            "plan": [self.total_rows, self.dead_after],
            "record": [self.record.loss, self.record.l0, self.record.terms],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.coder.load_state_dict(state["coder"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.silent.copy_(state["silent"])
        self.step, self.tokens, self.revived, self.since_check = state["counts"]
        self.total_rows, self.dead_after = state["plan"]
        self.record = _Record(*state["record"])


def _firing(code: Tensor | SparseCode) -> tuple[Bool[Tensor, "feature"], float]:
    """Which features are active anywhere, and the number of active entries."""
    if isinstance(code, SparseCode):
        totals = code.values.new_zeros(code.pattern.n_features)
        totals.index_add_(0, code.pattern.columns, code.values.detach())
        return totals > 0, float(code.values.count_nonzero())
    # Features are never negative; the sum of signs is 4x faster than a count of a mask.
    counts = code.detach().sign().sum(0)
    return counts > 0, float(counts.sum())
