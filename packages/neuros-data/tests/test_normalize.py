"""Statistics equal two passes, come from training data only, and say what they cannot scale."""

import json
import logging
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_core import Recording, Signal, Species
from neuros_data import LeakageError, Normalizer, Quantization, Store, make_split
from neuros_data.normalize import Moments


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5), st.floats(-1e6, 1e6), st.integers(0, 99)
)
def test_moments_of_pieces_equal_moments_of_the_whole(
    sizes: list[int], mean: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((sum(sizes), 2)) + mean
    valid = rng.random(x.shape) < 0.8
    moments = Moments.empty(2)
    for piece, flags in zip(
        np.split(x, np.cumsum(sizes)[:-1]), np.split(valid, np.cumsum(sizes)[:-1]), strict=True
    ):
        moments.update(piece, flags)
    for c in range(2):
        kept = x[valid[:, c], c]
        assert moments.count[c] == len(kept)
        if len(kept):
            np.testing.assert_allclose(moments.mean[c], kept.mean(), rtol=1e-12, atol=1e-9)
            wanted = ((kept - kept.mean()) ** 2).sum()
            # One rounding of the mean, 1e-16 * 1e6, moves a squared deviation by 1e-10.
            np.testing.assert_allclose(moments.squares[c], wanted, rtol=1e-7, atol=1e-7)


def test_statistics_equal_numpy_on_the_training_samples(ramp_store: Store) -> None:
    split = make_split(ramp_store, window=0.5)
    norm = Normalizer.fit(ramp_store, using=split)
    assert norm.names == ("lfp", "speed")
    ((low, high),) = split.part("train")["ramp"]
    data = ramp_store.recordings["ramp"].modalities["lfp"].data
    at = np.arange(len(data)) / 100
    kept = data[(at >= low) & (at < high)].astype(np.float64)
    mean, scale = norm.statistics("ramp", "lfp")
    np.testing.assert_allclose(mean, kept.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scale, kept.std(0), rtol=1e-12)
    assert norm.statistics("ramp", "spike") is None


def test_integers_and_irregular_clocks_are_decoded_first(make_store: Callable[..., Store]) -> None:
    counts = np.random.default_rng(0).integers(-50, 50, (200, 2))
    times = np.sort(np.random.default_rng(1).uniform(0, 2, 200))
    store = make_store(
        Recording(
            "r",
            "s",
            "1",
            Species.WORM,
            {"eeg": Signal(counts * 0.5 + 3, rate=100.0), "calcium": Signal(counts, times=times)},
        ),
        quantize={"eeg": Quantization(0.5, 3.0)},
    )
    norm = Normalizer.fit(store, split="all", allow_leak=True)
    np.testing.assert_allclose(norm.statistics("r", "eeg")[0], counts.mean(0) * 0.5 + 3)
    np.testing.assert_allclose(norm.statistics("r", "eeg")[1], counts.std(0) * 0.5)
    split = make_split(store, ratios=(1.0, 1.0), guard=0.0)
    late = Normalizer.fit(store, using=split)
    np.testing.assert_allclose(
        late.statistics("r", "calcium")[0],
        counts[times < split.part("train")["r"][0][1]].mean(0),
    )


def test_other_parts_than_training_need_permission(ramp_store: Store) -> None:
    split = make_split(ramp_store, window=0.5)
    for part in ("test", "all"):
        with pytest.raises(LeakageError, match=f"statistics of part '{part}' would leak"):
            Normalizer.fit(ramp_store, split=part, using=split)
    norm = Normalizer.fit(ramp_store, split="test", using=split, allow_leak=True)
    assert norm.fitted_on["split"] == "test"


def test_channels_without_variation_keep_scale_one_and_are_named(
    make_store: Callable[..., Store], caplog: pytest.LogCaptureFixture
) -> None:
    data = np.stack([np.full(100, 0.1), np.arange(100.0), np.full(100, np.nan)], 1)
    store = make_store(
        Recording("r", "s", "1", Species.RAT, {"lfp": Signal(data, rate=10.0, channels="abc")})
    )
    with caplog.at_level(logging.WARNING):
        norm = Normalizer.fit(store, split="all", allow_leak=True)
    assert norm.constant == {"r": {"lfp": ("a", "c")}}
    assert "lfp of r: no variation in a, c; their scale is 1" in caplog.text
    mean, scale = norm.statistics("r", "lfp")
    np.testing.assert_allclose(scale[[0, 2]], 1.0)
    np.testing.assert_allclose(mean[[0, 2]], [0.1, 0.0], rtol=1e-6)
    batch = store.windows(window=1.0, normalize=norm).read_batch([0])
    np.testing.assert_allclose(batch["lfp"][0, :, [0, 2]], 0.0, atol=1e-6)


def test_subjects_and_everyone_can_share_statistics(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    store = make_store(*(ramp(f"r{i}", subject=f"s{i // 2}", offset=100.0 * i) for i in range(8)))
    split = make_split(store, by="subject", ratios=(2.0, 1.0, 1.0))
    pooled = Normalizer.fit(store, using=split)
    assert pooled.per == "global"
    train = [store.recordings[r].modalities["lfp"].data for r in split.part("train")]
    test = next(iter(split.part("test")))
    np.testing.assert_allclose(
        pooled.statistics(test, "lfp")[1], np.concatenate(train).std(0), rtol=1e-5
    )
    by_subject = Normalizer.fit(store, using=split, per="subject", names=["lfp"])
    known = next(iter(split.part("train")))
    partner = store.recordings[known].subject
    same = [r for r in store.recordings if store.recordings[r].subject == partner]
    np.testing.assert_array_equal(*(by_subject.statistics(r, "lfp")[0] for r in same))
    with pytest.raises(ValueError, match=f"no training data of 'lfp' for '{test}'"):
        by_subject.statistics(test, "lfp")


def test_unseen_subjects_are_normalised_by_their_first_seconds(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    store = make_store(*(ramp(f"r{i}", subject=f"s{i}", offset=0.3 * i) for i in range(4)))
    split = make_split(store, by="subject", ratios=(2.0, 1.0, 1.0))
    norm = Normalizer.fit(store, using=split, baseline=2.5)
    assert norm.per == "recording"
    for part, stop in {"train": 1000, "val": 250, "test": 250}.items():
        for name in split.part(part):
            data = store.recordings[name].modalities["lfp"].data[:stop]
            mean, scale = norm.statistics(name, "lfp")
            np.testing.assert_allclose(mean, data.mean(0, dtype=np.float64))
            np.testing.assert_allclose(scale, data.std(0, dtype=np.float64))
    fitted = split.with_normalizer(norm)
    assert "first 2.5 s" in str(fitted.verify(strict=True))
    assert Normalizer.from_dict(json.loads(json.dumps(norm.to_dict()))).baseline == 2.5
    view = store.windows(window=1.0, split="test", using=split, normalize=norm, modalities=["lfp"])
    first = view.read_batch([0, 1])["lfp"].reshape(-1, 2)
    # The window (0 s, 2 s) and what is left of the baseline: a ramp of 2.5 s has mean 1.25 s.
    assert first.mean() == pytest.approx((1.0 - 1.25) / (2.5 / np.sqrt(12)), rel=1e-3)


@pytest.mark.parametrize("options", [{"baseline": 0.0}, {"baseline": 1.0, "per": "subject"}])
def test_a_baseline_is_positive_and_of_one_recording(options: dict, ramp_store: Store) -> None:
    with pytest.raises(ValueError, match="baseline needs a positive number of seconds and per="):
        Normalizer.fit(ramp_store, using=make_split(ramp_store, window=0.5), **options)


def test_pooling_unlike_channels_is_refused(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    store = make_store(ramp("a"), ramp("b", channels=3))
    with pytest.raises(ValueError, match="pooled statistics of 'lfp' need the same channels"):
        Normalizer.fit(store, split="all", allow_leak=True, per="global")


def test_requests_that_cannot_be_met_are_explained(ramp_store: Store) -> None:
    with pytest.raises(ValueError, match="split='train' needs `using`"):
        Normalizer.fit(ramp_store)
    split = make_split(ramp_store, window=0.5)
    with pytest.raises(ValueError, match="per needs one of 'recording', 'subject', 'global'"):
        Normalizer.fit(ramp_store, using=split, per="day")
    with pytest.raises(ValueError, match=r"no signal called \['eeg'\] to normalise"):
        Normalizer.fit(ramp_store, using=split, names=["eeg"])


def test_json_keeps_every_digit(ramp_store: Store) -> None:
    split = make_split(ramp_store, window=0.5)
    norm = Normalizer.fit(ramp_store, using=split)
    back = Normalizer.from_dict(json.loads(json.dumps(norm.to_dict())))
    for name in norm.names:
        np.testing.assert_array_equal(back.statistics("ramp", name), norm.statistics("ramp", name))
    np.testing.assert_array_equal(back.invert("ramp", "spike", [1.0]), [1.0])
    assert back.fitted_on["intervals"] == {"ramp": split.part("train")["ramp"]}
