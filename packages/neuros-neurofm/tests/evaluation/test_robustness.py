"""Damaged spikes and a limit on tokens."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation._decode import decode
from neuros_neurofm.evaluation.metrics import balanced_accuracy, r2_score
from neuros_neurofm.evaluation.robustness import (
    TokenizerRobustness,
    _jittered,
    tokenizer_robustness,
)
from neuros_neurofm.evaluation.session import Blocks, Session

SPIKES = {"modalities": ("spike",), "sampling_rates": {"spike": 50.0}, "patches": {}}


def spikes_only(lab: Any) -> Session:
    session = lab.record()
    units = {"spike": session.units["spike"]}
    return dataclasses.replace(session, inputs={"spike": session.inputs["spike"]}, units=units)


def trained(lab: Any, data: Session, **options: Any) -> MultiModalNeuroFMX:
    model = lab.make_model(**{**SPIKES, **options})
    lab.fit_readout(model, data)
    return model


@pytest.fixture(scope="module")
def data(lab: Any) -> Session:
    return spikes_only(lab)


@pytest.fixture(scope="module")
def model(lab: Any, data: Session) -> MultiModalNeuroFMX:
    return trained(lab, data)


def curves(model: MultiModalNeuroFMX, data: Session, *args: Any, **options: Any) -> Any:
    settings = {"generator": np.random.default_rng(0), "n_bootstrap": 50}
    result: TokenizerRobustness = tokenizer_robustness(model, data, *args, **settings, **options)
    return result


def test_labels_are_scored_beside_chance(lab: Any) -> None:
    whole = lab.labelled()
    session = dataclasses.replace(
        whole, inputs={"spike": whole.inputs["spike"]}, units={"spike": whole.units["spike"]}
    )
    model = trained(lab, session, behavior_dim=2)
    curve = curves(model, session, (0.0, 400.0), (0.0,)).jitter
    assert (curve.metric, curve.chance) == ("balanced accuracy", 0.5)
    predicted, labels = decode(model, session).argmax(axis=1), session.part("test")[0].targets
    assert curve.scores[0] == balanced_accuracy(labels, predicted) > curve.scores[1]


@pytest.mark.parametrize("mode", ["counts", "events"])
def test_without_damage_the_score_is_that_of_the_decoder(
    lab: Any, data: Session, mode: str
) -> None:
    model = trained(lab, data, spike_mode=mode)
    result = curves(model, data, (0.0,), (0.0,))
    expected = r2_score(data.part("test")[0].targets, decode(model, data))
    for curve in result:
        assert curve.scores[0] == pytest.approx(expected, abs=1e-5)
        assert (curve.metric, curve.chance) == ("R2", 0.0)
        assert curve.low[0] < curve.scores[0] < curve.high[0]
    counts = data.part("test")[0].inputs["spike"]
    # One token per bin of 20 ms, or one per spike.
    n_tokens = len(counts) if mode == "counts" else counts.sum()
    assert result.jitter.tokens_per_second[0] == pytest.approx(n_tokens / len(counts) * 50.0)


def test_more_damage_costs_more(model: MultiModalNeuroFMX, data: Session) -> None:
    result = curves(model, data, (500.0, 0.0, 40.0), (0.0, 0.5, 0.9))
    assert result.jitter.levels.tolist() == [0.0, 40.0, 500.0]
    assert result.jitter.scores[0] > result.jitter.scores[1] > result.jitter.scores[2] + 0.2
    assert result.unit_dropout.scores[0] > result.unit_dropout.scores[2] + 0.2


@pytest.mark.parametrize("mode", ["counts", "events"])
def test_every_tokenizer_keeps_to_the_budget(lab: Any, data: Session, mode: str) -> None:
    model = trained(lab, data, spike_mode=mode)
    result = curves(model, data, (0.0, 20.0), (0.0, 0.5), 10.0)
    n_seconds = len(data.part("test")[0].inputs["spike"]) / 50.0
    for curve in result:
        # A whole number of tokens in the block: half a token at most is rounded.
        assert curve.tokens_per_second == pytest.approx([10.0, 10.0], abs=0.5 / n_seconds)
    assert result.jitter.scores[0] < curves(model, data, (0.0,), (0.0,)).jitter.scores[0]


@pytest.mark.parametrize("mode", ["counts", "events"])
def test_a_budget_that_is_not_used_up_changes_nothing(lab: Any, data: Session, mode: str) -> None:
    model = trained(lab, data, spike_mode=mode)
    free, rich = (curves(model, data, (0.0,), (0.0,), budget) for budget in (None, 1e5))
    assert free.jitter.scores == pytest.approx(rich.jitter.scores, abs=1e-5)
    np.testing.assert_array_equal(free.jitter.tokens_per_second, rich.jitter.tokens_per_second)


def test_other_modalities_stay_as_they_are(lab: Any, recording: Session) -> None:
    model = lab.make_model()
    lab.fit_readout(model, recording)
    result = curves(model, recording, (0.0,), (0.9,))
    expected = r2_score(recording.part("test")[0].targets, decode(model, recording))
    assert result.jitter.scores[0] == pytest.approx(expected, abs=1e-5)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.0, 50.0))
def test_jitter_keeps_every_spike_of_every_unit(seed: int, deviation: float) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.7, size=(9, 3)).astype(np.int64)
    moved = _jittered(counts, deviation, rng)
    np.testing.assert_array_equal(moved.sum(axis=0), counts.sum(axis=0))
    assert (moved >= 0).all()


def test_no_jitter_leaves_the_counts() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.7, size=(50, 4)).astype(np.int64)
    np.testing.assert_array_equal(_jittered(counts, 0.0, rng), counts)


def test_jitter_has_the_deviation_that_it_says() -> None:
    counts = np.zeros((2001, 1), dtype=np.int64)
    counts[1000] = 4000
    moved = _jittered(counts, 30.0, np.random.default_rng(0))[:, 0]
    offset = np.arange(2001) - 1000
    deviation = np.sqrt((moved * offset**2).sum() / 4000)
    # Six standard errors of a deviation from 4000 draws are 6.7 %.
    assert deviation == pytest.approx(30.0, rel=0.067)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (((), (0.0,)), r"jitter_ms must hold levels in \[0, inf\), got \[\]"),
        (((-1.0,), (0.0,)), r"jitter_ms must hold levels in \[0, inf\), got \[-1.0\]"),
        (((np.nan, 0.0), (0.0,)), r"jitter_ms must hold levels in .* got \[nan, 0.0\]"),
        (((0.0,), (1.0,)), r"unit_dropout must hold levels in \[0, 1\), got \[1.0\]"),
        (((0.0,), (0.0,), 0.0), "token_budget must be tokens per second > 0, got 0.0"),
    ],
)
def test_levels_out_of_range_are_refused(
    model: MultiModalNeuroFMX, data: Session, args: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        curves(model, data, *args)


def test_what_cannot_be_damaged_is_refused(
    lab: Any, model: MultiModalNeuroFMX, data: Session
) -> None:
    halves = dataclasses.replace(data, inputs={"spike": data.inputs["spike"] / 2})
    with pytest.raises(ValueError, match="spike must hold whole counts >= 0"):
        curves(model, halves)
    silent = dataclasses.replace(
        lab.record(), inputs={"lfp": lab.record().inputs["lfp"]}, units=None
    )
    with pytest.raises(ValueError, match=r"model and session need spikes, got \['spike'\] and"):
        curves(model, silent)
    with pytest.raises(ValueError, match="the model has no decoder"):
        curves(lab.make_model(behavior_dim=0), data)
    with pytest.raises(ValueError, match="has no test block"):
        curves(model, dataclasses.replace(data, blocks=Blocks((slice(0, 100),))))
