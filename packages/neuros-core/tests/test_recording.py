"""Signals, events, intervals and recordings refuse what they cannot mean, and say why."""

import numpy as np
import pytest

from neuros_core import Events, Intervals, Modality, Recording, Signal, Species


def test_duration_of_a_regular_signal_is_samples_over_rate() -> None:
    signal = Signal(np.zeros((500, 3)), rate=250.0, start=1.0)
    assert signal.duration == 2.0
    assert signal.channels == ("0", "1", "2")


def test_duration_of_an_irregular_signal_is_last_time_minus_first() -> None:
    assert Signal(np.zeros((3, 1)), times=np.array([0.5, 1.0, 3.0])).duration == 2.5
    assert Signal(np.zeros((0, 1)), times=np.zeros(0)).duration == 0.0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"data": np.zeros(3), "rate": 1.0}, r"data needs 2 axes \(time, channel\), got 1"),
        ({"data": np.zeros((3, 2)), "rate": 1.0, "channels": ("a",)}, "needs 2 names"),
        ({"data": np.zeros((3, 2)), "rate": 1.0, "channels": ("a", "a")}, "repeated: 'a'"),
        ({"data": np.zeros((3, 2))}, "exactly one of rate and times"),
        ({"data": np.zeros((3, 2)), "rate": 1.0, "times": np.arange(3.0)}, "exactly one"),
        ({"data": np.zeros((3, 2)), "rate": 0.0}, "positive number of Hz, got 0.0"),
        ({"data": np.zeros((3, 2)), "rate": np.inf}, "positive number of Hz, got inf"),
        ({"data": np.zeros((3, 2)), "times": np.arange(2.0)}, r"times needs shape \(3,\)"),
        ({"data": np.zeros((3, 2)), "times": np.array([0, 2, 1.0])}, "got 1.0 after 2.0"),
        ({"data": np.zeros((3, 2)), "times": np.array([0, np.nan, 1.0])}, "finite values"),
        ({"data": np.zeros((3, 2)), "rate": 1.0, "valid": np.ones((3, 1), bool)}, "shape of data"),
    ],
)
def test_a_malformed_signal_is_refused(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Signal(**kwargs)


def test_events_keep_silent_units_and_observed_time() -> None:
    events = Events(np.array([0.1, 0.4]), np.array([1, 1]), n_units=3)
    assert events.units == ("0", "1", "2")
    assert events.duration == 0.4
    assert Events(np.zeros(0), np.zeros(0, int), n_units=2).duration == 0.0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"unit_ids": np.array([0])}, r"one id per event, shape \(2,\), got \(1,\)"),
        ({"unit_ids": np.array([0, 3])}, r"ids in \[0, 3\), got \[0, 3\]"),
        ({"unit_ids": np.array([-1, 0])}, r"got \[-1, 0\]"),
        ({"units": ("a",)}, "needs 3 names, got 1"),
        ({"duration": 0.2}, "at least the last event, 0.4 s; got 0.2"),
        ({"table": {"region": np.array(["CA1"])}}, "'region' needs 3 values, got 1"),
        ({"times": np.array([0.4, 0.1])}, "sort it first"),
    ],
)
def test_malformed_events_are_refused(kwargs: dict[str, object], message: str) -> None:
    good = {"times": np.array([0.1, 0.4]), "unit_ids": np.array([0, 2]), "n_units": 3}
    with pytest.raises(ValueError, match=message):
        Events(**(good | kwargs))


@pytest.mark.parametrize(
    ("start", "end", "columns", "message"),
    [
        ([[0.0]], [[1.0]], {}, "start needs 1 axes"),
        ([0.0], [1.0, 2.0], {}, r"end needs shape \(1,\)"),
        ([0.0, 3.0], [1.0, 2.0], {}, "interval 1 from 3.0 to 2.0"),
        ([np.nan], [1.0], {}, "start needs finite"),
        ([0.0], [np.inf], {}, "end needs finite"),
        ([0.0], [1.0], {"side": np.array([1, 2])}, "'side' needs 1 values, got 2"),
    ],
)
def test_malformed_intervals_are_refused(
    start: list[float], end: list[float], columns: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Intervals(np.array(start), np.array(end), columns)


def test_a_recording_lasts_as_long_as_its_longest_part() -> None:
    recording = Recording(
        "r",
        "s",
        "1",
        Species.HUMAN,
        {
            Modality.LFP: Signal(np.zeros((10, 1)), rate=10.0, start=1.0),
            Modality.SPIKE: Events(np.array([0.5]), np.array([0]), 1, duration=3.0),
            Modality.EMG: Signal(np.zeros((2, 1)), times=np.array([0.0, 2.5])),
        },
        {"trials": Intervals(np.array([0.0]), np.array([4.0]))},
    )
    assert recording.duration == 4.0


def test_empty_parts_have_no_duration() -> None:
    empty = Signal(np.zeros((0, 1)), times=np.zeros(0))
    none = Intervals(np.zeros(0), np.zeros(0))
    assert Recording("r", "s", "1", Species.RAT, {"lfp": empty}, {"t": none}).duration == 0.0


def test_a_recording_names_its_modalities_by_the_enum() -> None:
    recording = Recording(
        "r",
        "s",
        "1",
        Species.RAT,
        {"lfp": Signal(np.zeros((2, 1)), rate=1.0)},
    )
    assert list(recording.modalities) == [Modality.LFP]


def test_a_recording_without_an_id_is_refused() -> None:
    with pytest.raises(ValueError, match="non-empty id"):
        Recording("", "s", "1", Species.RAT, {Modality.LFP: Signal(np.zeros((2, 1)), rate=1.0)})


def test_a_recording_without_any_data_is_refused() -> None:
    with pytest.raises(ValueError, match="'r' needs at least one modality or behaviour"):
        Recording("r", "s", "1", Species.RAT, {})


def test_an_unknown_modality_is_refused() -> None:
    with pytest.raises(ValueError, match="'lidar' is not a valid Modality"):
        Recording("r", "s", "1", Species.RAT, {"lidar": Signal(np.zeros((2, 1)), rate=1.0)})
