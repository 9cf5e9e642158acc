import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from neuros_mechint.sae import SparseAutoencoder
from neuros_mechint.sae._interchange import read_sae_lens, write_sae_lens

ACTIVATIONS = ["relu", "topk", "batchtopk", "jumprelu", "gated"]


def coder_of(activation: str = "relu") -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    k = 3 if "topk" in activation else None
    coder = SparseAutoencoder(
        latent_dim=5, dictionary_size=12, activation=activation, k=k, generator=generator
    )
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    if activation == "batchtopk":
        coder.threshold.fill_(0.4)
    coder.input_scale.fill_(2.5)
    return coder.eval()


def x() -> Tensor:
    return torch.randn(50, 5, generator=torch.Generator().manual_seed(1))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_round_trip_keeps_features_and_reconstructions(tmp_path: Path, activation: str) -> None:
    coder = coder_of(activation)
    write_sae_lens(coder, tmp_path / "new" / "folder")
    again = read_sae_lens(SparseAutoencoder, tmp_path / "new" / "folder")
    # Trained batchtopk is a jumprelu with one threshold.
    assert again.activation == ("jumprelu" if activation == "batchtopk" else activation)
    assert not again.training
    torch.testing.assert_close(again.encode(x()), coder.encode(x()), rtol=1e-6, atol=1e-6)
    reconstruction = again(x()).reconstruction
    torch.testing.assert_close(reconstruction, coder(x()).reconstruction, rtol=1e-6, atol=1e-6)


def test_the_folder_says_what_made_it(tmp_path: Path) -> None:
    write_sae_lens(coder_of("topk"), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"], config["k"]) == (
        "topk",
        5,
        12,
        3,
    )
    assert config["metadata"]["manifest"]["config"]["class"] == "SparseAutoencoder"
    assert load_file(tmp_path / "sae_weights.safetensors")["W_enc"].shape == (5, 12)


@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu", "gated"])
def test_a_bias_that_is_not_subtracted_moves_into_the_encoder(
    tmp_path: Path, activation: str
) -> None:
    write_sae_lens(coder_of(activation), tmp_path)
    edit(tmp_path, apply_b_dec_to_input=False)
    plain = read_sae_lens(SparseAutoencoder, tmp_path)
    edit(tmp_path, apply_b_dec_to_input=True)
    subtracting = read_sae_lens(SparseAutoencoder, tmp_path)
    shifted = x() + subtracting.b_dec
    torch.testing.assert_close(plain.encode(x()), subtracting.encode(shifted), rtol=0, atol=1e-5)


def test_features_that_were_rescaled_by_decoder_norms_stay_what_they_are(tmp_path: Path) -> None:
    coder = coder_of("topk")
    write_sae_lens(coder, tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    weights = load_file(path)
    norms = torch.linspace(0.5, 2.0, 12)
    directions = torch.nn.functional.normalize(weights["W_dec"], dim=1)
    weights |= {"W_dec": directions * norms[:, None], "W_enc": weights["W_enc"] / norms}
    save_file(weights | {"b_enc": weights["b_enc"] / norms}, path)
    edit(tmp_path, rescale_acts_by_decoder_norm=True)
    again = read_sae_lens(SparseAutoencoder, tmp_path)
    torch.testing.assert_close(again.encode(x()), coder.encode(x()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(again.dictionary.norm(dim=1), torch.ones(12))


def test_a_batchtopk_coder_in_training_form_keeps_its_threshold(tmp_path: Path) -> None:
    coder = coder_of("batchtopk")
    write_sae_lens(coder, tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    weights = load_file(path)
    threshold = weights.pop("threshold")[0].double()
    save_file(weights | {"topk_threshold": threshold}, path)
    edit(tmp_path, architecture="batchtopk", k=3.0)
    again = read_sae_lens(SparseAutoencoder, tmp_path)
    assert (again.activation, again.k) == ("batchtopk", 3)
    torch.testing.assert_close(again.encode(x()), coder.encode(x()), rtol=1e-6, atol=1e-6)


def test_a_negative_threshold_is_that_of_relu(tmp_path: Path) -> None:
    write_sae_lens(coder_of("jumprelu"), tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    save_file(load_file(path) | {"threshold": -torch.ones(12)}, path)
    coder = read_sae_lens(SparseAutoencoder, tmp_path)
    features = coder.encode(x())
    pre = (x() - coder.b_dec) @ coder.W_enc.T + coder.b_enc
    torch.testing.assert_close(features, pre.relu(), rtol=1e-6, atol=1e-6)


def test_the_data_type_is_kept(tmp_path: Path) -> None:
    write_sae_lens(coder_of().double(), tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["dtype"] == "float64"
    assert read_sae_lens(SparseAutoencoder, tmp_path).W_enc.dtype == torch.float64


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cfg.json is missing"):
        read_sae_lens(SparseAutoencoder, tmp_path)
    write_sae_lens(coder_of(), tmp_path)
    path = tmp_path / "sae_weights.safetensors"
    weights, raw = load_file(path), path.read_bytes()

    def refuse(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            read_sae_lens(SparseAutoencoder, tmp_path)

    edit(tmp_path, architecture="temporal")
    refuse(r"of the architecture 'temporal'; known are \['batchtopk', 'gated'")
    edit(tmp_path, architecture="gated")
    refuse(r"lacks \['b_gate', 'b_mag', 'r_mag'\]; it holds \['W_dec'")
    edit(tmp_path, architecture="standard", normalize_activations="layer_norm")
    refuse("activations normalised by 'layer_norm'; fold the normalisation")
    edit(tmp_path, normalize_activations="none")
    save_file(weights | {"W_enc": torch.zeros(5, 11)}, path)
    refuse(r"W_enc \(5, 11\) and W_dec \(12, 5\)")
    path.write_bytes(raw[:-9])
    refuse("does not hold a whole SAELens coder")
    path.write_bytes(raw)
    (tmp_path / "cfg.json").write_text("{")
    refuse("does not hold a whole SAELens coder")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"sae_weights.safetensors is missing"):
        read_sae_lens(SparseAutoencoder, tmp_path)
