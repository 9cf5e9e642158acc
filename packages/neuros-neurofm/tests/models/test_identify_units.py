import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from neuros_neurofm.losses import BehaviorLoss
from neuros_neurofm.models import MultiModalNeuroFMX

IDS = {"spike": [f"new{i}" for i in range(5)]}


def build(**options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    settings = {
        "d_model": 16,
        "n_mamba_blocks": 1,
        "n_latents": 8,
        "latent_dim": 12,
        "modalities": ("spike", "lfp"),
        "sampling_rates": {"spike": 100.0, "lfp": 100.0},
        "behavior_dim": 1,
        "perceiver_depth": 1,
        "popt_depth": 1,
    }
    model = MultiModalNeuroFMX(**(settings | options))
    model.add_units("spike", ["old0", "old1"], generator=Generator().manual_seed(0))
    model.add_units("spike", IDS["spike"], generator=Generator().manual_seed(1))
    return model


def batches(n: int = 3) -> list[dict[str, Any]]:
    generator = Generator().manual_seed(2)
    rates = torch.linspace(0.2, 4.0, 5)
    return [
        {
            "spike": torch.poisson(rates.expand(4, 40, 5), generator=generator),
            "lfp": torch.randn(4, 40, 2, generator=generator),
            "units": IDS,
            "behavior": torch.full((4, 8, 1), 3.0),
        }
        for _ in range(n)
    ]


def snapshot(model: MultiModalNeuroFMX) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def flags(model: MultiModalNeuroFMX) -> list[bool]:
    modes = [module.training for module in model.modules()]
    return modes + [p.requires_grad for p in model.parameters()]


# Twenty updates through the whole model.
@pytest.mark.slow
def test_units_and_decoder_bias_learn_and_all_else_is_bit_identical() -> None:
    model = build().freeze("backbone").train()
    before, flagged = snapshot(model), flags(model)
    held = torch.ones_like(model.to_latent[1].bias)
    model.to_latent[1].bias.grad = held
    losses = model.identify_units(batches(), 20, learning_rate=0.1, progress=False)
    assert len(losses) == 20
    # The decoder starts near 0 and the behaviour is 3: 9 of the loss lie in the bias.
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"tokenizers.spike.core.units.weight", "heads.decoder.out.bias"}
    table = model.tokenizers["spike"].units.weight
    old = before["tokenizers.spike.core.units.weight"]
    assert torch.equal(table[:2], old[:2])
    assert (table[2:] != old[2:]).any(-1).all()
    assert flags(model) == flagged
    assert model.to_latent[1].bias.grad is held
    assert table.grad is None


def test_two_runs_hide_and_learn_the_same() -> None:
    first, second = build(), build()
    torch.manual_seed(1)
    a = first.identify_units(batches(), 5, progress=False)
    torch.manual_seed(2)
    assert second.identify_units(batches(), 5, progress=False) == a
    other = build().identify_units(
        batches(), 5, generator=Generator().manual_seed(9), progress=False
    )
    assert other != a


def test_a_loss_of_ones_own_sees_the_whole_batch_and_a_masker_hides_some() -> None:
    seen = []

    def hide(batch: Any, generator: Generator) -> Any:
        seen.append(generator)
        return batch

    model = build()
    losses = model.identify_units(batches(), 2, loss=BehaviorLoss(), progress=False)
    expected = build().eval()
    out = expected.forward_batch(batches()[0])
    assert losses[0] == pytest.approx(float((out.decoder - 3.0).detach().square().mean()))
    model.identify_units(batches(), 2, loss=BehaviorLoss(), masker=hide, progress=False)
    assert len(seen) == 2


def test_a_model_without_a_decoder_learns_its_units() -> None:
    model = build(behavior_dim=0)
    before = snapshot(model)
    model.identify_units(batches(), 3, progress=False)
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"tokenizers.spike.core.units.weight"}


def test_everything_is_put_back_after_an_exception() -> None:
    model = build().freeze("fusion").train()
    before, flagged = snapshot(model), flags(model)

    def broken() -> Iterator[dict[str, Any]]:
        yield batches()[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        model.identify_units(broken(), 5, progress=False)
    assert flags(model) == flagged
    free = {"tokenizers.spike.core.units.weight", "heads.decoder.out.bias"}
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items() if n not in free)


def test_wrong_calls_are_refused_in_words() -> None:
    model = build()
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        model.identify_units(batches(), 0)
    with pytest.raises(ValueError, match=r"learning_rate must be > 0, got 0\.0"):
        model.identify_units(batches(), 1, learning_rate=0.0)
    nameless = [{k: v for k, v in b.items() if k != "units"} for b in batches()]
    with pytest.raises(ValueError, match="the batch names no units"):
        model.identify_units(nameless, 1, progress=False)
    strangers = [b | {"units": {"spike": list("abcde")}} for b in batches()]
    with pytest.raises(ValueError, match=r"spike: 5 units are unknown .* add_units\('spike', ids"):
        model.identify_units(strangers, 1, progress=False)
    with pytest.raises(ValueError, match="yielded 3 batches once and none again, 4 steps need"):
        model.identify_units(iter(batches()), 4, progress=False)
    with pytest.raises(ValueError, match="yielded 0 batches"):
        model.identify_units([], 1, progress=False)
    unnamed = MultiModalNeuroFMX(16, 1, 8, 12, modalities=("spike",))
    with pytest.raises(ValueError, match="the model has no named units"):
        unnamed.identify_units(batches(), 1)
    with pytest.raises(FloatingPointError, match="the loss of step 0 is nan"):
        model.identify_units(
            batches(),
            1,
            loss=lambda out, _: out["decoder"].sum() * math.nan,
            progress=False,
        )
