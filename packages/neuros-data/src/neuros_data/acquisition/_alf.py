"""Files of an IBL session: which of the server's records are wanted, and where they lie here.

Names follow the ALF convention, `collection/#revision#/object.attribute.extension`; a file without
a revision folder is the first edition.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuros_data._extras import need

if TYPE_CHECKING:
    from neuros_data.transfer import RemoteFile

TRIALS = "_ibl_trials.table.pqt"
WHEEL = ("_ibl_wheel.timestamps.npy", "_ibl_wheel.position.npy")
CAMERAS = ("left", "right")
SESSION_FILES = (
    TRIALS,
    *WHEEL,
    *(f"_ibl_{side}Camera.times.npy" for side in CAMERAS),
    *(f"{side}Camera.ROIMotionEnergy.npy" for side in CAMERAS),
)
PROBE_FILES = (
    "spikes.times.npy",
    "spikes.clusters.npy",
    "clusters.metrics.pqt",
    "clusters.channels.npy",
    "clusters.depths.npy",
    "channels.brainLocationIds_ccf_2017.npy",
)
STRUCTURES = "structures.json"
_REVISION = re.compile(r"#(.+)#")
_MD5 = re.compile(r"[0-9a-f]{32}")


def is_wanted(collection: str, name: str, sorter: str) -> bool:
    """Whether the preparation reads a file."""
    if collection == "alf":
        return name in SESSION_FILES
    parts = collection.split("/")
    return len(parts) == 3 and (parts[0], parts[2]) == ("alf", sorter) and name in PROBE_FILES


def choose_files(
    records: Iterable[Mapping[str, Any]], *, sorter: str, revision: str
) -> "list[RemoteFile]":
    """One edition of every wanted file, sorted by path.

    Args:
        records: Records of the server's `datasets`.
        sorter: Collection of the spike sorting.
        revision: The newest edition up to this one; empty takes what the server calls default.
    """
    editions: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        collection, name = record.get("collection") or "", record["name"]
        late = revision and (record.get("revision") or "") > revision
        if is_wanted(collection, name, sorter) and _addresses(record) and not late:
            editions.setdefault((collection, name), []).append(record)
    chosen = [
        max(found, key=lambda r: _rank(r, by_default=not revision)) for found in editions.values()
    ]
    return sorted((_remote(record) for record in chosen), key=lambda f: f.path)


def _rank(record: Mapping[str, Any], *, by_default: bool) -> tuple[bool, str, str]:
    default = by_default and bool(record.get("default_dataset"))
    return default, record.get("revision") or "", record["url"]


def _addresses(record: Mapping[str, Any]) -> list[str]:
    copies = record.get("file_records") or ()
    return sorted({r["data_url"] for r in copies if r["exists"] and r["data_url"]})


def _remote(record: Mapping[str, Any]) -> "RemoteFile":
    from neuros_data.transfer import RemoteFile

    address, *mirrors = _addresses(record)
    revision = record.get("revision")
    folders = [record["collection"], *([f"#{revision}#"] if revision else [])]
    size = record.get("file_size")
    return RemoteFile(
        address,
        "/".join((*folders, record["name"])),
        size=None if size is None else int(size),
        mirrors=tuple(mirrors),
        md5=_md5(record),
    )


def _md5(record: Mapping[str, Any]) -> str | None:
    """The record's `hash`; empty for files that the server has not summed yet."""
    text = str(record.get("hash") or "").lower()
    return text if _MD5.fullmatch(text) else None


def find_file(folder: Path, name: str, *, revision: str) -> Path | None:
    """The newest edition of a file in a collection's folder, None where there is none."""
    found = [(_edition(path), path) for path in (*folder.glob(name), *folder.glob(f"#*#/{name}"))]
    usable = sorted((e, p) for e, p in found if not revision or e <= revision)
    return usable[-1][1] if usable else None


def _edition(path: Path) -> str:
    match = _REVISION.fullmatch(path.parent.name)
    return match[1] if match else ""


def read_npy(path: Path) -> NDArray[Any]:
    """An array of numbers.

    Raises:
        ValueError: When the file is not one; the message names it.
    """
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a readable .npy file: {error}") from error
    return array


def read_table(path: Path, columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Those of the columns that a parquet table has.

    Raises:
        ValueError: When the file is not a table; the message names it.
    """
    parquet = need("pyarrow.parquet", "ibl", "reading IBL tables")
    try:
        table = parquet.read_table(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is not a readable parquet table: {error}") from error
    return {name: table.column(name).to_numpy() for name in columns if name in table.column_names}
