from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from neuros_neurofm.datasets.sessions import (
    RecordedSession,
    SessionBatches,
    cut_blocks,
    load_session,
    load_sessions,
    session_loader,
    windows,
)


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_a_session_is_read_as_it_was_written(tmp_path: Path) -> None:
    lfp = np.arange(40.0).reshape(20, 2)
    path = write(
        tmp_path / "monday.npz",
        spike=np.ones((50, 3), int),
        rate_spike=50,
        units_spike=["a", "b", "c"],
        lfp=lfp,
        behavior=np.arange(20),
        species="mouse",
    )
    session = load_session(path, sampling_rates={"lfp": 20.0, "spike": 7.0})
    assert (session.name, session.duration, session.species) == ("monday", 1.0, 2)
    assert session.rates == {"spike": 50.0, "lfp": 20.0}
    assert session.units == {"spike": ("a", "b", "c")}
    assert session.labelled
    assert session.behavior_rate == 20.0
    assert np.array_equal(session.signals["lfp"], lfp)
    assert list(session.restricted(["lfp"]).signals) == ["lfp"]


def test_the_shortest_stream_ends_the_session(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.npz", eeg=np.ones((100, 1)), rate_eeg=10, behavior=np.ones((3, 2)),
        rate_behavior=0.5, species=4,
    )  # fmt: skip
    session = load_session(path)
    assert (session.duration, session.species) == (6.0, 4)
    assert session.behavior.shape == (3, 2)


def test_a_scaled_behavior_has_mean_0_and_labels_stay() -> None:
    values = np.array([[1.0, 10.0], [3.0, 30.0]], np.float32)
    session = RecordedSession("s", {}, {}, {}, values, 1.0, -100)
    scaled = session.scaled(values.mean(0), values.std(0)).behavior
    assert scaled.tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    labels = RecordedSession("s", {}, {}, {}, np.array([0, 1]), 1.0, -100)
    assert labels.scaled(values.mean(0), values.std(0)) is labels


LFP = {"lfp": np.ones((10, 2)), "rate_lfp": 5}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"spikes": np.ones((4, 2))}, "it needs at least one of spike, lfp"),
        (LFP | {"extra": np.ones(2)}, r"has arrays \['extra', 'lfp', 'rate_lfp'\]"),
        ({"lfp": np.ones(4), "rate_lfp": 5}, "lfp of .* must be numbers"),
        ({"lfp": np.ones((0, 2)), "rate_lfp": 5}, "lfp of .* must be numbers"),
        ({"lfp": np.full((4, 2), np.inf), "rate_lfp": 5}, "must be finite"),
        ({"spike": -np.ones((4, 2)), "rate_spike": 5}, "spike counts >= 0"),
        ({"lfp": np.ones((4, 2))}, "does not say how fast lfp is sampled"),
        ({"lfp": np.ones((4, 2)), "rate_lfp": 0}, "rate_lfp of .* must be one number > 0"),
        ({"lfp": np.ones((4, 2)), "rate_lfp": "fast"}, "rate_lfp of .* must be one number > 0"),
        (LFP | {"units_lfp": ["a", "a"]}, "must be 2 different ids"),
        (LFP | {"behavior": np.ones((10, 2, 2))}, "behavior of .* must be numbers"),
        (LFP | {"behavior": np.full(10, np.inf)}, "behavior of .* must be finite"),
        (LFP | {"behavior": np.ones(7)}, "no modality has as many; add rate_behavior"),
        (LFP | {"species": "dragon"}, "species of .* must be a number >= 0 or one of human"),
    ],
)
def test_a_file_that_is_refused_is_named(
    arrays: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message) as error:
        load_session(path)
    assert "bad.npz" in str(error.value)


def test_a_file_that_is_no_archive_of_plain_arrays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no session file"):
        load_session(tmp_path / "absent.npz")
    path = write(tmp_path / "object.npz", lfp=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"object\.npz is damaged or no \.npz of plain arrays"):
        load_session(path)
    np.save(tmp_path / "single.npy", np.ones(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with pytest.raises(ValueError, match=r"single\.npz is damaged"):
        load_session(tmp_path / "single.npz")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (LFP | {"rate_lfp": 6}, r"lfp must have one rate in all sessions, got \[5.0, 6.0\] Hz"),
        (LFP | {"units_lfp": ["a", "b"]}, r"units_lfp must be in every .* missing in \['a'\]"),
        (LFP | {"behavior": np.ones((10, 3))}, "the same dimensions in all sessions"),
        (LFP | {"behavior": np.ones(10, int)}, "the same dimensions in all sessions"),
    ],
)
def test_sessions_that_do_not_fit_together_are_refused(
    second: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "a.npz", **LFP, behavior=np.ones((10, 2)))
    write(tmp_path / "b.npz", **second)
    with pytest.raises(ValueError, match=message):
        load_sessions(tmp_path)


def test_a_folder_without_what_is_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \.npz session"):
        load_sessions(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no data folder"):
        load_sessions(tmp_path / "absent")
    write(tmp_path / "a.npz", **LFP)
    write(tmp_path / "b.npz", eeg=np.ones((10, 1)), rate_eeg=5)
    with pytest.raises(ValueError, match=r"has \['lfp'\], and none of them in \['b'\]"):
        load_sessions(tmp_path, modalities=["lfp"])
    assert len(load_sessions(tmp_path)) == 2


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    duration=st.floats(10, 1e4),
    shares=st.tuples(st.floats(0.1, 5), st.floats(0, 5), st.floats(0, 5)),
    gap=st.floats(0, 4),
)
def test_blocks_lie_in_order_with_their_gaps(
    duration: float, shares: tuple[float, float, float], gap: float
) -> None:
    blocks = [b for b in cut_blocks(duration, shares, gap=gap) if b is not None]
    assert len(blocks) == sum(share > 0 for share in shares)
    assert blocks[0][0] == 0.0
    assert blocks[-1][1] == pytest.approx(duration, rel=1e-6)
    for (_, end), (start, _) in pairwise(blocks):
        assert start - end == pytest.approx(gap, abs=1e-6)


def test_blocks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="three shares"):
        cut_blocks(10.0, (0.0, 1.0, 1.0), gap=0.0)
    with pytest.raises(ValueError, match="gap must be >= 0 s"):
        cut_blocks(10.0, gap=-1.0)
    with pytest.raises(ValueError, match=r"of 3 s has no room for blocks with gaps of 2 s"):
        cut_blocks(3.0, gap=2.0)


def ramp(n: int = 100, rate: float = 10.0, **more: Any) -> RecordedSession:
    signal = np.arange(n, dtype=np.float32)[:, None]
    settings = {"units": {}, "behavior": None, "behavior_rate": 0.0, "species": 1} | more
    return RecordedSession("ramp", {"lfp": signal}, {"lfp": rate}, **settings)


def test_windows_hold_the_samples_of_their_time() -> None:
    samples = windows(ramp(), (2.0, 6.0), window=1.0, stride=1.5, index=3)
    assert [s["lfp"][0, 0].item() for s in samples] == [20.0, 35.0, 50.0]
    assert all(len(s["lfp"]) == 10 for s in samples)
    assert (samples[0]["recording_index"], samples[0]["species"]) == (3, 1)
    assert "masks" not in samples[0]


def test_no_window_reaches_out_of_its_block() -> None:
    last = max(s["lfp"].max().item() for s in windows(ramp(), (0.0, 6.05), window=0.5))
    assert last <= 60
    assert windows(ramp(), (0.0, 0.9), window=1.0) == []
    # 0.25 s are 2.5 samples: the last one of the recording would need one more.
    assert all(len(s["lfp"]) == 2 for s in windows(ramp(99), window=0.25))


def test_what_is_missing_is_masked() -> None:
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    values[3, 1] = np.nan
    behavior = np.ones((10, 1), np.float32)
    behavior[4] = np.nan
    session = RecordedSession(
        "s", {"lfp": values}, {"lfp": 10.0}, {"lfp": ("a", "b")}, behavior, 10.0, -100
    )
    (sample,) = windows(session, window=1.0)
    assert (~sample["masks"]["lfp"]).nonzero().tolist() == [[3, 1]]
    assert sample["lfp"][3, 1] == 0
    assert sample["units"] == {"lfp": ("a", "b")}
    assert (~sample["behavior_mask"]).nonzero().tolist() == [[4]]
    assert sample["behavior_times"].tolist() == pytest.approx(np.arange(1, 11) / 10)
    labels = ramp(behavior=np.array([0, -1] * 50), behavior_rate=10.0)
    (first, *_) = windows(labels, window=1.0)
    assert first["behavior"].min() == 0
    assert first["behavior_mask"].tolist() == [True, False] * 5


def test_windows_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="window and stride must be > 0 s"):
        windows(ramp(), window=0.0)
    with pytest.raises(ValueError, match="holds no sample of lfp in session ramp"):
        windows(ramp(), window=0.01)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), batch_size=st.integers(1, 5))
def test_batches_hold_every_sample_once_and_one_session_each(
    sizes: list[int], batch_size: int
) -> None:
    sessions = [k for k, n in enumerate(sizes) for _ in range(n)]
    batches = SessionBatches(sessions, batch_size, generator=Generator().manual_seed(0))
    drawn = list(batches)
    assert len(drawn) == len(batches)
    assert sorted(i for batch in drawn for i in batch) == list(range(len(sessions)))
    assert all(len({sessions[i] for i in batch}) == 1 for batch in drawn)
    assert max(len(batch) for batch in drawn) <= batch_size


def test_the_order_is_drawn_from_the_generator() -> None:
    samples = windows(ramp(), window=0.5)

    def order(seed: int) -> list[float]:
        loader = session_loader(samples, 3, generator=Generator().manual_seed(seed))
        return [t for batch in loader for t in batch["start_time"].tolist()]

    assert order(0) == order(0) != order(1)
    plain = [t for batch in session_loader(samples, 3) for t in batch["start_time"].tolist()]
    assert plain == sorted(plain)
    assert torch.tensor(order(0)).sort().values.tolist() == plain


def test_loaders_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="no window fits into the blocks"):
        session_loader([], 3)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        session_loader(windows(ramp(), window=1.0), 0)
