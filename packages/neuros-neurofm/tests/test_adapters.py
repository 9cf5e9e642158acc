import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.adapters import LowRankAdapters, add_lora
from neuros_neurofm.losses import BehaviorLoss
from neuros_neurofm.training import MultiModalTrainer

with warnings.catch_warnings():
    # Its own imports warn of each other's deprecations.
    warnings.simplefilter("ignore")
    pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")


def make(ssm: Any = "mamba2") -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        16, 2, 8, 16, modalities=("spike",), popt_depth=1, ssm=ssm, sampling_rates={"spike": 50.0}
    )


def batch(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "spike": torch.poisson(torch.ones(3, 16, 4), generator=generator),
        "behavior": torch.randn(3, 8, 2, generator=generator),
    }


def train(model: nn.Module, adapters: LowRankAdapters) -> None:
    optimizer = torch.optim.Adam(adapters.parameters(), lr=0.05)
    MultiModalTrainer(
        model, [batch(k) for k in range(5)], None, optimizer, loss=BehaviorLoss(), seed=0,
        progress=False, device="cpu",
    ).train_epoch()  # fmt: skip
    model.eval()


@pytest.mark.parametrize("ssm", ["mamba2", "mamba", "fractional"])
def test_merged_weights_give_the_output_of_the_adapted_model(ssm: str) -> None:
    model = make(ssm).double().eval()
    x = {"spike": batch()["spike"].double()}
    before, keys = model(x).latents, model.state_dict().keys()
    adapters = add_lora(model, rank=2)
    torch.testing.assert_close(model(x).latents, before, rtol=0, atol=1e-12)
    with torch.no_grad():
        for p in adapters.parameters():
            p.normal_(std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    adapted = model(x).latents
    assert (adapted - before).abs().max() > 1e-3
    adapters.merge()
    torch.testing.assert_close(model(x).latents, adapted, rtol=0, atol=1e-12)
    assert model.state_dict().keys() == keys
    assert list(adapters.parameters()) == []


def test_training_moves_the_adapters_alone() -> None:
    model = make()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapters = add_lora(model, rank=2)
    assert {id(p) for p in model.trainable_parameters()} == {id(p) for p in adapters.parameters()}
    train(model, adapters)
    after = {name.replace(".base_layer", ""): p for name, p in model.named_parameters()}
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert all(float(p.detach().abs().sum()) > 0 for p in adapters.parameters())


def test_adapters_are_saved_without_the_model(tmp_path: Path) -> None:
    model = make()
    adapters = add_lora(model, rank=2, alpha=4)
    train(model, adapters)
    adapters.save(tmp_path / "lora.safetensors")
    n_bytes = 4 * sum(p.numel() for p in adapters.parameters())
    assert n_bytes < (tmp_path / "lora.safetensors").stat().st_size < n_bytes + 4096
    other = make()
    again = add_lora(other, rank=2, alpha=4)
    again.load(tmp_path / "lora.safetensors")
    x = {"spike": batch()["spike"]}
    assert torch.equal(other.eval()(x).latents, model(x).latents)


def test_units_are_identified_beside_adapters() -> None:
    model = make()
    ids = ["a", "b", "c", "d"]
    model.add_units("spike", ids)
    adapters = add_lora(model, rank=2)
    old = [p.detach().clone() for p in adapters.parameters()]
    named = batch() | {"units": {"spike": ids}}
    losses = model.identify_units([named], 20, progress=False)
    assert losses[-1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(old, adapters.parameters(), strict=True))


def test_any_module_can_be_adapted() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    adapters = add_lora(model, rank=1, targets=("0",))
    assert sum(p.numel() for p in adapters.parameters()) == 3 + 4


def test_files_of_other_adapters_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    adapters = add_lora(make(), rank=2)
    adapters.save(path)
    with pytest.raises(
        ValueError, match=r"made with \{'rank': 2.*these were made with \{'rank': 3"
    ):
        add_lora(make(), rank=3).load(path)
    deeper = MultiModalNeuroFMX(16, 3, 8, 16, modalities=("spike",), popt_depth=1)
    with pytest.raises(ValueError, match="of another model: other layers or sizes"):
        add_lora(deeper, rank=2).load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        adapters.load(path)
    with pytest.raises(FileNotFoundError, match="there are no adapters"):
        adapters.load(tmp_path / "none")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="holds no neuros-neurofm adapters; pass a file"):
        adapters.load(path)


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    model = make()
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        add_lora(model, rank=0)
    with pytest.raises(ValueError, match="no linear layer named a or b"):
        add_lora(model, rank=1, targets=("a", "b"))
    adapters = add_lora(model, rank=1)
    with pytest.raises(ValueError, match="has adapters already; merge them first"):
        add_lora(model, rank=1)
    adapters.merge()
    with pytest.raises(ValueError, match="were merged, nothing of them is left"):
        adapters.save(tmp_path / "x")


def test_a_model_with_adapters_is_not_saved_as_one_without(tmp_path: Path) -> None:
    model = make()
    adapters = add_lora(model, rank=1)
    with pytest.raises(ValueError, match="the model has adapters; merge them first"):
        model.save_pretrained(tmp_path)
    adapters.merge()
    model.save_pretrained(tmp_path)
