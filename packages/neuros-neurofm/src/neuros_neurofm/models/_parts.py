"""Named parts of the model, for freezing and counting."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, overload

from torch import nn

__all__ = ["NamedParts"]

if TYPE_CHECKING:
    from typing import Self
else:
    # The run-time type checker of the tests knows Self only in classes that it decorates whole.
    Self = nn.Module


class NamedParts(nn.Module):
    """A model whose parts are frozen, trained and counted by name."""

    def __init__(self) -> None:
        super().__init__()
        self._frozen: set[str] = set()

    @property
    def parts(self) -> tuple[str, ...]:
        """Names that `freeze`, `unfreeze` and `num_parameters` understand, besides "all"."""
        return tuple(_part_modules(self))

    def freeze(self, *parts: str) -> Self:
        """Stops training of parts; they also stay in eval mode (no dropout) under `train()`.

        Args:
            parts: Names out of `parts`, or "all".

        Returns:
            The model.

        Raises:
            ValueError: an unknown part.
        """
        return self._set_trainable(parts, trainable=False)

    def unfreeze(self, *parts: str) -> Self:
        """Trains parts again.

        Args:
            parts: Names out of `parts`, or "all".

        Returns:
            The model.

        Raises:
            ValueError: an unknown part.
        """
        return self._set_trainable(parts, trainable=True)

    def _set_trainable(self, parts: Sequence[str], *, trainable: bool) -> Self:
        modules = _part_modules(self)
        leaves = _leaves(_check_parts(parts, list(modules)), list(modules))
        for part in leaves:
            for parameter in _part_parameters(modules[part]):
                parameter.requires_grad_(trainable)
        self._frozen = self._frozen - leaves if trainable else self._frozen | leaves
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - the signature of nn.Module
        """Sets training mode, except in frozen parts.

        Args:
            mode: Training or evaluation.

        Returns:
            The model.
        """
        super().train(mode)
        modules = _part_modules(self) if self._frozen else {}
        for part in self._frozen:
            for module in modules[part]:
                module.eval()
        return self

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that are not frozen, for an optimiser."""
        return (p for p in self.parameters() if p.requires_grad)

    @overload
    def num_parameters(self, *, by_part: Literal[False] = False) -> int: ...
    @overload
    def num_parameters(self, *, by_part: Literal[True]) -> dict[str, int]: ...
    def num_parameters(self, *, by_part: bool = False) -> int | dict[str, int]:
        """Number of parameters, in all or per part.

        Args:
            by_part: Per part; each "heads.x" is also counted in "heads".

        Returns:
            A number, or part -> number.
        """
        if not by_part:
            return sum(p.numel() for p in self.parameters())
        return {
            part: sum(p.numel() for p in _part_parameters(modules))
            for part, modules in _part_modules(self).items()
        }


def _part_modules(model: nn.Module) -> dict[str, list[nn.Module]]:
    """The modules of every part, in the order of the data flow; each heads.x is also in heads."""
    tokenizers = list(model.get_submodule("tokenizers").children())
    units = [tokenizer.get_submodule("core.units") for tokenizer in tokenizers]
    rest = [
        child
        for tokenizer in tokenizers
        for name, child in tokenizer.get_submodule("core").named_children()
        if name != "units"
    ]
    heads = dict(model.get_submodule("heads").named_children())
    optional = {name: getattr(model, name) for name in ("domain", "diffusion")}
    return {
        "tokenizers": rest,
        "units": units,
        "fusion": [model.get_submodule("fusion"), model.get_submodule("modality_vectors")],
        "backbone": [model.get_submodule("backbone"), model.get_submodule("to_latent")],
        "popt": [model.get_submodule("popt")],
        "heads": list(heads.values()),
        **{f"heads.{name}": [head] for name, head in heads.items()},
        **{name: [module] for name, module in optional.items() if module is not None},
    }


def _part_parameters(modules: Sequence[nn.Module]) -> Iterator[nn.Parameter]:
    return (p for module in modules for p in module.parameters())


def _check_parts(parts: Sequence[str], known: Sequence[str]) -> list[str]:
    unknown = [part for part in parts if part not in known and part != "all"]
    if unknown:
        raise ValueError(f"unknown parts {unknown}; known are {[*known, 'all']}")
    return list(known) if "all" in parts else list(parts)


def _leaves(parts: Sequence[str], known: Sequence[str]) -> set[str]:
    """The parts with `heads` replaced by the single heads."""
    found = set()
    for part in parts:
        below = [name for name in known if name.startswith(f"{part}.")]
        found.update(below or [part])
    return found
