"""Activations and variables of a whole data set, one row per example or time step."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from neuros_mechint.activations import Site, intervene
from neuros_mechint.activations._container import map_leaves
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved

__all__ = ["Gathered", "Pool", "gather"]

Pool: TypeAlias = Literal["mean", "last", "none"]
Variables = dict[str, NDArray[np.generic]]


class Gathered(NamedTuple):
    """Activations, shape (row, unit), and variables, shape (row,)."""

    activations: Float[np.ndarray, "row unit"]
    variables: Variables


def gather(
    model: nn.Module,
    dataset: Any,
    site: Site,
    *,
    input_key: str,
    pool: Pool,
    device: torch.device | str | None,
) -> Gathered:
    """Run the model over a data set, without gradient.

    Raises:
        TypeError: When a batch is no mapping, tuple or tensor.
        ValueError: When there is no batch, a batch lacks its input, batches have different
            variables, or a variable does not have one value per row.
    """
    activations: list[Float[np.ndarray, "row unit"]] = []
    parts: list[Variables] = []
    for batch in _batches(dataset):
        inputs, variables = _as_batch(*_split(batch, input_key))
        values = _activations(model, inputs, site, device)
        n_rows, n_steps, _ = values.shape
        if pool == "none":
            parts.append({k: _per_step(k, v, n_rows, n_steps) for k, v in variables.items()})
            activations.append(values.reshape(n_rows * n_steps, -1))
        else:
            parts.append({k: _per_row(k, v, n_rows) for k, v in variables.items()})
            activations.append(values.mean(1) if pool == "mean" else values[:, -1])
    if not activations:
        raise ValueError("dataset needs at least one batch, got none; was an iterator used up?")
    if any(part.keys() != parts[0].keys() for part in parts):
        raise ValueError(f"all batches need the same variables, got {[sorted(p) for p in parts]}")
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Gathered(np.concatenate(activations), joined)


def _batches(dataset: Any) -> Iterable[Any]:
    """One tensor, mapping or pair of inputs and variables is a batch; other iterables hold them."""
    alone = isinstance(dataset, (Tensor, np.ndarray, Mapping)) or _is_pair(dataset)
    batches: Iterable[Any] = [dataset] if alone else dataset
    return batches


def _is_pair(batch: Any) -> bool:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        return False
    # A data loader turns pairs into lists; a list of two mappings is two batches.
    two_batches = isinstance(batch, list) and isinstance(batch[0], Mapping)
    return isinstance(batch[1], Mapping) and not two_batches


def _split(batch: Any, input_key: str) -> tuple[Any, Mapping[str, Any]]:
    if isinstance(batch, Tensor):
        return batch, {}
    if isinstance(batch, np.ndarray):
        return torch.from_numpy(batch), {}
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return batch[0], {}
    if _is_pair(batch):
        return batch[0], batch[1]
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"a batch needs to be a mapping, (input, variables) or a tensor, got "
            f"{type(batch).__name__}"
        )
    if input_key not in batch:
        raise ValueError(
            f"a batch lacks the input '{input_key}', it has {list(batch)}; name it with input_key="
        )
    return batch[input_key], {name: v for name, v in batch.items() if name != input_key}


def _as_batch(inputs: Any, variables: Mapping[str, Any]) -> tuple[Any, Variables]:
    """An item whose variables are single values is one example: it becomes a batch of one."""
    arrays = {name: _array(value) for name, value in variables.items()}
    if isinstance(inputs, np.ndarray):
        inputs = torch.from_numpy(inputs)
    if not arrays or any(array.ndim for array in arrays.values()):
        return inputs, arrays
    batched = map_leaves(
        lambda _path, leaf: leaf[None] if isinstance(leaf, Tensor) else leaf, inputs
    )
    return batched, {name: array[None] for name, array in arrays.items()}


def _activations(
    model: nn.Module, inputs: Any, site: Site, device: torch.device | str | None
) -> Float[np.ndarray, "row step unit"]:
    moved = map_leaves(
        lambda _path, leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs
    )
    args, kwargs = call_arguments(model, moved)
    with torch.no_grad(), preserved(model), intervene(model, capture=[site], stop=True) as cache:
        model(*args, **kwargs)
    value = cache[site].double().cpu()
    if value.ndim < 2:
        value = value.reshape(-1, 1)
    # Everything between the batch and the units counts as time.
    return value.reshape(value.shape[0], -1, value.shape[-1]).numpy()


def _array(value: Any) -> NDArray[np.generic]:
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)


def _per_row(name: str, array: NDArray[np.generic], n_rows: int) -> NDArray[np.generic]:
    if array.shape not in {(n_rows,), (n_rows, 1)}:
        raise ValueError(
            f"the variable '{name}' needs one value for each of {n_rows} rows, got shape "
            f'{array.shape}; values per time step need pool="none"'
        )
    return array.reshape(n_rows)


def _per_step(
    name: str, array: NDArray[np.generic], n_rows: int, n_steps: int
) -> NDArray[np.generic]:
    if array.shape in {(n_rows, n_steps), (n_rows, n_steps, 1)}:
        return array.reshape(n_rows * n_steps)
    return np.repeat(_per_row(name, array, n_rows), n_steps)
