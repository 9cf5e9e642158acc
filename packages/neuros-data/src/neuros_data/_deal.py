"""Parts from groups: stretches of time, trials, or whole groups, as `make_split` asks for."""

from collections.abc import Collection, Mapping, Sequence

from neuros_data._assign import (
    duplicates,
    group_key,
    join_groups,
    label_of,
    largest_remainder,
    sha_order,
    stratified_order,
)
from neuros_data._blocks import time_blocks, trial_blocks
from neuros_data._files import StoreFiles, shorten
from neuros_data._parts import Interval

Parts = dict[str, dict[str, tuple[Interval, ...]]]


def parts_by_time(
    files: StoreFiles,
    groups: Mapping[str, Sequence[str]],
    shares: Mapping[str, float],
    *,
    guard: float,
    n_blocks: int,
    seed: int,
) -> Parts:
    """Cut every recording; see `time_blocks`."""
    parts: Parts = {name: {} for name in shares}
    for key, members in groups.items():
        # One cut for recordings of the same content: else one's training is another's test.
        duration = min(float(files.meta(r)["duration"]) for r in members)
        cut = time_blocks(duration, shares, guard=guard, n_blocks=n_blocks, key=key, seed=seed)
        for name, stretches in cut.items():
            parts[name].update(dict.fromkeys(members, stretches))
    return parts


def parts_by_trial(
    files: StoreFiles,
    groups: Mapping[str, Sequence[str]],
    shares: Mapping[str, float],
    *,
    guard: float,
    trials: str,
    seed: int,
    stratify: str | None,
) -> Parts:
    """Share out the trials of every recording; see `trial_blocks`."""
    parts: Parts = {name: {} for name in shares}
    for key, members in groups.items():
        for recording_id in members:
            found = trials_of(files, recording_id, trials)
            classes = () if stratify is None else classes_of(files, recording_id, trials, stratify)
            cut = trial_blocks(found, shares, guard=guard, key=key, seed=seed, classes=classes)
            for name, stretches in cut.items():
                parts[name][recording_id] = stretches
    return parts


def trials_of(files: StoreFiles, recording_id: str, name: str) -> list[Interval]:
    """Start and end in seconds of intervals.

    Raises:
        ValueError: When the recording has none of that name; the message lists those it has.
    """
    part = files.meta(recording_id)["behaviour"].get(name)
    if part is None or part["kind"] != "intervals":
        known = sorted(
            n for n, p in files.meta(recording_id)["behaviour"].items() if p["kind"] == "intervals"
        )
        raise ValueError(
            f"recording {recording_id!r} has no intervals {name!r}; it has {shorten(known)}"
        )
    start = files.array(recording_id, part["arrays"]["start"]).tolist()
    end = files.array(recording_id, part["arrays"]["end"]).tolist()
    return list(zip(start, end, strict=True))


def classes_of(files: StoreFiles, recording_id: str, trials: str, column: str) -> list[str]:
    """A column of intervals as text, one class for each.

    Raises:
        ValueError: When there is no such column; the message lists those there are.
    """
    part = files.meta(recording_id)["behaviour"][trials]
    if column not in part["columns"]:
        raise ValueError(
            f"intervals {trials!r} of {recording_id!r} have no column {column!r}; they "
            f"have {shorten(sorted(part['columns']))}"
        )
    values = files.array(recording_id, part["arrays"][part["columns"][column]])
    return [str(value) for value in values.tolist()]


def order_groups(
    files: StoreFiles, groups: Mapping[str, Sequence[str]], seed: int, stratify: str | None
) -> list[str]:
    """Groups in the order in which they are dealt out, strata in proportion if asked for."""
    if stratify is None:
        return sha_order(groups, seed)
    strata = {
        key: " + ".join(sorted({label_of(files.meta(r), stratify) for r in members}))
        for key, members in groups.items()
    }
    return stratified_order(strata, seed)


def group_recordings(
    files: StoreFiles, recordings: Collection[str], by: str
) -> dict[str, tuple[str, ...]]:
    """Groups of recordings; those that share samples are in one."""
    keys = {r: group_key(files.meta(r), by) for r in recordings}
    return join_groups(keys, duplicates(files, recordings))


def group_counts(
    groups: Mapping[str, Sequence[str]], by: str, shares: Mapping[str, float]
) -> dict[str, int]:
    """Groups per part by largest remainder, none of them empty."""
    if len(groups) < len(shares):
        raise ValueError(
            f"a split by {by} into {', '.join(shares)} needs {len(shares)} groups, "
            f"there are {len(groups)}: {shorten(tuple(groups))}"
        )
    counts = largest_remainder(len(groups), list(shares.values()))
    return dict(zip(shares, counts, strict=True))


def deal_groups(
    files: StoreFiles,
    groups: Mapping[str, Sequence[str]],
    order: Sequence[str],
    counts: Mapping[str, int],
) -> Parts:
    """Deal groups out in the order given, whole recordings each."""
    parts: Parts = {}
    at = 0
    for name, count in counts.items():
        members = sorted(r for group in order[at : at + count] for r in groups[group])
        parts[name] = {r: ((0.0, float(files.meta(r)["duration"])),) for r in members}
        at += count
    return parts
