"""What must not be seen is changed; what must not depend on it stays bit-equal."""

import pytest
import torch
from torch import Tensor

from neuros_neurofm.models import MultiModalNeuroFMX, NeuroFMXOutput

STEP = 0.25


def build(ssm: str) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        16,
        2,
        8,
        12,
        True,
        modalities=("spike", "ecog"),
        sampling_rates={"spike": 100.0, "ecog": 200.0},
        window=2.0,
        popt_depth=1,
        forecast_horizon=3,
        ssm=ssm,
    ).eval()


@pytest.fixture(scope="module")
def model() -> MultiModalNeuroFMX:
    return build("mamba2")


def differing(first: NeuroFMXOutput, second: NeuroFMXOutput) -> set[str]:
    """Names of the outputs that are not equal to the bit."""
    pairs = {
        (name, key): (tensor, second[name][key] if key else second[name])
        for name, value in first.items()
        for key, tensor in (value if isinstance(value, dict) else {"": value}).items()
    }
    return {name for (name, _), (a, b) in pairs.items() if not torch.equal(a, b)}


def data(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "spike": torch.poisson(torch.ones(2, 200, 5), generator=generator),
        "ecog": torch.randn(2, 400, 3, generator=generator),
    }


def after(seconds: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two recordings that agree up to a time."""
    a, b = data(0), data(7)
    rates = {"spike": 100.0, "ecog": 200.0}
    for name, rate in rates.items():
        b[name][:, : round(seconds * rate)] = a[name][:, : round(seconds * rate)]
    return a, b


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("seconds", [0.25, 0.9, 1.5])
def test_future_samples_leave_past_outputs_bit_equal(
    model: MultiModalNeuroFMX, seconds: float, known: bool
) -> None:
    ids = {"spike": [f"u{known}{i}" for i in range(5)], "ecog": [f"e{known}{i}" for i in range(3)]}
    if known and ids["spike"][0] not in model.tokenizers["spike"].units.ids:
        for name, names in ids.items():
            model.add_units(name, names, generator=torch.Generator().manual_seed(0))
    a, b = after(seconds)
    queries = torch.arange(0, 220) / 100
    first, second = (model(x, units=ids, query_times=queries) for x in (a, b))
    done = int(seconds / STEP)
    assert torch.equal(first.latents[:, :done], second.latents[:, :done])
    assert not torch.equal(first.latents[:, done:], second.latents[:, done:])
    past = queries <= seconds + 1e-6
    assert torch.equal(first.decoder[:, past], second.decoder[:, past])
    assert not torch.equal(first.decoder[:, ~past], second.decoder[:, ~past])
    for name, rate in {"spike": 100.0, "ecog": 200.0}.items():
        n = round(done * STEP * rate)
        assert torch.equal(first.encoder[name][:, :n], second.encoder[name][:, :n])


@pytest.mark.parametrize("ssm", ["mamba", "fractional"])
def test_future_samples_leave_the_past_of_other_backbones_bit_equal(ssm: str) -> None:
    model = build(ssm)
    a, b = after(1.5)
    queries = torch.arange(0, 220) / 100
    first, second = (model(x, query_times=queries) for x in (a, b))
    past = queries <= 1.5 + 1e-6
    pairs = {
        "latents": (first.latents[:, :6], second.latents[:, :6]),
        "decoder": (first.decoder[:, past], second.decoder[:, past]),
        "spike": (first.encoder["spike"][:, :150], second.encoder["spike"][:, :150]),
        "ecog": (first.encoder["ecog"][:, :300], second.encoder["ecog"][:, :300]),
    }
    for name, (x, y) in pairs.items():
        assert torch.equal(x, y), name
    assert not torch.equal(first.latents[:, 6:], second.latents[:, 6:])


def test_a_two_sided_model_does_see_the_future() -> None:
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        16, 1, 8, 12, modalities=("ecog",), sampling_rates={"ecog": 200.0}, causal=False
    ).eval()
    a, b = after(1.5)
    first, second = (model({"ecog": x["ecog"]}) for x in (a, b))
    assert not torch.equal(first.latents[:, 0], second.latents[:, 0])


def test_held_out_channels_leave_every_output_bit_equal(model: MultiModalNeuroFMX) -> None:
    a, b = data(0), data(0)
    b["spike"][..., 3:] = data(9)["spike"][..., 3:] + 100
    mask = torch.tensor([True, True, True, False, False]).view(1, 1, 5)
    first, second = (model(x, masks={"spike": mask}) for x in (a, b))
    assert differing(first, second) == set()
    assert "domain_logits" in differing(first, model(b))
    assert torch.isfinite(first.encoder["spike"][..., 3:]).all()


def test_held_out_samples_leave_every_output_bit_equal(model: MultiModalNeuroFMX) -> None:
    a, b = data(0), data(0)
    mask = torch.rand(2, 400, 3, generator=torch.Generator().manual_seed(3)) > 0.3
    b["ecog"] = torch.where(mask, b["ecog"], torch.full_like(b["ecog"], torch.nan))
    first, second = (model(x, masks={"ecog": mask}) for x in (a, b))
    assert differing(first, second) == set()


def test_extra_masked_channels_leave_the_others_unchanged(model: MultiModalNeuroFMX) -> None:
    x = data(0)
    wide = x | {"ecog": torch.cat([x["ecog"], torch.full((2, 400, 4), torch.nan)], dim=-1)}
    mask = torch.tensor([True] * 3 + [False] * 4).view(1, 1, 7)
    first, second = model(x), model(wide, masks={"ecog": mask})
    torch.testing.assert_close(first.latents, second.latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        first.encoder["ecog"], second.encoder["ecog"][..., :3], atol=1e-5, rtol=1e-5
    )
