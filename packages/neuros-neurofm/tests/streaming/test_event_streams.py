"""Streams of single spikes, as counts and with times of their own."""

import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_neurofm import MultiModalNeuroFMX, NeuroFMXOutput
from neuros_neurofm.streaming import EncodeProgram, StepOutput, StepProgram, StreamingSession
from neuros_neurofm.tokenizers import SpikeEvents

RATES = {"spike": 100.0, "lfp": 100.0}
BATCH, UNITS, BINS, STEP = 2, 4, 64, 0.02
IDS = [f"u{i}" for i in range(UNITS)]


def build(spike_mode: str = "events", known: int = 2) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        16,
        1,
        8,
        12,
        modalities=("spike", "lfp"),
        sampling_rates=RATES,
        # A patch that a step of the grid cuts.
        patches={"spike": 0.03, "lfp": 0.02},
        window=0.16,
        popt_depth=1,
        perceiver_depth=1,
        forecast_horizon=2,
        spike_mode=spike_mode,
    )
    model.add_units("spike", IDS[:known], generator=torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> MultiModalNeuroFMX:
    return build()


def events(n: int = 70, seed: int = 0) -> SpikeEvents:
    generator = torch.Generator().manual_seed(seed)
    return SpikeEvents(
        torch.rand(n, generator=generator, dtype=torch.float64) * 0.639,
        torch.randint(UNITS, (n,), generator=generator),
        torch.randint(BATCH, (n,), generator=generator),
        UNITS,
        BINS / 100,
        BATCH,
    )


def piece(whole: SpikeEvents, start: int, stop: int) -> SpikeEvents:
    """The spikes of some bins, from the start of the first."""
    own = (whole.times * 100 >= start) & (whole.times * 100 < stop)
    return whole._replace(
        times=whole.times[own] - start / 100,
        units=whole.units[own],
        rows=whole.rows[own],
        duration=(stop - start) / 100,
    )


def counts(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.poisson(torch.full((BATCH, BINS, UNITS), 0.4), generator=generator)


def field() -> Tensor:
    return torch.randn(BATCH, BINS, 3, generator=torch.Generator().manual_seed(5)).cumsum(1)


def offline(model: MultiModalNeuroFMX, x: dict[str, Any], **options: Any) -> NeuroFMXOutput:
    with torch.no_grad():
        return model(x, **options)


def assert_equal(steps: list[StepOutput], out: NeuroFMXOutput) -> None:
    n = len(steps)
    got = {"latents": torch.cat([s.latents for s in steps], 1)}
    got["decoder"] = torch.cat([s.decoder for s in steps], 1)
    for name, value in got.items():
        torch.testing.assert_close(value, out[name][:, :n], atol=1e-5, rtol=0, msg=name)
    for name, whole in out.encoder.items():
        parts = [s.encoder[name] for s in steps if name in s.encoder]
        samples = torch.cat(parts, 1)
        torch.testing.assert_close(samples, whole[:, : samples.shape[1]], atol=1e-5, rtol=0)


cuttings = st.lists(st.integers(1, BINS - 1), max_size=12, unique=True).map(sorted)


@settings(max_examples=5, derandomize=True, deadline=None)
@given(cuts=cuttings, exact=st.booleans())
def test_any_chunking_of_spikes_gives_the_outputs_of_the_whole_recording(
    model: MultiModalNeuroFMX, cuts: list[int], exact: bool
) -> None:
    whole: Any = events() if exact else counts()
    session, steps, lfp = StreamingSession(model), [], field()
    for start, stop in zip([0, *cuts], [*cuts, BINS], strict=True):
        spikes = piece(whole, start, stop) if exact else whole[:, start:stop]
        steps += session.push({"spike": spikes, "lfp": lfp[:, start:stop]}, units={"spike": IDS})
    steps += session.finish()
    out = offline(model, {"spike": whole, "lfp": lfp}, units={"spike": IDS})
    assert len(steps) == 32
    assert_equal(steps, out)
    torch.testing.assert_close(steps[-1].pooled, out.pooled, atol=1e-5, rtol=0)


@pytest.mark.parametrize("known", [0, UNITS])
def test_masked_bins_of_a_stream_of_events_are_those_of_the_recording(known: int) -> None:
    model, whole = build(known=known), events()
    mask = torch.rand(BATCH, BINS, UNITS, generator=torch.Generator().manual_seed(2)) > 0.4
    mask[0, 10:40] = False
    session, steps = StreamingSession(model), []
    for start in range(0, BINS, 16):
        chunk = {"spike": piece(whole, start, start + 16)}
        part = mask[:, start : start + 16]
        steps += session.push(chunk, units={"spike": IDS}, masks={"spike": part})
    steps += session.finish()
    assert_equal(
        steps, offline(model, {"spike": whole}, units={"spike": IDS}, masks={"spike": mask})
    )


def test_a_stream_of_events_joins_leaves_and_comes_back(model: MultiModalNeuroFMX) -> None:
    whole, lfp = events(), field()
    seen = torch.zeros(1, BINS, 1, dtype=torch.bool)
    session = StreamingSession(model)
    steps = session.push({"lfp": lfp[:, :12]})
    assert session.time == pytest.approx(0.12)
    # A spike at 0.12 s would have belonged to a step that has been returned.
    steps += session.push({"spike": piece(whole, 13, 27), "lfp": lfp[:, 12:27]})
    seen[:, 13:27] = True
    steps += session.leave("spike")
    steps += session.push({"lfp": lfp[:, 27:40]})
    steps += session.push({"spike": piece(whole, 45, BINS), "lfp": lfp[:, 40:]}, {"spike": 0.45})
    seen[:, 45:] = True
    steps += session.finish()
    out = offline(model, {"spike": whole, "lfp": lfp}, masks={"spike": seen})
    latents = torch.cat([s.latents for s in steps], 1)
    torch.testing.assert_close(latents, out.latents, atol=1e-5, rtol=0)


def test_a_step_waits_for_the_bin_in_which_a_spike_at_its_end_would_lie(
    model: MultiModalNeuroFMX,
) -> None:
    at_the_end = SpikeEvents(
        torch.tensor([STEP], dtype=torch.float64), *(torch.tensor([0]),) * 2, UNITS, 0.06, 1
    )
    session = StreamingSession(model)
    assert session.push({"spike": piece(at_the_end, 0, 2)}) == []
    steps = session.push({"spike": piece(at_the_end, 2, 6)}) + session.finish()
    assert_equal(steps, offline(model, {"spike": at_the_end}))
    silent = StreamingSession(model).push({"spike": torch.zeros(1, 3, UNITS)})
    assert not torch.allclose(steps[0].latents, silent[0].latents)


def test_a_stream_of_events_resumes_bit_for_bit(model: MultiModalNeuroFMX) -> None:
    whole, session, file = events(), StreamingSession(model), io.BytesIO()
    session.push({"spike": piece(whole, 0, 25)}, units={"spike": IDS})
    torch.save(session.state_dict(), file)
    file.seek(0)
    resumed = StreamingSession(build())
    resumed.load_state_dict(torch.load(file, weights_only=True))
    a, b = (s.push({"spike": piece(whole, 25, BINS)}) for s in (session, resumed))
    assert len(a) == len(b) > 15
    assert all(torch.equal(x.latents, y.latents) for x, y in zip(a, b, strict=True))


def test_the_state_holds_the_spikes_of_the_window_alone(model: MultiModalNeuroFMX) -> None:
    session, widths = StreamingSession(model), []
    for _ in range(12):
        session.push({"spike": torch.ones(BATCH, 30, UNITS)})
        widths.append(session.state_dict()["spike.tokens.times"].shape[1])
    # Two steps and the step in progress, one token per bin and unit.
    assert max(widths) <= 0.06 * 100 * UNITS + UNITS
    assert min(widths) > 0


def test_a_model_of_counts_streams_events_as_their_counts() -> None:
    model, whole = build("counts"), events()
    session, steps = StreamingSession(model), []
    for start in range(0, BINS, 8):
        steps += session.push({"spike": piece(whole, start, start + 8)}, units={"spike": IDS})
    steps += session.finish()
    assert_equal(steps, offline(model, {"spike": whole}, units={"spike": IDS}))


def test_spikes_that_do_not_fit_the_stream_are_refused(model: MultiModalNeuroFMX) -> None:
    whole, session = events(), StreamingSession(model)
    with pytest.raises(ValueError, match=r"a whole number of bins of 0\.01 s, got 0\.064 s"):
        session.push({"spike": piece(whole, 0, 6)._replace(duration=0.064)})
    session.push({"spike": piece(whole, 0, 6)})
    with pytest.raises(ValueError, match="spike: the stream began with events and must go on"):
        session.push({"spike": counts()[:, :6]})
    counted = StreamingSession(model)
    counted.push({"spike": counts()[:, :6]})
    with pytest.raises(ValueError, match="spike: the stream began with counts and must go on"):
        counted.push({"spike": piece(whole, 6, 12)})
    with pytest.raises(ValueError, match="2 counts are no whole numbers"):
        counted.push({"spike": torch.full((BATCH, 1, 1), 0.5).expand(-1, -1, UNITS) * seldom()})


def seldom() -> Tensor:
    """One fraction per row."""
    return torch.eye(UNITS)[:1].expand(BATCH, 1, UNITS)


def test_event_tokens_have_no_program_of_fixed_shapes(model: MultiModalNeuroFMX) -> None:
    with pytest.raises(ValueError, match="spike_mode='events' cannot be exported"):
        EncodeProgram(model)
    with pytest.raises(ValueError, match="spike_mode='events' cannot be exported"):
        StepProgram(model, {"spike": UNITS})
