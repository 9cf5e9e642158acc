"""The index of a store: its sites, its finished shards and where in the data each of them ends."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neuros_core import RunManifest
from neuros_mechint.activations._shard import DTYPES, Shard, draft_of

__all__ = ["ShardEntry", "StoreIndex"]

_SCHEMA = 1
_INDEX = "index.json"
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ShardEntry:
    """One finished shard of every site, and the place in the data after its last row.

    Attributes:
        rows: Number of rows.
        checksums: One per site.
        batch: Number of the batch that the next row comes from.
        skip: Rows of that batch that are stored already.
        digest: Digest of the batches before that one.
    """

    rows: int
    checksums: tuple[str, ...]
    batch: int
    skip: int
    digest: str


@dataclass(frozen=True)
class StoreIndex:
    """Contents of `index.json`: the same for the same model and data, however often resumed."""

    sites: tuple[str, ...]
    shard_size: int
    dtype: str | None
    model_hash: str
    widths: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()
    shards: tuple[ShardEntry, ...] = field(default=())
    complete: bool = False
    data_hash: str | None = None

    @property
    def n_rows(self) -> int:
        """Rows of all finished shards together."""
        return sum(shard.rows for shard in self.shards)

    @classmethod
    def read(cls, folder: Path) -> "StoreIndex":
        """Read the index of a folder."""
        path = folder / _INDEX
        if not path.is_file():
            raise FileNotFoundError(f"no activation store at {folder}")
        try:
            fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            schema = int(fields.pop("schema"))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not the index of an activation store: {error}") from error
        if schema > _SCHEMA:
            raise ValueError(
                f"the store at {folder} has schema {schema}, the newest known here is {_SCHEMA}; "
                "upgrade neuros-mechint"
            )
        fields["shards"] = tuple(
            ShardEntry(**(entry | {"checksums": tuple(entry["checksums"])}))
            for entry in fields["shards"]
        )
        return cls(**(fields | {key: tuple(fields[key]) for key in ("sites", "widths", "dtypes")}))

    def write(self, folder: Path) -> None:
        """Exchange the index of a folder; a reader never sees half of it."""
        text = json.dumps({"schema": _SCHEMA, **dataclasses.asdict(self)}, indent=1)
        _replace(folder / _INDEX, text + "\n")

    def write_manifest(self, folder: Path) -> None:
        """Write what made the store beside the index."""
        config = {"sites": self.sites, "shard_size": self.shard_size, "dtype": self.dtype}
        manifest = RunManifest.collect(
            kind="activation-store",
            config=config,
            model_hash=self.model_hash,
            data_hash=self.data_hash,
        )
        _replace(folder / _MANIFEST, manifest.to_json() + "\n")

    @staticmethod
    def read_manifest(folder: Path) -> RunManifest:
        """Read what made the store."""
        return RunManifest.from_dict(json.loads((folder / _MANIFEST).read_text(encoding="utf-8")))

    def open_shards(self, folder: Path) -> dict[str, list[Shard]]:
        """Every shard of every site; no file is touched."""
        return {
            site: [
                Shard(
                    shard_path(folder, number, k), entry.rows, self.widths[k],
                    DTYPES[self.dtypes[k]], entry.checksums[k],
                )
                for number, entry in enumerate(self.shards)
            ]
            for k, site in enumerate(self.sites)
        }  # fmt: skip

    def difference(self, other: "StoreIndex") -> str | None:
        """Name the first setting in which a store differs from the one that is to be collected."""
        for name in ("sites", "shard_size", "dtype", "model_hash"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"{name} {mine!r} instead of {theirs!r}"
        return None


def shard_path(folder: Path, number: int, site: int) -> Path:
    """Path of one shard of one site."""
    return folder / f"shard-{number:05d}.{site}.safetensors"


def _replace(path: Path, text: str) -> None:
    draft = draft_of(path)
    draft.write_text(text, encoding="utf-8", newline="\n")
    draft.replace(path)
