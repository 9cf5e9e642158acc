"""Recordings as groups of a zarr store, integers as they are stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuros_data._extras import need
from neuros_data.store import Store

# Samples per chunk along time; a chunk holds all channels.
_CHUNK = 16_384


def export_zarr(store: Store, folder: Path, recordings: Sequence[str]) -> list[Path]:
    """Write one group per recording, one group per part in it, one array per array of the part.

    Attributes of the part say what its `meta.json` says: rate, unit, channels, scale and offset.
    """
    zarr = need("zarr", "zarr", "exporting to zarr")
    root = zarr.open_group(str(folder), mode="a", zarr_format=3)
    root.attrs.update(
        {"source": store.manifest.get("source", ""), "licence": store.manifest.get("licence", "")}
    )
    for name in recordings:
        meta = store.files.meta(name)
        group = root.create_group(name)
        group.attrs.update(
            {key: meta[key] for key in ("subject", "session", "species", "duration")}
        )
        for kind in ("modalities", "behaviour"):
            for part_name, part in meta[kind].items():
                _write_part(store, name, group.create_group(f"{kind}/{part_name}"), part)
    return [folder / name for name in recordings]


def _write_part(store: Store, name: str, group: Any, part: dict[str, Any]) -> None:
    group.attrs.update({key: value for key, value in part.items() if key != "arrays"})
    for key, entry in part["arrays"].items():
        values = np.asarray(store.files.array(name, entry))
        if values.dtype.kind in "US":
            # Texts have no stable zarr 3 type: they go into the attributes.
            group.attrs[key] = values.tolist()
        elif values.size:
            chunks = (min(_CHUNK, len(values)), *values.shape[1:])
            group.create_array(key, data=values, chunks=chunks)
        else:
            group.create_array(key, shape=values.shape, dtype=values.dtype)
