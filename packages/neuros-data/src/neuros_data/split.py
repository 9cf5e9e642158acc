"""Splits without leakage: parts as stretches of recordings, assigned by time, trial or group."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from neuros_core.errors import check_choice
from neuros_data._assign import duplicates, join_groups, largest_remainder, sha_order
from neuros_data._deal import (
    deal_groups,
    group_counts,
    group_recordings,
    order_groups,
    parts_by_time,
    parts_by_trial,
)
from neuros_data._files import HasFiles, StoreFiles
from neuros_data._parts import Interval, parts_from_dict
from neuros_data._verify import SplitReport, verify_split
from neuros_data.format import SCHEMA, check_schema
from neuros_data.normalize import Normalizer

__all__ = ["Split", "SplitReport", "make_folds", "make_split"]

_NAMES = {2: ("train", "test"), 3: ("train", "val", "test")}
_GROUPS = ("session", "subject", "source", "site")
_WAYS = ("time", "trial", *_GROUPS)


@dataclass(frozen=True)
class Split:
    """Parts of a store that share no data, with what is needed to prove it.

    Build one with `make_split`; windows are cut afterwards and lie wholly inside one part.

    Args:
        by: What was assigned: `"time"`, `"trial"`, or a kind of groups such as `"subject"`.
        parts: Part -> recording -> stretches in seconds.
        groups: Group -> its recordings; recordings with the same content are in one group.
        ratios: Part -> the share asked for.
        guard: Seconds left out between parts of one recording.
        window: Window length the guard was made for, None when it was given in seconds.
        lag: Label lag the guard was made for.
        support: Seconds that preprocessing reaches to either side.
        seed: Seed of the order of groups.
        stratify: What every part has in proportion, None for nothing.
        normalizer: Statistics fitted on this split's training part.
        store: The store it was made for.
    """

    by: str
    parts: Mapping[str, Mapping[str, Sequence[Interval]]]
    groups: Mapping[str, Sequence[str]]
    ratios: Mapping[str, float]
    guard: float
    window: float | None = None
    lag: float = 0.0
    support: float = 0.0
    seed: int = 0
    stratify: str | None = None
    normalizer: Normalizer | None = None
    store: HasFiles | None = field(default=None, repr=False, compare=False)

    def part(self, name: str) -> Mapping[str, Sequence[Interval]]:
        """Recording -> stretches in seconds of one part.

        Raises:
            ValueError: When there is no such part.

        Examples:
            >>> import neuros_data
            >>> neuros_data.load_sample().split("time").part("train")["emg_bursts"]
            ((0.0, 15.849),)
        """
        check_choice("part", name, tuple(self.parts))
        return self.parts[name]

    def realised(self) -> dict[str, float]:
        """Share of each part: seconds for time and trials, groups otherwise.

        Examples:
            >>> import neuros_data
            >>> shares = neuros_data.load_sample().split("time").realised()
            >>> {k: round(v, 3) for k, v in shares.items()}
            {'train': 0.6, 'val': 0.15, 'test': 0.25}
        """
        if self.by in ("time", "trial"):
            sizes = {
                name: sum(b - a for stretches in held.values() for a, b in stretches)
                for name, held in self.parts.items()
            }
        else:
            sizes = {
                name: float(sum(not set(held).isdisjoint(m) for m in self.groups.values()))
                for name, held in self.parts.items()
            }
        total = sum(sizes.values())
        return {name: size / total for name, size in sizes.items()}

    def verify(self, *, strict: bool = False) -> SplitReport:
        """Prove that no part knows another: groups, stretches, contents, windows, statistics.

        Args:
            strict: True raises when a check fails.

        Returns:
            One line per check.

        Raises:
            LeakageError: When `strict` and a check fails.
            ValueError: When the split has no store to look at.

        Examples:
            >>> import neuros_data
            >>> neuros_data.load_sample().split("time").verify().ok
            True
        """
        if self.store is None:
            raise ValueError("verify needs the split's store; load the split with Store.split")
        return verify_split(self, self.store.files, strict=strict)

    def with_normalizer(self, normalizer: Normalizer) -> "Split":
        """The same split with fitted statistics, to be saved together.

        Examples:
            >>> import neuros_data
            >>> split = neuros_data.load_sample().split("time")
            >>> fitted = Normalizer.fit(neuros_data.load_sample(), using=split, names=["emg"])
            >>> split.with_normalizer(fitted).normalizer.names
            ('emg',)
        """
        return replace(self, normalizer=normalizer)

    def save(self, store: HasFiles, name: str) -> None:
        """Write the split, with its `verify()` report, into the store as `splits/<name>.json`.

        Raises:
            LeakageError: When the split leaks.

        Examples:
            >>> import tempfile, neuros_data
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     store = neuros_data.copy_sample(folder + "/store")
            ...     make_split(store, by="time", window=0.5, recordings=["emg_bursts"]).save(
            ...         store, "emg")
            ...     store.splits
            ('emg', 'time', 'time_fmri')
        """
        report = verify_split(self, store.files, strict=True)
        store.files.write_split(name, {**self.to_dict(), "report": report.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "schema": ".".join(map(str, SCHEMA)),
            "by": self.by,
            "parts": {
                part: {r: [list(pair) for pair in pairs] for r, pairs in held.items()}
                for part, held in self.parts.items()
            },
            "groups": {name: list(members) for name, members in self.groups.items()},
            "ratios": dict(self.ratios),
            "guard": self.guard,
            "window": self.window,
            "lag": self.lag,
            "support": self.support,
            "seed": self.seed,
            "stratify": self.stratify,
            "normalizer": self.normalizer and self.normalizer.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], store: HasFiles) -> "Split":
        """Rebuild a split from `to_dict`.

        Raises:
            FormatVersionError: When a newer major version wrote it.
        """
        check_schema(content["schema"], store.files.root / "splits")
        saved = content["normalizer"]
        order = [p for p in ("train", "val", "test") if p in content["parts"]]
        parts = parts_from_dict(content)
        return cls(
            by=content["by"],
            parts={name: parts[name] for name in order},
            groups={name: tuple(members) for name, members in content["groups"].items()},
            ratios={name: content["ratios"][name] for name in order},
            guard=content["guard"],
            window=content["window"],
            lag=content["lag"],
            support=content["support"],
            seed=content["seed"],
            stratify=content.get("stratify"),
            normalizer=None if saved is None else Normalizer.from_dict(saved),
            store=store,
        )


def make_split(
    store: HasFiles,
    by: str = "time",
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    guard: float | str = "auto",
    *,
    window: float | None = None,
    lag: float = 0.0,
    support: float | None = None,
    recordings: Collection[str] | None = None,
    n_blocks: int = 1,
    trials: str | None = None,
    stratify: str | None = None,
) -> Split:
    """Divide a store into parts that share no data.

    Args:
        store: The store.
        by: `"time"` cuts every recording into stretches, `"trial"` shares out its trials,
            `"session"`, `"subject"`, `"source"` and `"site"` assign whole groups of recordings; a
            site is the one in the recordings' provenance.
        ratios: Shares of train, val and test, or of train and test: of seconds for time, of
            trials, of groups.
        seed: Orders groups and trials, and the parts within each of several blocks; a split by
            time with one block does not depend on it.
        guard: Seconds left out between parts of one recording; `"auto"` is
            window + 2 support + |lag| for time and 2 support + |lag| for trials.
        window: Length in seconds of the windows to be cut.
        lag: Label lag in seconds of the windows to be cut.
        support: Seconds that preprocessing reaches to either side; by default the largest
            `support_s` in the recordings' provenance.
        recordings: Which recordings; by default all.
        n_blocks: Train-val-test sequences along each recording, for `by="time"`.
        trials: Name of the intervals that are the trials, for `by="trial"`.
        stratify: What every part gets in proportion: a column of the trials, or for groups
            `"species"` or a key of the recordings' provenance.

    Returns:
        The split; `verify` proves it and `save` keeps it.

    Raises:
        ValueError: When there are fewer groups or trials than parts, or a recording is too short.

    Examples:
        >>> import neuros_data
        >>> store = neuros_data.load_sample()
        >>> split = make_split(store, ratios=(0.6, 0.15, 0.25), window=0.64, lag=0.05,
        ...                    recordings=["ecog_lfp_grip"])
        >>> round(split.guard, 6), split.verify().ok
        (0.69, True)
    """
    shares = _shares(ratios)
    _check_request(by, n_blocks, trials, stratify)
    files = store.files
    chosen = files.chosen(recordings)
    if not chosen:
        raise ValueError(f"a split needs recordings, {files.root} has none")
    reach = _support(files, chosen) if support is None else support
    made = partial(
        Split,
        by=by,
        ratios=shares,
        window=window,
        lag=lag,
        support=reach,
        seed=seed,
        stratify=stratify,
        store=store,
    )
    if by not in ("time", "trial"):
        groups = group_recordings(files, chosen, by)
        counts = group_counts(groups, by, shares)
        parts = deal_groups(files, groups, order_groups(files, groups, seed, stratify), counts)
        return made(parts=parts, groups=groups, guard=0.0)
    seconds = _guard(guard, by, window, abs(lag) + 2 * reach)
    groups = join_groups({r: r for r in chosen}, duplicates(files, chosen))
    if by == "time":
        parts = parts_by_time(files, groups, shares, guard=seconds, n_blocks=n_blocks, seed=seed)
    else:
        parts = parts_by_trial(
            files,
            groups,
            shares,
            guard=seconds,
            trials=str(trials),
            seed=seed,
            stratify=stratify,
        )
    return made(parts=parts, groups=groups, guard=seconds)


def make_folds(
    store: HasFiles,
    k: int | None = None,
    by: str = "subject",
    *,
    val: float = 0.1,
    seed: int = 0,
    recordings: Collection[str] | None = None,
) -> list[Split]:
    """Cross-validation over groups: every group is tested exactly once.

    Args:
        store: The store.
        k: Number of folds; None leaves one group out at a time.
        by: `"subject"`, `"session"`, `"source"` or `"site"`.
        val: Share of the groups outside the test fold that validate.
        seed: Orders the groups.
        recordings: Which recordings; by default all.

    Returns:
        One split per fold.

    Raises:
        ValueError: When there are fewer groups than folds, or fewer than three groups.

    Examples:
        >>> import neuros_data
        >>> store = neuros_data.load_sample("fmri")
        >>> tested = [name for fold in make_folds(store, 7) for name in fold.part("test")]
        >>> sorted(tested) == list(store.recordings)
        True
    """
    check_choice("by", by, _GROUPS)
    files = store.files
    groups = group_recordings(files, files.chosen(recordings), by)
    k = len(groups) if k is None else k
    if not 2 <= k <= len(groups) or len(groups) < 3:
        raise ValueError(
            f"{k} folds by {by} need 2 <= k <= groups and three groups, got {len(groups)} groups"
        )
    if not 0 < val < 1:
        raise ValueError(f"val needs a share between 0 and 1, got {val}")
    order = sha_order(groups, seed)
    sizes = largest_remainder(len(order), [1.0] * k)
    folds = []
    for fold, size in enumerate(sizes):
        at = sum(sizes[:fold])
        rest = order[:at] + order[at + size :]
        n_train, n_val = largest_remainder(len(rest), [1 - val, val])
        turned = [*rest, *order[at : at + size]]
        parts = deal_groups(files, groups, turned, {"train": n_train, "val": n_val, "test": size})
        share = 1 - size / len(order)
        ratios = {"train": share * (1 - val), "val": share * val, "test": size / len(order)}
        folds.append(
            Split(
                by=by, parts=parts, groups=groups, ratios=ratios, guard=0.0, seed=seed, store=store
            )
        )
    return folds


def _shares(ratios: Sequence[float]) -> dict[str, float]:
    if len(ratios) not in _NAMES:
        raise ValueError(
            f"ratios need two numbers (train, test) or three (train, val, test), got {len(ratios)}"
        )
    values = np.asarray(ratios, np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"ratios need positive numbers, got {tuple(ratios)}")
    return dict(zip(_NAMES[len(ratios)], (values / values.sum()).tolist(), strict=True))


def _check_request(by: str, n_blocks: int, trials: str | None, stratify: str | None) -> None:
    check_choice("by", by, _WAYS)
    if n_blocks < 1 or (n_blocks > 1 and by != "time"):
        raise ValueError(f"n_blocks needs to be 1, or more with by='time', got {n_blocks}")
    if (trials is None) == (by == "trial"):
        raise ValueError(
            "by='trial' needs trials, the name of the intervals; the other ways take none"
        )
    if stratify is not None and by == "time":
        raise ValueError(
            f"stratify={stratify!r} needs trials or groups to share out; by='time' has none"
        )


def _support(files: StoreFiles, recordings: Collection[str]) -> float:
    found = (files.meta(r)["provenance"].get("support_s", 0.0) for r in recordings)
    return max(float(s) for s in found)


def _guard(guard: float | str, by: str, window: float | None, reach: float) -> float:
    if not isinstance(guard, str):
        if not (np.isfinite(guard) and guard >= 0):
            raise ValueError(f"guard needs 'auto' or seconds >= 0, got {guard}")
        return float(guard)
    check_choice("guard", guard, ("auto",))
    # Trials bound their windows, so only preprocessing and labels reach across.
    if by == "trial":
        return round(reach, 9)
    if window is None:
        raise ValueError("guard='auto' needs window, the length in seconds; or give guard itself")
    return round(window + reach, 9)
