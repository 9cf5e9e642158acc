"""Named parts of the model, for freezing and counting."""

from collections.abc import Iterator, Sequence

from torch import nn

__all__ = ["check_parts", "leaves", "part_modules", "part_parameters"]


def part_modules(model: nn.Module) -> dict[str, list[nn.Module]]:
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
    return {
        "tokenizers": rest,
        "units": units,
        "fusion": [model.get_submodule("fusion"), model.get_submodule("modality_vectors")],
        "backbone": [model.get_submodule("backbone"), model.get_submodule("to_latent")],
        "popt": [model.get_submodule("popt")],
        "heads": list(heads.values()),
        **{f"heads.{name}": [head] for name, head in heads.items()},
    }


def part_parameters(modules: Sequence[nn.Module]) -> Iterator[nn.Parameter]:
    """All parameters below the modules."""
    return (p for module in modules for p in module.parameters())


def check_parts(parts: Sequence[str], known: Sequence[str]) -> list[str]:
    """The parts with `all` spelled out.

    Raises:
        ValueError: an unknown part.
    """
    unknown = [part for part in parts if part not in known and part != "all"]
    if unknown:
        raise ValueError(f"unknown parts {unknown}; known are {[*known, 'all']}")
    return list(known) if "all" in parts else list(parts)


def leaves(parts: Sequence[str], known: Sequence[str]) -> set[str]:
    """The parts with `heads` replaced by the single heads."""
    found = set()
    for part in parts:
        below = [name for name in known if name.startswith(f"{part}.")]
        found.update(below or [part])
    return found
