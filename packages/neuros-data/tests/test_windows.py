"""Windows hold the right samples of the right seconds, for every kind of signal."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_core import Events, Intervals, Recording, Signal, Species
from neuros_data import Normalizer, Quantization, Store, make_split
from neuros_data._index import Clock, build_index
from neuros_data._readers import bin_edges, count_events


def record(name: str = "r", behaviour: dict | None = None, **modalities: object) -> Recording:
    return Recording(name, "s", "1", Species.RAT, modalities, behaviour or {})


def test_a_window_holds_the_samples_of_its_seconds(ramp_store: Store) -> None:
    view = ramp_store.windows(window=0.5, stride=0.25, modalities=["lfp"])
    assert len(view) == 39
    batch = view.read_batch([38, 0, -39, 5])
    assert batch["start_time"].tolist() == [9.5, 0.0, 0.0, 1.25]
    for row, start in enumerate([950, 0, 0, 125]):
        wanted = np.arange(start, start + 50)[:, None] + [0.0, 0.25]
        np.testing.assert_array_equal(batch["lfp"][row], wanted)
    assert batch["masks"]["lfp"].all()
    assert batch["rates"] == {"lfp": 100.0}
    assert batch["units"] == {"lfp": ("0", "1")}
    assert batch["recording_index"].tolist() == [0] * 4
    assert batch["species"].tolist() == [list(Species).index(Species.RAT)] * 4
    assert batch["source"].tolist() == [0] * 4


def test_buffers_are_reused_on_request(ramp_store: Store) -> None:
    view = ramp_store.windows(window=0.5, modalities=["lfp"])
    first = view.read_batch([0, 1])
    again = view.read_batch([2, 3], out=first)
    assert again["lfp"] is first["lfp"]
    assert again["lfp"][0, 0, 0] == 100.0
    assert view.read_batch([2], out=first)["lfp"] is not first["lfp"]


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    st.lists(st.integers(0, 9_999), max_size=60),
    st.lists(st.integers(0, 80), min_size=1, max_size=5),
    st.sampled_from([0.1, 0.05, 0.02, 1 / 3]),
)
def test_counts_equal_histograms_with_a_spike_on_an_edge_in_the_later_bin(
    ticks: list[int], starts: list[int], width: float
) -> None:
    times = np.sort(np.asarray(ticks, np.float64) / 1000)
    units = np.arange(len(times), dtype=np.int32) % 3
    begin = np.round(np.asarray(starts) / 10, 9)
    found = count_events(times, units, begin, n_units=3, n_bins=10, width=width)
    for edges, counts in zip(bin_edges(begin, 10, width), found, strict=True):
        for unit in range(3):
            # numpy closes the last bin; one more bin, dropped, leaves it open.
            train = times[units == unit]
            wanted = np.histogram(train, np.append(edges, np.inf))[0][:-1]
            np.testing.assert_array_equal(counts[:, unit], wanted)


def test_a_spike_at_three_tenths_belongs_to_the_bin_that_starts_there() -> None:
    # 0.1 + 2 * 0.1 > 0.3 in floating point.
    counts = count_events(
        np.array([0.3]), np.zeros(1, np.int32), np.array([0.1]), n_units=1, n_bins=3, width=0.1
    )
    assert counts.ravel().tolist() == [0, 0, 1]


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    st.floats(1.0, 50.0),
    st.floats(0.0, 20.0),
    st.floats(0.5, 20.0),
    st.floats(0.1, 3.0),
    st.floats(0.05, 3.0),
    st.sampled_from([0.0, 0.3, -0.3]),
    st.lists(st.floats(5.0, 300.0), min_size=1, max_size=3),
)
def test_no_sample_of_a_window_lies_outside_its_interval(
    duration: float,
    low: float,
    length: float,
    window: float,
    stride: float,
    lag: float,
    rates: list[float],
) -> None:
    rates = [r for r in rates if round(r * window) >= 1]
    clocks = [Clock(0.0, round(int(duration * r) / r, 9), r) for r in rates]
    if not clocks:
        return
    high = min(low + length, duration)
    index = build_index([clocks], [[(low, high)]], window=window, stride=stride, lag=lag)
    if not len(index):
        return
    _, starts = index.locate(np.arange(len(index)))
    np.testing.assert_allclose(np.diff(starts), stride, atol=1e-8)
    assert starts[0] - lag >= low - 1e-8
    assert starts[-1] + window - lag <= high + 1e-8
    for clock in clocks:
        first = np.rint(starts * clock.rate)
        last = first + round(window * clock.rate) - 1
        assert first.min() >= 0
        assert first.min() / clock.rate >= low - 1e-6
        assert last.max() / clock.rate < high + 1e-6
        assert np.abs(first / clock.rate - starts).max() <= 0.5 / clock.rate + 1e-9


def test_modalities_of_different_rates_cover_the_same_seconds(
    make_store: Callable[..., Store],
) -> None:
    eeg = Signal(np.arange(160.0)[:, None] / 16, rate=16.0)
    lfp = Signal(np.arange(1000.0)[:, None] / 100, rate=100.0, start=0.0)
    late = Signal(np.arange(80.0)[:, None] / 10 + 2, rate=10.0, start=2.0)
    view = make_store(record(eeg=eeg, lfp=lfp, emg=late)).windows(window=1.0)
    batch = view.read_batch(np.arange(len(view)))
    assert len(view) == 8
    for name, n in (("eeg", 16), ("lfp", 100), ("emg", 10)):
        assert batch[name].shape == (8, n, 1)
        np.testing.assert_allclose(batch[name][:, 0, 0], batch["start_time"], atol=1e-6)


@pytest.mark.parametrize("factors", [[0.5, 0.5], [0.5, 0.25]])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_integers_are_decoded_and_normalised_in_one_pass(
    factors: list[float], offset: float, make_store: Callable[..., Store]
) -> None:
    counts = np.random.default_rng(0).integers(-2000, 2000, (400, 2))
    data = counts * np.asarray(factors) + offset
    lattice = Quantization(np.asarray(factors), offset)
    store = make_store(record(eeg=Signal(data, rate=100.0)), quantize={"eeg": lattice})
    plain = store.windows(window=1.0).read_batch([1, 3])["eeg"]
    np.testing.assert_array_equal(plain[1], data[300:])
    norm = Normalizer.fit(store, split="all", allow_leak=True)
    scaled = store.windows(window=1.0, normalize=norm).read_batch([1, 3])["eeg"]
    wanted = (data - data.mean(0)) / data.std(0)
    np.testing.assert_allclose(scaled[0], wanted[100:200], atol=1e-5)
    np.testing.assert_allclose(norm.invert("r", "eeg", scaled[0]), data[100:200], atol=1e-2)


def test_recordings_of_unlike_channels_are_padded_and_masked(
    make_store: Callable[..., Store],
) -> None:
    a = record("a", lfp=Signal(np.ones((20, 3)), rate=10.0))
    b = record("b", lfp=Signal(np.ones((20, 1)), rate=10.0), emg=Signal(np.ones((20, 1)), rate=5.0))
    store = make_store(a, b, quantize={"lfp": Quantization(0.5)})
    batch = store.windows(window=1.0, fill=-7.0).read_batch([0, 2])
    assert batch["lfp"].shape == (2, 10, 3)
    np.testing.assert_array_equal(batch["masks"]["lfp"][1], [[True, False, False]] * 10)
    np.testing.assert_array_equal(batch["lfp"][1], [[1.0, -7.0, -7.0]] * 10)
    assert not batch["masks"]["emg"][0].any()
    assert batch["masks"]["emg"][1].all()
    assert "lfp" not in batch["units"]
    only_a = store.windows(window=1.0).read_batch([0, 1])
    assert "emg" not in only_a


def test_samples_not_measured_are_masked_and_filled(make_store: Callable[..., Store]) -> None:
    data = np.arange(20.0)[:, None]
    data[13] = np.nan
    batch = make_store(record(lfp=Signal(data, rate=10.0))).windows(window=1.0).read_batch([0, 1])
    assert np.argwhere(~batch["masks"]["lfp"]).tolist() == [[1, 3, 0]]
    assert batch["lfp"][1, 3, 0] == 0.0
    assert np.isfinite(batch["lfp"]).all()


def test_irregular_signals_bring_their_times(make_store: Callable[..., Store]) -> None:
    times = np.array([0.0, 0.3, 0.5, 1.2, 1.9, 2.0, 2.7, 2.9])
    data = np.arange(8.0)[:, None]
    data[4] = np.nan
    store = make_store(record(calcium=Signal(data, times=times)))
    norm = Normalizer("global", ("calcium",), {}, {"*": {"calcium": (np.ones(1), np.ones(1))}})
    batch = store.windows(window=1.0, normalize=norm).read_batch([0, 1, 2])
    np.testing.assert_array_equal(batch["masks"]["calcium"][..., 0].sum(1), [3, 1, 3])
    np.testing.assert_allclose(batch["times"]["calcium"][1, 0], 0.2)
    np.testing.assert_array_equal(batch["calcium"][2, :, 0], [4.0, 5.0, 6.0])
    assert batch["rates"] == {}


def test_a_batch_of_two_rates_brings_times(make_store: Callable[..., Store]) -> None:
    a = record("a", lfp=Signal(np.ones((20, 1)), rate=10.0))
    b = record(
        "b",
        lfp=Signal(np.ones((40, 1)), rate=20.0),
        spike=Events(np.array([0.5]), np.zeros(1, int), 1, duration=2.0),
    )
    batch = make_store(a, b).windows(window=1.0, bin=0.5).read_batch([0, 2])
    np.testing.assert_allclose(batch["times"]["lfp"][0, :10], np.arange(10) / 10)
    np.testing.assert_allclose(batch["times"]["lfp"][1], np.arange(20) / 20)
    assert batch["masks"]["lfp"][0].sum() == 10
    assert batch["spike"][1].ravel().tolist() == [0.0, 1.0]
    assert not batch["masks"]["spike"][0].any()


def test_behaviour_is_a_block_mean_and_lag_moves_it_back(ramp_store: Store) -> None:
    options = {"window": 1.0, "modalities": ["lfp"], "behaviour": ["speed"], "behaviour_rate": 20.0}
    batch = ramp_store.windows(**options).read_batch([2])
    # 200 Hz in blocks of 10: the mean of k ... k + 9.
    np.testing.assert_allclose(batch["behavior"][0, :, 0], 400 + np.arange(20) * 10 + 4.5)
    np.testing.assert_allclose(batch["behavior_times"][0], (np.arange(20) + 0.5) / 20, rtol=1e-6)
    assert batch["behavior_mask"].all()
    for lag in (0.25, -0.25):
        view = ramp_store.windows(**options, lag=lag)
        late = view.read_batch([1])
        first = (late["start_time"][0] - lag) * 200
        np.testing.assert_allclose(late["behavior"][0, 0, 0], first + 4.5)
        assert len(view) == 9


def test_uneven_blocks_average_what_they_hold(ramp_store: Store) -> None:
    view = ramp_store.windows(
        window=1.0, modalities=["lfp"], behaviour=["speed"], behaviour_rate=30.0
    )
    found = view.read_batch([0])["behavior"][0, :, 0]
    edges = np.ceil(np.round(np.arange(31) / 30, 9) * 200 - 1e-6).astype(int)
    wanted = [np.arange(a, b).mean() for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(found, wanted)


def test_labels_of_intervals_are_targets_inside_them(ramp_store: Store) -> None:
    view = ramp_store.windows(
        window=1.0, modalities=["lfp"], behaviour=["trial.code", "speed"], behaviour_rate=10.0
    )
    batch = view.read_batch([4])
    # Trials of 0.5 s start every second; trial 4 has code 1.
    assert batch["behavior_mask"][0].tolist() == [True] * 5 + [False] * 5
    np.testing.assert_array_equal(batch["behavior"][0, :5, 0], 1.0)
    assert (batch["behavior"][0, 5:] == 0).all()
    alone = ramp_store.windows(
        window=1.0, modalities=["lfp"], behaviour=["trial"], behaviour_rate=10.0
    )
    np.testing.assert_array_equal(alone.read_batch([4])["behavior"][0, :5, 0], 1.0)


def test_a_recording_without_the_behaviour_is_masked(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    view = make_store(ramp("a"), ramp("b", behaviour=False)).windows(
        window=1.0, modalities=["lfp"], behaviour=["speed"]
    )
    batch = view.read_batch([0, 10])
    assert batch["behavior_mask"].all(1).tolist() == [True, False]
    assert batch["behavior"].shape == (2, 200, 1)


def test_behaviour_with_gaps_scales_and_clocks_of_its_own(make_store: Callable[..., Store]) -> None:
    gap = np.arange(40.0)[:, None]
    gap[5] = np.nan
    times = np.sort(np.random.default_rng(0).uniform(0, 2, 400))
    store = make_store(
        record(
            behaviour={
                "gap": Signal(gap, rate=20.0),
                "coded": Signal(np.arange(40.0)[:, None] / 2, rate=20.0),
                "free": Signal(times[:, None], times=times),
            },
            lfp=Signal(np.ones((20, 1)), rate=10.0),
        ),
        quantize={"coded": Quantization(0.5)},
    )
    batch = store.windows(
        window=1.0, behaviour=["gap", "coded", "free"], behaviour_rate=10.0
    ).read_batch([0, 1])
    assert np.argwhere(~batch["behavior_mask"]).tolist() == [[0, 2]]
    np.testing.assert_allclose(batch["behavior"][1, :, 1], 10 + np.arange(10) + 0.25)
    # The mean time of the samples in a block of 0.1 s lies in it.
    middle = batch["behavior_times"][1] + 1
    assert (np.abs(batch["behavior"][1, :, 2] - middle) < 0.05).all()


def test_split_parts_and_recordings_choose_windows(
    make_store: Callable[..., Store], ramp: Callable[..., Recording]
) -> None:
    store = make_store(ramp("a"), ramp("b", offset=0.5))
    split = make_split(store, ratios=(0.6, 0.2, 0.2), window=0.5)
    split.save(store, "time")
    options = {"window": 0.5, "modalities": ["lfp"]}
    view = store.windows(**options, split="train")
    assert len(view) == len(store.windows(**options, split="train", using="time"))
    assert view.range_of("b") == (len(view) // 2, len(view))
    low, high = split.part("train")["a"][0]
    starts = view.read_batch(np.arange(len(view)))["start_time"]
    assert starts.min() >= low
    assert starts.max() + 0.5 <= high
    only = store.windows(**options, split="test", using=split, recordings=["b"])
    assert only.recordings == ("b",)
    assert repr(only).startswith("Windows(")
    split.save(store, "other")
    with pytest.raises(ValueError, match=r"needs `using` .* has saved: other, time"):
        store.windows(**options, split="train")
    with pytest.raises(ValueError, match="normalize=True needs a split"):
        store.windows(**options, normalize=True)
    fitted = store.windows(**options, split="train", using="time", normalize=True)
    assert fitted.normalizer.per == "recording"
    values = fitted.read_batch(np.arange(len(fitted)))["lfp"]
    # Twenty windows leave out the last 0.1 s of a ramp, so the mean is near zero only.
    assert abs(float(values.mean())) < 0.2
    alone = make_split(store, guard=0.0, recordings=["a"])
    with pytest.raises(ValueError, match="part 'train' holds nothing of b; it holds a"):
        store.windows(**options, split="train", using=alone, recordings=["b"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0.0}, "window needs a positive number, got 0.0"),
        ({"window": 1.0, "stride": -1.0}, "stride needs a positive number"),
        ({"window": 1.0, "lag": np.inf}, "lag needs a finite number"),
        ({"window": 1.0, "bin": 0.3}, "window needs a whole number of bins"),
        ({"window": 1.0}, "made of events and needs bin"),
        ({"window": 1.0, "modalities": ["eeg"]}, r"no recording has \['eeg'\]; they have"),
        ({"window": 1.0, "modalities": ["sound"]}, "'sound' is not a valid Modality"),
        ({"window": 1.0, "modalities": []}, "no recording has"),
        ({"window": 11.0, "modalities": ["lfp"]}, "no window of 11.0 s fits: .* has 10.000 s"),
        ({"window": 0.001, "modalities": ["lfp"]}, "holds no sample of lfp of 'ramp' at 100.0 Hz"),
        ({"behaviour": ["x"]}, "no recording has a behaviour 'x'; they have speed, trial"),
        ({"behaviour": ["trial"]}, "needs behaviour_rate, got None"),
        ({"behaviour": ["speed"], "behaviour_rate": 400.0}, "at most the recorded rate 200.0 Hz"),
        ({"behaviour": ["speed"], "behaviour_rate": 0.1}, "holds no query at 0.1 Hz"),
    ],
)
def test_arguments_that_do_not_fit_are_explained(
    options: dict, message: str, ramp_store: Store
) -> None:
    if "behaviour" in options:
        options = {"window": 1.0, "modalities": ["lfp"], **options}
    with pytest.raises(ValueError, match=message):
        ramp_store.windows(**options)


def test_window_numbers_out_of_range_are_refused(ramp_store: Store) -> None:
    view = ramp_store.windows(window=1.0, modalities=["lfp"])
    for bad in (10, -11):
        with pytest.raises(IndexError, match=f"window {bad} is out of range, .* has 10 windows"):
            view.read_batch([0, bad])
    assert view.read_batch([])["start_time"].shape == (0,)


def test_targets_that_are_no_numbers_are_refused(make_store: Callable[..., Store]) -> None:
    span = {"start": np.array([0.0]), "end": np.array([1.0])}
    store = make_store(
        record(
            "a",
            {
                "word": Intervals(**span, columns={"name": np.array(["x"])}),
                "two": Intervals(**span, columns={"a": np.ones(1), "b": np.ones(1)}),
                "wide": Signal(np.ones((20, 2)), rate=10.0),
            },
            lfp=Signal(np.ones((20, 1)), rate=10.0),
        ),
        record(
            "b",
            {"wide": Signal(np.ones((20, 1)), rate=10.0)},
            lfp=Signal(np.ones((20, 1)), rate=10.0),
        ),
    )
    options = {"window": 1.0, "behaviour_rate": 5.0}
    with pytest.raises(ValueError, match="column 'name' needs numbers to be a target"):
        store.windows(**options, behaviour=["word"]).read_batch([0])
    with pytest.raises(ValueError, match=r"needs a column .* it has a, b"):
        store.windows(**options, behaviour=["two"]).read_batch([0])
    with pytest.raises(ValueError, match=r"'wide' has \[1, 2\] channels"):
        store.windows(**options, behaviour=["wide"])


def test_intervals_as_a_modality_have_no_windows(make_store: Callable[..., Store]) -> None:
    store = make_store(record(spike=Intervals(np.zeros(1), np.ones(1))))
    with pytest.raises(ValueError, match="is made of intervals; only signals and events"):
        store.windows(window=1.0)
