"""Results of analyses as plain values, as files and as a table."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from neuros_core import RunManifest

__all__ = ["plain", "scalars", "write_record"]


def plain(value: Any, where: str) -> Any:
    """Turn what an analysis returned into numbers, strings, lists and dicts.

    Raises:
        TypeError: When something in it is none of these and cannot become one.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    members = _named_members(value)
    if members is not None:
        return {str(name): plain(part, where) for name, part in members.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part, where) for part in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        f"{where} returned a {type(value).__name__}; a result is made of numbers, strings, "
        "tensors, arrays, lists and mappings"
    )


def scalars(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """Yield every single number of a plain value with its path, `"site/mean"`."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from scalars(part, (*path, name))
    elif isinstance(value, (bool, int, float)):
        yield "/".join(path), float(value)


def write_record(folder: Path, record: Mapping[str, Any], manifest: RunManifest) -> Path:
    """Write one evaluation; a reader never sees half of it.

    NaN and the infinities, which JSON does not know, are written as the strings that `float` reads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"epoch-{record['epoch']:04d}-step-{record['step']:08d}.json"
    text = json.dumps(_finite({**record, "manifest": manifest.to_dict()}), indent=2)
    # In the same folder, because a rename is atomic only within one file system.
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text + "\n", encoding="utf-8", newline="\n")
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def _named_members(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "_asdict"):
        return dict(value._asdict())
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
