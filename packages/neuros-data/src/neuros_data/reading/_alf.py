"""A folder of ALF files, `object.attribute.npy`: spikes, trials, wheel and other time series.

Rossant et al. 2021; names follow https://docs.internationalbrainlab.org (ONE, ALF convention).
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events, Intervals, Signal
from neuros_data.reading._array_files import load_npy
from neuros_data.reading._arrays import point_process
from neuros_data.reading._assemble import mark_valid
from neuros_data.reading._clock import settle_clock
from neuros_data.reading._draft import Draft, Options, listed

_NAME = re.compile(r"(?:_[a-z0-9]+_)?(?P<object>[A-Za-z0-9]+)\.(?P<attribute>[A-Za-z0-9_]+)(\..*)?")
_SESSION = re.compile(r"/(?P<subject>[^/]+)/(?P<date>\d{4}-\d\d-\d\d)/(?P<number>\d{1,3})(/|$)")
_STAMPS = ("times", "timestamps")
_TABLES = ("clusters", "units", "neurons")
Objects = dict[str, dict[str, NDArray[Any]]]


def is_alf(path: Path) -> bool:
    """Whether a folder holds files named as ALF names them."""
    return any(_NAME.fullmatch(p.stem) for p in path.rglob("*.npy"))


def read_alf(path: Path, options: Options) -> Draft:
    """Read the objects of one folder, or of its only subfolder with spikes."""
    draft = Draft(provenance={"format": "ALF"})
    objects = _objects(_folders(path), draft.notes)
    who = _SESSION.search(path.resolve().as_posix())
    if who is not None:
        draft.subject, draft.session = who["subject"], f"{who['date']}-{int(who['number']):03d}"
    if "spikes" in objects:
        draft.events = _spikes(objects, draft.notes, path)
    for name, attributes in sorted(objects.items()):
        if name != "spikes" and name not in _TABLES:
            _object(name, attributes, draft, options)
    return draft


def _folders(path: Path) -> list[Path]:
    """The folder, and below it the one with spikes where the folder itself has none."""
    if any(path.glob("*spikes.times*.npy")):
        return [path]
    found = sorted({p.parent for p in path.rglob("*spikes.times*.npy")})
    if len(found) > 1:
        raise ValueError(
            f"{path} holds spikes of several probes or sorters; pass one of these folders: "
            f"{listed([str(p.relative_to(path)) for p in found])}"
        )
    above = [path, path / "alf"]
    return [*above, *(p for p in found if p not in above)]


def _objects(folders: list[Path], notes: list[str]) -> Objects:
    objects: Objects = defaultdict(dict)
    for folder in folders:
        for file in sorted(folder.glob("*.*")):
            match = _NAME.fullmatch(file.stem)
            if match is None or file.is_dir():
                continue
            if file.suffix == ".npy":
                objects[match["object"]][match["attribute"]] = load_npy(file)
            else:
                notes.append(f"{file.name} is left out: of ALF files only .npy are read")
    return objects


def _spikes(objects: Objects, notes: list[str], path: Path) -> Events:
    spikes = objects["spikes"]
    times = spikes["times"].astype(np.float64).ravel()
    owners = next((spikes[k].ravel() for k in ("clusters", "units") if k in spikes), None)
    if owners is None:
        owners = np.zeros(len(times), np.int64)
    if len(owners) != len(times):
        raise ValueError(
            f"{path}: spikes.times has {len(times)} values, spikes.clusters {len(owners)}"
        )
    table, n_units = _unit_table(objects, int(owners.max(initial=-1)) + 1)
    events, told = point_process(times, owners, n_units)
    notes += told
    return Events(
        events.times, events.unit_ids, events.n_units, events.units, events.duration, table
    )


def _unit_table(objects: Objects, least: int) -> tuple[dict[str, NDArray[Any]], int]:
    """Columns with one value a unit; a cluster's number is its row."""
    columns = {k: v for name in _TABLES for k, v in objects.get(name, {}).items()}
    rows = [len(v) for v in columns.values() if v.ndim == 1]
    n_units = max([least, *rows])
    return {k: v for k, v in columns.items() if v.shape == (n_units,)}, n_units


def _object(name: str, attributes: dict[str, NDArray[Any]], draft: Draft, options: Options) -> None:
    if "intervals" in attributes:
        draft.behaviour[name] = _intervals(name, attributes, draft.notes)
        return
    stamps = next((attributes[k] for k in _STAMPS if k in attributes), None)
    if stamps is None:
        draft.notes.append(f"{name} is left out: it has neither times nor intervals")
        return
    clock = settle_clock(_filled(stamps), name, repair=options.repair)
    draft.notes += clock.notes
    for attribute, values in sorted(attributes.items()):
        fits = len(values) == len(_filled(stamps)) and values.ndim <= 2
        if attribute in _STAMPS or not fits or values.dtype.kind not in "biuf":
            continue
        table = values.reshape(len(values), -1)
        table = table if clock.keep is None else table[clock.keep]
        key = f"{name}.{attribute}"
        draft.behaviour[key] = Signal(
            table,
            rate=clock.rate,
            times=clock.times,
            start=clock.start,
            channels=(attribute,) if table.shape[1] == 1 else (),
            valid=mark_valid(table, flat=False),
        )


def _filled(stamps: NDArray[Any]) -> NDArray[Any]:
    """Time stamps of every sample, from (sample, time) pairs where the object has those."""
    if stamps.ndim == 2 and stamps.shape[1] == 2:
        samples = np.arange(int(stamps[-1, 0]) + 1)
        between: NDArray[Any] = np.interp(samples, stamps[:, 0], stamps[:, 1])
        return between
    return np.ravel(stamps)


def _intervals(name: str, attributes: dict[str, NDArray[Any]], notes: list[str]) -> Intervals:
    """Trials and the like; one without both ends has no place in time."""
    edges = attributes["intervals"].astype(np.float64)
    whole = np.isfinite(edges).all(axis=1) & (edges[:, 1] >= edges[:, 0])
    if not whole.all():
        notes.append(f"{name}: {int((~whole).sum())} intervals without both ends are left out")
    columns = {
        k: v[whole]
        for k, v in attributes.items()
        if k != "intervals" and v.ndim == 1 and len(v) == len(edges) and v.dtype.kind in "biufU"
    }
    return Intervals(edges[whole, 0], edges[whole, 1], columns)
