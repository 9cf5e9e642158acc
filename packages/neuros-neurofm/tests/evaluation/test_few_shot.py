"""Scores by the share of the training data."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation._decode import decode, fit_decoder
from neuros_neurofm.evaluation.few_shot import FewShotCurve, few_shot_curve
from neuros_neurofm.evaluation.metrics import balanced_accuracy, r2_score
from neuros_neurofm.evaluation.session import Blocks, Session


def leave(model: MultiModalNeuroFMX, data: Session) -> None:
    """Training that does nothing."""


def curve_of(model: MultiModalNeuroFMX, data: Session, *args: Any, **options: Any) -> FewShotCurve:
    settings = {"generator": np.random.default_rng(0), "n_bootstrap": 50, "fit": leave}
    return few_shot_curve(model, data, *args, **{**settings, **options})


def test_each_score_is_that_of_a_copy_fitted_on_the_beginning(lab: Any, recording: Session) -> None:
    curve = curve_of(lab.make_model(), recording, (0.1, 1.0), fit=lab.fit_readout)
    assert curve.fractions.tolist() == [0.1, 1.0]
    assert curve.n_samples.tolist() == [66, 660]
    for share, score in ((66, curve.scores[0]), (660, curve.scores[1])):
        short = dataclasses.replace(
            recording, blocks=Blocks((slice(0, share),), (), recording.blocks.test)
        )
        model = lab.make_model()
        lab.fit_readout(model, short)
        truth = recording.part("test")[0].targets
        assert score == r2_score(truth, decode(model, recording))
    assert (curve.low < curve.scores).all()
    assert (curve.scores < curve.high).all()


def test_retention_is_the_score_over_that_of_all_data(lab: Any, recording: Session) -> None:
    curve = curve_of(lab.make_model(), recording, (1.0, 0.02, 0.5), fit=lab.fit_readout)
    assert curve.reason is None
    np.testing.assert_allclose(curve.retention, curve.scores / curve.scores[-1])
    assert curve.retention[0] < curve.retention[1] < 1.02
    assert curve.retention[-1] == 1.0


def test_a_model_that_needs_no_training_retains_everything(
    readable_model: MultiModalNeuroFMX, recording: Session
) -> None:
    curve = curve_of(readable_model, recording)
    assert curve.fractions.tolist() == [0.01, 0.05, 0.1, 0.25, 1.0]
    assert curve.retention.tolist() == [1.0] * 5


def test_the_fit_sees_nothing_but_its_share(lab: Any, recording: Session) -> None:
    seen = []
    curve_of(lab.make_model(), recording, (0.25, 1.0), fit=lambda model, data: seen.append(data))
    assert seen[0].blocks == Blocks((slice(0, 165),), (slice(710, 738),))
    assert seen[1].blocks == Blocks(recording.blocks.train, recording.blocks.validation)
    scored = np.flatnonzero(seen[0].scored())
    np.testing.assert_array_equal(scored, np.r_[0:165, 710:738])


def test_shares_run_over_several_blocks(lab: Any) -> None:
    blocks = Blocks((slice(400, 500), slice(0, 100)), (), (slice(600, 1200),))
    seen = []
    curve_of(
        lab.make_model(),
        lab.record(blocks=blocks),
        (0.5, 0.75, 1.0),
        fit=lambda model, data: seen.append(data.blocks.train),
    )
    assert seen == [
        (slice(0, 100),),
        (slice(0, 100), slice(400, 450)),
        (slice(0, 100), slice(400, 500)),
    ]


def test_the_model_stays_as_it_is(lab: Any, recording: Session) -> None:
    model = lab.make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    curve_of(model, recording, (1.0,))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_unknown_units_get_vectors_from_the_share_alone(lab: Any, recording: Session) -> None:
    renamed = {"spike": [f"new{k}" for k in range(12)], "lfp": recording.units["lfp"]}
    changed = {name: x.copy() for name, x in recording.inputs.items()}
    changed["spike"][66:] = changed["spike"][66:][::-1]
    vectors = []
    for inputs in (recording.inputs, changed):
        curve_of(
            lab.make_model(),
            dataclasses.replace(recording, inputs=inputs, units=renamed),
            (0.1, 1.0),
            fit=lambda model, _: vectors.append(
                model.tokenizers["spike"].units.subset(renamed["spike"])
            ),
        )
    short, whole, other_short, other_whole = vectors
    torch.testing.assert_close(short, other_short, rtol=0, atol=0)
    assert not torch.equal(whole, other_whole)


def test_an_untrained_model_is_scored_the_same_way(lab: Any, recording: Session) -> None:
    def fit(model: MultiModalNeuroFMX, data: Session) -> None:
        if model.seed_of_test == 3:
            lab.fit_readout(model, data)

    models = [lab.make_model(seed=seed) for seed in (3, 4)]
    for model, seed in zip(models, (3, 4), strict=True):
        model.seed_of_test = seed
    curve = curve_of(models[0], recording, (0.1, 1.0), fit=fit, scratch=models[1])
    alone = curve_of(models[1], recording, (0.1, 1.0), fit=fit)
    assert curve_of(models[0], recording, (0.1, 1.0), fit=fit).scratch is None
    assert curve.scratch is not None
    assert curve.scratch.scores.tolist() == alone.scores.tolist()
    assert curve.scratch.n_samples.tolist() == curve.n_samples.tolist()
    assert (curve.scores > curve.scratch.scores).all()


def test_training_is_the_default(lab: Any, recording: Session) -> None:
    curve = curve_of(
        lab.make_model(d_model=16, latent_dim=16),
        recording,
        (1.0,),
        fit=partial(fit_decoder, steps=3, validate_every=3),
    )
    assert np.isfinite(curve.scores).all()


def test_a_ratio_of_noise_is_refused(lab: Any, recording: Session) -> None:
    curve = curve_of(lab.make_model(), recording, (0.5, 1.0))
    assert np.isnan(curve.retention).all()
    assert "less than 0.1: a ratio of it would be noise" in str(curve.reason)


def test_labels_are_scored_above_chance_by_the_same_curve(lab: Any) -> None:
    session, seen = lab.labelled(), []

    def fit(model: MultiModalNeuroFMX, data: Session) -> None:
        seen.append(data)
        lab.fit_readout(model, data)

    curve = curve_of(lab.make_model(behavior_dim=2), session, (0.1, 1.0), fit=fit)
    assert (curve.metric, curve.chance) == ("balanced accuracy", 0.5)
    # Beyond the share every label is unknown.
    assert (seen[0].targets[:66] == session.targets[:66]).all()
    assert (seen[0].targets[66:710] == -1).all()
    model = lab.make_model(behavior_dim=2)
    lab.fit_readout(model, session)
    predicted, labels = decode(model, session).argmax(axis=1), session.part("test")[0].targets
    assert curve.scores[-1] == balanced_accuracy(labels, predicted) > 0.7
    np.testing.assert_allclose(
        curve.retention, (curve.scores - 0.5) / (curve.scores[-1] - 0.5), rtol=1e-12
    )
    assert (curve.low < curve.scores).all()


def test_a_ratio_of_guesses_is_refused(lab: Any) -> None:
    # 0.5 is far above 0.1, and nothing but chance.
    curve = curve_of(lab.make_model(behavior_dim=2), lab.labelled(), (1.0,))
    assert 0.3 < curve.scores[0] < 0.6
    assert np.isnan(curve.retention[0])
    assert "less than 0.1 above the chance of 0.500: a ratio of it would be" in str(curve.reason)


@pytest.mark.parametrize("fractions", [(), (0.5,), (0.0, 1.0), (1.0, 2.0), (float("nan"), 1.0)])
def test_shares_out_of_range_are_refused(lab: Any, recording: Session, fractions: Any) -> None:
    with pytest.raises(ValueError, match=r"fractions must lie in \(0, 1\] and hold 1, got"):
        curve_of(lab.make_model(), recording, fractions)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": None}, "needs targets, .* got none"),
        ({"targets": np.full(1200, 3)}, "label 3 is none of the model's 1 classes"),
        ({"blocks": Blocks((slice(0, 100),))}, "has no test block"),
    ],
)
def test_what_cannot_be_scored_is_refused(lab: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        curve_of(lab.make_model(), lab.record(**changes))
