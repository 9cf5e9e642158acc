"""Unit identification: the vectors of named units are learned, the rest of the model stands."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor, nn
from tqdm import tqdm

from neuros_neurofm.losses import BehaviorLoss, CombinedLoss, MaskedModelingLoss, NeuralMasker
from neuros_neurofm.tokenizers import UnitEmbedding

__all__ = ["fit_units"]

Batch: TypeAlias = Mapping[str, Any]
Objective: TypeAlias = Callable[..., Tensor]
Masker: TypeAlias = Callable[[Batch, Generator], Batch]


def fit_units(
    model: nn.Module,
    forward: Callable[[Batch], Mapping[str, Any]],
    units: Mapping[str, UnitEmbedding],
    loader: Iterable[Batch],
    steps: int,
    *,
    learning_rate: float,
    loss: Objective | None,
    masker: Masker | None,
    generator: Generator | None,
    progress: bool,
) -> list[float]:
    """The loss before each step; see `MultiModalNeuroFMX.identify_units`."""
    if steps < 1:
        raise ValueError(f"steps must be >= 1, got {steps}")
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be > 0, got {learning_rate}")
    parameters = [table.weight for table in units.values() if len(table.ids)]
    if not parameters:
        raise ValueError("the model has no named units; add them with add_units(modality, ids)")
    bias = dict(model.named_parameters()).get("heads.decoder.out.bias")
    parameters += [] if bias is None else [bias]
    if loss is None:
        masker = masker or NeuralMasker("random", 0.25)
        loss = CombinedLoss([MaskedModelingLoss(), *([] if bias is None else [BehaviorLoss()])])
    draw = generator or Generator().manual_seed(0)
    # Adam moves a row only after its first gradient, and nothing decays: the vectors of units that
    # the loader does not hold stand still.
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    losses: list[float] = []
    bar = tqdm(total=steps, desc="identify units", disable=None if progress else True)
    with only_trainable(model, parameters), bar:
        for batch in islice(_cycle(loader), steps):
            _check_units(batch, units)
            optimizer.zero_grad()
            shown = batch if masker is None else masker(batch, draw)
            value = loss(forward(shown), shown)
            _check_loss(value, len(losses))
            value.backward()
            optimizer.step()
            losses.append(float(value.detach()))
            bar.set_postfix(loss=f"{losses[-1]:.4g}", refresh=False)
            bar.update()
    if len(losses) < steps:
        raise ValueError(
            f"the loader yielded {len(losses)} batches once and none again, {steps} steps need "
            f"more; pass a list or a DataLoader"
        )
    return losses


@contextmanager
def only_trainable(model: nn.Module, chosen: Sequence[nn.Parameter]) -> Iterator[None]:
    """Trains the chosen parameters of a model in eval mode; puts every flag and gradient back."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    picked = {id(p) for p in chosen}
    try:
        model.eval()
        for p, _, _ in flags:
            p.requires_grad_(id(p) in picked)
            p.grad = None
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for p, flag, grad in flags:
            p.grad = grad
            p.requires_grad_(flag)


def _cycle(loader: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            return


def _check_units(batch: Batch, units: Mapping[str, UnitEmbedding]) -> None:
    named = {name: ids for name, ids in (batch.get("units") or {}).items() if name in batch}
    if not any(name in units for name in named):
        raise ValueError(
            "the batch names no units, so there is nothing to identify; give it "
            "'units': {modality: ids}"
        )
    for name, ids in named.items():
        known = set(units[name].ids) if name in units else set(ids)
        unknown = [unit for unit in ids if unit not in known]
        if unknown:
            raise ValueError(
                f"{name}: {len(unknown)} units are unknown ({unknown[:5]}); add them first with "
                f"add_units({name!r}, ids, x)"
            )


def _check_loss(value: Tensor, step: int) -> None:
    if not bool(value.isfinite()):
        raise FloatingPointError(
            f"the loss of step {step} is {float(value.detach())}; lower the learning rate or look "
            f"for bad values in the data"
        )
