"""Exported programs give what the model gives."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuros_neurofm import MultiModalNeuroFMX, NeuroFMXOutput
from neuros_neurofm.streaming import EncodeProgram, StepOutput, StepProgram, StreamingSession

RATES = {
    "spike": 100.0,
    "lfp": 200.0,
    "calcium": 50.0,
    "eeg": 100.0,
    "fmri": 50.0,
    "ecog": 100.0,
    "emg": 100.0,
}
CHANNELS = {"spike": 5, "lfp": 3, "calcium": 2, "eeg": 2, "fmri": 2, "ecog": 1, "emg": 1}
FEW = ("spike", "lfp")


def build(ssm: str = "mamba2", *, modalities: tuple[str, ...] = FEW, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        16,
        1,
        8,
        12,
        modalities=modalities,
        sampling_rates={name: RATES[name] for name in modalities},
        patches={name: 2 / RATES[name] for name in modalities},
        window=0.32,
        popt_depth=1,
        popt_window=3,
        ssm=ssm,
        **options,
    ).eval()


def inputs(seed: int, seconds: float, modalities: tuple[str, ...] = FEW) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name in modalities:
        x = torch.randn(2, round(seconds * RATES[name]), CHANNELS[name], generator=generator)
        found[name] = x.square().round() if name == "spike" else x
    return found


def cut_short(x: dict[str, Tensor]) -> dict[str, Tensor]:
    """Masks that end patches early, which moves their tokens in time."""
    generator = torch.Generator().manual_seed(9)
    masks = {name: torch.rand(v.shape, generator=generator) > 0.3 for name, v in x.items()}
    for mask in masks.values():
        mask[0, 1::2] = False
    return masks


def assert_close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.slow  # a trace of the whole model by torch.export
def test_encode_exports_with_masks_and_inferred_units() -> None:
    modalities = ("spike", "fmri")
    model = build(modalities=modalities)
    first, second = (inputs(seed, 0.4, modalities) for seed in (0, 1))
    masks = {name: torch.ones_like(v, dtype=torch.bool) for name, v in first.items()}
    program = torch.export.export(EncodeProgram(model), (first, masks)).module()
    masks = cut_short(second)
    assert_close(program(second, masks), model.encode(second, masks=masks))


@pytest.mark.slow  # a trace of the whole model by torch.export
@pytest.mark.parametrize("ssm", ["mamba", "fractional"])
def test_encode_exports_with_known_units_and_without_causality(ssm: str) -> None:
    model, ids = build(ssm, modalities=("spike",), causal=False), {"spike": list("abcde")}
    model.add_units("spike", list("abc"), generator=torch.Generator().manual_seed(0))
    first, second = (inputs(seed, 0.4, ("spike",)) for seed in (0, 1))
    program = torch.export.export(EncodeProgram(model, units=ids), (first,)).module()
    assert_close(program(second), model.encode(second, units=ids))


FIELDS = tuple(f.name for f in dataclasses.fields(NeuroFMXOutput) if f.name != "domain_labels")


def flat(outputs: Any) -> dict[str, Tensor]:
    """Fields of a step by name, those of the modalities as name.modality."""
    if isinstance(outputs, StepOutput):
        outputs = {name: getattr(outputs, name) for name in FIELDS}
    found = {}
    for name, value in outputs.items():
        below = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {}
        found |= below or {name: value}
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.slow  # a trace of the whole model by torch.export
@pytest.mark.parametrize(
    ("ssm", "modalities", "options"),
    [
        ("mamba2", ("spike", "eeg"), {"forecast_horizon": 2, "use_domain_adversarial": True}),
        ("mamba", ("spike",), {"behavior_dim": 0}),
        ("fractional", ("spike",), {}),
    ],
)
def test_a_step_exports_and_equals_the_session(
    ssm: str, modalities: tuple[str, ...], options: dict[str, Any]
) -> None:
    model, n = build(ssm, modalities=modalities, **options), 6
    ids = {"spike": list("abcde")}
    model.add_units("spike", list("ab"), generator=torch.Generator().manual_seed(0))
    x = inputs(3, n * 0.04, modalities)
    masks = cut_short(x)
    step = StepProgram(model, {name: CHANNELS[name] for name in modalities}, units=ids)
    state = step.init_state(2)

    def of_step(values: dict[str, Tensor], j: int) -> dict[str, Tensor]:
        size = step.samples
        return {name: v[:, j * size[name] : (j + 1) * size[name]] for name, v in values.items()}

    arguments = (of_step(x, 0), state, of_step(masks, 0))
    program = torch.export.export(step, arguments).module()
    session = StreamingSession(model)
    for j in range(n):
        with torch.no_grad():
            expected, eager_state = step(of_step(x, j), state, of_step(masks, j))
            outputs, state = program(of_step(x, j), state, of_step(masks, j))
        (streamed,) = session.push(of_step(x, j), units=ids, masks=of_step(masks, j))
        assert state.keys() == eager_state.keys()
        shapes = {name: value.shape for name, value in state.items()}
        assert shapes == {name: value.shape for name, value in step.init_state(2).items()}
        for other in (flat(expected), flat(streamed)):
            assert other.keys() == flat(outputs).keys()
            for name, value in flat(outputs).items():
                assert_close(value, other[name])


def test_programs_that_cannot_be_are_refused() -> None:
    model = build()
    with pytest.raises(ValueError, match=r"units names \['eeg'\], the modalities are"):
        EncodeProgram(model, units={"eeg": ["a"]})
    with pytest.raises(ValueError, match=r"causal=True and window=\.\.\. seconds"):
        StepProgram(build(causal=False), {"spike": 5})
    for channels in ({}, {"eeg": 2}):
        with pytest.raises(ValueError, match="channels must name modalities out of"):
            StepProgram(model, channels)
    with pytest.raises(ValueError, match="units must name the 5 channels, got 1"):
        StepProgram(model, {"spike": 5}, units={"spike": ["a"]})
    three = build()
    three.tokenizers["lfp"].core.size = 3
    with pytest.raises(ValueError, match="8 samples, which must be a whole number of patches of 3"):
        StepProgram(three, {"lfp": 3})
    with pytest.raises(ValueError, match=r"lfp: a stream needs its samples per second"):
        StepProgram(MultiModalNeuroFMX(16, 1, 8, 12, modalities=("lfp",), window=1.0), {"lfp": 3})
    step = StepProgram(model, {"spike": 5})
    with pytest.raises(ValueError, match=r"a step takes \(time, channel\) = \{'spike': \(4, 5\)\}"):
        step({"spike": torch.ones(1, 3, 5)}, step.init_state(1))
