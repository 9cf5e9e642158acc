"""Neurons that were held out, predicted from the others."""

from typing import Any

import numpy as np
import pytest
import torch

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.datasets import SyntheticSession, synthetic_population
from neuros_neurofm.evaluation._co_smoothing import co_smoothing
from neuros_neurofm.evaluation.metrics import bits_per_spike
from neuros_neurofm.losses import MaskedModelingLoss, NeuralMasker

HELD_OUT = [2, 7, 11]


def build(**options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    settings = {"modalities": ("spike",), "sampling_rates": {"spike": 50.0}, "popt_depth": 1}
    sizes = {"d_model": 32, "n_mamba_blocks": 1, "n_latents": 50, "latent_dim": 16}
    return MultiModalNeuroFMX(**{**sizes, **settings, "dropout": 0.0, **options})


@pytest.fixture(scope="module")
def session() -> SyntheticSession:
    (session,) = synthetic_population(
        1,
        16,
        "ring",
        generator=torch.Generator().manual_seed(0),
        n_trials=72,
        n_times=50,
        mean_rate_hz=20.0,
        modulation=2.0,
    )
    return session


@pytest.fixture(scope="module")
def model(session: SyntheticSession) -> MultiModalNeuroFMX:
    model = build(behavior_dim=0)
    model.add_units("spike", session.ids)
    return model


def test_the_true_rates_score_what_they_score_without_a_model(session: SyntheticSession) -> None:
    truth = (session.rates * session.bin_s)[..., HELD_OUT]
    result = co_smoothing(lambda _: truth, session.counts, HELD_OUT)
    expected = bits_per_spike(truth, session.counts[..., HELD_OUT])
    assert result.bits_per_spike == expected > 0.3
    assert result.per_neuron.shape == (3,)
    assert result.known.all()
    assert result.held_out.tolist() == HELD_OUT


def test_the_mean_rates_score_exactly_zero(session: SyntheticSession) -> None:
    held_out = session.counts[..., HELD_OUT].double()
    means = held_out.mean(dim=(0, 1)).expand(held_out.shape)
    result = co_smoothing(lambda _: means, session.counts, HELD_OUT)
    # The mean of float64 counts is summed in another order than here.
    assert result.bits_per_spike == pytest.approx(0.0, abs=1e-12)


def test_a_function_sees_the_other_neurons_alone(session: SyntheticSession) -> None:
    seen = []

    def remember(held_in: np.ndarray) -> np.ndarray:
        seen.append(held_in)
        return np.ones((*held_in.shape[:2], 3))

    co_smoothing(remember, session.counts, HELD_OUT)
    np.testing.assert_array_equal(seen[0], np.delete(session.counts.numpy(), HELD_OUT, axis=-1))


@pytest.mark.parametrize("named", [True, False])
def test_changing_held_out_counts_leaves_the_rates_equal_to_the_bit(
    model: MultiModalNeuroFMX, session: SyntheticSession, named: bool
) -> None:
    units = session.ids if named else None
    changed = session.counts.clone()
    changed[..., HELD_OUT] = changed[..., HELD_OUT].flip(0) * 7 + 3
    first, second = (
        co_smoothing(model, counts, HELD_OUT, units=units) for counts in (session.counts, changed)
    )
    np.testing.assert_array_equal(first.rates, second.rates)
    assert first.bits_per_spike != second.bits_per_spike
    assert first.known.all() == named
    held_in = session.counts.clone()
    held_in[..., 0] += 1
    third = co_smoothing(model, held_in, HELD_OUT, units=units)
    assert not np.array_equal(first.rates, third.rates)


def test_neurons_that_nothing_tells_apart_have_one_rate(
    model: MultiModalNeuroFMX, session: SyntheticSession
) -> None:
    named, unnamed = (
        co_smoothing(model, session.counts[:4], HELD_OUT, units=units)
        for units in (session.ids, None)
    )
    np.testing.assert_allclose(unnamed.rates[..., 0], unnamed.rates[..., 1], rtol=1e-5)
    assert not np.allclose(named.rates[..., 0], named.rates[..., 1], rtol=0.1)


def test_missing_held_out_counts_are_neither_read_nor_scored(
    model: MultiModalNeuroFMX, session: SyntheticSession
) -> None:
    holes = session.counts.clone()
    holes[:, 10:20, HELD_OUT] = torch.nan
    full, partial = (
        co_smoothing(model, counts, HELD_OUT, units=session.ids)
        for counts in (session.counts, holes)
    )
    np.testing.assert_array_equal(full.rates, partial.rates)
    expected = bits_per_spike(full.rates, holes[..., HELD_OUT])
    assert partial.bits_per_spike == expected


def test_missing_held_in_counts_do_not_reach_the_model(
    model: MultiModalNeuroFMX, session: SyntheticSession
) -> None:
    holes = session.counts.clone()
    holes[3, 5:9, 0] = torch.nan
    result = co_smoothing(model, holes, HELD_OUT, units=session.ids)
    assert np.isfinite(result.rates).all()


def test_one_stretch_is_a_batch_of_one(
    model: MultiModalNeuroFMX, session: SyntheticSession
) -> None:
    alone = co_smoothing(model, session.counts[0], HELD_OUT, units=session.ids)
    batch = co_smoothing(model, session.counts[:1], HELD_OUT, units=session.ids)
    assert alone.rates.shape == (50, 3)
    np.testing.assert_array_equal(alone.rates, batch.rates[0])


def test_a_boolean_per_unit_says_the_same_as_indices(
    model: MultiModalNeuroFMX, session: SyntheticSession
) -> None:
    mask = np.isin(np.arange(16), HELD_OUT)
    by_mask, by_index = (
        co_smoothing(model, session.counts[:4], held_out, units=session.ids)
        for held_out in (mask, HELD_OUT)
    )
    assert by_mask.bits_per_spike == by_index.bits_per_spike


def test_the_model_keeps_its_modes(model: MultiModalNeuroFMX, session: SyntheticSession) -> None:
    model.train()
    model.tokenizers.eval()
    co_smoothing(model, session.counts[:2], HELD_OUT, units=session.ids)
    assert model.training
    assert model.heads.training
    assert not model.tokenizers.training
    model.eval()


def test_a_silent_neuron_has_no_score_of_its_own(session: SyntheticSession) -> None:
    counts = session.counts.clone()
    counts[..., 2] = 0
    result = co_smoothing(lambda x: np.ones((*x.shape[:2], 3)), counts, HELD_OUT)
    assert np.isnan(result.per_neuron).tolist() == [True, False, False]
    assert np.isfinite(result.bits_per_spike)


@pytest.mark.slow  # A model is trained.
def test_a_trained_model_predicts_neurons_that_it_does_not_see(session: SyntheticSession) -> None:
    model = build(behavior_dim=0, perceiver_depth=1, n_latents=25)
    model.add_units("spike", session.ids, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    masker, draw = NeuralMasker("neuron", 0.4), torch.Generator().manual_seed(0)
    for step in range(64):
        first = step % 4 * 16
        batch = masker(session.to_batch(slice(first, first + 16)), draw)
        loss = MaskedModelingLoss()(model.forward_batch(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    test = session.counts[64:]
    ceiling = co_smoothing(
        lambda _: (session.rates[64:] * session.bin_s)[..., HELD_OUT], test, HELD_OUT
    )
    trained = co_smoothing(model, test, HELD_OUT, units=session.ids)
    assert trained.bits_per_spike >= 0.6 * ceiling.bits_per_spike > 0.3


@pytest.mark.parametrize(
    ("counts", "held_out", "units", "message"),
    [
        (np.ones(5), [0], None, r"counts must be \(trial, time, unit\) or .* got \(5,\)"),
        (np.ones((0, 4)), [0], None, "and not empty"),
        (-np.ones((5, 4)), [0], None, "counts must be >= 0 and finite"),
        (np.full((5, 4), np.inf), [0], None, "counts must be >= 0 and finite"),
        (np.ones((5, 4)), [], None, "held_out must name 1 to 3 of the 4 units"),
        (np.ones((5, 4)), [0, 1, 2, 3], None, "held_out must name 1 to 3 of the 4 units"),
        (np.ones((5, 4)), [4], None, r"indices in \[0, 4\), got \[4\]"),
        (np.ones((5, 4)), [-1], None, r"indices in \[0, 4\), got \[-1\]"),
        (np.ones((5, 4)), [1, 1], None, r"each unit once, got \[1, 1\]"),
        (np.ones((5, 4)), np.array([0.5]), None, "held_out must be indices .* got float64"),
        (np.ones((5, 4)), np.array([[0]]), None, r"of shape \(1, 1\)"),
        (np.ones((5, 4)), [0], ["a"], "units must name the 4 units of counts, got 1 ids"),
        (np.zeros((5, 4)), [0], None, "at least one spike"),
    ],
)
def test_what_cannot_be_held_out_is_refused(
    counts: Any, held_out: Any, units: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        co_smoothing(lambda x: np.ones((1, 5, 1)), counts, held_out, units=units)


def test_rates_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rates \(trial, time, neuron\) = \(1, 5, 1\), got \(5,"):
        co_smoothing(lambda x: np.ones((5, 1)), np.ones((5, 4)), [0])


def test_a_model_without_spikes_is_refused() -> None:
    model = build(modalities=("lfp",), sampling_rates={"lfp": 100.0})
    with pytest.raises(ValueError, match=r"built without 'spike'; its modalities are \['lfp'\]"):
        co_smoothing(model, np.ones((5, 4)), [0])
