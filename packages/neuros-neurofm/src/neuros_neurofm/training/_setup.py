"""What a trainer is built from: precision, optimiser, objective, generator."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Optimizer

from neuros_neurofm.losses import CombinedLoss, MaskedModelingLoss, NeuralMasker
from neuros_neurofm.training._processes import Precision

Masker: TypeAlias = Callable[[Mapping[str, Any], Generator], dict[str, Any]]
OptimizerFactory: TypeAlias = Callable[[Iterable[nn.Parameter]], Optimizer]
_MIXED: Final[tuple[Precision, ...]] = ("bf16-mixed", "16-mixed")


def choose_precision(precision: str | None, *, mixed_precision: bool, device: str) -> Precision:
    """Resolve the two ways of asking for a precision."""
    if precision is None:
        return _mixed(device) if mixed_precision else "32-true"
    if mixed_precision and precision not in _MIXED:
        raise ValueError(
            f"mixed_precision=True asks for bf16-mixed or 16-mixed, precision={precision!r} for "
            "another one; pass one of the two"
        )
    for known in ("32-true", *_MIXED):
        if precision == known:
            return known
    raise ValueError(f"precision must be 32-true, bf16-mixed or 16-mixed, got {precision!r}")


def _mixed(device: str) -> Precision:
    """bfloat16 where the device computes with it, else float16 with a scaled loss."""
    on_gpu = device != "cpu" and torch.cuda.is_available()
    return "16-mixed" if on_gpu and not torch.cuda.is_bf16_supported() else "bf16-mixed"


def default_optimizer(module: nn.Module, learning_rate: float = 3e-4) -> Optimizer:
    """AdamW that decays matrices only."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for p in module.parameters():
        if p.requires_grad:
            decayed = p.ndim > 1 and not getattr(p, "_no_weight_decay", False)
            # Sharded and whole parameters are not updated in one call.
            key = (hasattr(p, "device_mesh"), 0.01 if decayed else 0.0)
            groups.setdefault(key, []).append(p)
    if not groups:
        raise ValueError("the model has no parameter that needs a gradient; unfreeze a part of it")
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], -item[0][1]))
    return AdamW(
        [{"params": group, "weight_decay": decay} for (_, decay), group in ordered],
        lr=learning_rate,
    )


def build_optimizer(
    optimizer: Optimizer | OptimizerFactory | None, module: nn.Module, *, sharded: bool
) -> Optimizer:
    """The optimiser given, made, or by default."""
    if optimizer is None:
        return default_optimizer(module)
    if not isinstance(optimizer, Optimizer):
        return optimizer(p for p in module.parameters() if p.requires_grad)
    if sharded:
        raise ValueError(
            "strategy='fsdp' replaces the parameters, so the optimiser must be made after it: pass "
            "a function of the parameters, such as lambda p: AdamW(p, lr=3e-4), or None"
        )
    return optimizer


def check_model(model: nn.Module, accumulation: int, max_grad_norm: float | None) -> None:
    """Refuse a model without a forward pass of batches, and settings out of range."""
    if not callable(getattr(model, "forward_batch", None)):
        raise TypeError(
            f"model must have a method forward_batch(batch), {type(model).__name__} has none"
        )
    if accumulation < 1:
        raise ValueError(f"gradient_accumulation_steps must be at least 1, got {accumulation}")
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(
            f"max_grad_norm must be greater than 0, got {max_grad_norm}; None does not clip"
        )


def check_scheduler(path: str | Path, content: Mapping[str, Any], scheduler: object) -> None:
    """A trainer with a scheduler goes on from a checkpoint with one, and only from that.

    Raises:
        ValueError: One of the two has none.
    """
    if (content["scheduler"] is None) != (scheduler is None):
        has, this = ("no", "one") if content["scheduler"] is None else ("a", "none")
        raise ValueError(
            f"the checkpoint {path} has {has} scheduler, this trainer has {this}; "
            "build it like the one that wrote the checkpoint"
        )


def describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """Class and plain defaults, for the manifest."""
    plain = bool | int | float | str | None
    defaults = {k: v for k, v in optimizer.defaults.items() if isinstance(v, plain)}
    return {"class": type(optimizer).__name__, **defaults}


def describe_run(
    model: nn.Module,
    loss: CombinedLoss,
    masker: Masker | None,
    optimizer: Optimizer,
    scheduler: object,
    **settings: Any,
) -> dict[str, Any]:
    """What a run is made of, for the manifest."""
    return {
        "model": type(model).__name__,
        "loss": sorted(loss.objectives),
        "masker": repr(masker),
        "optimizer": describe_optimizer(optimizer),
        "scheduler": type(scheduler).__name__,
        **settings,
    }


def build_objective(
    loss: Callable[..., Tensor] | None, masker: Masker | None
) -> tuple[CombinedLoss, Masker | None]:
    """Resolve the loss and what it needs."""
    if loss is None:
        return CombinedLoss([MaskedModelingLoss()]), masker or NeuralMasker("random", 0.25)
    return loss if isinstance(loss, CombinedLoss) else CombinedLoss([loss]), masker


def seeded_generator(seed: int | None, rank: int = 0) -> Generator:
    """Seed torch's global generator, or take a seed from it, and build the masker's generator.

    Every process draws dropout and masks of its own.
    """
    if seed is None:
        seed = int(torch.randint(2**62, ()))
        if rank:
            torch.manual_seed(seed + rank)
    else:
        torch.manual_seed(seed + rank)
    return Generator().manual_seed(seed + rank)


def move(batch: Any, device: torch.device) -> Any:
    """Move the tensors of nested dicts to the device; everything else stays."""
    if isinstance(batch, Mapping):
        return {key: move(value, device) for key, value in batch.items()}
    return batch.to(device, non_blocking=True) if isinstance(batch, Tensor) else batch
