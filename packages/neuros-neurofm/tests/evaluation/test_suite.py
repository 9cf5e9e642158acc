import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.datasets import synthetic_population
from neuros_neurofm.evaluation import (
    BenchmarkResult,
    BenchmarkSuite,
    Blocks,
    RidgeDecoder,
    Session,
    bits_per_spike,
    contiguous_blocks,
    decode,
    fit_decoder,
    r2_score,
)
from neuros_neurofm.evaluation._tasks import predict_hidden
from neuros_neurofm.losses import MaskedModelingLoss, NeuralMasker

RATE = 50.0
LINEAR = {"baselines": ("ridge", "wiener"), "n_bootstrap": 20}


def build(n_units: int = 6, **options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {
        "d_model": 16,
        "n_mamba_blocks": 1,
        "n_latents": 20,
        "latent_dim": 16,
        "modalities": ("spike",),
        "behavior_dim": 1,
        "window": 0.4,
        "sampling_rates": {"spike": RATE},
        "perceiver_depth": 1,
        "popt_depth": 1,
        "dropout": 0.0,
    }
    model = MultiModalNeuroFMX(**(chosen | options))
    model.add_units("spike", ids(n_units), generator=Generator().manual_seed(0))
    return model


def ids(n: int) -> tuple[str, ...]:
    return tuple(f"u{k}" for k in range(n))


def record(**changes: Any) -> Session:
    wave = np.sin(np.arange(600) / 11.0)
    signs = np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    counts = np.random.default_rng(0).poisson(np.exp(1.0 + wave[:, None] * signs))
    given: dict[str, Any] = {
        "inputs": {"spike": counts},
        "targets": wave,
        "rate": RATE,
        "blocks": contiguous_blocks(600, gap=20),
        "name": "waves",
        "units": {"spike": ids(6)},
    }
    return Session(**(given | changes))


def scores(result: BenchmarkResult, task: str) -> dict[str, float]:
    return {s.decoder: s.score for s in result.scores if s.task == task}


@pytest.fixture(scope="module")
def result() -> BenchmarkResult:
    """An untrained model beside every baseline, which are hardly trained."""
    return BenchmarkSuite(n_bootstrap=20, steps=2).run(build(), record())


def test_every_score_has_its_interval_and_all_baselines_beside_it(result: BenchmarkResult) -> None:
    for task in ("motor_decoding", "visual_encoding", "spiking_prediction"):
        names = list(scores(result, task))
        # Of numbers there are no classes. A Poisson regression only where counts are predicted.
        glm = ["glm"] if task == "spiking_prediction" else []
        assert names == ["model", "mean", "ridge", "wiener", *glm, "gru", "transformer"]
    assert all(s.low <= s.high and s.lead_low <= s.lead_high for s in result.scores)
    assert {s.metric for s in result.scores} == {"R2", "bits/spike"}
    for s in result.scores:
        ours = scores(result, s.task)["model"]
        assert s.lead == pytest.approx(ours - s.score)


def test_the_table_and_json_hold_the_same_scores(result: BenchmarkResult) -> None:
    lines = result.table().splitlines()
    content = json.loads(result.to_json())
    assert len(lines) == 2 + len(result.scores) == 2 + len(content["scores"])
    for line, score, stored in zip(lines[2:], result.scores, content["scores"], strict=True):
        assert stored == score._asdict()
        assert f"{score.score:.3f} [{score.low:.3f}, {score.high:.3f}]" in line
    assert content["manifest"]["config"]["n_bootstrap"] == 20
    manifest = content["manifest"]
    assert manifest["config"]["data"][0]["blocks"]["test"] == [[432, 600]]
    assert manifest["versions"]["torch"]
    assert len(manifest["data_hash"]) == len(manifest["model_hash"]) == 64


def test_another_recording_or_model_has_another_hash() -> None:
    suite = BenchmarkSuite(["motor_decoding"], baselines=(), n_bootstrap=2)
    model, session = build(), record()
    first = suite.run(model, session).manifest
    again = suite.run(build(), record()).manifest
    assert (first.data_hash, first.model_hash) == (again.data_hash, again.model_hash)
    with torch.no_grad():
        model.get_parameter("heads.decoder.out.bias").add_(1.0)
    counts = np.array(session.inputs["spike"])
    counts[0, 0] += 1
    other = suite.run(model, record(inputs={"spike": counts})).manifest
    assert other.data_hash != first.data_hash
    assert other.model_hash != first.model_hash


class Page(HTMLParser):
    """Tags and attributes of a page, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_file_that_asks_nothing_of_a_network(
    result: BenchmarkResult, tmp_path: Path
) -> None:
    path = result.report(tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.open == []
    # One plot of intervals and one of curves per task.
    assert page.tags.count("svg") == 6
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert "://" not in text
    assert "url(" not in text
    for score in result.scores:
        assert f"{score.score:.3f} [{score.low:.3f}, {score.high:.3f}]" in text
    coordinates = [v for n, v in page.attributes if n in ("cx", "x1", "x2") and v is not None]
    assert all(0 <= float(v) <= 760 for v in coordinates)


def test_names_are_escaped_in_the_report(tmp_path: Path) -> None:
    suite = BenchmarkSuite(["motor_decoding"], **LINEAR)
    path = suite.run(build(), record(name="<script>")).report(tmp_path / "report.html")
    assert "<script>" not in path.read_text(encoding="utf-8")


def test_the_model_is_scored_through_its_decoder_on_the_test_block() -> None:
    model, session = build(), record()
    suite = BenchmarkSuite(["motor_decoding"], **LINEAR)
    found = scores(suite.run(model, session), "motor_decoding")
    (part,) = session.part("test")
    assert part.targets is not None
    assert found["model"] == pytest.approx(r2_score(part.targets, decode(model, session)))
    mean = np.full_like(part.targets, session.part("train")[0].targets.mean())
    assert found["mean"] == pytest.approx(r2_score(part.targets, mean))


def test_a_predictor_of_the_mean_scores_zero() -> None:
    # Training and test have whole periods of 100 samples and so the same mean.
    wave = np.sin(2 * np.pi * np.arange(600) / 100)
    blocks = Blocks((slice(0, 300),), (slice(310, 350),), (slice(400, 600),))
    session = record(targets=wave, blocks=blocks)
    found = BenchmarkSuite(["motor_decoding"], baselines=(), n_bootstrap=5).run(build(), session)
    assert scores(found, "motor_decoding")["mean"] == pytest.approx(0.0, abs=1e-12)


def test_held_out_counts_reach_no_rate_bit_for_bit() -> None:
    model, hidden = build(), np.array([1, 4])
    counts = np.array(record().inputs["spike"])
    changed = counts.copy()
    changed[:, hidden] += 9
    rates = [
        predict_hidden(model, record(inputs={"spike": x}), "spike", hidden)
        for x in (counts, changed)
    ]
    np.testing.assert_array_equal(*rates)
    assert rates[0].shape == (168, 2)
    assert (rates[0] > 0).all()


class NearestInTime:
    """Cheats: input 0 is the clock, and it answers with the target of the nearest known sample."""

    def fit(self, x: list[np.ndarray], y: list[np.ndarray]) -> None:
        self.times, self.values = np.concatenate(x)[:, 0], np.concatenate(y)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.values[np.abs(x[:, :1] - self.times).argmin(axis=1)]


def clocked(blocks: Blocks) -> Session:
    rng = np.random.default_rng(0)
    # Over 600 samples the process forgets within 20.
    noise = rng.normal(size=600)
    drift = np.zeros(600)
    for k in range(1, 600):
        drift[k] = 0.95 * drift[k - 1] + noise[k]
    x = np.stack([np.arange(600.0), *rng.normal(size=(5, 600))], axis=1)
    return record(inputs={"lfp": x}, targets=drift, blocks=blocks, units=None)


def test_a_decoder_that_knows_the_neighbouring_bin_gains_nothing() -> None:
    model = build(modalities=("spike", "lfp"), sampling_rates={"spike": RATE, "lfp": RATE})
    suite = BenchmarkSuite(
        ["motor_decoding"],
        decoders={"neighbour": NearestInTime()},
        baselines=(),
        n_bootstrap=5,
        block_s=0.2,
    )
    found = scores(suite.run(model, clocked(contiguous_blocks(600, gap=60))), "motor_decoding")
    assert found["neighbour"] <= 0.0
    # The control: where single bins alternate with training blocks, it looks splendid.
    interleaved = Blocks(
        tuple(slice(k + 1, k + 10) for k in range(0, 290, 10)),
        (slice(300, 310),),
        tuple(slice(k, k + 1) for k in range(0, 290, 10)),
    )
    assert scores(suite.run(model, clocked(interleaved)), "motor_decoding")["neighbour"] > 0.6


def test_hyper_parameters_ignore_the_test_block_whose_permutation_drops_to_chance() -> None:
    model, session = build(), record()
    test = session.blocks.test[0]
    permuted = np.array(session.targets)
    permuted[test] = np.random.default_rng(1).permutation(permuted[test])
    suite = BenchmarkSuite(["motor_decoding"], **LINEAR)
    honest = scores(suite.run(model, session), "motor_decoding")
    chance = scores(suite.run(model, record(targets=permuted)), "motor_decoding")
    assert honest["ridge"] > 0.8
    assert honest["wiener"] > 0.8
    # Predictions of the deviation of the target, uncorrelated with it, score about -1.
    assert max(chance["ridge"], chance["wiener"]) < -0.3


def test_what_is_missing_is_not_scored() -> None:
    session = record()
    targets = np.array(session.targets)
    test = session.blocks.test[0]
    targets[test.start + 100 : test.start + 120] = np.nan
    targets[40:50] = np.nan
    suite = BenchmarkSuite(["motor_decoding"], **LINEAR)
    found = scores(suite.run(build(), record(targets=targets)), "motor_decoding")
    kept = ~np.isnan(targets[test, 0])
    expected = r2_score(targets[test][kept], decode(build(), session)[kept])
    assert found["model"] == pytest.approx(expected)
    assert found["wiener"] > 0.8


# 80 steps of training.
@pytest.mark.slow
def test_a_trained_model_and_linear_decoders_reach_what_the_rates_allow() -> None:
    (population,) = synthetic_population(
        1,
        24,
        "line",
        generator=Generator().manual_seed(1),
        n_trials=1,
        n_times=1500,
        mean_rate_hz=30.0,
        speed=0.5,
    )
    session = Session(
        {"spike": population.counts[0].numpy()},
        population.latents[0].numpy(),
        RATE,
        contiguous_blocks(1500, gap=40),
        name="line",
        units={"spike": ids(24)},
    )
    model = build(24)
    fit_decoder(
        model,
        session,
        steps=80,
        batch_size=8,
        learning_rate=5e-3,
        objectives=[MaskedModelingLoss()],
        masker=NeuralMasker("neuron", 0.2),
    )
    suite = BenchmarkSuite(["motor_decoding", "spiking_prediction"], **LINEAR)
    found = suite.run(model, session)
    train, test = session.blocks.train[0], session.blocks.test[0]
    rates, latents = population.rates[0].numpy(), population.latents[0].numpy()
    ridge = RidgeDecoder().fit(np.log(rates[train]), latents[train])
    # The log-rates are linear in the latent.
    best = r2_score(latents[test], ridge.predict(np.log(rates[test])))
    assert best > 0.999
    decoded = scores(found, "motor_decoding")
    # Counts of 24 units at 30 Hz carry 720 nats/s per unit of variance of the latent, whose
    # innovations have variance 1 per second: the best filter leaves about sqrt(1 / 720) = 0.04.
    assert 0.8 * best < decoded["wiener"] < best
    assert 0.8 * best < decoded["ridge"] < best
    assert 0.7 * best < decoded["model"] < best
    rng = np.random.default_rng(0)
    hidden = np.sort(rng.permutation(24)[:6])
    counts = population.counts[0].numpy()[test][:, hidden]
    true_bits = bits_per_spike(rates[test][:, hidden] / RATE, counts)
    bits = scores(found, "spiking_prediction")
    assert 0.6 * true_bits < bits["ridge"] < true_bits
    assert 0.6 * true_bits < bits["model"] < true_bits
    assert bits["mean"] <= 0.0
    assert found.best_baseline("motor_decoding", "line").decoder in ("ridge", "wiener")


def test_two_runs_are_equal_and_leave_the_model_as_it_was() -> None:
    model = build().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    suite = BenchmarkSuite(["spiking_prediction"], baselines=("gru",), n_bootstrap=10, steps=2)
    first, second = (suite.run(model, record()) for _ in range(2))
    assert first.scores == second.scores
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_baseline_without_its_package_is_left_out_and_the_table_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The import system's own sign for a package that is not there.
    monkeypatch.setitem(sys.modules, "cebra", None)
    suite = BenchmarkSuite(["motor_decoding"], baselines=("ridge", "cebra"), n_bootstrap=5)
    found = suite.run(build(), record())
    note = "cebra is left out: the package is not installed."
    assert [s.decoder for s in found.scores] == ["model", "mean", "ridge"]
    assert found.table().endswith("\n\n" + note)
    assert json.loads(found.to_json())["notes"] == [note]
    assert note in found.report(tmp_path / "report.html").read_text(encoding="utf-8")


def test_tasks_may_have_sessions_of_their_own() -> None:
    suite = BenchmarkSuite(["motor_decoding", "spiking_prediction"], baselines=(), n_bootstrap=5)
    data = {"motor_decoding": [record(name="a"), record(name="b")], "spiking_prediction": record()}
    found = suite.run(build(), data)
    pairs = {(s.task, s.session) for s in found.scores}
    assert pairs == {
        ("motor_decoding", "a"),
        ("motor_decoding", "b"),
        ("spiking_prediction", "waves"),
    }
    with pytest.raises(KeyError, match=re.escape("no scores of 'motor_decoding' on 'waves'")):
        found.best_baseline("motor_decoding", "waves")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["sleep"]}, "tasks must be different names among"),
        ({"tasks": []}, "tasks must not be empty"),
        ({"baselines": ["svm"]}, "baselines must be different names among"),
        ({"decoders": {"ridge": RidgeDecoder()}}, r"names of their own, got .* \['ridge'\]"),
        ({"n_bootstrap": 0}, "n_bootstrap and steps must be >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchmarkSuite(**settings)


ONE_UNIT = {"inputs": {"spike": np.ones((600, 1))}, "units": None}


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("motor_decoding", {"targets": None}, "motor_decoding needs targets, 'waves' has none"),
        (
            "motor_decoding",
            {"targets": np.full(600, 4)},
            "label 4 is none of the model's 1 classes; build it with behavior_dim = 5 or more",
        ),
        ("motor_decoding", {"blocks": Blocks((slice(0, 50),), (), (slice(60, 600),))}, "validat"),
        ("motor_decoding", {"targets": np.r_[np.full(400, np.nan), np.ones(200)]}, "all are NaN"),
        (
            "motor_decoding",
            {"blocks": Blocks((slice(0, 50),), (slice(60, 80),), (slice(90, 150),))},
            "60 scored test samples, fewer than two bootstrap blocks of 50",
        ),
        ("visual_encoding", {"targets": np.r_[np.nan, np.ones(599)]}, "1 are NaN"),
        ("visual_encoding", ONE_UNIT, "spike has only 1"),
        ("spiking_prediction", ONE_UNIT, "has only 1"),
        (
            "spiking_prediction",
            {"inputs": {"lfp": np.ones((600, 2))}, "units": None},
            "needs spikes that the model reads",
        ),
    ],
)
def test_sessions_that_a_task_cannot_use_are_refused(task: str, changes: Any, message: str) -> None:
    both = {"modalities": ("spike", "lfp"), "sampling_rates": {"spike": RATE, "lfp": RATE}}
    suite = BenchmarkSuite([task], baselines=(), n_bootstrap=5)
    with pytest.raises(ValueError, match=message):
        suite.run(build(**both), record(**changes))


def test_sessions_need_names_that_differ() -> None:
    suite = BenchmarkSuite(["motor_decoding"], baselines=(), n_bootstrap=5)
    for data in ({}, [record(), record()]):
        with pytest.raises(ValueError, match="motor_decoding needs at least one session"):
            suite.run(build(), data)
