from typing import Any

import pytest
import torch
from torch import Generator

from neuros_neurofm.losses import ForecastingLoss, split_future


def test_the_shifted_identity_scores_zero() -> None:
    ramp = torch.arange(12.0).reshape(1, 12, 1)
    batch = split_future({"lfp": ramp}, 3)
    assert ForecastingLoss(3)({"forecast": {"lfp": batch["lfp"][:, -3:] + 3}}, batch).item() == 0


def test_targets_lie_strictly_after_the_last_input() -> None:
    times = {"eeg": torch.arange(7.0)[None]}
    batch = {"eeg": torch.arange(7.0).reshape(1, 7, 1), "times": times, "behavior": torch.ones(1)}
    split = split_future(batch, 2)
    assert split["eeg"].max() < split["future"]["eeg"].min()
    assert split["times"]["eeg"].tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0]]
    assert split["behavior"] is batch["behavior"]
    assert batch["eeg"].shape == (1, 7, 1)


def test_the_future_never_reaches_the_input() -> None:
    x = torch.randn(2, 9, 3, generator=Generator().manual_seed(0))
    changed = x.clone()
    changed[:, -4:] += 100
    first, second = split_future({"lfp": x}, 4), split_future({"lfp": changed}, 4)
    assert torch.equal(first["lfp"], second["lfp"])
    assert not torch.equal(first["future"]["lfp"], second["future"]["lfp"])


def test_entries_that_were_not_recorded_do_not_count() -> None:
    mask = torch.ones(1, 6, 2, dtype=torch.bool)
    mask[0, 5, 1] = False
    x = torch.zeros(1, 6, 2)
    x[0, 5, 1] = float("nan")
    batch = split_future({"lfp": x, "masks": {"lfp": mask}}, 2)
    forecast = torch.full((1, 2, 2), 2.0)
    assert ForecastingLoss(2)({"forecast": {"lfp": forecast}}, batch).item() == 2.0
    assert ForecastingLoss(2).count(batch) == 3
    assert batch["masks"]["lfp"].shape == (1, 4, 2)


@pytest.mark.parametrize(("likelihood", "expected"), [("auto", 1.0), ("gaussian", 0.5)])
def test_spikes_are_scored_as_counts(likelihood: str, expected: float) -> None:
    batch = split_future({"spike": torch.ones(1, 5, 2)}, 1)
    loss = ForecastingLoss(1, likelihood=likelihood)
    assert loss({"forecast": {"spike": torch.zeros(1, 1, 2)}}, batch).item() == expected


def test_the_weight_is_a_factor() -> None:
    batch = split_future({"emg": torch.ones(1, 5, 2)}, 1)
    outputs = {"forecast": {"emg": torch.zeros(1, 1, 2)}}
    assert ForecastingLoss(1, weight=3.0)(outputs, batch).item() == 1.5


def test_a_batch_without_a_future_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no 'future', only \['lfp'\]; pass it through split_fut"):
        ForecastingLoss(2)({"forecast": {}}, {"lfp": torch.ones(1, 4, 1)})


def test_a_future_of_another_horizon_is_refused() -> None:
    batch = split_future({"lfp": torch.ones(1, 5, 1)}, 1)
    with pytest.raises(ValueError, match="has 1 samples, the loss needs horizon = 2"):
        ForecastingLoss(2)({"forecast": {"lfp": torch.ones(1, 2, 1)}}, batch)


@pytest.mark.parametrize("call", [lambda: ForecastingLoss(0), lambda: split_future({}, 0)])
def test_a_horizon_below_one_sample_is_refused(call: Any) -> None:
    with pytest.raises(ValueError, match="horizon must be at least 1 sample, got 0"):
        call()


def test_windows_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['lfp'\] needs more than horizon = 4 samples, got 4"):
        split_future({"lfp": torch.ones(1, 4, 1)}, 4)


def test_splitting_a_batch_without_a_modality_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no modality, only \['behavior'\]"):
        split_future({"behavior": torch.ones(1, 2, 1)}, 1)
