"""Planted leaks are found, and clean models pass."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from neuros_neurofm import MultiModalNeuroFMX, NeuroFMXOutput
from neuros_neurofm.evaluation._duplicates import find_duplicates
from neuros_neurofm.evaluation.leakage import LeakageReport, check_leakage
from neuros_neurofm.evaluation.linear_decoders import RidgeDecoder
from neuros_neurofm.evaluation.session import Blocks, Session, contiguous_blocks

Inputs = Mapping[str, Any]
OPTIONS = {
    "modalities": ("spike", "lfp"),
    "sampling_rates": {"spike": 50.0, "lfp": 50.0},
    "window": 0.64,
    "popt_depth": 1,
    "perceiver_depth": 1,
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def session(seed: int = 0, n_times: int = 300, **changes: Any) -> Session:
    draw = rng(seed)
    inputs = {
        "spike": draw.poisson(0.5, size=(n_times, 6)).astype(float),
        "lfp": draw.normal(size=(n_times, 3)),
    }
    fields: dict[str, Any] = {
        "inputs": inputs,
        "targets": inputs["lfp"][:, :2] + 0.1 * draw.normal(size=(n_times, 2)),
        "rate": 50.0,
        "blocks": contiguous_blocks(n_times, gap=32),
        "name": f"s{seed}",
    }
    return Session(**{**fields, **changes})


def build(kind: type[MultiModalNeuroFMX] = MultiModalNeuroFMX, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(16, 1, 16, 8, **{**OPTIONS, **options})


def found(report: LeakageReport) -> dict[str, bool | None]:
    return {check.name: check.passed for check in report.checks}


def check(model: Any, data: Any, **options: Any) -> dict[str, bool | None]:
    return found(check_leakage(model, data, generator=rng(1), **options))


class SeesTheFuture(MultiModalNeuroFMX):
    """Adds what comes later to the decoder."""

    def forward(self, inputs: Any, *args: Any, **options: Any) -> NeuroFMXOutput:
        output = super().forward(inputs, *args, **options)
        later = inputs["lfp"].flip(1).cumsum(1).flip(1)[..., :2]
        return dataclasses.replace(output, decoder=output.decoder + 1e-3 * later)


class SeesMaskedChannels(MultiModalNeuroFMX):
    """Reads a channel whatever the mask says, at its own time."""

    def forward(self, inputs: Any, *args: Any, **options: Any) -> NeuroFMXOutput:
        output = super().forward(inputs, *args, **options)
        return dataclasses.replace(
            output, decoder=output.decoder + inputs["lfp"].sum(-1)[..., None]
        )


@pytest.mark.parametrize("spike_mode", ["counts", "events"])
def test_a_clean_model_passes(spike_mode: str) -> None:
    assert check(build(spike_mode=spike_mode), [session(0), session(1)]) == {
        "future": True,
        "held-out channels": True,
        "repeated windows": True,
        "test block": None,
    }


def test_a_model_that_reads_the_future_is_found() -> None:
    report = check_leakage(build(SeesTheFuture), session(), generator=rng(1))
    assert not report.passed
    assert found(report)["future"] is False
    assert "from sample 246 on changes the decoder before it" in report.checks[0].detail


def test_a_model_that_reads_masked_channels_is_found() -> None:
    report = check(build(SeesMaskedChannels), session())
    assert report["held-out channels"] is False
    assert report["future"] is True


def test_a_model_that_may_look_both_ways_is_not_blamed_for_it() -> None:
    assert check(build(causal=False), session())["future"] is None


def running_mean(inputs: Inputs) -> np.ndarray:
    x = inputs["lfp"]
    return np.cumsum(x, axis=0) / (np.arange(len(x)) + 1.0)[:, None]


def z_scored(inputs: Inputs) -> np.ndarray:
    return inputs["lfp"] - inputs["lfp"].mean(axis=0)


def next_sample(inputs: Inputs) -> np.ndarray:
    return np.roll(inputs["lfp"], -1, axis=0)


@pytest.mark.parametrize(
    ("predict", "clean"), [(running_mean, True), (z_scored, False), (next_sample, False)]
)
def test_functions_are_checked_like_models(predict: Callable[[Inputs], Any], clean: bool) -> None:
    report = check(predict, session())
    assert report["future"] is clean
    assert report["held-out channels"] is None


def ridge(parts: Sequence[str]) -> Callable[[Sequence[Session]], Callable[[Inputs], Any]]:
    """Training on the named parts of the first session."""

    def fit(sessions: Sequence[Session]) -> Callable[[Inputs], Any]:
        pieces = [piece for part in parts for piece in sessions[0].part(part)]
        decoder = RidgeDecoder().fit(
            [piece.inputs["lfp"] for piece in pieces], [piece.targets for piece in pieces]
        )
        return lambda inputs: decoder.predict(inputs["lfp"])

    return fit


def normalised_over_everything(sessions: Sequence[Session]) -> Callable[[Inputs], Any]:
    mean = sessions[0].inputs["lfp"].mean(axis=0)
    return lambda inputs: inputs["lfp"] - mean


def unseeded(sessions: Sequence[Session]) -> Callable[[Inputs], Any]:
    offset = np.random.default_rng().normal()
    return lambda inputs: inputs["lfp"] + offset


@pytest.mark.parametrize(
    ("fit", "clean"),
    [
        (ridge(["train"]), True),
        (ridge(["train", "validation"]), True),
        (ridge(["train", "test"]), False),
        (normalised_over_everything, False),
        (unseeded, None),
    ],
)
def test_training_that_reads_the_test_block_is_found(fit: Any, clean: bool | None) -> None:
    data = session()
    assert check(fit([data]), data, fit=fit)["test block"] is clean


def test_every_test_block_is_changed() -> None:
    blocks = Blocks((slice(0, 100),), (), (slice(120, 200), slice(220, 300)))
    labels = rng().integers(3, size=300)
    data = [session(0, blocks=blocks, targets=labels), session(1)]

    def second_block(sessions: Sequence[Session]) -> Callable[[Inputs], Any]:
        mean = sessions[0].targets[220:300][:10].mean()
        return lambda inputs: inputs["lfp"] + mean

    assert check(running_mean, data, fit=second_block)["test block"] is False


def copied(source: slice, start: int, data: Session) -> Session:
    inputs = {name: x.copy() for name, x in data.inputs.items()}
    for x in inputs.values():
        x[start : start + source.stop - source.start] = x[source]
    return dataclasses.replace(data, inputs=inputs)


def test_a_window_of_the_training_blocks_in_a_test_block_is_found() -> None:
    report = check_leakage(running_mean, copied(slice(20, 40), 250, session()), generator=rng(1))
    assert found(report)["repeated windows"] is False
    assert "occur in training, the first at sample 250 of session 's0'" in report.checks[2].detail
    assert "repeated windows   LEAK" in str(report)


def test_one_recording_under_two_names_is_found() -> None:
    data = session()
    swapped = Blocks(data.blocks.test, (), data.blocks.train)
    twin = dataclasses.replace(data, blocks=swapped, name="twin")
    assert check(running_mean, [data, twin])["repeated windows"] is False
    assert check(running_mean, [data])["repeated windows"] is True


def sparse(seed: int, n_units: int = 3, rate: float = 0.05) -> Session:
    x = rng(seed).poisson(rate, size=(4000, n_units)).astype(float)
    return session(seed, 4000, inputs={"spike": x}, targets=None)


def test_sparse_spikes_do_not_look_like_copies() -> None:
    results = [find_duplicates([sparse(k)]) for k in range(5)]
    assert [result.n_found for result in results] == [0] * 5
    # Samples agree with probability 0.75 or so: ln(5e12) / -ln 0.75 is about 100.
    assert all(60 < result.window < 200 for result in results)


def test_a_copied_stretch_of_sparse_spikes_is_found() -> None:
    data = sparse(0)
    data.inputs["spike"][[99, 400, 3499, 3800]] = [[4.0], [5.0], [6.0], [7.0]]
    result = find_duplicates([copied(slice(100, 400), 3500, data)])
    # Every whole window of the copy, whose neighbours differ from those of the original.
    assert result.n_found == 301 - result.window
    assert result.first == ("s0", 3500)


def test_two_silent_stretches_are_no_copies() -> None:
    data = sparse(0, rate=0.5)
    for x in data.inputs.values():
        x[100:160] = 0.0
        x[3500:3560] = 0.0
    assert find_duplicates([data]).n_found == 0


def test_a_silent_recording_cannot_be_searched() -> None:
    silent = session(0, inputs={"spike": np.zeros((300, 2))}, targets=None)
    report = check_leakage(lambda inputs: inputs["spike"], silent, generator=rng())
    assert found(report)["repeated windows"] is None
    assert report.passed


def test_recordings_of_other_channels_are_not_compared() -> None:
    data = session()
    narrow = session(5, inputs={"lfp": data.inputs["lfp"][:, :2]})
    assert find_duplicates([data, narrow]).n_found == 0


def test_one_channel_cannot_be_held_out() -> None:
    data = session(inputs={"lfp": rng().normal(size=(300, 1))})
    assert check(build(modalities=("lfp",), sampling_rates={"lfp": 50.0}), data) == {
        "future": True,
        "held-out channels": None,
        "repeated windows": True,
        "test block": None,
    }


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(ValueError, match="data must hold at least one session, got none"):
        check(running_mean, [])
    bare = session(blocks=Blocks((slice(0, 100),)))
    with pytest.raises(ValueError, match=r"every session needs a test block; \['s0'\] have none"):
        check(running_mean, bare)
    with pytest.raises(ValueError, match=r"each of the 71 samples of the block, got shape \(2,\)"):
        check(lambda inputs: np.zeros(2), session())
