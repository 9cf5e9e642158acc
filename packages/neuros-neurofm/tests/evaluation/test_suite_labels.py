"""Sessions whose targets are integer labels, in the benchmark."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation import (
    BenchmarkResult,
    BenchmarkSuite,
    Session,
    balanced_accuracy,
    contiguous_blocks,
    decode,
    fit_decoder,
)

RATE = 50.0


def ids(n: int) -> tuple[str, ...]:
    return tuple(f"u{k}" for k in range(n))


def scores(result: BenchmarkResult) -> dict[str, float]:
    return {s.decoder: s.score for s in result.scores}


def gestures(n_classes: int = 3, seed: int = 0) -> Session:
    """Muscle activity at rest (unknown) and in gestures of 0.5 s, each loud in its own channel."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.permuted(np.tile(np.arange(n_classes + 1), (16, 1)), axis=1).ravel(), 25)
    labels = labels - 1
    loud = 1.0 + 3.0 * np.eye(n_classes)[labels] * (labels >= 0)[:, None]
    x = loud * rng.normal(size=loud.shape)
    blocks = contiguous_blocks(len(x), gap=25)
    units = {"emg": ids(n_classes)}
    return Session({"emg": x}, labels, RATE, blocks, name="gestures", units=units)


def emg_model(n_classes: int = 3, width: int = 16) -> MultiModalNeuroFMX:
    rates = {"modalities": ("emg",), "sampling_rates": {"emg": RATE}, "patches": {"emg": 0.02}}
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        width, 1, 20, width, behavior_dim=n_classes, window=0.4, perceiver_depth=1, popt_depth=1,
        dropout=0.0, **rates,
    )  # fmt: skip
    model.add_units("emg", ids(n_classes), generator=Generator().manual_seed(0))
    return model


# Every baseline of labels is trained.
@pytest.mark.slow
def test_labels_are_scored_beside_chance_and_classifiers(tmp_path: Path) -> None:
    session, model = gestures(), emg_model()
    suite = BenchmarkSuite(["motor_decoding"], n_bootstrap=20, steps=5)
    result = suite.run(model, session)
    found = scores(result)
    assert list(found) == ["model", "chance", "lda", "logistic", "gru", "transformer"]
    assert {s.metric for s in result.scores} == {"balanced accuracy"}
    (part,) = session.part("test")
    assert part.targets is not None
    answers = decode(model, session).argmax(axis=1)
    assert found["model"] == balanced_accuracy(part.targets, answers)
    assert found["chance"] == pytest.approx(1 / 3)
    # The sign of muscle activity tells nothing, its power does: of 0.1 s, five squares of a normal
    # number against nine times as large ones.
    assert min(found["lda"], found["logistic"]) > 0.85
    assert max(s.low for s in result.scores) <= 1.0
    # The figure draws classes.
    lines = result.curves[0].lines
    assert set(lines["truth"]) <= {0.0, 1.0, 2.0}
    assert set(lines["model"]) <= {0.0, 1.0, 2.0}
    assert "balanced accuracy" in result.report(tmp_path / "r.html").read_text(encoding="utf-8")


# The model is trained.
@pytest.mark.slow
def test_a_trained_model_knows_the_gestures() -> None:
    session, model = gestures(), emg_model(width=32)
    seen = torch.as_tensor(session.part("train")[0].inputs["emg"][None], dtype=torch.float32)
    model.calibrate("emg", seen, units=ids(3))
    fit_decoder(model, session, steps=60, validate_every=30)
    suite = BenchmarkSuite(["motor_decoding"], baselines=["lda"], n_bootstrap=20)
    result = suite.run(model, session)
    assert scores(result)["model"] > 0.7
    chance = next(s for s in result.scores if s.decoder == "chance")
    assert chance.lead_low > 0.3


def test_permuted_labels_bring_every_classifier_to_chance() -> None:
    session = gestures()
    test = session.blocks.test[0]
    labels = np.array(session.targets)
    labels[test] = np.random.default_rng(1).permutation(labels[test])
    suite = BenchmarkSuite(["motor_decoding"], baselines=["lda"], n_bootstrap=5)
    found = scores(suite.run(emg_model(), replace(session, targets=labels)))
    # Some 350 labels: three deviations of a third are 0.08, six 0.15.
    assert abs(found["lda"] - 1 / 3) < 0.15


def test_a_labelled_stimulus_is_a_column_per_label() -> None:
    stimulus = np.repeat(np.arange(30) % 2, 20)
    responses = 3.0 * stimulus[:, None] + np.random.default_rng(0).normal(size=(600, 4))
    session = Session({"emg": responses}, stimulus, RATE, contiguous_blocks(600, gap=20), "light")
    suite = BenchmarkSuite(["visual_encoding"], baselines=["ridge"], n_bootstrap=5)
    result = suite.run(emg_model(), session)
    assert {s.metric for s in result.scores} == {"R2"}
    # Of the variance 2.25 + 1 the stimulus makes 2.25.
    assert scores(result)["ridge"] == pytest.approx(2.25 / 3.25, abs=0.05)


def test_a_score_without_any_baseline_of_its_kind_is_refused() -> None:
    suite = BenchmarkSuite(["motor_decoding"], baselines=["ridge", "glm"], n_bootstrap=5)
    refused = r"none of the baselines \['ridge', 'glm'\] predicts labels, the targets of 'gest"
    with pytest.raises(ValueError, match=refused):
        suite.run(emg_model(), gestures())
