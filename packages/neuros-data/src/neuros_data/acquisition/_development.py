"""The people of the film-watching study, and the keys under which their files lie."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuros_data._extras import need
from neuros_data.acquisition._s3 import fetch_bytes
from neuros_data.acquisition._table import read_rows
from neuros_data.acquisition.source import SessionInfo
from neuros_data.errors import NetworkError

if TYPE_CHECKING:
    from neuros_data.transfer import TransferSettings

_COLUMNS = {
    "AgeGroup": "age_group",
    "Child_Adult": "child_adult",
    "Gender": "gender",
    "Handedness": "handedness",
}
# All of them were scanned in one place.
_SITE = "MIT"


def list_development(
    participants_url: str, key_table: str, transfer: "TransferSettings"
) -> Sequence[SessionInfo]:
    """Those of the table of participants whose files have a key, sorted by id."""
    text = fetch_bytes(participants_url, transfer).decode("utf-8", errors="replace")
    people = {row.get("participant_id", ""): row for row in read_rows(text, "\t")}
    if not any(name.startswith("sub-") for name in people):
        raise NetworkError(f"{participants_url} is not a table of participants")
    keys = {row["participant_id"]: row for row in _keys(key_table)}
    return [_session(people[name], keys[name]) for name in sorted(set(people) & set(keys))]


def _keys(key_table: str) -> Sequence[dict[str, str]]:
    path = Path(key_table) if key_table else _table_of_nilearn()
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"participant_id", "key_r", "key_b"} <= set(rows[0]):
        raise ValueError(f"{path} needs the columns participant_id, key_r and key_b")
    return rows


def _table_of_nilearn() -> Path:
    nilearn = need("nilearn", "fmri", "the list of fMRI files")
    return Path(str(nilearn.__file__)).parent / "datasets" / "data" / "development_fmri.csv"


def _session(person: dict[str, str], key: dict[str, str]) -> SessionInfo:
    name = person["participant_id"]
    meta: dict[str, str | int | float] = {
        "key_volumes": key["key_b"],
        "key_confounds": key["key_r"],
        "site": _SITE,
    }
    meta |= {new: person[old] for old, new in _COLUMNS.items() if person.get(old)}
    if person.get("Age"):
        meta["age"] = float(person["Age"])
    return SessionInfo(name, name, "1", meta)
