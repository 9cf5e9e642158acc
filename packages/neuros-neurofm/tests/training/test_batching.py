from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from neuros_neurofm.losses import NeuralMasker
from neuros_neurofm.training import collate


@settings(max_examples=50, derandomize=True, deadline=None)
@given(shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 5)), min_size=1, max_size=4))
def test_every_sample_is_found_again_and_the_rest_is_masked(shapes: list[tuple[int, int]]) -> None:
    samples = [
        {"lfp": torch.randn(shape, generator=Generator().manual_seed(k))}
        for k, shape in enumerate(shapes)
    ]
    batch = collate(samples)
    x, mask = batch["lfp"], batch["masks"]["lfp"]
    assert (
        x.shape == mask.shape == (len(shapes), *(max(axis) for axis in zip(*shapes, strict=True)))
    )
    for row, sample in enumerate(samples):
        n_times, n_channels = sample["lfp"].shape
        assert torch.equal(x[row, :n_times, :n_channels], sample["lfp"])
        assert mask[row, :n_times, :n_channels].all()
        assert mask[row].sum() == n_times * n_channels
    assert (x[~mask] == 0).all()


def test_channels_are_lined_up_by_unit_id() -> None:
    batch = collate(
        [
            {"spike": np.array([[1.0, 2.0]]), "units": {"spike": ["a", "b"]}},
            {"spike": np.array([[3.0, 4.0]]), "units": {"spike": ["c", "a"]}},
        ]
    )
    assert batch["units"]["spike"] == ("a", "b", "c")
    assert batch["spike"].squeeze(1).tolist() == [[1, 2, 0], [4, 0, 3]]
    assert batch["masks"]["spike"].squeeze(1).tolist() == [[True, True, False], [True, False, True]]


def test_a_modality_that_a_sample_does_not_have_is_masked() -> None:
    batch = collate([{"eeg": torch.ones(2, 1)}, {"emg": torch.ones(3, 2)}])
    assert batch["masks"]["eeg"].any(dim=(1, 2)).tolist() == [True, False]
    assert batch["masks"]["emg"].any(dim=(1, 2)).tolist() == [False, True]


def test_masks_of_the_samples_are_kept() -> None:
    mask = torch.tensor([[True], [False]])
    batch = collate([{"eeg": torch.ones(2, 2), "masks": {"eeg": mask}}, {"eeg": torch.ones(3, 2)}])
    assert batch["masks"]["eeg"].sum(dim=(1, 2)).tolist() == [2, 6]


def test_clocks_are_kept_and_never_run_backwards() -> None:
    batch = collate(
        [
            {"lfp": torch.ones(2, 1), "times": {"lfp": [0.0, 0.4]}, "rates": {"lfp": 10.0}},
            {"lfp": torch.ones(3, 1), "times": {"lfp": [0.1, 0.2, 0.3]}, "rates": {"lfp": 10.0}},
        ]
    )
    torch.testing.assert_close(
        batch["times"]["lfp"], torch.tensor([[0.0, 0.4, 0.4], [0.1, 0.2, 0.3]])
    )
    assert batch["rates"] == {"lfp": 10.0}


def test_behaviour_is_padded_with_a_mask() -> None:
    samples: list[dict[str, Any]] = [
        {"eeg": torch.ones(1, 1), "behavior": torch.ones(2, 3), "behavior_times": [0.0, 0.1]},
        {
            "eeg": torch.ones(1, 1),
            "behavior": torch.ones(4, 3),
            "behavior_mask": torch.tensor([True, False, True, True]),
            "behavior_times": [0.0, 0.1, 0.2, 0.3],
        },
        {"eeg": torch.ones(1, 1)},
    ]
    batch = collate(samples)
    assert batch["behavior"].shape == (3, 4, 3)
    assert batch["behavior_mask"].int().tolist() == [[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]]
    torch.testing.assert_close(batch["behavior_times"][1], torch.tensor([0.0, 0.1, 0.2, 0.3]))


def test_labels_keep_their_type_and_numbers_are_stacked() -> None:
    batch = collate(
        [{"eeg": torch.ones(1, 1), "behavior": torch.tensor([k]), "species": k} for k in range(3)]
    )
    assert batch["behavior"].dtype == torch.int64
    assert batch["behavior"].tolist() == [[0], [1], [2]]
    assert batch["species"].tolist() == [0, 1, 2]


def test_a_batch_can_be_masked_at_once() -> None:
    batch = collate([{"eeg": torch.ones(5, 2)}, {"eeg": torch.ones(3, 1)}])
    assert NeuralMasker("random", 1.0)(batch, Generator())["masked"]["eeg"].sum() == 13


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "at least one sample, got none"),
        ([{"smell": 1}], r"unknown keys \['smell'\]; known are"),
        ([{"eeg": torch.ones(3)}], r"eeg must be \(time, channel\), got shape \(3,\)"),
        (
            [{"eeg": torch.ones(1, 2), "units": {"eeg": ["a", "a"]}}],
            "units of eeg must be 2 different ids, one per channel, got 2, 1 of them different",
        ),
        (
            [{"eeg": torch.ones(1, 1), "units": {"eeg": ["a"]}}, {"eeg": torch.ones(1, 1)}],
            "units of eeg must be in every sample or in none, got it in 1 of 2",
        ),
        (
            [{"eeg": torch.ones(1, 1), "rates": {"eeg": r}} for r in (1.0, 2.0)],
            r"rates of eeg must be equal in one batch, got \[1.0, 2.0\] Hz",
        ),
        (
            [{"eeg": torch.ones(1, 1), "times": {"eeg": [0.0]}}, {"eeg": torch.ones(1, 1)}],
            "times of eeg must be in every sample or in none",
        ),
        (
            [{"eeg": torch.ones(1, 1), "species": 1}, {"eeg": torch.ones(1, 1)}],
            "species must be in every sample or in none, got it in 1 of 2",
        ),
        (
            [{"behavior": torch.ones(2, 1)}, {"behavior": torch.ones(2, 2)}],
            r"behavior must be .* got shapes \[\(2, 1\), \(2, 2\)\]",
        ),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collate(samples)
