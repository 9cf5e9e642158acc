"""Splits share nothing, by property, by sentinel and by their own proof."""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_core import Intervals, Recording, Signal, Species
from neuros_data import (
    FormatVersionError,
    LeakageError,
    Normalizer,
    Split,
    Store,
    make_folds,
    make_split,
)
from neuros_data._assign import join_groups, largest_remainder, sha_order, stratified_order
from neuros_data._blocks import time_blocks, trial_blocks

RATIOS = st.tuples(*[st.floats(0.05, 1.0)] * 3)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    st.floats(5.0, 500.0),
    RATIOS,
    st.floats(0.0, 1.0),
    st.integers(1, 4),
    st.integers(0, 99),
    st.sampled_from([10.0, 33.3, 100.0]),
)
def test_every_sample_is_in_one_part_or_in_a_guard(
    duration: float,
    ratios: tuple[float, float, float],
    share: float,
    n_blocks: int,
    seed: int,
    rate: float,
) -> None:
    shares = dict(zip(("train", "val", "test"), ratios, strict=True))
    guard = share * duration / (3 * n_blocks) / 1.01
    parts = time_blocks(duration, shares, guard=guard, n_blocks=n_blocks, key="r", seed=seed)
    found = sorted((a, b, name) for name, held in parts.items() for a, b in held)
    sizes = {name: sum(b - a for a, b in held) for name, held in parts.items()}
    for (_, stop, _), (start, _, _) in itertools.pairwise(found):
        assert start - stop == pytest.approx(guard, abs=1e-8)
    assert found[0][0] == 0.0
    assert found[-1][1] == pytest.approx(duration, abs=1e-8)
    for name, ratio in shares.items():
        assert sizes[name] / sum(sizes.values()) == pytest.approx(ratio / sum(ratios), abs=1e-4)
    times = np.arange(int(duration * rate)) / rate
    owners = sum(((times >= a) & (times < b)).astype(int) for a, b, _ in found)
    assert owners.max() <= 1
    if guard == 0:
        assert (owners[times < duration - 1e-6] == 1).all()


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.integers(3, 200), RATIOS)
def test_counts_follow_ratios_within_one(n: int, ratios: tuple[float, float, float]) -> None:
    counts = largest_remainder(n, ratios)
    assert sum(counts) == n
    assert min(counts) >= 1
    quotas = [n * r / sum(ratios) for r in ratios]
    if min(quotas) >= 1:
        assert all(abs(c - q) < 1 + 1e-9 for c, q in zip(counts, quotas, strict=True))


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.permutations([f"s{i}" for i in range(8)]), st.integers(0, 5))
def test_the_order_of_groups_does_not_depend_on_their_listing(names: list[str], seed: int) -> None:
    assert sha_order(names, seed) == sha_order(sorted(names), seed)


def test_the_order_is_the_same_on_every_machine() -> None:
    assert sha_order(["a", "b", "c", "d"], 0) != sha_order(["a", "b", "c", "d"], 3)
    assert sha_order(["a", "b", "c", "d"], 0) == ["d", "a", "c", "b"]


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=40), st.integers(0, 5), st.data())
def test_every_stretch_of_a_stratified_order_has_the_strata_in_proportion(
    classes: list[str], seed: int, data: st.DataObject
) -> None:
    strata = {f"s{i}": c for i, c in enumerate(classes)}
    order = stratified_order(strata, seed)
    assert sorted(order) == sorted(strata)
    assert order == stratified_order(dict(sorted(strata.items(), reverse=True)), seed)
    low = data.draw(st.integers(0, len(order)))
    high = data.draw(st.integers(low, len(order)))
    kinds = set(classes)
    for kind in kinds:
        share = classes.count(kind) / len(classes)
        got = sum(strata[name] == kind for name in order[low:high])
        # A stretch of positions holds n_s (b - a) of a stratum within one, and so does it of all.
        assert abs(got - share * (high - low)) <= 1 + share * max(len(kinds) - 2, 0) + 1e-9


def test_groups_that_share_a_duplicate_are_one() -> None:
    keys = {"r1": "a", "r2": "b", "r3": "c", "r4": "d"}
    joined = join_groups(keys, [("r1", "r3"), ("r3", "r4")])
    assert joined == {"a": ("r1", "r3", "r4"), "b": ("r2",)}


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.integers(4, 60), st.integers(0, 20), st.sampled_from([0.0, 0.2, 0.6]))
def test_trials_of_two_parts_keep_the_guard(n: int, seed: int, guard: float) -> None:
    trials = [(float(i), i + 0.9) for i in range(n)]
    shares = {"train": 0.6, "val": 0.2, "test": 0.2}
    parts = trial_blocks(trials, shares, guard=guard, key="r", seed=seed)
    found = sorted((a, b, name) for name, held in parts.items() for a, b in held)
    assert len(found) == n
    for (_, stop, one), (start, _, two) in itertools.pairwise(found):
        assert one == two or start - stop >= guard - 1e-9
    for name, held in parts.items():
        assert abs(len(held) - shares[name] * n) <= 1


def test_training_does_not_change_when_test_data_do(make_store: Callable[..., Store]) -> None:
    data = np.random.default_rng(0).standard_normal((2000, 3)).astype(np.float32)

    def recording(samples: np.ndarray) -> Recording:
        grip = Signal(samples[:, :1] * 2, rate=100.0)
        return Recording(
            "r", "s", "1", Species.RAT, {"lfp": Signal(samples, rate=100.0)}, {"grip": grip}
        )

    first = make_store(recording(data))
    split = make_split(first, ratios=(0.6, 0.2, 0.2), window=0.5, lag=0.1)
    ruined = data.copy()
    ruined[int(split.part("train")["r"][0][1] * 100) :] = np.nan
    second = make_store(recording(ruined))
    batches = []
    for store in (first, second):
        same = make_split(store, ratios=(0.6, 0.2, 0.2), window=0.5, lag=0.1)
        norm = Normalizer.fit(store, using=same)
        view = store.windows(
            split="train",
            using=same,
            window=0.5,
            stride=0.1,
            normalize=norm,
            behaviour=["grip"],
            behaviour_rate=20.0,
            lag=0.1,
        )
        batches.append(view.read_batch(np.arange(len(view))))
    assert len(batches[0]["lfp"]) > 50
    for key in ("lfp", "behavior", "behavior_mask"):
        np.testing.assert_array_equal(batches[0][key], batches[1][key])
    assert batches[1]["masks"]["lfp"].all()


@pytest.fixture
def subjects(make_store: Callable[..., Store], ramp: Callable[..., Recording]) -> Store:
    """Ten recordings of five subjects; the two of subject 4 hold the samples of 0 and 1."""
    recordings = [
        ramp(f"r{i}", subject=f"s{i // 2}", session=str(i % 2), source=f"lab{i % 3}", offset=i % 8)
        for i in range(10)
    ]
    alone = [dataclasses.replace(r, modalities={"lfp": r.modalities["lfp"]}) for r in recordings]
    return make_store(*alone)


def test_a_split_by_subject_keeps_subjects_and_duplicates_together(subjects: Store) -> None:
    split = make_split(subjects, by="subject", ratios=(2.0, 1.0, 1.0))
    homes = {r: part for part, held in split.parts.items() for r in held}
    assert len(homes) == 10
    assert all(homes[f"r{i}"] == homes[f"r{i + 1}"] for i in range(0, 10, 2))
    assert homes["r0"] == homes["r8"]
    assert split.groups["s0"] == ("r0", "r1", "r8", "r9")
    assert split.realised() == {"train": 0.5, "val": 0.25, "test": 0.25}
    report = split.verify()
    assert report.ok
    assert "r0, r8; r1, r9" in str(report)
    assert split.guard == 0.0


@pytest.mark.parametrize("by", ["session", "source"])
def test_sessions_and_sources_are_groups_too(by: str, subjects: Store) -> None:
    chosen = [f"r{i}" for i in range(8)]
    split = make_split(subjects, by=by, recordings=chosen)
    assert len(split.groups) == (8 if by == "session" else 3)
    assert split.verify(strict=True).ok
    again = make_split(subjects, by=by, recordings=list(reversed(chosen)))
    assert again.parts == split.parts


def test_folds_test_every_group_once(subjects: Store) -> None:
    folds = make_folds(subjects, by="subject", val=0.3)
    assert len(folds) == 4
    tested = sorted(r for fold in folds for r in fold.part("test"))
    assert tested == sorted(subjects.recordings)
    assert all(fold.verify(strict=True).ok for fold in folds)
    assert [len(f.part("test")) for f in make_folds(subjects, 2, by="session")] != []
    with pytest.raises(ValueError, match="9 folds by subject need 2 <= k <= groups"):
        make_folds(subjects, 9)
    with pytest.raises(ValueError, match="val needs a share between 0 and 1"):
        make_folds(subjects, val=0.0)


def test_duplicates_split_by_time_share_their_cuts(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    store = make_store(ramp("a"), ramp("b"))
    split = make_split(store, guard=0.1, n_blocks=3, seed=1)
    assert split.part("test")["a"] == split.part("test")["b"]
    assert split.verify().ok


def test_a_split_by_trial_shares_out_trials(ramp_store: Store) -> None:
    split = make_split(ramp_store, by="trial", trials="trial", ratios=(0.5, 0.2, 0.3), lag=0.1)
    assert [len(split.part(p)["ramp"]) for p in ("train", "val", "test")] == [5, 2, 3]
    assert split.guard == 0.1
    assert split.verify(strict=True).ok
    view = ramp_store.windows(window=0.25, modalities=["lfp"], split="test", using=split)
    assert len(view) == 6
    with pytest.raises(ValueError, match="no intervals 'x'; it has trial"):
        make_split(ramp_store, by="trial", trials="x")


def test_trials_are_stratified_by_a_column(
    make_store: Callable[..., Store],
) -> None:
    lfp = Signal(np.arange(4000.0)[:, None], rate=10.0)
    start = np.arange(40) * 10.0
    # Three quarters of the trials are of one class, all at the beginning.
    code = np.repeat(["a", "b"], [30, 10])
    trials = Intervals(start, start + 5.0, {"code": code})
    store = make_store(Recording("r", "s", "1", Species.RAT, {"lfp": lfp}, {"t": trials}))
    for seed in range(5):
        split = make_split(
            store, by="trial", trials="t", ratios=(0.6, 0.2, 0.2), seed=seed, stratify="code"
        )
        for part, (n_a, n_b) in {"train": (18, 6), "val": (6, 2), "test": (6, 2)}.items():
            starts = [a for a, _ in split.part(part)["r"]]
            found = [code[int(a // 10)] for a in starts]
            assert (found.count("a"), found.count("b")) == (n_a, n_b)
        assert split.verify().ok
    with pytest.raises(ValueError, match=r"no column 'x'; they have code"):
        make_split(store, by="trial", trials="t", stratify="x")


def test_groups_are_stratified_by_what_their_recordings_say(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    made = [ramp(f"r{i}", subject=f"s{i}", offset=i) for i in range(12)]
    told = [
        dataclasses.replace(
            r, provenance={"source": "made", "sex": "fm"[i % 2], "site": f"x{i % 4}"}
        )
        for i, r in enumerate(made)
    ]
    store = make_store(*told)
    split = make_split(store, by="subject", ratios=(4, 1, 1), stratify="sex")
    for part, n in {"train": 8, "val": 2, "test": 2}.items():
        sexes = [told[int(r[1:])].provenance["sex"] for r in split.part(part)]
        assert sexes.count("f") == sexes.count("m") == n // 2
    split.save(store, "even")
    assert store.split("even").stratify == "sex"
    by_site = make_split(store, by="site", ratios=(2, 1, 1))
    assert by_site.groups["x1"] == ("r1", "r5", "r9")
    assert [len(fold.part("test")) for fold in make_folds(store, by="site")] == [3, 3, 3, 3]
    with pytest.raises(ValueError, match=r"'r0' does not say its age; .* says species, sex, site"):
        make_split(store, by="subject", stratify="age")
    with pytest.raises(ValueError, match=r"by='time' has none"):
        make_split(store, stratify="sex", guard=0.1)


def test_a_saved_split_comes_back_with_its_normaliser(ramp_store: Store) -> None:
    split = make_split(ramp_store, window=0.5, support=0.1)
    assert split.guard == pytest.approx(0.7)
    norm = Normalizer.fit(ramp_store, using=split)
    split.with_normalizer(norm).save(ramp_store, "a")
    back = ramp_store.split("a")
    assert back.parts == {p: dict(h) for p, h in split.parts.items()}
    assert (back.guard, back.window, back.support, back.seed) == (0.7, 0.5, 0.1, 0)
    np.testing.assert_array_equal(
        back.normalizer.statistics("ramp", "lfp"), norm.statistics("ramp", "lfp")
    )
    assert back.verify().ok
    assert "fitted inside train on 1 recordings" in str(back.verify())
    content = ramp_store.files.read_split("a")
    assert content["report"]["ok"] is True
    with pytest.raises(FormatVersionError, match=r"has format 9\.0"):
        Split.from_dict({**content, "schema": "9.0"}, ramp_store)


def _leaks(split: Split, check: str) -> str:
    report = split.verify()
    (found,) = [c for c in report.checks if c.name == check]
    assert not found.ok
    with pytest.raises(LeakageError, match=check):
        split.verify(strict=True)
    return found.detail


def test_the_proof_finds_a_guard_that_is_too_short(ramp_store: Store) -> None:
    split = make_split(ramp_store, window=0.5)
    assert "starts at" in _leaks(dataclasses.replace(split, guard=0.6), "stretches")
    low, high = split.part("val")["ramp"][0]
    moved = {**split.parts, "train": {"ramp": ((0.0, low + 0.1),)}}
    assert "train of ramp ends" in _leaks(dataclasses.replace(split, parts=moved), "stretches")
    assert high > low


def test_the_proof_finds_shared_groups_and_contents(subjects: Store) -> None:
    split = make_split(subjects, by="subject")
    parts = {"train": {}, "val": {"r2": ((0.0, 10.0),)}, "test": {"r8": ((0.0, 10.0),)}}
    parts["train"]["r0"] = ((0.0, 10.0),)
    bad = dataclasses.replace(split, parts=parts)
    assert "s0" in _leaks(bad, "groups")
    assert "r0, r8 hold the same samples" in _leaks(bad, "contents")
    assert "share a window" in _leaks(bad, "windows")


def test_the_proof_finds_a_repeated_window(make_store: Callable[..., Store]) -> None:
    data = np.random.default_rng(0).standard_normal((1000, 1))
    data[800:900] = data[100:200]
    store = make_store(Recording("r", "s", "1", Species.RAT, {"lfp": Signal(data, rate=100.0)}))
    split = make_split(store, window=1.0, ratios=(0.5, 0.5), guard=0.0)
    assert _leaks(split, "windows") == "train (r) and test (r) share a window"
    with pytest.raises(LeakageError, match="this split leaks"):
        split.save(store, "bad")


def test_the_proof_finds_statistics_of_test_data(ramp_store: Store) -> None:
    split = make_split(ramp_store, window=0.5)
    everything = Normalizer.fit(ramp_store, split="all", allow_leak=True)
    assert "ramp" in _leaks(split.with_normalizer(everything), "statistics")


def test_a_split_without_a_store_cannot_prove_anything(ramp_store: Store) -> None:
    split = dataclasses.replace(make_split(ramp_store, window=0.5), store=None)
    with pytest.raises(ValueError, match="verify needs the split's store"):
        split.verify()
    with pytest.raises(ValueError, match="part needs one of 'train', 'val', 'test', got 'x'"):
        split.part("x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": (1.0,)}, r"ratios need two numbers .* or three"),
        ({"ratios": (0.5, 0.5, 0.0)}, "ratios need positive numbers"),
        ({"guard": "auto"}, "guard='auto' needs window"),
        ({"guard": "wide"}, "guard needs one of 'auto', got 'wide'"),
        ({"guard": -1.0}, "guard needs 'auto' or seconds >= 0, got -1.0"),
        ({"guard": 6.0}, "of 10 s cannot hold 3 stretches with 6 s of guard"),
        ({"by": "month"}, "by needs one of 'time', 'trial'"),
        ({"by": "subject", "n_blocks": 2}, "n_blocks needs to be 1, or more with by='time'"),
        ({"trials": "trial"}, "by='trial' needs trials"),
        ({"by": "trial"}, "by='trial' needs trials"),
        ({"by": "subject"}, "needs 3 groups, there are 1: s1"),
        ({"recordings": []}, "a split needs recordings"),
    ],
)
def test_requests_that_cannot_be_met_are_explained(
    options: dict, message: str, ramp_store: Store
) -> None:
    with pytest.raises(ValueError, match=message):
        make_split(ramp_store, **options)


def test_too_few_trials_are_explained(make_store: Callable[..., Store]) -> None:
    lfp = Signal(np.arange(100.0)[:, None], rate=10.0)
    few = Intervals(np.arange(2.0), np.arange(2.0) + 0.5)
    store = make_store(Recording("r", "s", "1", Species.RAT, {"lfp": lfp}, {"t": few}))
    with pytest.raises(ValueError, match="'r' has 2 trials for 3 parts"):
        make_split(store, by="trial", trials="t")
    with pytest.raises(ValueError, match="guard 50 s leaves no trial of 'r'"):
        make_split(store, by="trial", trials="t", ratios=(0.5, 0.5), guard=50.0)
