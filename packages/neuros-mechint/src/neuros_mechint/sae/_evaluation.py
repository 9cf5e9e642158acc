"""One pass over held-out activations, and what is asked of them afterwards."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from neuros_mechint.activations import SiteLike
from neuros_mechint.sae._absorption import mean_rate
from neuros_mechint.sae._absorption_effects import AblationEffects
from neuros_mechint.sae._parts import part_batches, rows_of
from neuros_mechint.sae._plan import Parts, Plan, origins
from neuros_mechint.sae._probing import Labelled, LabelScores, score_labels
from neuros_mechint.sae._recovery import LossRecovery
from neuros_mechint.sae._rows import ModelBatch, coding, model_batches, pieces
from neuros_mechint.sae._scores import CodeScores

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Evaluation"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What to score a coder on; `evaluate_sae` documents the fields."""

    plan: Plan
    data: Any
    model: nn.Module | None
    sites: Sequence[SiteLike]
    metric: Callable[..., Tensor] | None
    labels: ArrayLike | None
    probe_sizes: Sequence[int]
    absorption_margin: float | None
    generator: torch.Generator | None
    batch_size: int

    def scores(self) -> list[dict[str, Any]]:
        """Scores by name, one set for each output of the coder."""
        plan = self.plan
        outputs = [CodeScores() for _ in plan.targets]
        held = None
        if self.labels is not None and self.generator is not None:
            held = _Held(self.labels, self.generator)
        losses = None
        if self.model is not None and self.metric is not None:
            losses = LossRecovery(plan, self.model, self.sites, self.metric)
        with coding(plan.coder, self.model):
            for batch in self._batches():
                parts = rows_of(batch.values) if isinstance(batch, ModelBatch) else batch
                self._score(parts, outputs, held)
                if losses is not None and isinstance(batch, ModelBatch):
                    losses.update(batch)
            found: list[dict[str, Any]] = [
                {"n_rows": one.n_rows, **one.values()} for one in outputs
            ]
            if losses is not None:
                losses.ablate(self.data, [one.mean for one in outputs], self.batch_size)
                found = [scores | losses.values(k) for k, scores in enumerate(found)]
            if held is not None:
                told = self._labelled(held)
                found = [scores | more for scores, more in zip(found, told, strict=True)]
        return found

    def _batches(self) -> Iterator[ModelBatch | Parts]:
        if self.model is None:
            return part_batches(self.data, self.plan, self.sites, self.batch_size)
        whole = self.metric is not None
        return model_batches(self.model, self.data, self.sites, self.batch_size, whole=whole)

    def _score(self, parts: Parts, outputs: list[CodeScores], held: "_Held | None") -> None:
        for piece in zip(*(pieces(part, self.batch_size) for part in parts), strict=True):
            f = self.plan.encode(piece)
            targets = [piece[place] for place in self.plan.targets]
            for scores, rows, again in zip(outputs, targets, self.plan.decode(f), strict=True):
                scores.update(rows, f, again)
            if held is not None:
                held.add(f, targets)

    def _labelled(self, held: "_Held") -> list[dict[str, Any]]:
        # Every output is judged on the same split of the rows.
        state = held.generator.get_state()
        features, told = held.features(), []
        zeros = origins(self.plan, held.like)
        outputs = zip(held.rows(), self.plan.directions(), zeros, strict=True)
        for k, (rows, directions, origin) in enumerate(outputs):
            held.generator.set_state(state)
            scores = score_labels(
                Labelled(features, rows, directions.double().cpu(), origin.double().cpu()),
                held.labels,
                ks=self.probe_sizes,
                generator=held.generator,
                batch_size=self.batch_size,
            )
            told.append(self._told(scores, k))
        return told

    def _told(self, scores: LabelScores, output: int) -> dict[str, Any]:
        found = scores._asdict()
        missed = found.pop("missed")
        if self.absorption_margin is not None and self.model is not None and self.metric:
            effects = AblationEffects(
                self.plan, self.model, self.sites, self.metric, self.absorption_margin
            )
            absorbed = effects.absorbed(self.data, missed, output, self.batch_size)
            found["absorption_ablation"] = mean_rate(missed, absorbed)
        return found


class _Held:
    """Labels, and features, sparse, and targets of all rows."""

    def __init__(self, labels: ArrayLike, generator: torch.Generator) -> None:
        self.labels, self.generator = labels, generator
        self._features: list[csr_matrix] = []
        self._rows: list[list[Tensor]] = []
        self.like = torch.empty(0)

    def add(self, f: Tensor, targets: Sequence[Tensor]) -> None:
        from scipy.sparse import csr_matrix

        self.like = f[:1]
        self._features.append(csr_matrix(f.double().cpu().numpy()))
        self._rows.append([rows.cpu() for rows in targets])

    def features(self) -> "csr_matrix":
        from scipy.sparse import csr_matrix, vstack

        return csr_matrix(vstack(self._features))

    def rows(self) -> list[Tensor]:
        """Targets of every output."""
        return [torch.cat(parts) for parts in zip(*self._rows, strict=True)]
