"""Contiguous blocks of time, and trials, shared out between parts with a guard between them."""

import hashlib
from collections.abc import Mapping, Sequence

from neuros_data._assign import largest_remainder, stratified_order
from neuros_data._parts import Interval


def time_blocks(
    duration: float,
    ratios: Mapping[str, float],
    *,
    guard: float,
    n_blocks: int,
    key: str,
    seed: int,
) -> dict[str, tuple[Interval, ...]]:
    """Cut [0, duration) into `n_blocks` times every part, a guard between any two neighbours.

    With one block the parts keep their order, so that testing is later than training. With more,
    each block starts at a part that depends on (seed, key, block) alone.
    """
    names = list(ratios)
    usable = duration - guard * (n_blocks * len(names) - 1)
    if usable <= 0:
        raise ValueError(
            f"recording {key!r} of {duration:g} s cannot hold {n_blocks * len(names)} stretches "
            f"with {guard:g} s of guard between them; lower guard, window or n_blocks, or leave it "
            "out with recordings=..."
        )
    total = sum(ratios.values()) * n_blocks
    parts: dict[str, list[Interval]] = {name: [] for name in names}
    at = 0.0
    for block in range(n_blocks):
        for name in _rotated(names, block, n_blocks, key, seed):
            length = usable * ratios[name] / total
            parts[name].append((round(at, 9), round(min(at + length, duration), 9)))
            at += length + guard
    return {name: tuple(found) for name, found in parts.items()}


def _rotated(names: Sequence[str], block: int, n_blocks: int, key: str, seed: int) -> list[str]:
    if n_blocks == 1:
        return list(names)
    first = hashlib.sha256(f"{seed}:{key}:{block}".encode()).digest()[0] % len(names)
    return [*names[first:], *names[:first]]


def trial_blocks(
    trials: Sequence[Interval],
    ratios: Mapping[str, float],
    *,
    guard: float,
    key: str,
    seed: int,
    classes: Sequence[str] = (),
) -> dict[str, tuple[Interval, ...]]:
    """Share trials out; where two parts are closer than the guard the later trial starts later.

    With the class of each trial, every part has the classes in proportion.
    """
    names = list(ratios)
    if len(trials) < len(names):
        raise ValueError(
            f"recording {key!r} has {len(trials)} trials for {len(names)} parts; a part needs one"
        )
    strata = {f"{key}/{i}": classes[i] if classes else "" for i in range(len(trials))}
    order = stratified_order(strata, seed)
    counts = largest_remainder(len(trials), list(ratios.values()))
    owner: dict[int, str] = {}
    for name, count in zip(names, counts, strict=True):
        for entry in order[len(owner) : len(owner) + count]:
            owner[int(entry.rpartition("/")[2])] = name
    parts: dict[str, list[Interval]] = {name: [] for name in names}
    # End of the latest trial of each part so far: a trial keeps its distance from the others'.
    ends = dict.fromkeys(names, float("-inf"))
    for i in sorted(owner, key=lambda i: trials[i]):
        name = owner[i]
        others = max(end for other, end in ends.items() if other != name)
        start = round(max(trials[i][0], others + guard), 9)
        if start < trials[i][1]:
            parts[name].append((start, trials[i][1]))
            ends[name] = max(ends[name], trials[i][1])
    if empty := [name for name in names if not parts[name]]:
        raise ValueError(
            f"guard {guard:g} s leaves no trial of {key!r} to {empty}; lower it or use by='time'"
        )
    return {name: tuple(found) for name, found in parts.items()}
