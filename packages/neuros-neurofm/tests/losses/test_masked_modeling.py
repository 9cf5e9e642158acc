import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from neuros_neurofm.losses import MaskedModelingLoss, NeuralMasker


def masked_batch(**values: Tensor) -> dict[str, Any]:
    return NeuralMasker("random", 0.5)(values, Generator().manual_seed(1))


def counts(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = Generator().manual_seed(2)
    return torch.poisson(torch.full(shape, 3.0, dtype=dtype), generator=generator)


def test_spikes_score_the_full_poisson_likelihood_of_pytorch() -> None:
    n = counts(4, 30, 5)
    log_rate = torch.randn(n.shape, dtype=n.dtype, generator=Generator().manual_seed(3))
    batch = masked_batch(spike=n)
    hidden = batch["masked"]["spike"]
    # PoissonNLLLoss(full=True) approximates ln n! by Stirling, so the exact term is added here.
    oracle = nn.PoissonNLLLoss(log_input=True, full=False)(log_rate[hidden], n[hidden])
    oracle = oracle + torch.lgamma(n[hidden] + 1).mean()
    ours = MaskedModelingLoss()({"encoder": {"spike": log_rate}}, batch)
    torch.testing.assert_close(ours, oracle, rtol=1e-6, atol=0)


@pytest.mark.parametrize("modality", ["lfp", "calcium", "eeg", "fmri", "ecog", "emg"])
def test_other_modalities_score_the_gaussian_likelihood_of_pytorch(modality: str) -> None:
    x, mean = torch.randn(2, 3, 20, 4, dtype=torch.float64, generator=Generator().manual_seed(4))
    batch = masked_batch(**{modality: x})
    hidden = batch["masked"][modality]
    oracle = nn.GaussianNLLLoss()(mean[hidden], x[hidden], torch.ones_like(x[hidden]))
    ours = MaskedModelingLoss()({"encoder": {modality: mean}}, batch)
    torch.testing.assert_close(ours, oracle, rtol=1e-12, atol=0)


def test_the_mean_runs_over_the_entries_of_all_modalities_together() -> None:
    batch = {
        "targets": {"lfp": torch.full((1, 1, 1), 2.0), "eeg": torch.ones(1, 3, 1)},
        "masked": {
            "lfp": torch.ones(1, 1, 1, dtype=torch.bool),
            "eeg": torch.ones(1, 3, 1, dtype=torch.bool),
        },
    }
    outputs = {"encoder": {"lfp": torch.zeros(1, 1, 1), "eeg": torch.zeros(1, 3, 1)}}
    # (1/2) (4 + 3 * 1) / 4 entries
    assert MaskedModelingLoss()(outputs, batch).item() == pytest.approx(0.875)
    assert MaskedModelingLoss().count(batch) == 4


@pytest.mark.parametrize(("likelihood", "expected"), [("gaussian", 0.5), ("poisson", 1.0)])
def test_a_likelihood_can_be_forced(likelihood: Any, expected: float) -> None:
    batch = NeuralMasker("random", 1.0)({"spike": torch.ones(1, 4, 2)}, Generator())
    loss = MaskedModelingLoss(likelihood=likelihood)
    assert loss({"encoder": {"spike": torch.zeros(1, 4, 2)}}, batch).item() == expected


def test_only_hidden_entries_get_a_gradient() -> None:
    batch = masked_batch(spike=counts(2, 6, 3).float())
    log_rate = torch.zeros(2, 6, 3, requires_grad=True)
    MaskedModelingLoss()({"encoder": {"spike": log_rate}}, batch).backward()
    assert log_rate.grad is not None
    assert torch.equal(
        log_rate.grad != 0, batch["masked"]["spike"] & (batch["targets"]["spike"] != 1)
    )


def test_nothing_hidden_gives_zero_with_a_gradient() -> None:
    batch = NeuralMasker("random", 0.0)({"spike": torch.ones(2, 3, 4)}, Generator())
    log_rate = torch.full((2, 3, 4), float("inf"), requires_grad=True)
    loss = MaskedModelingLoss()({"encoder": {"spike": log_rate}}, batch)
    loss.backward()
    assert loss.item() == 0
    assert log_rate.grad is not None
    assert (log_rate.grad == 0).all()


def test_missing_values_outside_the_hidden_entries_change_nothing() -> None:
    batch = masked_batch(eeg=torch.randn(2, 10, 3, generator=Generator().manual_seed(5)))
    mean = torch.zeros(2, 10, 3)
    clean = MaskedModelingLoss()({"encoder": {"eeg": mean}}, batch)
    dirty = dict(batch, targets={"eeg": batch["targets"]["eeg"].clone()})
    dirty["targets"]["eeg"][~batch["masked"]["eeg"]] = float("nan")
    assert torch.equal(MaskedModelingLoss()({"encoder": {"eeg": mean}}, dirty), clean)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(weight=st.floats(0, 100), seed=st.integers(0, 99))
def test_the_weight_is_a_factor(weight: float, seed: int) -> None:
    batch = masked_batch(spike=counts(2, 4, 2))
    log_rate = torch.randn(2, 4, 2, dtype=torch.float64, generator=Generator().manual_seed(seed))
    outputs = {"encoder": {"spike": log_rate}}
    torch.testing.assert_close(
        MaskedModelingLoss(weight=weight)(outputs, batch),
        weight * MaskedModelingLoss()(outputs, batch),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    batch = masked_batch(spike=counts(3, 40, 5, dtype=torch.float32))
    log_rate = torch.randn(3, 40, 5, generator=Generator().manual_seed(6)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        half = MaskedModelingLoss()({"encoder": {"spike": log_rate}}, batch)
    full = MaskedModelingLoss()({"encoder": {"spike": log_rate.float()}}, batch)
    assert half.dtype == torch.float32
    assert torch.equal(half, full)


@pytest.mark.parametrize("logit", [1e4, -1e4])
@pytest.mark.parametrize("modality", ["spike", "eeg"])
def test_huge_outputs_never_give_nan(logit: float, modality: str) -> None:
    batch = masked_batch(**{modality: torch.ones(2, 5, 2)})
    output = torch.full((2, 5, 2), logit, requires_grad=True)
    loss = MaskedModelingLoss()({"encoder": {modality: output}}, batch)
    loss.backward()
    assert not loss.isnan()
    assert output.grad is not None
    assert not output.grad.isnan().any()


def test_the_expected_loss_of_the_true_rate_is_the_poisson_entropy() -> None:
    # Entropy of Poisson(1) is 1.3048 nats; 2e5 samples, standard deviation of the loss < 1, so six
    # standard errors are 0.014 (false alarms 2e-9).
    n = torch.poisson(torch.ones(1, 2000, 100), generator=Generator().manual_seed(7))
    batch = NeuralMasker("random", 1.0)({"spike": n}, Generator())
    loss = MaskedModelingLoss()({"encoder": {"spike": torch.zeros_like(n)}}, batch)
    assert math.isclose(loss.item(), 1.3048, abs_tol=0.014)


def test_a_batch_that_was_not_masked_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no 'masked' and 'targets', only \['eeg'\]; pass it"):
        MaskedModelingLoss()({"encoder": {}}, {"eeg": torch.ones(1, 1, 1)})


def test_an_output_that_is_missing_is_named() -> None:
    batch = masked_batch(eeg=torch.ones(1, 2, 1))
    with pytest.raises(ValueError, match=r"outputs\['encoder'\] has no 'eeg', only \['spike'\]"):
        MaskedModelingLoss()({"encoder": {"spike": torch.ones(1, 2, 1)}}, batch)


def test_an_output_of_another_shape_is_refused() -> None:
    batch = masked_batch(eeg=torch.ones(1, 2, 1))
    with pytest.raises(ValueError, match=r"shape \(1, 3, 1\), its target has \(1, 2, 1\)"):
        MaskedModelingLoss()({"encoder": {"eeg": torch.ones(1, 3, 1)}}, batch)


def test_a_batch_with_no_modality_to_score_is_refused() -> None:
    with pytest.raises(ValueError, match="no modality to score"):
        MaskedModelingLoss()({"encoder": {}}, {"masked": {}, "targets": {}})
    assert MaskedModelingLoss().count({"masked": {}, "targets": {}}) == 0


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_must_be_finite_and_not_negative(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be a finite number >= 0"):
        MaskedModelingLoss(weight=weight)


def test_an_unknown_likelihood_is_refused() -> None:
    with pytest.raises(ValueError, match="likelihood must be one of auto, poisson, gaussian"):
        MaskedModelingLoss(likelihood="cauchy")
