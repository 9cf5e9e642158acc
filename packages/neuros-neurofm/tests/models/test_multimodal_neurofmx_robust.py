"""Any sane input gives finite outputs, any other one an error in words."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from neuros_neurofm.models import MultiModalNeuroFMX
from neuros_neurofm.tokenizers import Tokens

RATES = {
    "spike": 100.0, "lfp": 1000.0, "calcium": 30.0, "eeg": 250.0, "fmri": 2.5,
    "ecog": 500.0, "emg": 500.0,
}  # fmt: skip
LABELS = torch.tensor([0, 1])


@pytest.fixture(scope="module")
def model() -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        16, 1, 4, 12, True, 3, sampling_rates=RATES, window=0.4, perceiver_depth=1, popt_depth=1,
        forecast_horizon=2, modality_dropout=0.0, dropout=0.0,
    )  # fmt: skip


def data(name: str, *, batch: int = 2, length: int | None = None, channels: int = 3) -> Tensor:
    length = max(1, round(0.4 * RATES[name])) if length is None else length
    generator = torch.Generator().manual_seed(4)
    if name == "spike":
        return torch.poisson(torch.ones(batch, length, channels), generator=generator)
    return torch.randn(batch, length, channels, generator=generator)


def leaves(out: Any) -> Iterator[Tensor]:
    for value in out.values():
        yield from value.values() if isinstance(value, dict) else [value]


def check(model: MultiModalNeuroFMX, x: dict[str, Tensor], **extras: Any) -> None:
    """Outputs and gradients are finite."""
    model.zero_grad()
    out = model(x, LABELS[: len(next(iter(x.values())))], **extras)
    assert all(torch.isfinite(t).all() for t in leaves(out))
    sum(t.float().square().mean() for t in leaves(out) if t.requires_grad).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize(("length", "channels"), [(1, 1), (7, 3)])
def test_short_and_narrow_recordings(
    model: MultiModalNeuroFMX, name: str, length: int, channels: int
) -> None:
    check(model, {name: data(name, length=length, channels=channels)})


# Fourteen thousand channels, forwards and backwards.
@pytest.mark.slow
def test_two_thousand_channels_in_every_modality(model: MultiModalNeuroFMX) -> None:
    check(model, {name: data(name, batch=1, length=2, channels=2_000) for name in RATES})


@pytest.mark.parametrize("kept", [[True, False], [False, False]])
def test_rows_without_a_valid_sample(model: MultiModalNeuroFMX, kept: list[bool]) -> None:
    keep = torch.tensor(kept).view(2, 1, 1)
    x = {name: torch.where(keep, data(name), torch.nan) for name in RATES}
    check(model, x, masks=dict.fromkeys(RATES, keep))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_at_the_input(model: MultiModalNeuroFMX, dtype: torch.dtype) -> None:
    check(model, {name: data(name).to(dtype) for name in RATES})


def test_bfloat16_autocast(model: MultiModalNeuroFMX) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check(model, {name: data(name) for name in RATES})


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e6])
def test_any_amplitude(model: MultiModalNeuroFMX, scale: float) -> None:
    # Volts of an EEG are 1e-5, raw counts of a converter 1e4; a dead channel is constant.
    counts = {"spike": data("spike") * min(scale, 1e2)}
    check(model, {name: data(name) * scale for name in RATES} | counts)


@pytest.mark.parametrize("missing", ["spike", "eeg", "fmri", "ecog"])
def test_a_row_that_lacks_one_of_seven_modalities(model: MultiModalNeuroFMX, missing: str) -> None:
    model.eval()
    x = {name: data(name) for name in RATES}
    keep = torch.tensor([True, False]).view(2, 1, 1)
    mixed = model(x, LABELS, masks={missing: keep})
    alone = model({name: v[1:] for name, v in x.items() if name != missing}, LABELS[1:])
    for name in ("latents", "pooled", "decoder", "contrastive", "domain_logits"):
        torch.testing.assert_close(mixed[name][1:], alone[name], atol=1e-5, rtol=1e-5)
    for head in ("encoder", "forecast"):
        for name, value in alone[head].items():
            torch.testing.assert_close(mixed[head][name][1:], value, atol=1e-5, rtol=1e-5)
    whole = model({name: v[:1] for name, v in x.items()}, LABELS[:1])
    torch.testing.assert_close(mixed.latents[:1], whole.latents, atol=1e-5, rtol=1e-5)


def test_tokens_of_another_width_are_refused(model: MultiModalNeuroFMX) -> None:
    times = torch.arange(1, 4, dtype=torch.float64).expand(1, 3) / 10
    tokens = Tokens(torch.randn(1, 3, 8), times, torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="lfp: tokens must have the width d_model = 16, got 8"):
        model({"lfp": tokens})
