"""Who goes where: groups joined by identity of content, orders by sha256, parts by ratio."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from neuros_data._files import StoreFiles, shorten, source_of

Meta = dict[str, Any]


def sha_order(names: Iterable[str], seed: int) -> list[str]:
    """Names in an order that depends on the names and the seed alone, on every platform."""
    return sorted(names, key=lambda n: hashlib.sha256(f"{seed}:{n}".encode()).digest())


def stratified_order(strata: Mapping[str, str], seed: int) -> list[str]:
    """Names in an order of which every stretch holds each stratum in proportion.

    The members of a stratum, in an order by sha256, stand at even distances along the whole.

    Args:
        strata: Name -> its stratum.
        seed: Seed of the order.
    """
    order = sha_order(strata, seed)
    members: dict[str, list[str]] = {}
    for name in order:
        members.setdefault(strata[name], []).append(name)
    place = {
        name: (i + 0.5) / len(names) for names in members.values() for i, name in enumerate(names)
    }
    # Sorting is stable: strata of one size take turns in the order by sha256.
    return sorted(order, key=place.__getitem__)


def largest_remainder(n: int, ratios: Sequence[float]) -> list[int]:
    """Share n items by ratio: floors first, then one each to the largest remainders; none empty."""
    quotas = [n * r / sum(ratios) for r in ratios]
    counts = [int(q + 1e-9) for q in quotas]
    by_remainder = sorted(range(len(ratios)), key=lambda i: counts[i] - quotas[i])
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    while 0 in counts and max(counts) > 1:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def contents_of(meta: Meta) -> set[str]:
    """Content hashes of a recording's neural data."""
    hashes = (part.get("content") for part in meta["modalities"].values())
    return {h for h in hashes if h}


def duplicates(files: StoreFiles, recordings: Iterable[str]) -> list[tuple[str, ...]]:
    """Sets of recordings that share the samples of a modality, byte for byte."""
    held: dict[str, list[str]] = {}
    for name in recordings:
        for content in contents_of(files.meta(name)):
            held.setdefault(content, []).append(name)
    return sorted({tuple(sorted(names)) for names in held.values() if len(names) > 1})


def group_key(meta: Meta, by: str) -> str:
    """What a recording is grouped by; a session is one of a subject."""
    if by == "subject":
        return str(meta["subject"])
    if by == "session":
        return f"{meta['subject']}/{meta['session']}"
    return source_of(meta) if by == "source" else label_of(meta, by)


def label_of(meta: Meta, name: str) -> str:
    """What a recording says of itself under a name: its species, or a key of its provenance.

    Raises:
        ValueError: When it says nothing.
    """
    if name == "species":
        return str(meta["species"])
    if name not in meta["provenance"]:
        known = sorted(k for k, v in meta["provenance"].items() if isinstance(v, str | int | float))
        raise ValueError(
            f"recording {meta['id']!r} does not say its {name}; its provenance says "
            f"{shorten(['species', *known])}"
        )
    return str(meta["provenance"][name])


def join_groups(
    keys: Mapping[str, str], duplicate_sets: Iterable[Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Group -> recordings; groups that share a duplicate become one, named by the first key."""
    parent = {key: key for key in keys.values()}

    def root(key: str) -> str:
        while parent[key] != key:
            key = parent[key]
        return key

    for first, *others in duplicate_sets:
        for other in others:
            a, b = sorted((root(keys[first]), root(keys[other])))
            parent[b] = a
    groups: dict[str, list[str]] = {}
    for recording_id, key in sorted(keys.items()):
        groups.setdefault(root(key), []).append(recording_id)
    return {name: tuple(members) for name, members in sorted(groups.items())}
