"""What a store keeps of its making: manifest, provenance, failures, accepted terms, raw files."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neuros_core import RunManifest
from neuros_data.acquisition.source import SessionInfo, Source
from neuros_data.errors import LicenceError
from neuros_data.format import read_json, write_json
from neuros_data.preparation._identity import RawFile, hash_json
from neuros_data.preparation._task import Outcome
from neuros_data.store import Store, open_store

_FREE = frozenset(
    {"Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "MIT", "ODC-By-1.0"}
    | {"PDDL-1.0", "", "yours to say"}
)
_PACKAGES = (
    "neuros-core", "neuros-data", "numpy", "scipy", "mne", "nibabel", "nilearn", "h5py", "pynwb"
)  # fmt: skip


def now() -> str:
    """UTC to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def store_at(root: Path) -> Store | None:
    """The store at a folder, None where there is none."""
    return open_store(root) if (root / "manifest.json").exists() else None


def open_or_create(root: Path) -> Store:
    """The store at a folder; a new one where there is none."""
    if (root / "manifest.json").exists():
        return open_store(root)
    # Raw files, the lock and what an interrupted start left may be there already; nothing else.
    ours = {"raw", "manifest.json.lock", "recordings", "splits", ".work"}
    if strange := {p.name for p in root.iterdir()} - ours:
        raise ValueError(
            f"{root} is no store and holds {', '.join(sorted(strange)[:5])}; "
            "choose an empty or absent folder"
        )
    (root / "recordings").mkdir(exist_ok=True)
    (root / "splits").mkdir(exist_ok=True)
    fresh = Store.create(root / ".work" / f"new.{os.getpid()}")
    write_json(root / "manifest.json", fresh.manifest)
    return open_store(root)


class RawLedger:
    """Sessions of a source whose files were fetched into a store, `raw/<source>/sessions.json`."""

    def __init__(self, root: Path, source: str) -> None:
        self.path = root / "raw" / source / "sessions.json"
        content = read_json(self.path) if self.path.exists() else {}
        self.sessions: dict[str, tuple[SessionInfo, tuple[RawFile, ...]]] = {
            name: (
                SessionInfo(name, entry["subject"], entry["session"], entry["meta"]),
                tuple(RawFile(**file) for file in entry["files"]),
            )
            for name, entry in content.items()
        }

    def add(self, info: SessionInfo, files: Sequence[RawFile]) -> None:
        """Note what was fetched for a session."""
        self.sessions[info.id] = (info, tuple(files))

    def save(self) -> None:
        """Write the ledger."""
        content = {
            name: {
                "subject": info.subject,
                "session": info.session,
                "meta": dict(info.meta),
                "files": [asdict(file) for file in files],
            }
            for name, (info, files) in self.sessions.items()
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, content)


def accept_licences(store: Store, sources: Iterable[Source], *, accepted: bool) -> dict[str, Any]:
    """Terms that were accepted, now or in an earlier call.

    Raises:
        LicenceError: When terms are neither accepted now nor earlier.
    """
    asked = check_terms(store, sources, accepted=accepted)
    at = now()
    known = dict(store.manifest.get("accepted", {}))
    return {**known, **{name: {"terms": t, "at": at} for name, t in asked.items()}}


def check_terms(
    store: Store | None, sources: Iterable[Source], *, accepted: bool
) -> dict[str, str]:
    """Source -> terms that are accepted now.

    Raises:
        LicenceError: When terms are neither accepted now nor earlier.
    """
    asked = terms_to_accept(store, sources)
    if asked and not accepted:
        shown = "; ".join(f"{name}: {terms}" for name, terms in asked.items())
        raise LicenceError(
            f"these sources come under terms ({shown}); to accept them pass licence_accept=True, "
            "or --licence-accept on the command line"
        )
    return asked


def terms_to_accept(store: Store | None, sources: Iterable[Source]) -> dict[str, str]:
    """Source -> its terms, for those that need a yes which the store does not record."""
    known = {} if store is None else store.manifest.get("accepted", {})
    return {
        s.name: s.licence
        for s in sources
        if s.licence not in _FREE and known.get(s.name, {}).get("terms") != s.licence
    }


def write_manifest(
    store: Store, *, accepted: Mapping[str, Any], selections: Mapping[str, Any]
) -> Store:
    """Describe the store as it is now, from the recordings themselves and the raw ledgers.

    The same recordings give the same manifest whatever runs they came from, but for the time
    stamps `at`, `created`, `retrieved` and `modified_ns`.
    """
    old = dict(store.manifest)
    fresh = open_store(store.path)
    configs: dict[str, Any] = {}
    sessions: dict[str, Any] = {}
    terms: dict[str, tuple[str, str]] = {}
    ledgers: dict[str, RawLedger] = {}
    for name in fresh.files.ids:
        meta = fresh.files.meta(name)
        made = meta["provenance"].get("preparation")
        if made is None:
            continue
        source = made["source"]
        ledger = ledgers.setdefault(source, RawLedger(store.path, source))
        checksum = hash_json(made["config"])
        configs[checksum] = made["config"]
        terms[source] = (meta["provenance"]["licence"], meta["provenance"]["citation"])
        sessions[name] = {
            "source": source,
            "config": checksum,
            "code": made["code"],
            "files": _dated(made["files"], ledger, name),
            "arrays": _arrays(meta),
            "notes": made["notes"],
        }
    run = RunManifest.collect(kind="store", packages=_PACKAGES).to_dict()
    content = {
        **old,
        "source": ", ".join(sorted(terms)) or old.get("source", ""),
        "licence": "; ".join(sorted({t for t, _ in terms.values()})) or old.get("licence", ""),
        "citation": "; ".join(sorted({c for _, c in terms.values() if c})),
        "run": run,
        "accepted": dict(accepted),
        "selections": {**old.get("selections", {}), **selections},
        "configs": configs,
        "sessions": sessions,
    }
    write_json(store.path / "manifest.json", content)
    return open_store(store.path)


def _dated(files: Sequence[Mapping[str, Any]], ledger: RawLedger, name: str) -> list[Any]:
    _, known = ledger.sessions.get(name, (None, ()))
    when = {(file.path, file.sha256): file.retrieved for file in known}
    return [{**file, "retrieved": when.get((file["path"], file["sha256"]))} for file in files]


def _arrays(meta: Mapping[str, Any]) -> dict[str, str]:
    parts = [*meta["modalities"].values(), *meta["behaviour"].values()]
    entries = [e for part in parts for e in part["arrays"].values()]
    return {e["file"]: e["sha256"] for e in (*entries, *meta["provenance_arrays"].values())}


def note_provenance(root: Path, outcome: Outcome, files: Sequence[RawFile], code: str) -> None:
    """Append one line about a session that was prepared."""
    entry = {
        "session": outcome.id,
        "source": outcome.source,
        "at": now(),
        "code": code,
        "files": [asdict(file) for file in files],
        "notes": list(outcome.notes),
    }
    with (root / "provenance.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, sort_keys=True) + "\n")


def write_failures(root: Path, failed: Sequence[Outcome], prepared: Iterable[str]) -> None:
    """Keep the last failure of each session that has not been prepared since."""
    path = root / "failures.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entries = {entry["session"]: entry for entry in map(json.loads, filter(str.strip, lines))}
    for name in prepared:
        entries.pop(name, None)
    at = now()
    for found in failed:
        entries[found.id] = {
            "session": found.id,
            "source": found.source,
            "kind": found.kind,
            "error": found.error,
            "traceback": found.trace,
            "at": at,
        }
    if not entries:
        path.unlink(missing_ok=True)
        return
    partial = path.with_name(".failures.partial")
    text = "".join(json.dumps(entries[k], sort_keys=True) + "\n" for k in sorted(entries))
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
