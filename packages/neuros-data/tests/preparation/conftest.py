"""An archive of small files, and its source where worker processes find it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))

from made_source import Made, MadeSettings  # found on the path set above

TIMES = {"at", "created", "modified_ns", "retrieved"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Six sessions of three subjects, 80 s each."""
    folder = tmp_path / "archive"
    folder.mkdir()
    for i, name in enumerate(["a-1", "a-2", "b-1", "b-2", "c-1", "c-2"]):
        (folder / f"{name}.txt").write_text(" ".join(str(i + k % 7 + k / 800) for k in range(800)))
    return folder


@pytest.fixture
def made(archive: Path) -> Callable[..., Made]:
    """The source, with settings."""
    return lambda **settings: Made(MadeSettings(archive=str(archive), **settings))


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k not in TIMES}
    return [without_times(v) for v in value] if isinstance(value, list) else value


@pytest.fixture
def contents() -> Callable[[Path], dict[str, Any]]:
    """Bytes of every prepared file and split, and the manifest without time stamps."""

    def read(root: Path) -> dict[str, Any]:
        paths = [*root.glob("recordings/*/*"), *root.glob("splits/*")]
        found: dict[str, Any] = {str(p.relative_to(root)): p.read_bytes() for p in paths}
        found["manifest"] = without_times(json.loads((root / "manifest.json").read_text()))
        return found

    return read
