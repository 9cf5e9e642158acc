"""What a checkpoint holds of a run whose module may be spread over processes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from neuros_core import Callback
from neuros_neurofm.training._processes import Processes

__all__: list[str] = []


def collect_states(
    processes: Processes, module: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Any], dict[str, Any]]:
    """States of a module and its optimiser, whole in the first process.

    Called by all processes.
    """
    if not processes.sharded:
        return module.state_dict(), optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    whole, moments = get_state_dict(module, optimizer, options=options)
    return dict(whole), dict(moments)


def restore_run(
    path: str | Path,
    content: Mapping[str, Any],
    processes: Processes,
    module: nn.Module,
    optimizer: Optimizer,
) -> None:
    """Take module and optimiser from the content of a checkpoint, in every process.

    Raises:
        ValueError: They are of another module or optimiser.
    """
    try:
        state = join_state(content["model"], content["loss"])
        restore_states(processes, module, optimizer, state, content["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"the checkpoint {path} does not fit this trainer ({error}); "
            "build it with the configuration in the checkpoint's manifest"
        ) from error


def restore_states(
    processes: Processes,
    module: nn.Module,
    optimizer: Optimizer,
    state: Mapping[str, Any],
    moments: Mapping[str, Any],
) -> None:
    """Take what `collect_states` returned, in every process.

    Raises:
        RuntimeError: The state is that of another module.
        ValueError: The state is that of another optimiser.
    """
    if not processes.sharded:
        module.load_state_dict(state)
        optimizer.load_state_dict(dict(moments))
        return
    from torch.distributed.checkpoint import state_dict

    options = state_dict.StateDictOptions(full_state_dict=True)
    state_dict.set_model_state_dict(module, dict(state), options=options)
    # Not strict: a parameter that was never used has no moments yet.
    options = state_dict.StateDictOptions(full_state_dict=True, strict=False)
    state_dict.set_optimizer_state_dict(module, optimizer, dict(moments), options=options)


def own_part(path: str | Path, content: Mapping[str, Any], processes: Processes) -> dict[str, Any]:
    """What the checkpoint holds of this process.

    Raises:
        ValueError: The run that wrote it had another number of processes.
    """
    parts = content["processes"]
    if len(parts) != processes.world_size:
        raise ValueError(
            f"the checkpoint {path} is of a run of {len(parts)} processes, this one has "
            f"{processes.world_size}; go on with as many, or begin a new run with "
            "load_weights(model, path)"
        )
    part: dict[str, Any] = parts[processes.rank]
    return part


def split_state(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The model's and the loss's share of the state of a `TrainingStep`."""
    parts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name, value in state.items():
        owner, _, rest = name.partition(".")
        parts[owner == "loss"][rest] = value
    return parts


def join_state(model: Mapping[str, Any], loss: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a `TrainingStep`; see `split_state`."""
    return {f"model.{k}": v for k, v in model.items()} | {f"loss.{k}": v for k, v in loss.items()}


def callback_states(callbacks: Sequence[Callback]) -> list[Any]:
    """State of every callback, None of one that has none."""
    states = [getattr(callback, "state_dict", None) for callback in callbacks]
    return [None if state is None else state() for state in states]


def restore_callbacks(callbacks: Sequence[Callback], states: Sequence[Any]) -> None:
    """Take what `callback_states` returned.

    Raises:
        ValueError: There were other callbacks.
    """
    loaders = [getattr(callback, "load_state_dict", None) for callback in callbacks]
    ours = [load for load in loaders if load is not None]
    theirs = [state for state in states if state is not None]
    if len(ours) != len(theirs):
        raise ValueError(
            f"the checkpoint has the state of {len(theirs)} callbacks, this trainer has "
            f"{len(ours)} with one; pass the callbacks of the run that wrote it"
        )
    for load, state in zip(ours, theirs, strict=True):
        load(state)
