"""Linear parts by session in the folder of a model, without pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from neuros_neurofm.models.linear_part import LinearPart

__all__ = ["LINEAR_FILE", "choose_linear_part", "read_linear_parts", "write_linear_parts"]

LINEAR_FILE = "linear.safetensors"
_FIELDS = ("center", "scale", "weights", "intercept")


def write_linear_parts(
    folder: str | Path, parts: Mapping[str, LinearPart], about: Mapping[str, Any] | None = None
) -> None:
    """Write linear parts by name into the folder of a model, as safetensors.

    Args:
        folder: Exists.
        parts: Session -> its linear part.
        about: Kept beside them; what JSON can hold.
    """
    tensors = {
        f"{k}/{field}": getattr(part, field).cpu().contiguous()
        for k, part in enumerate(parts.values())
        for field in _FIELDS
    }
    listed = [
        {"name": name, "channels": dict(part.channels), "rate": part.rate}
        for name, part in parts.items()
    ]
    content = json.dumps({"parts": listed, "about": dict(about or {})})
    save_file(tensors, Path(folder) / LINEAR_FILE, metadata={"linear": content})


def read_linear_parts(folder: str | Path) -> tuple[dict[str, LinearPart], dict[str, Any]]:
    """Read what `write_linear_parts` wrote.

    Args:
        folder: Of the model.

    Returns:
        Session -> its linear part, and what was kept beside them; two empty ones where the folder
        has no such file.

    Raises:
        ValueError: The file is damaged.
    """
    path = Path(folder) / LINEAR_FILE
    if not path.is_file():
        return {}, {}
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads(file.metadata()["linear"])
        tensors = load_file(path)
        parts = {
            part["name"]: LinearPart(
                part["channels"], part["rate"], *(tensors[f"{k}/{field}"] for field in _FIELDS)
            )
            for k, part in enumerate(content["parts"])
        }
    except Exception as error:
        # Damage shows in the exception types of safetensors, json and torch.
        raise ValueError(f"the linear parts in {path} cannot be read ({error})") from error
    return parts, content["about"]


def choose_linear_part(parts: Mapping[str, LinearPart], session: str | None) -> LinearPart | None:
    """The linear part of a session, or the only one there is.

    Args:
        parts: Session -> its linear part.
        session: Name; None takes the only part, or none where there are none.

    Returns:
        The part; None for a decoder without any.

    Raises:
        ValueError: An unknown session, or no name where there are several.
    """
    known = list(parts)
    if session is None and len(known) <= 1:
        return parts[known[0]] if known else None
    if session is None or session not in parts:
        raise ValueError(f"session must be among {known}, got {session!r}")
    return parts[session]
