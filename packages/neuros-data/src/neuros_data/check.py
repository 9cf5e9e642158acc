"""Everything that can be wrong with a store, found by reading all of it."""

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_core import Recording
from neuros_data._assign import duplicates
from neuros_data._files import StoreFiles
from neuros_data.format import open_array
from neuros_data.store import Store

__all__ = ["Finding", "StoreReport", "check_store", "label_position_share"]

_BLOCK = 1 << 20
_ROWS = 65_536
_CLASSES = 50


class Finding(NamedTuple):
    """Something found in a store.

    Attributes:
        kind: `"checksum"`, `"schema"`, `"values"`, `"split"`, `"partial"`, `"duplicate"` or
            `"label"`.
        where: The file, recording or split it concerns.
        message: What is wrong.

    Examples:
        >>> Finding("checksum", "a.npy", "changed").where
        'a.npy'
    """

    kind: str
    where: str
    message: str


@dataclass(frozen=True)
class StoreReport:
    """What `check_store` found.

    Attributes:
        recordings: How many recordings were read.
        faults: What makes the store unusable or unsafe.
        warnings: What a user of the data should know.

    Examples:
        >>> StoreReport(1, (), ()).ok
        True
    """

    recordings: int
    faults: tuple[Finding, ...]
    warnings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no fault; warnings do not count."""
        return not self.faults

    def __str__(self) -> str:
        lines = [f"fault   {f.kind}: {f.where}: {f.message}" for f in self.faults]
        lines += [f"warning {f.kind}: {f.where}: {f.message}" for f in self.warnings]
        lines.append(
            f"{self.recordings} recordings: {len(self.faults)} faults, "
            f"{len(self.warnings)} warnings"
        )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "ok": self.ok,
            "recordings": self.recordings,
            "faults": [f._asdict() for f in self.faults],
            "warnings": [f._asdict() for f in self.warnings],
        }


def check_store(store: Store, *, fix: bool = False) -> StoreReport:
    """Read every byte of a store and look for faults.

    Faults: a checksum, dtype, shape or clock that does not fit its metadata, values that are not
    finite and not marked invalid, a split that leaks, a half-written recording. Warnings:
    recordings with the same samples, samples marked invalid, and labels that sit at one end of
    their recording, so that time alone predicts them.

    Args:
        store: The store.
        fix: True removes half-written recordings.

    Returns:
        Faults and warnings.

    Examples:
        >>> import neuros_data
        >>> print(check_store(neuros_data.load_sample("emg")))
        1 recordings: 0 faults, 0 warnings
    """
    files = store.files
    faults = list(_partials(files, fix=fix))
    warnings: list[Finding] = []
    sound: list[str] = []
    for recording_id in files.ids:
        found = list(_arrays(files, recording_id)) or list(_values(store, recording_id))
        faults += found
        if not found:
            sound.append(recording_id)
            warnings += _labels(store, recording_id)
            warnings += _invalid(files, recording_id)
    for names in duplicates(files, sound):
        warnings.append(
            Finding(
                "duplicate", ", ".join(names), "hold the same samples; splits keep them together"
            )
        )
    faults += _splits(store, set(sound))
    return StoreReport(len(files.ids), tuple(faults), tuple(warnings))


def _partials(files: StoreFiles, *, fix: bool) -> Iterator[Finding]:
    for path in files.partials():
        if fix:
            shutil.rmtree(path)
        else:
            yield Finding("partial", path.name, "half-written recording; check --fix removes it")


def _parts(meta: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from meta["modalities"].items()
    yield from meta["behaviour"].items()


def _arrays(files: StoreFiles, recording_id: str) -> Iterator[Finding]:
    folder = files.folder(recording_id)
    try:
        meta = files.meta(recording_id)
        entries = [e for _, part in _parts(meta) for e in part["arrays"].values()]
        entries += meta["provenance_arrays"].values()
        if meta["id"] != recording_id:
            yield Finding("schema", recording_id, f"meta.json names it {meta['id']!r}")
    except (ValueError, KeyError, TypeError) as error:
        yield Finding("schema", recording_id, f"{error}")
        return
    for entry in entries:
        fault = _array_fault(folder, entry)
        if fault is not None:
            yield fault
    stray = {p.name for p in folder.iterdir()} - {e["file"] for e in entries} - {"meta.json"}
    for name in sorted(stray):
        yield Finding("schema", f"{recording_id}/{name}", "not listed in meta.json")


def _array_fault(folder: Path, entry: Mapping[str, Any]) -> Finding | None:
    where = f"{folder.name}/{entry['file']}"
    try:
        open_array(folder, entry)
    except ValueError as error:
        return Finding("schema", where, f"{error}")
    digest = hashlib.sha256()
    with (folder / entry["file"]).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != entry["sha256"]:
        return Finding(
            "checksum", where, f"sha256 {digest.hexdigest()}, expected {entry['sha256']}"
        )
    return None


def _values(store: Store, recording_id: str) -> Iterator[Finding]:
    """Rebuild the recording, which validates clocks and ids, then look at every float."""
    try:
        store.recordings[recording_id]
    except (ValueError, KeyError) as error:
        yield Finding("schema", recording_id, f"{error}")
        return
    files = store.files
    for name, part in _parts(files.meta(recording_id)):
        if part["kind"] == "signal":
            bad = _unmarked(files, recording_id, part)
            if bad:
                yield Finding(
                    "values", f"{recording_id}/{name}", f"{bad} samples not finite and not marked"
                )


def _unmarked(files: StoreFiles, recording_id: str, part: Mapping[str, Any]) -> int:
    data = files.array(recording_id, part["arrays"]["data"])
    if data.dtype.kind != "f":
        return 0
    valid = part["arrays"].get("valid")
    flags = None if valid is None else files.array(recording_id, valid)
    bad = 0
    for i in range(0, len(data), _ROWS):
        unusable = ~np.isfinite(data[i : i + _ROWS])
        bad += int((unusable if flags is None else unusable & flags[i : i + _ROWS]).sum())
    return bad


def _invalid(files: StoreFiles, recording_id: str) -> Iterator[Finding]:
    for name, part in _parts(files.meta(recording_id)):
        if "valid" in part["arrays"]:
            share = 1 - float(files.array(recording_id, part["arrays"]["valid"]).mean())
            yield Finding("values", f"{recording_id}/{name}", f"{share:.2%} of the samples invalid")


def _labels(store: Store, recording_id: str) -> Iterator[Finding]:
    recording: Recording = store.recordings[recording_id]
    for name, part in recording.behaviour.items():
        for column, labels in getattr(part, "columns", {}).items():
            n, k = len(labels), len(np.unique(labels))
            if not 2 <= k <= min(_CLASSES, n // 2):
                continue
            position = np.argsort(np.argsort(part.start, kind="stable"), kind="stable")
            if told := _confound(np.asarray(labels), position):
                yield Finding(
                    "label",
                    f"{recording_id}/{name}.{column}",
                    f"confounded with time: {told}; slow drift predicts the label",
                )


def _confound(labels: NDArray[Any], position: NDArray[np.intp]) -> str:
    """How position tells the label; empty when it does not.

    Raw event codes mix classes with marks that every trial has, which dilute the share of all
    classes together: so each class is also held against all the rest.
    """
    n, classes = len(labels), np.unique(labels)
    share = label_position_share(labels, position)
    # Labels in random order share (k - 1) / (n - 1) of the variance on average.
    if share > max(0.25, 4 * (len(classes) - 1) / (n - 1)):
        return f"{share:.0%} of the variance of position lies between classes"
    off = {str(c): mean for c in classes if (mean := _far_mean(labels == c, position)) is not None}
    shown = [f"{name} at {mean:.0%}" for name, mean in off.items()]
    return f"mean position of {', '.join(shown)} of all, not near 50%" if shown else ""


def _far_mean(chosen: NDArray[np.bool_], position: NDArray[np.intp]) -> float | None:
    r"""Mean position in (0, 1) of one class if it lies far from that of all; None if it does not.

    Far is half of what a class of this size can reach, and 3.5 standard deviations of a random
    order, $\sqrt{(1 - m / n) / (12 m)}$ for m of n: fewer than one class in 2000 by chance.
    """
    n, m = len(chosen), int(chosen.sum())
    mean = float((position[chosen].mean() + 0.5) / n)
    furthest, deviation = (1 - m / n) / 2, np.sqrt((1 - m / n) / (12 * m))
    return mean if abs(mean - 0.5) > max(furthest / 2, 3.5 * deviation) else None


def label_position_share(labels: NDArray[Any], position: NDArray[Any]) -> float:
    r"""Share of the variance of position that lies between classes (correlation ratio).

    $\eta^2 = \sum_k n_k (\bar p_k - \bar p)^2 / \sum_i (p_i - \bar p)^2$; 0 where every class has
    the same mean position, 1 where position determines the class.

    Args:
        labels: Class of each interval, shape (interval,).
        position: Rank or time of each interval, shape (interval,).

    Returns:
        $\eta^2$; 0 when all positions are equal.

    Examples:
        >>> label_position_share(np.array(["a", "a", "b", "b"]), np.array([0, 3, 1, 2]))
        0.0
    """
    p = position - position.mean()
    total = float((p**2).sum())
    if total == 0:
        return 0.0
    classes = [p[labels == label] for label in np.unique(labels)]
    return float(sum(len(c) * c.mean() ** 2 for c in classes)) / total


def _splits(store: Store, sound: set[str]) -> Iterator[Finding]:
    for name in store.splits:
        try:
            split = store.split(name)
            held = {r for part in split.parts.values() for r in part}
            if not held <= sound:
                missing = ", ".join(sorted(held - sound))
                if store.files.selection is None:
                    yield Finding("split", name, f"refers to unreadable recordings: {missing}")
                continue
            report = split.verify()
        except (ValueError, KeyError, TypeError) as error:
            yield Finding("split", name, f"cannot be read: {error}")
            continue
        if not report.ok:
            leaks = "; ".join(f"{c.name}: {c.detail}" for c in report.checks if not c.ok)
            yield Finding("split", name, f"leaks: {leaks}")
