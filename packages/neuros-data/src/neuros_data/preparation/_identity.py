"""What decides whether a recording must be prepared again: raw files, configuration, code."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.metadata import version
from inspect import getsourcefile
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from neuros_data.acquisition.source import Source
from neuros_data.transfer import FetchedFile, RemoteFile

_PACKAGE = Path(__file__).parents[1]
_STEPS = ("acquisition", "preprocessing", "reading", "format.py", "_recording_io.py")


@dataclass(frozen=True)
class RawFile:
    """A raw file as it was fetched.

    Attributes:
        path: Relative to the folder of its session.
        url: Where it came from.
        sha256: Its checksum.
        size: Its bytes.
        retrieved: When, UTC, ISO 8601.
        modified_ns: Time stamp of the file on disk: as long as it and the size stay, it is not
            read again.
        md5: What it was checked against, where the archive gives no sha256.
    """

    path: str
    url: str
    sha256: str
    size: int
    retrieved: str
    modified_ns: int
    md5: str | None = None

    @classmethod
    def of(cls, file: RemoteFile, got: FetchedFile, path: str) -> "RawFile":
        """Describe what was fetched."""
        stamp = got.path.stat().st_mtime_ns
        return cls(path, file.url, got.sha256, got.size, got.retrieved, stamp, file.md5)

    def identity(self) -> dict[str, Any]:
        """All but the time stamps."""
        return {"path": self.path, "url": self.url, "sha256": self.sha256, "size": self.size}

    def unchanged(self, folder: Path) -> bool:
        """Whether the file on disk is the one described, as far as its stamp tells."""
        try:
            stat = (folder / self.path).stat()
        except FileNotFoundError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.modified_ns)


def config_of(source: Source) -> dict[str, Any]:
    """Settings of a source as JSON can hold them, with the name of their class."""
    settings = source.settings
    return {"class": type(settings).__name__, "settings": _plain(settings)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(v) for v in value), key=str)
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"settings need what JSON can hold, got {type(value).__name__}: {value!r}")


def hash_json(value: object) -> str:
    """Checksum of a value, the same for equal values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def preparation_key(files: Sequence[RawFile], config: Mapping[str, Any], code: str) -> str:
    """What a prepared recording depends on, in one checksum."""
    raw = sorted((file.path, file.sha256) for file in files)
    return hash_json({"files": raw, "config": config, "code": code})


def code_version(source: Source) -> str:
    """Version of the package and checksum of the code that a preparation runs through."""
    own = getsourcefile(type(source))
    return f"{version('neuros-data')}+{_code_hash(own or '')}"


@cache
def _code_hash(own: str) -> str:
    found = [p for name in _STEPS for p in _modules(_PACKAGE / name)]
    digest = hashlib.sha256()
    for path in [*found, *([Path(own)] if own else [])]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _modules(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]
