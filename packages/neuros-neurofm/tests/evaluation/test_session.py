from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_neurofm.evaluation import Blocks, Session, contiguous_blocks


def build(**changes: Any) -> Session:
    given_by: dict[str, Any] = {
        "inputs": {"spike": np.arange(200.0).reshape(100, 2)},
        "targets": np.arange(100.0),
        "rate": 50.0,
        "blocks": contiguous_blocks(100, gap=5),
        "units": {"spike": ["a", "b"]},
    }
    return Session(**(given_by | changes))


@settings(max_examples=50, derandomize=True, deadline=None)
@given(n=st.integers(20, 2000), gap=st.integers(0, 4), train=st.floats(0.3, 0.7))
def test_blocks_cover_the_session_but_for_two_gaps(n: int, gap: int, train: float) -> None:
    blocks = contiguous_blocks(n, ratios=(train, 0.8 - train, 0.2), gap=gap)
    parts = [blocks.train[0], blocks.validation[0], blocks.test[0]]
    sizes = [part.stop - part.start for part in parts]
    assert blocks.gap == gap
    assert (parts[0].start, blocks.stop) == (0, n)
    assert sum(sizes) == n - 2 * gap
    assert abs(sizes[0] - train * (n - 2 * gap)) <= 0.5 + 1e-9


def test_a_part_holds_the_samples_of_its_block() -> None:
    session = build()
    (part,) = session.part("validation")
    assert part.block == slice(59, 68)
    np.testing.assert_array_equal(part.inputs["spike"], session.inputs["spike"][59:68])
    np.testing.assert_array_equal(part.targets, np.arange(59.0, 68.0)[:, None])


def test_missing_targets_and_negative_labels_are_not_scored() -> None:
    targets = np.arange(200.0).reshape(100, 2)
    targets[3, 1] = np.nan
    labels = np.full(100, 2)
    labels[[0, 7]] = -1
    assert np.flatnonzero(~build(targets=targets).scored()).tolist() == [3]
    assert np.flatnonzero(~build(targets=labels).scored()).tolist() == [0, 7]
    assert not build(targets=None).scored().any()
    assert build(targets=None).part("test")[0].targets is None


def test_the_number_of_targets_follows_from_their_shape() -> None:
    sessions = [build(), build(targets=None), build(targets=np.zeros(100, dtype=int))]
    assert [s.n_targets for s in sessions] == [1, 0, 1]
    assert [s.labelled for s in sessions] == [False, False, True]
    assert build(targets=np.zeros((100, 3))).n_targets == 3
    assert sessions[0].n_times == 100


def test_the_gap_is_measured_between_parts_only() -> None:
    blocks = Blocks((slice(0, 10), slice(10, 20)), (), (slice(27, 30),))
    assert blocks.gap == 7
    assert Blocks((slice(0, 10), slice(12, 20))).gap == 0
    assert build(blocks=blocks).part("train")[1].block == slice(10, 20)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        (((),), ValueError, "train must hold at least one block"),
        (((slice(0, 10),), (slice(9, 12),)), ValueError, r"overlap, got \[0, 10\) and \[9, 12\)"),
        (((slice(5, 5),),), ValueError, "0 <= start < stop"),
        (((slice(0, 6, 2),),), ValueError, "no step"),
        (((slice(None, 6),),), TypeError, "slices of two integers"),
        (((slice(0, 2.5),),), TypeError, "slices of two integers"),
    ],
)
def test_blocks_that_cannot_be_are_refused(parts: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        Blocks(*parts)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rate": 0.0}, ValueError, "rate must be a finite number > 0"),
        ({"inputs": {}}, ValueError, "inputs must hold at least one of"),
        ({"inputs": {"sound": np.ones((100, 2))}}, ValueError, "inputs must hold at least one of"),
        ({"inputs": {"spike": np.ones(100)}}, ValueError, r"must be \(time, channel\)"),
        (
            {"inputs": {"spike": np.ones((100, 2)), "lfp": np.ones((99, 2))}},
            ValueError,
            "one length in time",
        ),
        ({"inputs": {"spike": np.full((100, 2), np.nan)}}, ValueError, "got 200 NaN or infinite"),
        ({"inputs": {"spike": np.full((100, 2), "x")}}, TypeError, "array of real numbers"),
        ({"targets": np.ones(99)}, ValueError, r"targets must be \(time, dim\)"),
        ({"targets": np.full(100, np.inf)}, ValueError, "got 100 infinite"),
        ({"units": {"lfp": ["a"]}}, ValueError, "units names 'lfp'"),
        ({"units": {"spike": ["a", "a"]}}, ValueError, "2 ids, 1 different"),
        ({"blocks": Blocks((slice(0, 101),))}, ValueError, "blocks end at sample 101"),
    ],
)
def test_sessions_that_cannot_be_are_refused(changes: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        build(**changes)


def test_unknown_parts_and_impossible_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="part must be one of train, validation, test"):
        build().part("all")
    with pytest.raises(ValueError, match="add up to 1"):
        contiguous_blocks(100, ratios=(0.6, 0.3, 0.3), gap=0)
    with pytest.raises(ValueError, match="gap must be >= 0"):
        contiguous_blocks(100, gap=-1)
    with pytest.raises(ValueError, match="leaves 0 samples beside two gaps of 50"):
        contiguous_blocks(100, gap=50)
