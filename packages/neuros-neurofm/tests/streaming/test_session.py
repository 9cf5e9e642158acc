"""A stream gives what the model gives for the whole recording."""

import io
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.models import NeuroFMXOutput
from neuros_neurofm.streaming import StepOutput, StreamingSession

RATES = {"spike": 100.0, "lfp": 200.0, "calcium": 12.5}
SECONDS, STEP = 0.64, 0.02
# Patches shorter than, as long as and longer than a step of the grid.
PATCHES = {"spike": 0.02, "lfp": 0.015, "calcium": 0.16}


def build(ssm: str = "mamba2", **options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    settings = {
        "modalities": tuple(RATES),
        "sampling_rates": RATES,
        "patches": PATCHES,
        "window": 0.16,
        "popt_depth": 1,
        "popt_window": 5,
        "forecast_horizon": 2,
        "ssm": ssm,
    }
    return MultiModalNeuroFMX(16, 2, 8, 12, **(settings | options)).eval()


@pytest.fixture(scope="module")
def model() -> MultiModalNeuroFMX:
    return build(use_domain_adversarial=True, perceiver_depth=1)


def recording(batch: int = 2, seconds: float = SECONDS, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n = {name: round(seconds * rate) for name, rate in RATES.items()}
    return {
        "spike": torch.poisson(torch.ones(batch, n["spike"], 5), generator=generator),
        "lfp": torch.randn(batch, n["lfp"], 3, generator=generator).cumsum(1),
        "calcium": torch.randn(batch, n["calcium"], 2, generator=generator),
    }


def joined(steps: list[StepOutput]) -> dict[str, Tensor]:
    found = {"latents": torch.cat([s.latents for s in steps], 1)}
    found["decoder"] = torch.cat([s.decoder for s in steps], 1)
    for name in RATES:
        parts = [s.encoder[name] for s in steps if name in s.encoder]
        if parts:
            found[name] = torch.cat(parts, 1)
    return found


def assert_equal(steps: list[StepOutput], out: NeuroFMXOutput, tolerance: float = 1e-4) -> None:
    """All that a stream gives, beside the model on the whole recording."""
    got, n = joined(steps), len(steps)
    expected = {"latents": out.latents[:, :n], "decoder": out.decoder[:, :n]}
    expected |= {name: out.encoder[name][:, : got[name].shape[1]] for name in got if name in RATES}
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, atol=tolerance, rtol=0, msg=name)
    times = torch.cat([s.times for s in steps])
    torch.testing.assert_close(times, out.times[:n], atol=1e-12, rtol=0)


def offline(model: MultiModalNeuroFMX, x: Mapping[str, Tensor], **options: Any) -> NeuroFMXOutput:
    with torch.no_grad():
        return model(x, **options)


def in_pieces(x: dict[str, Tensor], draw: list[tuple[str, int]]) -> list[dict[str, Tensor]]:
    """Chunks of random modalities and lengths; the first holds a sample of each."""
    at = dict.fromkeys(x, 1)
    chunks = [{name: value[:, :1] for name, value in x.items()}]
    for name, n in [*draw, *((name, 10_000) for name in x)]:
        if at[name] < x[name].shape[1]:
            chunks.append({name: x[name][:, at[name] : at[name] + n]})
            at[name] += n
    return chunks


draws = st.lists(st.tuples(st.sampled_from(list(RATES)), st.integers(1, 40)), max_size=40)


@settings(max_examples=6, derandomize=True, deadline=None)
@given(draw=draws)
def test_any_chunking_gives_the_outputs_of_the_whole_recording(
    model: MultiModalNeuroFMX, draw: list[tuple[str, int]]
) -> None:
    x = recording()
    session, steps = StreamingSession(model, max_lag=1.0), []
    for chunk in in_pieces(x, draw):
        steps += session.push(chunk)
    steps += session.finish()
    out = offline(model, x)
    assert len(steps) == round(SECONDS / STEP)
    assert_equal(steps, out)
    for name in ("pooled", "contrastive", "domain_logits"):
        torch.testing.assert_close(getattr(steps[-1], name), out[name], atol=1e-4, rtol=0)
    assert {name: value.shape for name, value in joined(steps).items() if name in x} == {
        name: value.shape for name, value in x.items()
    }


@pytest.mark.parametrize("ssm", ["mamba2", "mamba", "fractional"])
def test_every_backbone_streams_and_differs_by_rounding_alone(ssm: str) -> None:
    model = build(ssm).double()
    x = {name: value.double() for name, value in recording().items()}
    session, steps = StreamingSession(model), []
    for chunk in in_pieces(x, [("spike", 7), ("lfp", 30), ("spike", 9), ("lfp", 3)]):
        steps += session.push(chunk)
    steps += session.finish()
    out = offline(model, x)
    assert_equal(steps, out, tolerance=1e-10)
    torch.testing.assert_close(steps[-1].pooled, out.pooled, atol=1e-10, rtol=0)


def test_summary_and_forecast_of_every_step_are_those_of_the_recording_up_to_it(
    model: MultiModalNeuroFMX,
) -> None:
    x = recording()
    steps = StreamingSession(model).push(x)
    latents = offline(model, x).latents
    for j in (0, 2, 4, 9, 30):
        pooled = model.popt.aggregate(latents[:, max(0, j - 4) : j + 1])
        torch.testing.assert_close(steps[j].pooled, pooled, atol=1e-4, rtol=0)
    # Ends of steps at which no patch is in progress.
    for j in (23, 31):
        end = (j + 1) * STEP
        cut = {name: v[:, : round(end * RATES[name])] for name, v in x.items() if name != "lfp"}
        alone = StreamingSession(model).push({name: x[name] for name in cut})
        out = offline(model, cut)
        for name in cut:
            torch.testing.assert_close(
                alone[j].forecast[name], out.forecast[name], atol=1e-4, rtol=0
            )


def test_modalities_join_leave_and_come_back(model: MultiModalNeuroFMX) -> None:
    x = recording(seconds=1.28)
    masks = {name: torch.zeros(1, v.shape[1], 1, dtype=torch.bool) for name, v in x.items()}
    session, steps, at = StreamingSession(model), [], dict.fromkeys(x, 0)

    def run(until: float, *names: str) -> None:
        while round(session.time * 100) < round(until * 100):
            chunk = {}
            for name in names:
                start = at[name]
                at[name] = start + max(1, round(0.04 * RATES[name]))
                chunk[name] = x[name][:, start : at[name]]
                masks[name][:, start : at[name]] = True
            steps.extend(session.push(chunk))

    run(0.24, "spike")
    assert session.modalities == ("spike",)
    at["lfp"] = round(0.24 * 200)
    run(0.48, "spike", "lfp")
    assert session.modalities == ("spike", "lfp")
    steps += session.leave("lfp")
    run(0.72, "spike")
    at["lfp"] = 144
    steps += session.leave("spike")
    run(0.96, "lfp")
    at["spike"] = 96
    run(1.24, "spike", "lfp")
    out = offline(
        model, {k: x[k] for k in ("spike", "lfp")}, masks={k: masks[k] for k in ("spike", "lfp")}
    )
    n = len(steps)
    torch.testing.assert_close(joined(steps)["latents"], out.latents[:, :n], atol=1e-4, rtol=0)
    for name in ("spike", "lfp"):
        got, seen = joined(steps)[name], masks[name][0, :, 0]
        expected = out.encoder[name][:, seen][:, : got.shape[1]]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert [s.modalities for s in steps][11:13] == [("spike",), ("spike", "lfp")]


def test_a_patch_that_is_cut_short_by_leaving_counts_as_masked(model: MultiModalNeuroFMX) -> None:
    x = recording()
    mask = torch.zeros(1, 128, 1, dtype=torch.bool)
    mask[:, :50] = True
    session = StreamingSession(model)
    steps = session.push({"spike": x["spike"][:, :26], "lfp": x["lfp"][:, :50]})
    steps += session.leave("lfp")
    steps += session.push({"spike": x["spike"][:, 26:]})
    two = {name: x[name] for name in ("spike", "lfp")}
    out = offline(model, two, masks={"lfp": mask})
    got = joined(steps)["latents"]
    torch.testing.assert_close(got, out.latents[:, : got.shape[1]], atol=1e-4, rtol=0)


def test_missing_samples_before_a_chunk_with_a_start_count_as_masked(
    model: MultiModalNeuroFMX,
) -> None:
    x = recording()["lfp"]
    mask = torch.ones(1, 128, 1, dtype=torch.bool)
    mask[:, 33:71] = False
    session = StreamingSession(model)
    steps = session.push({"lfp": x[:, :33]})
    steps += session.push({"lfp": x[:, 71:]}, t=71 / 200)
    out = offline(model, {"lfp": x}, masks={"lfp": mask})
    got = joined(steps)["latents"]
    torch.testing.assert_close(got, out.latents[:, : got.shape[1]], atol=1e-4, rtol=0)
    assert got.shape[1] >= 31


@pytest.mark.parametrize("known", [0, 2, 5])
def test_masks_ids_calibration_and_positions_hold_in_streams(known: int) -> None:
    model, x = build(), recording()
    ids = {name: [f"{name}{i}" for i in range(v.shape[2])] for name, v in x.items()}
    for name, names in ids.items():
        model.add_units(name, names[:known], generator=torch.Generator().manual_seed(0))
    model.calibrate("lfp", x["lfp"], units=ids["lfp"])
    generator = torch.Generator().manual_seed(3)
    masks = {name: torch.rand(v.shape, generator=generator) > 0.4 for name, v in x.items()}
    masks["spike"][0] = False
    masks["lfp"][1, 40:90] = False
    hidden = {m: torch.where(masks[m], v, torch.full_like(v, torch.nan)) for m, v in x.items()}
    coords = {name: torch.rand(v.shape[2], 3) / 10 for name, v in x.items()}
    session, steps = StreamingSession(model), []
    for k in range(8):
        chunk, seen = {}, {}
        for name, value in hidden.items():
            n = value.shape[1] // 8
            piece = slice(k * n, (k + 1) * n)
            seen[name] = masks[name][:, piece]
            chunk[name] = {"x": value[:, piece], "coords": coords[name]}
        steps += session.push(chunk, units=ids if k < 4 else None, masks=seen)
    steps += session.finish()
    whole = {name: {"x": v, "coords": coords[name]} for name, v in hidden.items()}
    assert_equal(steps, offline(model, whole, units=ids, masks=masks))


@pytest.mark.parametrize("as_mapping", [False, True])
def test_samples_with_times_of_their_own_stream(
    model: MultiModalNeuroFMX, as_mapping: bool
) -> None:
    x = recording()
    gaps = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times = gaps.cumsum(0) * 0.02
    masks = torch.rand(2, 64, 5, generator=torch.Generator().manual_seed(2)) > 0.6
    session, steps = StreamingSession(model, max_lag=5.0), []
    for start in range(0, 64, 7):
        piece = slice(start, start + 7)
        t = {"spike": times[piece]} if as_mapping else times[piece]
        steps += session.push({"spike": x["spike"][:, piece]}, t, masks={"spike": masks[:, piece]})
    session_times = session.time
    steps += session.finish()
    assert session_times > 0.5
    out = offline(model, {"spike": x["spike"]}, times={"spike": times}, masks={"spike": masks})
    assert_equal(steps, out)


def test_a_modality_with_times_of_its_own_leaves_within_a_patch(model: MultiModalNeuroFMX) -> None:
    x, times = recording(), torch.arange(1, 65, dtype=torch.float64) / 110
    mask = torch.ones(1, 64, 1, dtype=torch.bool)
    mask[:, 31:] = False
    session = StreamingSession(model, max_lag=5.0)
    chunk = {"spike": x["spike"][:, :31], "lfp": x["lfp"]}
    steps = session.push(chunk, {"spike": times[:31]})
    assert session.time < 0.29
    steps += session.leave("spike")
    assert session.time > 0.6
    two = {name: x[name] for name in ("spike", "lfp")}
    out = offline(model, two, times={"spike": times}, masks={"spike": mask})
    got = joined(steps)["latents"]
    torch.testing.assert_close(got, out.latents[:, : got.shape[1]], atol=1e-4, rtol=0)


def test_a_rate_may_come_from_the_session() -> None:
    model = build(sampling_rates={"spike": 100.0, "calcium": 12.5}, patches={"spike": 0.02})
    given, x = build(patches={"spike": 0.02, "lfp": 0.005}), recording()
    model.load_state_dict(given.state_dict())
    two = {name: x[name] for name in ("spike", "lfp")}
    steps = StreamingSession(model, {"lfp": 200.0, "spike": 100.0}).push(two)
    assert_equal(steps, offline(given, two))
    with pytest.raises(ValueError, match="lfp: a stream needs to know its samples per second"):
        StreamingSession(model).push(two)


@pytest.mark.parametrize(
    ("ssm", "k"), [("mamba2", 1), ("mamba2", 37), ("mamba", 37), ("fractional", 37)]
)
def test_a_session_resumes_bit_for_bit_from_a_file_of_tensors(ssm: str, k: int) -> None:
    model, x = build(ssm), recording(1)
    first = {name: v[:, : round(k / 100 * RATES[name])] for name, v in x.items()}
    rest = {name: v[:, first[name].shape[1] :] for name, v in x.items()}
    session = StreamingSession(model)
    ids = [f"u{i}" for i in range(5)]
    session.push({m: v for m, v in first.items() if v.shape[1]}, units={"spike": ids})
    file = io.BytesIO()
    torch.save(session.state_dict(), file)
    file.seek(0)
    resumed = StreamingSession(build(ssm))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert (resumed.time, resumed.modalities) == (session.time, session.modalities)
    a, b = session.push(rest), resumed.push(rest)
    assert len(a) == len(b) > 0
    for name, value in joined(a).items():
        assert torch.equal(value, joined(b)[name])
    assert torch.equal(a[-1].pooled, b[-1].pooled)
    assert torch.equal(a[-1].forecast["lfp"], b[-1].forecast["lfp"])


def test_the_state_of_a_session_that_has_not_begun_can_be_saved(model: MultiModalNeuroFMX) -> None:
    session = StreamingSession(model)
    session.load_state_dict(StreamingSession(model).state_dict())
    assert session.modalities == ()
    assert session.finish() == []


def state_bytes(session: StreamingSession) -> int:
    return sum(t.untyped_storage().nbytes() for t in session.state_dict().values())


@pytest.mark.slow  # thousands of steps of the model, one after the other
@pytest.mark.parametrize(("ssm", "n_steps"), [("mamba2", 600), ("mamba", 300)])
def test_the_state_has_the_same_size_after_200_steps_and_after_many(ssm: str, n_steps: int) -> None:
    model = MultiModalNeuroFMX(
        8,
        1,
        4,
        8,
        modalities=("spike",),
        sampling_rates={"spike": 50.0},
        window=0.08,
        popt_depth=1,
        popt_window=2,
        perceiver_depth=1,
        behavior_dim=0,
        ssm=ssm,
    )
    session, sizes = StreamingSession(model), {}
    for n in range(100, n_steps + 1, 100):
        generator = torch.Generator().manual_seed(n)
        spikes = torch.poisson(torch.ones(1, 100, 2), generator=generator)
        assert len(session.push({"spike": spikes})) == 100
        sizes[n] = state_bytes(session)
    # Rounding of the clock decides whether one token at the edge of the window is still held.
    assert max(sizes.values()) == max(sizes[100], sizes[200])
    assert min(sizes.values()) == min(sizes[100], sizes[200])


def test_a_modality_that_lags_holds_the_stream_up_until_it_counts_as_gone(
    model: MultiModalNeuroFMX,
) -> None:
    x = recording()
    session = StreamingSession(model, max_lag=0.1)
    assert len(session.push({"spike": x["spike"][:, :4], "lfp": x["lfp"][:, :8]})) == 1
    assert len(session.push({"spike": x["spike"][:, 4:14]})) == 0
    steps = session.push({"spike": x["spike"][:, 14:16]})
    assert session.modalities == ("spike",)
    assert len(steps) == 7
    assert session.time == pytest.approx(0.16)
    mask = torch.zeros(1, 128, 1, dtype=torch.bool)
    mask[:, :8] = True
    out = offline(model, {"spike": x["spike"], "lfp": x["lfp"]}, masks={"lfp": mask})
    torch.testing.assert_close(
        torch.cat([s.latents for s in steps], 1), out.latents[:, 1:8], atol=1e-4, rtol=0
    )
    # It must not be put at another time than its own without a word.
    late = {"lfp": x["lfp"][:, 8:40]}
    resumed = StreamingSession(model)
    resumed.load_state_dict(session.state_dict())
    for again in (session, resumed):
        with pytest.raises(ValueError, match=r"has reached 0\.16 s; pass t = the start of the"):
            again.push(late)
        with pytest.raises(ValueError, match=r"lies before the end of what has arrived, 0\.045 s"):
            again.push(late, 0.04)
        with pytest.raises(ValueError, match=r"the sample at 0\.155 s comes too late"):
            again.push(late, 0.15)
        again.push({"lfp": x["lfp"][:, 36:40]}, 0.18)
        assert again.modalities == ("spike", "lfp")


def test_a_slow_modality_does_not_hold_a_fast_one_up() -> None:
    model, x = build(patches={"calcium": 0.08}), recording()
    session = StreamingSession(model)
    session.push({"spike": x["spike"][:, :8], "calcium": x["calcium"][:, :1]})
    assert session.time == pytest.approx(0.08)
    # The next frame is due at 0.16 s: steps that end before it need not wait.
    session.push({"spike": x["spike"][:, 8:14]})
    assert session.time == pytest.approx(0.14)
    session.push({"spike": x["spike"][:, 14:16]})
    assert session.time == pytest.approx(0.14)
    session.push({"calcium": x["calcium"][:, 1:2]})
    assert session.time == pytest.approx(0.16)


def test_a_chunk_that_is_refused_leaves_the_session_as_it_was(model: MultiModalNeuroFMX) -> None:
    x = recording()
    session = StreamingSession(model)
    session.push({name: v[:, :3] for name, v in x.items()})
    before = session.state_dict()
    bad = {"spike": x["spike"][:, 3:5], "lfp": torch.full_like(x["lfp"][:, :2], math.nan)}
    with pytest.raises(ValueError, match=r"lfp: 12 NaN or infinite values"):
        session.push(bad)
    after = session.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_reset_begins_a_new_recording(model: MultiModalNeuroFMX) -> None:
    session = StreamingSession(model)
    first = session.push(recording())
    session.reset()
    assert (session.time, session.modalities) == (0.0, ())
    again = session.push({name: v[:1] for name, v in recording().items()})
    torch.testing.assert_close(again[-1].latents, first[-1].latents[:1], atol=1e-5, rtol=0)


def test_models_that_cannot_stream_are_refused() -> None:
    with pytest.raises(ValueError, match=r"does not look ahead; build it with causal=True"):
        StreamingSession(build(causal=False))
    with pytest.raises(ValueError, match=r"build it with window=\.\.\. seconds"):
        StreamingSession(build(window=None))
    with pytest.raises(ValueError, match="max_lag must be > 0 s, got 0"):
        StreamingSession(build(), max_lag=0.0)
    with pytest.raises(ValueError, match=r"sampled at 500\.0 Hz, the model expects 200\.0 Hz"):
        StreamingSession(build(), {"lfp": 500.0})
    with pytest.raises(ValueError, match="sampling_rates names 'eeg'"):
        StreamingSession(build(), {"eeg": 500.0})


def test_chunks_that_do_not_fit_the_stream_are_refused(model: MultiModalNeuroFMX) -> None:
    x, session = recording(), StreamingSession(model)
    session.push({"spike": x["spike"][:, :3]}, units={"spike": list("abcde")})
    for chunk, message in (
        ({"spike": x["spike"][:1]}, "spike: the stream has 2 rows, got 1"),
        ({"lfp": x["lfp"][:1]}, "lfp: the stream has 2 rows, got 1"),
        ({"spike": x["spike"][..., :2]}, "spike: the stream has 5 channels, got 2"),
        ({"eeg": x["spike"]}, r"this model was built without \['eeg'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            session.push(chunk)
    with pytest.raises(ValueError, match="units must stay those of the first chunk"):
        session.push({"spike": x["spike"]}, units={"spike": list("abcdx")})
    tokens = model.tokenizers["spike"](x["spike"])
    with pytest.raises(ValueError, match="spike: a stream takes samples"):
        session.push({"spike": tokens})
    with pytest.raises(ValueError, match=r"\['lfp'\] are not in the stream"):
        session.leave("lfp")


def test_times_that_do_not_fit_the_stream_are_refused(model: MultiModalNeuroFMX) -> None:
    x, session = recording(), StreamingSession(model)
    spike, three = x["spike"][:, :3], torch.tensor([0.1, 0.2, 0.3])
    session.push({"spike": spike})
    for t, message in (
        (math.inf, "t must be seconds >= 0"),
        (0.01, "lies before the end of what has arrived, 0.03 s"),
        (three, "began with equal intervals and must go on with them"),
        ({"lfp": 0.1}, r"t names \['lfp'\], but the chunks are those of \['spike'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            session.push({"spike": spike}, t)
    with pytest.raises(ValueError, match="t is one tensor for"):
        session.push({"spike": spike, "lfp": x["lfp"]}, three)
    with pytest.raises(ValueError, match=r"lfp: the sample at 0\.015 s comes too late"):
        session.push({"lfp": x["lfp"]}, 0.01)
    own = StreamingSession(model)
    for t, message in (
        (three[:2], r"one finite time per sample, \(3,\)"),
        (three * math.nan, r"one finite time per sample"),
        (three.flip(0), "times must start at 0 or later and not decrease"),
        (-three.flip(0), "times must start at 0 or later and not decrease"),
    ):
        with pytest.raises(ValueError, match=message):
            own.push({"spike": spike}, t)
    own.push({"spike": spike}, three)
    with pytest.raises(ValueError, match=r"the last one was 0\.3 s"):
        own.push({"spike": spike}, three)


def test_the_state_of_another_model_is_refused(model: MultiModalNeuroFMX) -> None:
    session = StreamingSession(model)
    session.push(recording())
    state = session.state_dict()
    with pytest.raises(ValueError, match=r"core\.recent must have the shape \(2, 3, 12\)"):
        StreamingSession(build(popt_window=3)).load_state_dict(state)
    few = StreamingSession(build(modalities=("spike", "lfp"), sampling_rates=None, patches=None))
    with pytest.raises(ValueError, match=r"it holds \['calcium'\]"):
        few.load_state_dict(state)
    with pytest.raises(ValueError, match="the state holds no 'n_steps'"):
        session.load_state_dict({})
    del state["core.backbone.0.conv"]
    with pytest.raises(ValueError, match=r"core\.backbone\.0\.conv must have the shape .* None"):
        session.load_state_dict(state)
