"""What stands beside a file of a BIDS data set: who, which task, channels, electrodes, events.

Gorgolewski et al. 2016, doi:10.1038/sdata.2016.44.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from neuros_core import Intervals
from neuros_data.reading._draft import Draft
from neuros_data.reading._kinds import kind_of_type
from neuros_data.reading._nwb import species_of
from neuros_data.reading._tables import column_of, read_table_rows
from neuros_data.reading._units import parse_unit

_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9]+)")
_DEPTH = 5  # file, modality, session, subject, data set


def entities_of(name: str) -> dict[str, str]:
    """Entities of a file name; empty where it is not named as BIDS names files.

    Examples:
        >>> entities_of("sub-01_ses-2_task-rest_eeg.edf")
        {'sub': '01', 'ses': '2', 'task': 'rest'}
    """
    parts = name.split(".", maxsplit=1)[0].split("_")
    found = [_ENTITY.fullmatch(part) for part in parts[:-1]]
    if not parts[0].startswith("sub-") or not all(found):
        return {}
    return {match[1]: match[2] for match in found if match is not None}


def read_sidecar(path: Path) -> dict[str, Any]:
    """Metadata of the JSON files that hold for a file, the most specific last; empty without."""
    entities = entities_of(path.name)
    if not entities:
        return {}
    return _json(path, entities, path.name.split(".", maxsplit=1)[0].rpartition("_")[2])


def add_sidecars(draft: Draft, path: Path, sidecar: dict[str, Any]) -> None:
    """Put what the files beside a BIDS file say into the draft."""
    entities = entities_of(path.name)
    if not entities:
        return
    stem = path.name.split(".", maxsplit=1)[0]
    suffix = stem.rpartition("_")[2]
    draft.subject = entities["sub"]
    draft.session = entities.get("ses", draft.session)
    draft.recording_id = stem.removesuffix(f"_{suffix}")
    draft.provenance |= {k: v for k, v in entities.items() if k in {"task", "run", "acq"}}
    if sidecar:
        draft.provenance["sidecar"] = sidecar
    _channels(draft, path, entities)
    _electrodes(draft, path, entities)
    _events(draft, path, entities)
    _participant(draft, path, entities["sub"])
    # The specification: without a column `species`, participants are human.
    draft.species = draft.species or "human"


def _matching(path: Path, entities: dict[str, str], ending: str) -> list[Path]:
    """Files that hold for this one, the most general first: each entity they name is its own."""
    found = []
    for folder in path.parents[:_DEPTH]:
        for other in folder.glob(f"*{ending}"):
            if other.name == ending:
                named: dict[str, str] = {}
            else:
                named = entities_of(other.name) or _loose(other.name)
            named.pop("space", None)
            if named.items() <= entities.items() and (named or other.name == ending):
                found.append((len(named), other))
        if (folder / "dataset_description.json").exists():
            break
    return [other for _, other in sorted(found)]


def _loose(name: str) -> dict[str, str]:
    """Entities of an inherited file, which need not name a subject: `task-rest_eeg.json`."""
    parts = [_ENTITY.fullmatch(part) for part in name.split(".", maxsplit=1)[0].split("_")[:-1]]
    return {m[1]: m[2] for m in parts if m is not None} if all(parts) else {"": name}


def _json(path: Path, entities: dict[str, str], suffix: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for file in _matching(path, entities, f"{suffix}.json"):
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"{file} is not valid JSON: {error}") from error
        merged |= content
    return merged


def _rows(file: Path) -> list[dict[str, str]]:
    header, rows = read_table_rows(file)
    return [dict(zip(header, row, strict=True)) for row in rows]


def _channels(draft: Draft, path: Path, entities: dict[str, str]) -> None:
    files = _matching(path, entities, "channels.tsv")
    if not files:
        return
    rows = {row["name"]: row for row in _rows(files[-1]) if "name" in row}
    for block in draft.blocks:
        told = [rows.get(name, {}) for name in block.channels]
        block.kinds = [
            kind_of_type(row["type"]) if "type" in row else kind
            for row, kind in zip(told, block.kinds, strict=True)
        ]
        _scale(block, [row.get("units", "") for row in told])
        bad = np.array([row.get("status", "").lower() == "bad" for row in told])
        if bad.any():
            valid = np.ones(block.data.shape, bool) if block.valid is None else block.valid
            valid[:, bad] = False
            block.valid = valid
    named = {name for block in draft.blocks for name in block.channels}
    unknown = sorted(rows.keys() - named)
    if unknown:
        draft.notes.append(f"{files[-1].name} names channels that the file lacks: {unknown}")


def _scale(block: Any, texts: list[str]) -> None:
    """Units of channels whose own header has none."""
    units = list(block.units)
    factors = np.ones(len(units))
    for i, text in enumerate(texts):
        if units[i] == "a.u." and text:
            units[i], factors[i] = parse_unit(text)
    block.units = units
    if (factors != 1).any():
        block.data = block.data * factors
        block.scale = None if block.scale is None else block.scale * factors
        block.offset = None if block.offset is None else block.offset * factors


def _electrodes(draft: Draft, path: Path, entities: dict[str, str]) -> None:
    files = _matching(path, entities, "electrodes.tsv")
    if not files:
        return
    places = {}
    for row in _rows(files[-1]):
        xyz = column_of([row.get(axis, "n/a") for axis in "xyz"])
        if xyz.dtype.kind == "f" and np.isfinite(xyz).all():
            places[row["name"]] = xyz.tolist()
    draft.provenance["electrodes"] = places


def _events(draft: Draft, path: Path, entities: dict[str, str]) -> None:
    files = _matching(path, entities, "events.tsv")
    if not files:
        return
    header, rows = read_table_rows(files[-1])
    if "onset" not in header:
        raise ValueError(f"{files[-1]} has no column 'onset'; it has {header}")
    columns = {name: column_of([row[i] for row in rows]) for i, name in enumerate(header)}
    onset = columns.pop("onset")
    if onset.dtype.kind != "f":
        raise ValueError(f"{files[-1]}: onsets need numbers of seconds, got {str(onset[0])!r}")
    lasting = columns.pop("duration", np.zeros(len(onset)))
    lasting = np.nan_to_num(lasting) if lasting.dtype.kind == "f" else np.zeros(len(onset))
    timed = np.isfinite(onset) & (lasting >= 0)
    draft.behaviour["events"] = Intervals(
        onset[timed], (onset + lasting)[timed], {n: v[timed] for n, v in columns.items()}
    )


def _participant(draft: Draft, path: Path, subject: str) -> None:
    for folder in path.parents[:_DEPTH]:
        table = folder / "participants.tsv"
        if table.exists():
            for row in _rows(table):
                if row.get("participant_id") == f"sub-{subject}":
                    draft.provenance["participant"] = row
                    draft.species = species_of(row.get("species", "")) or draft.species
            return
