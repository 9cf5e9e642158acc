"""What a card says that can be counted: holdings, labels, gaps, splits, terms."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from neuros_data._card_citation import to_bibtex
from neuros_data._card_page import Section
from neuros_data.check import StoreReport
from neuros_data.store import Store

_CLASSES = 50
_LISTED = 40


def about(store: Store) -> Iterator[Section]:
    """What it is and how much of it."""
    metas = [store.files.meta(name) for name in store.files.ids]
    hours = sum(meta["duration"] for meta in metas) / 3600
    subjects = {meta["subject"] for meta in metas}
    sessions = {(meta["subject"], meta["session"]) for meta in metas}
    species = ", ".join(sorted({meta["species"] for meta in metas}))
    run = store.manifest.get("run", {})
    rows = [
        ("source", str(store.manifest.get("source") or "not stated")),
        ("recordings", str(len(metas))),
        ("subjects", str(len(subjects))),
        ("sessions", str(len(sessions))),
        ("species", species or "none"),
        ("hours", f"{hours:.3g}"),
        ("created", str(run.get("created") or "not stated")),
        ("content (sha256)", store.content_hash),
    ]
    yield Section("What", table=(("fact", "value"), *rows))


def holdings(store: Store) -> Iterator[Section]:
    """Every recording, and every kind of signal with its clocks."""
    rows = []
    kinds: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for name in store.files.ids:
        meta = store.files.meta(name)
        parts = {**meta["modalities"], **meta["behaviour"]}
        rows.append(
            (
                name,
                meta["subject"],
                meta["session"],
                meta["species"],
                f"{meta['duration']:.1f}",
                ", ".join(meta["modalities"]),
                ", ".join(meta["behaviour"]) or "none",
            )
        )
        for part_name, part in parts.items():
            key = (part_name, *_clock(part))
            kinds.setdefault(key, []).append((_width(part), meta["duration"]))
    header = ("recording", "subject", "session", "species", "seconds", "modalities", "behaviour")
    more = len(rows) - _LISTED
    text = (f"{more} more recordings are not listed.",) if more > 0 else ()
    yield Section("Recordings", text, (header, *rows[:_LISTED]))
    table = [
        (
            *key,
            _span([width for width, _ in found]),
            str(len(found)),
            f"{sum(seconds for _, seconds in found) / 3600:.3g}",
        )
        for key, found in sorted(kinds.items())
    ]
    header = ("part", "kind", "rate (Hz)", "unit", "channels or units", "recordings", "hours")
    yield Section("Signals", table=(header, *table))


def _clock(part: Mapping[str, Any]) -> tuple[str, str, str]:
    if part["kind"] == "signal":
        rate = "irregular" if part["rate"] is None else f"{part['rate']:g}"
        return "signal", rate, str(part["unit"])
    return str(part["kind"]), "", ""


def _width(part: Mapping[str, Any]) -> int:
    return int(part.get("n_units", len(part.get("channels", ()))))


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def labels(store: Store) -> Iterator[Section]:
    """Labelled intervals: classes, and the score of always guessing the most frequent one."""
    counts: dict[str, Counter[str]] = {}
    for name in store.files.ids:
        meta = store.files.meta(name)
        for part_name, part in meta["behaviour"].items():
            if part["kind"] != "intervals":
                continue
            columns = getattr(store.recordings[name].behaviour[part_name], "columns", {})
            for column, values in columns.items():
                tally = counts.setdefault(f"{part_name}.{column}", Counter())
                tally.update(str(value) for value in np.asarray(values).tolist())
    rows = []
    for label, tally in sorted(counts.items()):
        if not 1 <= len(tally) <= _CLASSES:
            continue
        total = sum(tally.values())
        cells = ", ".join(f"{value}: {n}" for value, n in sorted(tally.items()))
        rows.append((label, str(total), cells, f"{max(tally.values()) / total:.3f}"))
    if rows:
        header = ("label", "intervals", "classes", "accuracy of the most frequent class")
        yield Section("Labels", table=(header, *rows))


def missing(store: Store) -> Iterator[Section]:
    """Share of samples marked invalid, and channels without any valid sample."""
    rows = []
    for name in store.files.ids:
        meta = store.files.meta(name)
        for part_name, part in {**meta["modalities"], **meta["behaviour"]}.items():
            if "valid" not in part["arrays"]:
                continue
            valid = store.files.array(name, part["arrays"]["valid"])
            measured = np.asarray(valid.any(axis=0)).tolist()
            dead = [c for c, ok in zip(part["channels"], measured, strict=True) if not ok]
            share = 1 - float(valid.mean())
            rows.append((name, part_name, f"{share:.2%}", ", ".join(dead) or "none"))
    if rows:
        header = ("recording", "part", "invalid samples", "channels without a valid sample")
        yield Section("Missing data", table=(header, *rows))
    else:
        yield Section("Missing data", ("No sample is marked invalid.",))


def exclusions(store: Store) -> Iterator[Section]:
    """Sessions that could not be prepared, and subjects that a source leaves out, with reasons."""
    rows = [*_failed(store), *_left_out(store)]
    if rows:
        yield Section("Excluded sessions", table=(("session", "reason"), *rows))


def _failed(store: Store) -> list[tuple[str, str]]:
    path = store.path / "failures.jsonl"
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    held = set(store.files.ids)
    return [
        (str(entry.get("session", "?")), str(entry.get("error", "?")))
        for entry in found
        if entry.get("session") not in held
    ]


def _left_out(store: Store) -> list[tuple[str, str]]:
    provenance = [store.files.meta(name)["provenance"] for name in store.files.ids]
    found = {
        (str(told.get("source", "")), str(subject))
        for told in provenance
        for subject in told.get("excluded_subjects", ())
    }
    return [
        (f"subject {subject}", f"left out by the settings of the source {source}")
        for source, subject in sorted(found)
    ]


def splits(store: Store) -> Iterator[Section]:
    """Every saved split with its shares and the proof that it does not leak."""
    for name in store.splits:
        split = store.split(name)
        if store.files.selection is not None:
            continue
        shares = split.realised()
        rows = [
            (part, f"{shares[part]:.1%}", str(len(held)), f"{_seconds(held):.1f}")
            for part, held in split.parts.items()
        ]
        guard = f"By {split.by}, seed {split.seed}, guard {split.guard:g} s."
        header = ("part", "share", "recordings", "seconds")
        proof = str(split.verify())
        yield Section(f"Split {name}", (guard,), (header, *rows), code=proof)


def _seconds(held: Mapping[str, Sequence[tuple[float, float]]]) -> float:
    return sum(stop - start for stretches in held.values() for start, stop in stretches)


def duplicates_and_faults(report: StoreReport) -> Iterator[Section]:
    """What reading every byte found."""
    equal = [f.where for f in report.warnings if f.kind == "duplicate"]
    text = [f"Equal samples: {names}. Splits keep them together." for names in equal]
    yield Section("Duplicates", tuple(text) or ("No two recordings hold the same samples.",))
    found = [("fault", *f) for f in report.faults]
    found += [("warning", *f) for f in report.warnings if f.kind != "duplicate"]
    if found:
        header = ("", "kind", "where", "what")
        yield Section("Known faults", table=(header, *found))
    else:
        yield Section("Known faults", ("neuros-data check found none.",))


def terms(store: Store) -> Iterator[Section]:
    """Licence and citation."""
    licences = {str(store.manifest.get("licence") or "")}
    cited: set[str] = set()
    for name in store.files.ids:
        provenance = store.files.meta(name)["provenance"]
        licences.add(str(provenance.get("licence") or ""))
        cited.add(str(provenance.get("citation") or ""))
    stated = sorted(licences - {""}) or ["none stated; ask the authors before you share it"]
    yield Section("Licence", tuple(stated))
    # The manifest's is that of its recordings, in one text.
    if entries := to_bibtex(cited - {""} or {str(store.manifest.get("citation") or "")}):
        yield Section("Citation", code=entries)
