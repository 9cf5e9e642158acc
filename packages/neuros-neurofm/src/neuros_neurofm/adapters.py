"""Low-rank adaptation: a few added weights are trained, the model itself stands still."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["LowRankAdapters", "add_lora"]

_KIND = "neuros-neurofm adapters"


class LowRankAdapters:
    """The adapters of a model, made by `add_lora`.

    Args:
        model: With adapters in it.
        config: What they were made with.

    Examples:
        >>> from neuros_neurofm import MultiModalNeuroFMX
        >>> model = MultiModalNeuroFMX(16, 1, 4, 8, modalities=("lfp",))
        >>> adapters = add_lora(model, rank=2)
        >>> sum(p.numel() for p in adapters.parameters())  # 2 x (16 + 193) + 2 x (32 + 16)
        514
    """

    def __init__(self, model: nn.Module, config: dict[str, Any]) -> None:
        self.model = model
        self.config = config

    def parameters(self) -> Iterator[nn.Parameter]:
        """The adapters' weights alone, for an optimiser.

        Returns:
            Each of them once.
        """
        return (p for name, p in self.model.named_parameters() if _is_adapter(name))

    def merge(self) -> None:
        """Fold the adapters into the weights; the model is then one like any other.

        The outputs are what they were, up to rounding.
        """
        for name, layer in _adapted(self.model):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(self.model.get_submodule(parent), child, layer.get_base_layer())

    def save(self, path: str | Path) -> None:
        """Write the adapters' weights and what they were made with, nothing of the model.

        The file appears whole or not at all.

        Args:
            path: A safetensors file.

        Raises:
            ValueError: The adapters were merged.
        """
        tensors = {
            name: p.detach().contiguous()
            for name, p in self.model.named_parameters()
            if _is_adapter(name)
        }
        if not tensors:
            raise ValueError(
                "the adapters were merged, nothing of them is left; save the model instead"
            )
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            save_file(tensors, part, {"kind": _KIND, "config": json.dumps(self.config)})
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def load(self, path: str | Path) -> None:
        """Take the weights that `save` wrote, in a model with the same adapters.

        Args:
            path: What `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or holds adapters of another shape.
        """
        tensors, config = _read(Path(path))
        if config != self.config:
            raise ValueError(
                f"{path} holds adapters made with {config}, these were made with {self.config}"
            )
        own = {name: p for name, p in self.model.named_parameters() if _is_adapter(name)}
        shapes = {name: p.shape for name, p in own.items()}
        if shapes != {name: x.shape for name, x in tensors.items()}:
            raise ValueError(f"{path} holds adapters of another model: other layers or sizes")
        with torch.no_grad():
            for name, p in own.items():
                p.copy_(tensors[name])


def add_lora(
    model: nn.Module,
    rank: int,
    *,
    targets: Sequence[str] = ("in_proj", "out_proj"),
    alpha: int | None = None,
    dropout: float = 0.0,
) -> LowRankAdapters:
    r"""Freeze a model and add trained matrices of low rank to its linear layers, in place.

    $y = Wx + \frac{\alpha}{r} B A x$ with $A$ (rank, in) random and $B$ (out, rank) zero: at first
    the outputs do not change. Only A and B need gradients afterwards; `model.unfreeze("units")`
    trains the vectors of units beside them, and `identify_units` works as before. Uses peft.

    Args:
        model: Any module; a `MultiModalNeuroFMX` also keeps its dropout off.
        rank: Rank of the added matrices, >= 1.
        targets: Names of the linear layers, the last part of their path; the defaults are those of
            the blocks of the backbone.
        alpha: Scale of the added matrices; None: the rank, a factor of 1.
        dropout: Dropout of their input while training.

    Returns:
        The adapters, to save, load and merge them.

    Raises:
        ImportError: peft is not installed.
        ValueError: `rank` below 1, no layer of that name, or a model that has adapters.

    Examples:
        >>> import torch
        >>> from neuros_neurofm import MultiModalNeuroFMX
        >>> model = MultiModalNeuroFMX(16, 1, 4, 8, modalities=("lfp",)).eval()
        >>> x = {"lfp": torch.randn(1, 20, 3)}
        >>> before = model(x).latents
        >>> adapters = add_lora(model, rank=4)
        >>> torch.equal(model(x).latents, before)
        True

    References:
        Hu, E. J. et al. (2022). LoRA: low-rank adaptation of large language models. ICLR.
        arXiv:2106.09685.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("add_lora needs peft; pip install 'neuros-neurofm[peft]'") from error

    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    if any(_is_adapter(name) for name, _ in model.named_parameters()):
        raise ValueError("the model has adapters already; merge them first")
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in targets
    ]
    if not names:
        raise ValueError(f"the model has no linear layer named {' or '.join(targets)}")
    scale = rank if alpha is None else alpha
    config = {"rank": rank, "alpha": scale, "targets": sorted(targets)}
    freeze = getattr(model, "freeze", None)
    if callable(freeze):
        freeze("all")
    model.requires_grad_(requires_grad=False)
    lora = peft.LoraConfig(r=rank, lora_alpha=scale, lora_dropout=dropout, target_modules=names)
    peft.inject_adapter_in_model(lora, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_adapter(name))
    return LowRankAdapters(model, config)


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _adapted(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, m) for name, m in model.named_modules() if hasattr(m, "get_base_layer")]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"there are no adapters {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = dict(zip(file.keys(), map(file.get_tensor, file.keys()), strict=True))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error})") from error
    if metadata.get("kind") != _KIND:
        raise ValueError(f"{path} holds no {_KIND}; pass a file that LowRankAdapters.save wrote")
    return tensors, json.loads(metadata["config"])
