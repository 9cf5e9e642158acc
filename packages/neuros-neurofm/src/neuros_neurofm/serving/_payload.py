"""What a request says, as the model takes it, and what the model says, as an answer has it."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from neuros_neurofm.serving._problem import ProblemError

__all__: list[str] = []

_NUMBERS = {int, float, type(None)}


class Samples(NamedTuple):
    """Signals of one request.

    Attributes:
        inputs: Modality -> (batch, time, channel).
        masks: Modality -> False where a sample was null.
        batched: Whether the request had an axis of rows.
    """

    inputs: dict[str, Float[Tensor, "batch time channel"]]
    masks: dict[str, Bool[Tensor, "batch time channel"]]
    batched: bool


def invalid(detail: str) -> ProblemError:
    """A body that is JSON but no request."""
    return ProblemError(422, "invalid", detail)


def read_object(content: object, allowed: Sequence[str]) -> dict[str, Any]:
    """A body that is an object with no other keys than `allowed`.

    Raises:
        ProblemError: 422 for something else.
    """
    if not isinstance(content, dict):
        raise invalid(f"the body must be a JSON object, got {type(content).__name__}")
    unknown = sorted(set(content) - set(allowed))
    if unknown:
        raise invalid(f"unknown keys {unknown}; known are {list(allowed)}")
    return content


def read_samples(content: object, *, device: torch.device) -> Samples:
    """Signals by modality, each (time, channel), or each (batch, time, channel).

    Raises:
        ProblemError: 422 for other shapes and for values that are no finite numbers or null.
    """
    if not isinstance(content, Mapping) or not content:
        raise invalid("inputs must be an object of modalities, such as {'spike': [[0, 1], [2, 0]]}")
    arrays = {name: _array(name, rows) for name, rows in content.items()}
    ranks = {name: x.ndim for name, x in arrays.items()}
    if len(set(ranks.values())) > 1:
        raise invalid(
            f"every modality needs the same axes, (time, channel) or (batch, time, channel); "
            f"got so many: {ranks}"
        )
    inputs, masks = {}, {}
    for name, x in arrays.items():
        values = torch.from_numpy(x).reshape(-1, *x.shape[-2:])
        missing = values.isnan()
        masks[name] = ~missing.to(device)
        inputs[name] = values.masked_fill(missing, 0.0).to(device)
    return Samples(inputs, masks, batched=next(iter(ranks.values())) == 3)


def read_units(content: object) -> dict[str, list[str]] | None:
    """Channel ids by modality.

    Raises:
        ProblemError: 422 for something else.
    """
    if content is None:
        return None
    if not isinstance(content, Mapping) or not all(map(_is_ids, content.values())):
        raise invalid("units must be an object of lists of strings, such as {'spike': ['a', 'b']}")
    return dict(content)


def read_number(name: str, content: object) -> float | None:
    """A finite number, or None.

    Raises:
        ProblemError: 422 for something else.
    """
    if content is None:
        return None
    try:
        value = float(content) if type(content) in _NUMBERS else math.nan  # type: ignore[arg-type]  # the type was just asked
    except OverflowError:
        value = math.nan
    if not math.isfinite(value):
        raise invalid(f"{name} must be a finite number")
    return value


def read_names(name: str, content: object, allowed: Sequence[str]) -> list[str]:
    """Some of the allowed words.

    Raises:
        ProblemError: 422 for something else.
    """
    if not _is_ids(content):
        raise invalid(f"{name} must be a list of strings")
    words = [str(word) for word in content] if isinstance(content, list) else []
    unknown = [word for word in words if word not in allowed]
    if unknown:
        raise invalid(f"{name} must be among {list(allowed)}, got {unknown}")
    return words


def read_name(name: str, content: object) -> str | None:
    """A string, or None.

    Raises:
        ProblemError: 422 for something else.
    """
    if content is None or isinstance(content, str):
        return content
    raise invalid(f"{name} must be a string")


def as_array(value: Tensor, *, batched: bool) -> NDArray[Any]:
    """The numbers of a tensor, with the axes of the request."""
    part = (value if batched else value[0]).detach().cpu()
    # NumPy has no bfloat16.
    return np.asarray((part if part.dtype == torch.float64 else part.float()).numpy())


def _array(name: str, rows: object) -> NDArray[np.float32]:
    x = _as_float32(rows) if isinstance(rows, np.ndarray) else _from_lists(name, rows)
    if x.ndim not in {2, 3} or 0 in x.shape:
        raise invalid(
            f"{name} must be (time, channel) or (batch, time, channel), each at least 1 long, got "
            f"shape {x.shape}"
        )
    if np.isinf(x).any():
        raise invalid(f"{name} must be finite in float32, got numbers beyond 3.4e38")
    return x


def _from_lists(name: str, rows: object) -> NDArray[np.float32]:
    flat: list[Any] = rows if isinstance(rows, list) else [rows]
    depth = 1
    while flat and depth < 3 and all(type(part) is list for part in flat):
        flat, depth = list(chain.from_iterable(flat)), depth + 1
    if not flat or not {type(value) for value in flat} <= _NUMBERS:
        raise invalid(
            f"{name} must be numbers or null (a missing sample) with axes (time, channel) or "
            f"(batch, time, channel), each at least 1 long"
        )
    try:
        return _as_float32(rows)
    except (ValueError, TypeError, OverflowError) as error:
        raise invalid(f"{name} must be rows of equally many numbers of float32") from error


def _as_float32(rows: object) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.array(rows, dtype=np.float32)


def _is_ids(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(word, str) for word in content)
