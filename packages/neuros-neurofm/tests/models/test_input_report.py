import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from neuros_neurofm.models import ChannelStatus, InputReport, MultiModalNeuroFMX
from neuros_neurofm.tokenizers import SpikeEvents


@pytest.fixture(scope="module")
def model() -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        16, 1, 8, 12, modalities=("spike", "ecog"),
        sampling_rates={"spike": 100.0, "ecog": 200.0}, popt_depth=1,
    )  # fmt: skip
    model.add_units("spike", ["a", "b", "c"], generator=torch.Generator().manual_seed(0))
    return model


def data() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "spike": torch.poisson(torch.ones(2, 40, 5), generator=generator),
        "ecog": torch.randn(2, 80, 3, generator=generator),
    }


IDS = {"spike": ["b", "x", "c", "y", "a"]}


def test_every_channel_has_one_of_four_fates(model: MultiModalNeuroFMX) -> None:
    x = data()
    x["ecog"][0, 7, 1] = math.nan
    x["spike"][1, 3, 4] = -1.0
    masks = {"spike": torch.tensor([True, True, True, False, True]).view(1, 1, 5)}
    report = model.explain_inputs(x, units=IDS, masks=masks)
    assert [c.status for c in report.channels if c.modality == "spike"] == [
        "matched", "inferred", "matched", "masked", "rejected",
    ]  # fmt: skip
    assert [c.status for c in report.channels if c.modality == "ecog"] == [
        "inferred", "rejected", "inferred",
    ]  # fmt: skip
    assert report.counts() == {
        "spike": {"matched": 2, "inferred": 1, "masked": 1, "rejected": 1},
        "ecog": {"matched": 0, "inferred": 2, "masked": 0, "rejected": 1},
    }
    assert not report.accepted
    bad = report.of("rejected")
    assert bad[0] == ChannelStatus("spike", 4, "a", "rejected", "1 negative counts")
    assert bad[1].reason == "1 NaN or infinite values among the valid samples"
    assert report.of("inferred")[0].reason == "the id is not known; add_units lets it be learned"
    assert report.of("inferred")[1].reason == "no id was given"


def test_the_text_is_a_table_with_the_reasons(model: MultiModalNeuroFMX) -> None:
    wide = {"ecog": torch.randn(1, 80, 9)}
    lines = str(model.explain_inputs(data() | wide, units=IDS)).splitlines()
    assert lines[0].split() == [
        "modality", "channels", "matched", "inferred", "masked", "rejected",
    ]  # fmt: skip
    assert lines[1].split() == ["spike", "5", "3", "2", "0", "0"]
    assert lines[2].split() == ["ecog", "9", "0", "9", "0", "0"]
    assert {len(line) for line in lines[:3]} == {len(lines[0])}
    assert "spike matched 3: the id is known (b, c, a)" in lines
    assert lines[-2].endswith("channel 4, channel 5 and 3 more)")
    # The rows differ in number, which is no fault of a single stream.
    assert lines[-1].startswith("inputs rejected 1: all modalities of a call need the same number")
    assert repr(InputReport([])) == "InputReport({})"


def test_a_channel_that_some_rows_lack_is_said_to_be(model: MultiModalNeuroFMX) -> None:
    masks = {"spike": torch.tensor([True, False]).view(2, 1, 1)}
    report = model.explain_inputs(data(), units=IDS, masks=masks)
    assert report.channels[0].reason == "the id is known; no valid sample in 1 of 2 rows"
    assert report.accepted


def test_ready_tokens_pass_with_their_channels_unseen(model: MultiModalNeuroFMX) -> None:
    model.eval()
    tokens = model.tokenizers["spike"](data()["spike"])
    report = model.explain_inputs({"spike": tokens})
    assert report.accepted
    assert "channels unseen" in str(report)
    hidden = model.explain_inputs({"spike": tokens._replace(mask=torch.zeros_like(tokens.mask))})
    assert hidden.channels[0].status == "masked"
    narrow = tokens._replace(values=tokens.values[..., :8])
    report = model.explain_inputs({"spike": narrow})
    assert (
        report.of("rejected")[0].reason == "spike: tokens must have the width d_model = 16, got 8"
    )
    with pytest.raises(ValueError, match="the width d_model = 16, got 8"):
        model({"spike": narrow})


FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing is wrong": (data(), {}),
    "no input": ({}, {}),
    "unknown modality": ({"spikes": torch.ones(1, 4, 2)}, {}),
    "modality of another model": ({"eeg": torch.ones(1, 4, 2)}, {}),
    "two axes": ({"spike": torch.ones(4, 2)}, {}),
    "complex numbers": ({"ecog": torch.ones(1, 4, 2, dtype=torch.complex64)}, {}),
    "a list": ({"spike": {"x": [1.0]}}, {}),
    "unknown field": ({"spike": {"counts": torch.ones(1, 4, 2)}}, {}),
    "unequal rows": ({"spike": torch.ones(1, 4, 2), "ecog": torch.ones(2, 4, 2)}, {}),
    "ids of another number": (data(), {"units": {"spike": ["a"]}}),
    "ids that repeat": (data(), {"units": {"spike": ["a"] * 5}}),
    "ids of an absent stream": (data(), {"units": {"emg": ["a"]}}),
    "a mask of floats": (data(), {"masks": {"spike": torch.ones(2, 40, 5)}}),
    "a mask of another shape": (data(), {"masks": {"spike": torch.ones(1, 3, 1) > 0}}),
    "times that fall": (data(), {"times": {"ecog": torch.arange(80.0).flip(0)}}),
    "times of another length": (data(), {"times": {"ecog": torch.arange(8.0)}}),
    "coordinates of another number": (
        {"ecog": {"x": data()["ecog"], "coords": torch.zeros(2, 3)}},
        {},
    ),
    "NaN": ({"ecog": torch.full((1, 4, 2), torch.nan)}, {}),
    "NaN behind the mask": (
        {"ecog": torch.full((1, 4, 2), torch.nan)},
        {"masks": {"ecog": torch.zeros(1, 1, 1, dtype=torch.bool)}},
    ),
    "negative counts": ({"spike": -torch.ones(1, 4, 2)}, {}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_report_rejects_exactly_what_the_pass_refuses(
    model: MultiModalNeuroFMX, fault: str
) -> None:
    inputs, extras = FAULTS[fault]
    report = model.explain_inputs(inputs, **extras)
    if fault in {"nothing is wrong", "NaN behind the mask"}:
        assert report.accepted
        assert torch.isfinite(model(inputs, **extras).latents).all()
        return
    assert not report.accepted
    assert report.of("rejected")[0].reason in str(report)
    with pytest.raises((TypeError, ValueError)):
        model(inputs, **extras)


def test_asking_leaves_the_model_and_the_random_state_alone(model: MultiModalNeuroFMX) -> None:
    model.train()
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    model.explain_inputs(data())
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(ValueError, match=r"status must be one of .* got 'fine'"):
        InputReport([]).of("fine")


def test_spike_events_are_explained_unit_by_unit(model: MultiModalNeuroFMX) -> None:
    events = SpikeEvents(
        torch.tensor([0.031, 0.004]), torch.tensor([0, 1]), torch.tensor([0, 0]), n_units=3
    )
    report = model.explain_inputs({"spike": events}, units={"spike": ["a", "z", "b"]})
    assert [c.status for c in report.channels] == ["matched", "inferred", "matched"]
    late = events._replace(times=-events.times)
    report = model.explain_inputs({"spike": late})
    assert not report.accepted
    with pytest.raises(ValueError, match=re.escape(report.channels[0].reason)):
        model({"spike": late})
