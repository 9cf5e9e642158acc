"""Training of a model on windows: the loss, the weights that are kept, the decoder's units."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._batches import Batch, Scale, WindowSampler
from neuros_neurofm.losses import CombinedLoss
from neuros_neurofm.models import DecoderHead
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

Masker: TypeAlias = Callable[[Mapping[str, Any], Generator], Mapping[str, Any]]
Objective: TypeAlias = Callable[..., Tensor]


class TrainingLoss:
    """The objective of one batch, and its mean over several."""

    def __init__(
        self,
        model: MultiModalNeuroFMX,
        objective: CombinedLoss,
        masker: Masker | None,
        generator: Generator,
    ) -> None:
        self.model, self.objective = model, objective
        self.masker, self.generator = masker, generator

    def update(self, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
        """Make one step of the optimiser."""
        self.model.train()
        shown = batch if self.masker is None else self.masker(batch, self.generator)
        optimizer.zero_grad()
        value = self.objective(self.model.forward_batch(shown), shown)
        if not bool(torch.isfinite(value)):
            raise FloatingPointError(
                f"the training loss is {float(value.detach())}; lower learning_rate or check the "
                "targets"
            )
        value.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()

    def measure(self, batches: Sequence[Batch]) -> float:
        """Average over all targets of the batches, without dropout; NaN without a batch."""
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        # The same entries are hidden in every call.
        generator = Generator().manual_seed(0)
        with evaluating(self.model):
            for batch in batches:
                shown = batch if self.masker is None else self.masker(batch, generator)
                values = self.objective.evaluate(self.model.forward_batch(shown), shown)
                for name, count in self.objective.counts(shown).items():
                    counts[name] = counts.get(name, 0.0) + float(count)
                    sums[name] = sums.get(name, 0.0) + float(values[name]) * float(count)
        if not sums:
            return float("nan")
        return sum(total / max(counts[name], 1.0) for name, total in sums.items())


class BestWeights:
    """The weights of the least validation loss."""

    def __init__(self, model: nn.Module, patience: int) -> None:
        self.model, self.patience = model, patience
        self.step, self.loss, self.n_without = 0, float("nan"), 0
        self.history: list[tuple[int, float]] = []
        self.state: dict[str, Tensor] = {}

    @property
    def over(self) -> bool:
        """Whether the patience is over."""
        return self.n_without >= self.patience

    def judge(self, step: int, loss: float) -> None:
        """Keep the weights where the loss is the least so far."""
        if np.isnan(loss):
            self.step = step
            return
        self.history.append((step, loss))
        if self.state and not loss < self.loss:
            self.n_without += 1
            return
        self.step, self.loss, self.n_without = step, loss, 0
        self.state = {name: value.clone() for name, value in self._tensors().items()}

    def restore(self) -> None:
        """Give the model the weights that were kept."""
        if self.state:
            with torch.no_grad():
                for name, value in self._tensors().items():
                    value.copy_(self.state[name])

    def _tensors(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("every parameter of the model is frozen; unfreeze a part of it")
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise ValueError(f"learning_rate must be a finite number > 0, got {learning_rate}")
    # Scales and state matrices are not pulled towards 0, as in the trainer.
    groups = [
        {"params": [p for p in trained if _decays(p)], "weight_decay": weight_decay},
        {"params": [p for p in trained if not _decays(p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate)


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
    """Raise the learning rate over the first fifth of the steps, then lower it to 0 by a cosine."""
    rise = max(steps // 5, 1)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 + 0.5 * math.cos(math.pi * (step - rise + 1) / (steps - rise + 1))

    return LambdaLR(optimizer, factor)


def _decays(parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not getattr(parameter, "_no_weight_decay", False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    with mode_kept(model), torch.no_grad():
        model.eval()
        yield


@contextmanager
def mode_kept(model: nn.Module) -> Iterator[None]:
    # Module by module: frozen parts stay in eval mode whatever the rest does.
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def own_dropout(generator: Generator) -> Iterator[None]:
    seed = int(torch.randint(2**31, (), generator=generator))
    # Dropout draws from torch's global generator, whose state is given back.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def z_scored(
    model: MultiModalNeuroFMX, scale: Scale, loss: TrainingLoss, sampler: WindowSampler
) -> Iterator[None]:
    """Let the decoder speak in z-scores inside, in the targets' own units outside."""
    if scale.center is None or scale.deviation is None:
        yield
        return
    first = [sampler.draw(k) for k in range(len(sampler.sources))]
    fresh = loss.measure(first)
    _rescale(model, -scale.center / scale.deviation, 1.0 / scale.deviation)
    if not loss.measure(first) <= fresh:
        _rescale(model, scale.center, scale.deviation)
    try:
        yield
    finally:
        _rescale(model, scale.center, scale.deviation)


def _rescale(model: MultiModalNeuroFMX, offset: Array, factor: Array) -> None:
    """Turn the decoder's output y into `factor` * y + `offset`."""
    head = cast("DecoderHead", model.heads.get_submodule("decoder"))
    by = torch.as_tensor(factor, dtype=head.out.weight.dtype, device=head.out.weight.device)
    with torch.no_grad():
        head.out.weight.mul_(by[:, None])
        head.skip.weight.mul_(by[:, None])
        head.out.bias.mul_(by).add_(torch.as_tensor(offset).to(by))
