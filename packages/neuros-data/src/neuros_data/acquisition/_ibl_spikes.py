"""Sorted units of an IBL session: spikes as events, and what is known of each unit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuros_core import Events
from neuros_data.acquisition._alf import STRUCTURES, find_file, read_npy, read_table
from neuros_data.acquisition._units import merge_spikes
from neuros_data.preprocessing import UnitQuality

_METRICS = ("cluster_id", "label", "amp_median", "firing_rate")
_MICROMETRE = 1e-6
_Units = tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]


def read_spikes(
    folder: Path, *, sorter: str, revision: str, qc: float | None, duration: float
) -> tuple[Events | None, tuple[str, ...]]:
    """Units of every probe whose quality label is at least `qc`; None keeps all.

    Returns:
        The events, None when there is no spike sorting, and notes.
    """
    probes = sorted(p for p in folder.glob(f"alf/*/{sorter}") if p.is_dir())
    acronyms = _acronyms(folder / STRUCTURES)
    notes: list[str] = []
    times: list[NDArray[Any]] = []
    ids: list[NDArray[Any]] = []
    tables: list[dict[str, NDArray[Any]]] = []
    for probe in probes:
        found, missing = _read_probe(probe, revision, qc)
        if found is None:
            notes.append(f"{probe.parent.name}: {', '.join(missing)} absent; probe left out")
            continue
        spikes, units, table = found
        times.append(spikes)
        ids.append(units + sum(int(t["label"].size) for t in tables))
        tables.append(table)
        notes += [f"{probe.parent.name}: {name} absent" for name in missing]
    if not tables:
        return None, (*notes, f"no spikes of sorter {sorter!r}")
    table = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    table["region"] = np.array([acronyms.get(i, str(i)) for i in table["region_id"].tolist()])
    names = [f"{p}/{c}" for p, c in zip(table["probe"], table["cluster"], strict=True)]
    events = merge_spikes(times, ids, names=names, table=table, duration=duration)
    if not acronyms:
        notes.append(f"{STRUCTURES} absent; regions are named by their number")
    return events, tuple(notes)


def _read_probe(
    folder: Path, revision: str, qc: float | None
) -> tuple[_Units | None, tuple[str, ...]]:
    def path(name: str) -> Path | None:
        return find_file(folder, name, revision=revision)

    def array(name: str) -> NDArray[Any] | None:
        file = path(name)
        return None if file is None else read_npy(file)

    spikes, clusters = array("spikes.times.npy"), array("spikes.clusters.npy")
    metrics_file = path("clusters.metrics.pqt")
    if spikes is None or clusters is None or metrics_file is None:
        parts = {"spikes.times": spikes, "spikes.clusters": clusters, "metrics": metrics_file}
        return None, tuple(name for name, part in parts.items() if part is None)
    if len(spikes) != len(clusters):
        raise ValueError(
            f"{folder} holds {len(spikes)} spike times but {len(clusters)} spike clusters; "
            "remove it so that it is fetched again"
        )
    metrics = read_table(metrics_file, _METRICS)
    if "label" not in metrics:
        raise ValueError(f"{metrics_file} needs the column label")
    label = metrics["label"].astype(np.float64)
    quality = UnitQuality(None, None, None, label=qc)
    good = np.isfinite(label) if qc is None else quality.keep({"label": label})
    kept = metrics.get("cluster_id", np.arange(len(label)))[good].astype(np.int64)
    nan = np.full(len(label), np.nan)
    depths, channels = array("clusters.depths.npy"), array("clusters.channels.npy")
    sites = array("channels.brainLocationIds_ccf_2017.npy")
    table = {
        "probe": np.array([folder.parent.name] * len(kept), dtype=np.str_),
        "cluster": kept,
        "label": label[good],
        "amplitude": metrics.get("amp_median", nan)[good],
        "firing_rate": metrics.get("firing_rate", nan)[good],
        "depth": _depths(depths, kept),
        "region_id": _regions(sites, channels, kept),
    }
    place = np.full(max(int(clusters.max(initial=0)), int(kept.max(initial=0))) + 1, -1, np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    units = place[clusters]
    absent = {"depths": depths is None, "regions": channels is None or sites is None}
    chosen = units >= 0
    found = (spikes[chosen], units[chosen], table)
    return found, tuple(name for name, is_absent in absent.items() if is_absent)


def _pick(values: NDArray[Any], index: NDArray[np.int64], name: str) -> NDArray[Any]:
    if index.max(initial=-1) >= len(values):
        raise ValueError(
            f"{name} has {len(values)} rows, another file names row {index.max()}; the files are "
            "of different editions"
        )
    picked: NDArray[Any] = values[index]
    return picked


def _depths(depths: NDArray[Any] | None, clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Metres along the probe; NaN where they are unknown."""
    if depths is None:
        return np.full(len(clusters), np.nan)
    return _pick(depths, clusters, "clusters.depths").astype(np.float64) * _MICROMETRE


def _regions(
    sites: NDArray[Any] | None, channels: NDArray[Any] | None, clusters: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Atlas number of each unit's channel; 0 where it is unknown."""
    if sites is None or channels is None:
        return np.zeros(len(clusters), dtype=np.int64)
    # Left-hemisphere numbers are negative in the lateralised atlas.
    places = _pick(channels, clusters, "clusters.channels").astype(np.int64)
    return np.abs(_pick(sites, places, "channels.brainLocationIds").astype(np.int64))


def _acronyms(path: Path) -> dict[int, str]:
    """Acronym of every structure of the Allen atlas."""
    if not path.exists():
        return {}
    try:
        branches = list(json.loads(path.read_text(encoding="utf-8"))["msg"])
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a structure graph of the Allen atlas: {error}") from error
    found = {0: "void"}
    while branches:
        branch = branches.pop()
        found[int(branch["id"])] = str(branch["acronym"])
        branches += branch.get("children", ())
    return found
