"""What a trainer is built from: engine, precision, optimiser, objective, generator."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import torch
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Optimizer

from neuros_neurofm.losses import CombinedLoss, MaskedModelingLoss, NeuralMasker

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.loggers.logger import Logger

Masker: TypeAlias = Callable[[Mapping[str, Any], Generator], dict[str, Any]]
Forward: TypeAlias = Callable[[Mapping[str, Any]], Any]
_DEVICES: Final = ("auto", "cpu", "cuda")
_Precision: TypeAlias = Literal["32-true", "bf16-mixed"]


def build_fabric(device: str, precision: _Precision, loggers: "Sequence[Logger]") -> "Fabric":
    """Build the engine; Lightning is imported here because it loads slower than torch."""
    from lightning_fabric import Fabric

    if device not in _DEVICES:
        raise ValueError(f"device must be one of {', '.join(_DEVICES)}, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device='cuda' needs a CUDA device, none was found; use device='auto'")
    return Fabric(accelerator=device, devices=1, precision=precision, loggers=list(loggers))


def choose_precision(precision: str | None, *, mixed_precision: bool) -> _Precision:
    """Resolve the two ways of asking for a precision."""
    if precision is None:
        return "bf16-mixed" if mixed_precision else "32-true"
    if mixed_precision and precision != "bf16-mixed":
        raise ValueError(
            f"mixed_precision=True asks for bf16-mixed, precision={precision!r} for another one; "
            "pass one of the two"
        )
    if precision == "32-true":
        return "32-true"
    if precision == "bf16-mixed":
        return "bf16-mixed"
    raise ValueError(f"precision must be 32-true or bf16-mixed, got {precision!r}")


def default_optimizer(modules: Sequence[nn.Module]) -> Optimizer:
    """AdamW that decays matrices only."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1 and not getattr(p, "_no_weight_decay", False)]
    chosen = {id(p) for p in decayed}
    rest = [p for p in parameters if id(p) not in chosen]
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decayed, 0.01), (rest, 0.0))
        if group
    ]
    if not groups:
        raise ValueError("the model has no parameter that needs a gradient; unfreeze a part of it")
    return AdamW(groups, lr=3e-4)


def read_forward(model: nn.Module, accumulation: int, max_grad_norm: float | None) -> Forward:
    """The model's forward pass of a batch, after a look at the settings that go with it."""
    forward = getattr(model, "forward_batch", None)
    if not callable(forward):
        raise TypeError(
            f"model must have a method forward_batch(batch), {type(model).__name__} has none"
        )
    if accumulation < 1:
        raise ValueError(f"gradient_accumulation_steps must be at least 1, got {accumulation}")
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(
            f"max_grad_norm must be greater than 0, got {max_grad_norm}; None does not clip"
        )
    chosen: Forward = forward
    return chosen


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


def build_objective(
    loss: Callable[..., Tensor] | None, masker: Masker | None
) -> tuple[CombinedLoss, Masker | None]:
    """Resolve the loss and what it needs."""
    if loss is None:
        return CombinedLoss([MaskedModelingLoss()]), masker or NeuralMasker("random", 0.25)
    return loss if isinstance(loss, CombinedLoss) else CombinedLoss([loss]), masker


def seeded_generator(seed: int | None) -> Generator:
    """Seed torch's global generator, or take a seed from it, and build the masker's generator."""
    if seed is None:
        seed = int(torch.randint(2**62, ()))
    else:
        torch.manual_seed(seed)
    return Generator().manual_seed(seed)


def move(batch: Any, device: torch.device) -> Any:
    """Move the tensors of nested dicts to the device; everything else stays."""
    if isinstance(batch, Mapping):
        return {key: move(value, device) for key, value in batch.items()}
    return batch.to(device, non_blocking=True) if isinstance(batch, Tensor) else batch
