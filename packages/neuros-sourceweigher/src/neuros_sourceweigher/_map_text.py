"""What identifies a feature map: its settings, as the name of a space and as JSON."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from neuros_sourceweigher._rows import Standardizer

__all__: list[str] = []


def check_dim(dim: int) -> int:
    """Return the number of inputs of a map."""
    if isinstance(dim, bool) or int(dim) != dim or dim < 1:
        raise ValueError(f"dim needs a whole number >= 1, got {dim!r}")
    return int(dim)


def space_of(kind: str, settings: Mapping[str, Any], standardizer: Standardizer | None) -> str:
    """Name the feature space: equal for maps that are equal, stable across sessions."""
    shown = [f"{key}={value!r}" for key, value in settings.items()]
    if standardizer is not None:
        text = json.dumps(standardizer.to_dict())
        shown.append(f"standardizer={hashlib.sha256(text.encode()).hexdigest()[:16]}")
    return f"{kind}({', '.join(shown)})"


def write_map(kind: str, settings: Mapping[str, Any], standardizer: Standardizer | None) -> str:
    """Return the settings as JSON from which every float comes back bit for bit."""
    fitted = None if standardizer is None else standardizer.to_dict()
    return json.dumps({"schema": 1, "map": kind, **settings, "standardizer": fitted})


def read_map(kind: str, text: str | bytes) -> tuple[dict[str, Any], Standardizer | None]:
    """Return settings and standardiser of a map that `write_map` wrote."""
    values = json.loads(text)
    if not isinstance(values, dict) or values.pop("map", None) != kind:
        raise ValueError(f"{kind}.from_json needs the text of a {kind}, got another")
    schema = values.pop("schema", None)
    if schema != 1:
        raise ValueError(
            f"{kind} needs schema 1, got {schema!r}; a newer neuros-sourceweigher reads newer ones"
        )
    return values, Standardizer.from_dict(values.pop("standardizer"))
