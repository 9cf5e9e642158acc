import json
from pathlib import Path

import pytest
import torch

from neuros_core.manifest import RunManifest
from neuros_neurofm.models import MultiModalNeuroFMX


@pytest.fixture
def model() -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        16, 1, 8, 12, modalities=("spike", "emg"), sampling_rates={"emg": 100.0},
        patches={"emg": 0.1}, forecast_horizon=2, causal=False, window=0.5,
    ).eval()  # fmt: skip
    model.add_units("spike", ["a", "b"])
    model.calibrate("emg", torch.randn(1, 50, 1), units=["m"])
    return model


def test_round_trip_is_bit_identical_and_offline(model: MultiModalNeuroFMX, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    other = MultiModalNeuroFMX.from_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md", "config.json", "manifest.json", "model.safetensors",
    ]  # fmt: skip
    assert not other.training
    assert other.config == model.config
    assert other.tokenizers["spike"].units.ids == ("a", "b")
    x = {"spike": torch.ones(2, 40, 2), "emg": torch.randn(2, 50, 1)}
    ids = {"spike": ["b", "a"], "emg": ["m"]}
    first, second = model(x, units=ids), other(x, units=ids)
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.decoder, second.decoder)
    assert torch.equal(first.encoder["spike"], second.encoder["spike"])
    assert torch.equal(first.forecast["emg"], second.forecast["emg"])


def test_the_manifest_names_the_weights_and_the_configuration(
    model: MultiModalNeuroFMX, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    manifest = RunManifest.from_dict(json.loads((tmp_path / "manifest.json").read_text()))
    assert manifest.kind == "model"
    assert manifest.config == model.config
    assert len(manifest.model_hash) == 64


def test_the_card_states_what_is_known_and_what_is_not(
    model: MultiModalNeuroFMX, tmp_path: Path
) -> None:
    facts = {"species": "macaque", "metrics": {"R2": "0.71, 5 blocks"}}
    model.save_pretrained(tmp_path, model_card_kwargs=facts)
    card = (tmp_path / "README.md").read_text()
    assert "## Species\n\nmacaque" in card
    assert "- R2: 0.71, 5 blocks" in card
    assert "## Licence\n\nNot stated." in card
    assert "- spike: 2 named units" in card
    assert f"{model.num_parameters():,} parameters" in card
    model.save_pretrained(tmp_path, model_card_kwargs={"species": "other"})
    assert (tmp_path / "README.md").read_text() == card


def test_a_folder_without_weights_is_refused(model: MultiModalNeuroFMX, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"a saved model holds model\.safetensors"):
        MultiModalNeuroFMX.from_pretrained(tmp_path)


def test_weights_of_another_shape_are_refused(model: MultiModalNeuroFMX, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_dim": 8}))
    with pytest.raises(RuntimeError, match="size mismatch"):
        MultiModalNeuroFMX.from_pretrained(tmp_path)


def test_arguments_given_at_loading_override_the_configuration(
    model: MultiModalNeuroFMX, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    assert MultiModalNeuroFMX.from_pretrained(tmp_path, dropout=0.5).config["dropout"] == 0.5
