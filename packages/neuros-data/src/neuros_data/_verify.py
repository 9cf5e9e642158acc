"""The proof that a split does not leak: five checks, each able to fail."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from neuros_data._assign import duplicates
from neuros_data._files import StoreFiles, shorten
from neuros_data._parts import Interval, sample_range
from neuros_data.errors import LeakageError
from neuros_data.normalize import Normalizer

_EPS = 1e-9
# Fewer values than this can coincide by chance in coarsely quantised recordings.
_HASHED_VALUES = 64


class Check(NamedTuple):
    """One question put to a split and its answer."""

    name: str
    detail: str
    ok: bool = True


@dataclass(frozen=True)
class SplitReport:
    """What `Split.verify` found.

    Attributes:
        checks: One entry per check: name, whether it holds, and what was seen.

    Examples:
        >>> print(SplitReport((Check("groups", "3 groups, none shared"),)))
        ok    groups: 3 groups, none shared
    """

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(check.ok for check in self.checks)

    def __str__(self) -> str:
        return "\n".join(
            f"{'ok   ' if c.ok else 'LEAK '} {c.name}: {c.detail}" for c in self.checks
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {"ok": self.ok, "checks": [check._asdict() for check in self.checks]}


@runtime_checkable
class SplitLike(Protocol):
    """The fields of a split that the proof reads."""

    @property
    def by(self) -> str: ...
    @property
    def parts(self) -> Mapping[str, Mapping[str, Sequence[Interval]]]: ...
    @property
    def groups(self) -> Mapping[str, Sequence[str]]: ...
    @property
    def guard(self) -> float: ...
    @property
    def window(self) -> float | None: ...
    @property
    def normalizer(self) -> Normalizer | None: ...


def verify_split(split: SplitLike, files: StoreFiles, *, strict: bool) -> SplitReport:
    """Run every check against the store as it is now."""
    held = sorted({r for part in split.parts.values() for r in part})
    for recording_id in held:
        files.require(recording_id)
    report = SplitReport(
        (
            _groups(split),
            _stretches(split),
            _contents(split, duplicates(files, held)),
            _windows(split, files),
            _statistics(split),
        )
    )
    if strict and not report.ok:
        raise LeakageError(f"this split leaks:\n{report}")
    return report


def _groups(split: SplitLike) -> Check:
    if split.by in ("time", "trial"):
        return Check("groups", f"by {split.by}: recordings are shared, their stretches not")
    shared = [
        name
        for name, members in split.groups.items()
        if sum(not set(members).isdisjoint(part) for part in split.parts.values()) > 1
    ]
    n = len(split.groups)
    if shared:
        return Check("groups", f"in several parts: {shorten(shared)}", ok=False)
    return Check("groups", f"{n} groups by {split.by}, none in two parts")


def _stretches(split: SplitLike) -> Check:
    for recording_id in sorted({r for part in split.parts.values() for r in part}):
        fault = _too_close(split, (recording_id,))
        if fault:
            return Check("stretches", fault, ok=False)
    return Check("stretches", f"disjoint, at least {split.guard:g} s apart")


def _too_close(split: SplitLike, recordings: Sequence[str]) -> str:
    """First pair of stretches of different parts that overlap or are nearer than the guard."""
    found = sorted(
        (*stretch, part, r)
        for part, held in split.parts.items()
        for r in recordings
        for stretch in held.get(r, ())
    )
    latest: dict[str, tuple[float, str]] = {}
    for start, stop, part, r in found:
        for other, (end, other_r) in latest.items():
            if other != part and start < end + split.guard - _EPS:
                return (
                    f"{other} of {other_r} ends at {end:g} s, {part} of {r} starts at {start:g} s"
                )
        latest[part] = max(latest.get(part, (0.0, "")), (stop, r))
    return ""


def _contents(split: SplitLike, same: Sequence[tuple[str, ...]]) -> Check:
    for names in same:
        fault = _too_close(split, names)
        if fault:
            return Check("contents", f"{shorten(names)} hold the same samples; {fault}", ok=False)
    detail = "; ".join(shorten(names) for names in same) or "none"
    return Check("contents", f"recordings with equal samples kept together: {detail}")


def _windows(split: SplitLike, files: StoreFiles) -> Check:
    owner: dict[bytes, tuple[str, str]] = {}
    n = 0
    for part, recording_id, digest in _digests(split, files):
        n += 1
        other, where = owner.setdefault(digest, (part, recording_id))
        if other != part:
            return Check(
                "windows", f"{other} ({where}) and {part} ({recording_id}) share a window", ok=False
            )
    return Check("windows", f"{n} signal windows hashed, none in two parts")


def _digests(split: SplitLike, files: StoreFiles) -> Iterator[tuple[str, str, bytes]]:
    for part, held in split.parts.items():
        for recording_id, stretches in held.items():
            for modality in files.meta(recording_id)["modalities"].values():
                if modality["kind"] == "signal":
                    for digest in _hashed(files, recording_id, modality, stretches, split.window):
                        yield part, recording_id, digest


def _hashed(
    files: StoreFiles,
    recording_id: str,
    modality: Mapping[str, Any],
    stretches: Sequence[Interval],
    window: float | None,
) -> Iterator[bytes]:
    """Hashes of the windows on the recording's own grid, so that equal times meet equal cuts."""
    data = files.array(recording_id, modality["arrays"]["data"])
    rate = modality["rate"] or len(data) / max(modality["stop"], _EPS)
    n = max(round((window or 1.0) * rate), -(-_HASHED_VALUES // max(data.shape[1], 1)))
    for stretch in stretches:
        low, high = sample_range(modality, stretch, lambda e: files.array(recording_id, e))
        for i in range(-(-low // n) * n, high - n + 1, n):
            cut = data[i : i + n]
            if (cut != cut[0]).any():
                yield hashlib.blake2b(cut.tobytes(), digest_size=16).digest()


def _statistics(split: SplitLike) -> Check:
    if split.normalizer is None:
        return Check("statistics", "no normaliser saved with the split")
    fitted = split.normalizer.fitted_on
    train = split.parts["train"]
    outside = sorted(
        r
        for r, stretches in fitted["intervals"].items()
        if any(not _inside(stretch, train.get(r, ())) for stretch in stretches)
    )
    if outside:
        return Check("statistics", f"fitted outside train on {shorten(outside)}", ok=False)
    detail = f"fitted inside train on {len(fitted['intervals'])} recordings"
    if (seconds := split.normalizer.baseline) is not None:
        detail += f"; others by their own first {seconds:g} s"
    return Check("statistics", detail)


def _inside(stretch: Interval, allowed: Sequence[Interval]) -> bool:
    return any(a - _EPS <= stretch[0] and stretch[1] <= b + _EPS for a, b in allowed)
