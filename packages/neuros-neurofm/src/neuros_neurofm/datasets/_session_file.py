"""One `.npz` file of a session, read and checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Modality, Species

__all__: list[str] = []

_NAMES = tuple(str(m) for m in Modality)
_KNOWN = {
    *_NAMES,
    *(f"rate_{name}" for name in (*_NAMES, "behavior")),
    *(f"units_{name}" for name in _NAMES),
    "behavior",
    "species",
}
_UNKNOWN_SPECIES = -100


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file, without running code from it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, no `.npz`, or has arrays with other names.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no session file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:
        # A damaged archive fails in half a dozen exception types.
        raise ValueError(
            f"the session {path} is damaged or no .npz of plain arrays ({error}); write it anew "
            "with numpy.savez"
        ) from error
    unknown = sorted(set(arrays) - _KNOWN)
    if unknown or not set(arrays) & set(_NAMES):
        raise ValueError(
            f"the session {path} has arrays {sorted(arrays)}; it needs at least one of "
            f"{', '.join(_NAMES)} and beside these only behavior, rate_*, units_* and species"
        )
    return arrays


def read_signals(path: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The modalities in their fixed order, (time, channel)."""
    signals = {}
    for name in _NAMES:
        if name not in arrays:
            continue
        x = arrays[name]
        if x.ndim != 2 or not x.size or x.dtype.kind not in "biuf":
            raise ValueError(
                f"{name} of {path} must be numbers (time, channel) with at least one of each, "
                f"got {x.dtype} of shape {x.shape}"
            )
        values = x.astype(np.float32)
        if np.isinf(values).any() or (name == "spike" and (values < 0).any()):
            raise ValueError(
                f"{name} of {path} must be finite, and spike counts >= 0; mark what is missing by "
                "NaN"
            )
        signals[name] = values
    return signals


def read_rates(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    given: Mapping[str, float],
    signals: Mapping[str, NDArray[np.float32]],
) -> dict[str, float]:
    """Hz per modality: from the file, else as given."""
    rates = {}
    for name in signals:
        stored = arrays.get(f"rate_{name}")
        if stored is None and name not in given:
            raise ValueError(
                f"the session {path} does not say how fast {name} is sampled; add rate_{name} (Hz) "
                f"to it, or give the rate in sampling_rates"
            )
        rates[name] = _positive(path, f"rate_{name}", given[name] if stored is None else stored)
    return rates


def read_units(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    signals: Mapping[str, NDArray[np.float32]],
) -> dict[str, tuple[str, ...]]:
    """Channel ids of the modalities that have them."""
    units = {}
    for name, x in signals.items():
        if f"units_{name}" not in arrays:
            continue
        ids = tuple(str(unit) for unit in arrays[f"units_{name}"].ravel())
        if len(ids) != x.shape[1] or len(set(ids)) != len(ids):
            raise ValueError(
                f"units_{name} of {path} must be {x.shape[1]} different ids, one per channel, "
                f"got {len(ids)}, {len(set(ids))} of them different"
            )
        units[name] = ids
    return units


def read_behavior(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    signals: Mapping[str, NDArray[np.float32]],
    rates: Mapping[str, float],
) -> tuple[NDArray[Any] | None, float]:
    """The behaviour, (time, dim) floats or (time,) labels, and its rate in Hz."""
    if "behavior" not in arrays:
        return None, 0.0
    raw = arrays["behavior"]
    if raw.dtype.kind in "iub" and raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    labelled = raw.dtype.kind in "iub" and raw.ndim == 1
    if not raw.size or raw.ndim not in (1, 2) or raw.dtype.kind not in "biuf":
        raise ValueError(
            f"behavior of {path} must be numbers (time, dim), or integer labels (time,), got "
            f"{raw.dtype} of shape {raw.shape}"
        )
    values = raw.astype(np.int64) if labelled else raw.astype(np.float32).reshape(len(raw), -1)
    if not labelled and np.isinf(values).any():
        raise ValueError(f"behavior of {path} must be finite; mark what is missing by NaN")
    if "rate_behavior" in arrays:
        return values, _positive(path, "rate_behavior", arrays["rate_behavior"])
    for name, x in signals.items():
        if len(x) == len(values):
            return values, rates[name]
    raise ValueError(
        f"behavior of {path} has {len(values)} samples and no modality has as many; add "
        "rate_behavior (Hz) to the file"
    )


def read_species(path: Path, arrays: Mapping[str, NDArray[Any]]) -> int:
    """The number of the species; -100 where the file does not say."""
    if "species" not in arrays:
        return _UNKNOWN_SPECIES
    value = arrays["species"]
    if value.size == 1 and value.dtype.kind in "iu" and value.item() >= 0:
        return int(value.item())
    if value.size == 1 and str(value.item()) in list(Species):
        return Species(str(value.item())).id
    raise ValueError(
        f"species of {path} must be a number >= 0 or one of {', '.join(Species)}, got {value}"
    )


def _positive(path: Path, name: str, value: Any) -> float:
    array = np.asarray(value)
    number = float(array.item()) if array.size == 1 and array.dtype.kind in "iuf" else np.nan
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{name} of {path} must be one number > 0 in Hz, got {value}")
    return number
