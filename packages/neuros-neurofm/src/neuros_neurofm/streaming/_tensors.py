"""The state of a session as tensors by name."""

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from neuros_neurofm.models import MultiModalNeuroFMX
from neuros_neurofm.streaming._core import Core, first_core
from neuros_neurofm.streaming._source import Arrived, Source
from neuros_neurofm.tokenizers import Tokens
from neuros_neurofm.tokenizers._samples import TokenizerState

__all__ = ["core_tensors", "read_core", "read_state", "write_state"]


def core_tensors(core: Core) -> dict[str, Tensor]:
    """The shared state by name."""
    tensors = {"core.recent": core.recent, "core.read": core.read, "core.n": core.n}
    for i, block in enumerate(core.backbone):
        tensors |= {f"core.backbone.{i}.conv": block.conv, f"core.backbone.{i}.ssm": block.ssm}
    return tensors


def read_core(model: MultiModalNeuroFMX, tensors: Mapping[str, Tensor]) -> Core:
    """The shared state of a model from its tensors.

    Raises:
        ValueError: a tensor is missing, or has another shape than this model's.
    """
    batch = tensors["core.recent"].shape[0] if "core.recent" in tensors else 0
    start = first_core(model, batch)
    for name, needed in core_tensors(start).items():
        given = tensors.get(name)
        if given is None or given.shape != needed.shape:
            raise ValueError(
                f"the state is that of another model: {name} must have the shape "
                f"{tuple(needed.shape)}, got {None if given is None else tuple(given.shape)}"
            )
    return Core(
        tuple(
            block._replace(
                conv=tensors[f"core.backbone.{i}.conv"], ssm=tensors[f"core.backbone.{i}.ssm"]
            )
            for i, block in enumerate(start.backbone)
        ),
        tensors["core.recent"],
        tensors["core.read"],
        tensors["core.n"],
    )


def write_state(
    core: Core | None, sources: Mapping[str, Source], n_steps: int
) -> dict[str, Tensor]:
    """Copies of all state; `read_state` is the inverse."""
    tensors = {"n_steps": torch.tensor(n_steps)}
    if core is not None:
        tensors |= core_tensors(core)
    for name, source in sources.items():
        tensors |= {f"{name}.{key}": value for key, value in _source_tensors(source).items()}
    return {name: value.detach().clone() for name, value in tensors.items()}


def read_state(
    model: MultiModalNeuroFMX, state: Mapping[str, Tensor]
) -> tuple[Core | None, dict[str, Source], int]:
    """What `write_state` was given.

    Raises:
        ValueError: the state is that of another model, or no state.
    """
    if "n_steps" not in state:
        raise ValueError("the state holds no 'n_steps'; pass what state_dict() returned")
    tensors = {name: value.detach().clone() for name, value in state.items()}
    parts = {name.split(".")[0] for name in tensors} - {"core", "n_steps"}
    unknown = sorted(parts - set(model.modalities))
    if unknown:
        raise ValueError(
            f"the state is that of another model: it holds {unknown}, this model's modalities are "
            f"{list(model.modalities)}"
        )
    core = read_core(model, tensors) if parts else None
    sources = {
        name: _read_source(
            {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        )
        for name in parts
    }
    return core, sources, int(tensors["n_steps"])


def _source_tensors(source: Source) -> dict[str, Tensor]:
    """The state as named tensors."""
    tensors = {f"memory.{key}": value for key, value in source.state.memory.items()}
    for name, part in (
        ("state", source.state),
        ("tokens", source.tokens),
        ("arrived", source.arrived),
    ):
        tensors |= {f"{name}.{k}": v for k, v in part._asdict().items() if k != "memory"}
    ids = None if source.units is None else list(source.units)
    tensors |= {
        "vectors": source.vectors,
        "known": source.known,
        "last": source.last,
        "flags": torch.tensor(
            [source.received, source.exact, source.regular, source.present, source.lagged]
        ),
        "clock": torch.tensor(source.clock, dtype=torch.float64),
        "units": torch.frombuffer(bytearray(json.dumps(ids).encode()), dtype=torch.uint8),
    }
    return tensors if source.coords is None else {**tensors, "coords": source.coords}


def _read_source(tensors: Mapping[str, Tensor]) -> Source:
    """The state that `_source_tensors` wrote."""

    def fields(prefix: str, names: Sequence[str]) -> list[Tensor]:
        return [tensors[f"{prefix}.{name}"].clone() for name in names]

    start = len("memory.")
    memory = {k[start:]: v.clone() for k, v in tensors.items() if k.startswith("memory.")}
    received, exact, regular, present, lagged = tensors["flags"].tolist()
    ids = json.loads(bytes(tensors["units"].tolist()).decode())
    return Source(
        state=TokenizerState(memory, *fields("state", TokenizerState._fields[1:])),
        tokens=Tokens(*fields("tokens", Tokens._fields)),
        vectors=tensors["vectors"].clone(),
        known=tensors["known"].clone(),
        arrived=Arrived(*fields("arrived", Arrived._fields)),
        last=tensors["last"].clone(),
        received=received,
        clock=float(tensors["clock"]),
        exact=bool(exact),
        regular=bool(regular),
        present=bool(present),
        lagged=bool(lagged),
        units=None if ids is None else tuple(ids),
        coords=tensors.get("coords"),
    )
