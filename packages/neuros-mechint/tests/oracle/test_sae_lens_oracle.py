"""Coders exchanged with SAELens: what one writes the other loads, with the same features."""

import importlib.metadata
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from neuros_mechint.sae import SparseAutoencoder
from neuros_mechint.sae._interchange import read_sae_lens, write_sae_lens

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sae_lens = pytest.importorskip("sae_lens")

pytestmark = [
    pytest.mark.oracle,
    # Deprecations inside the peer are not ours to fix.
    pytest.mark.filterwarnings("ignore"),
]

D, F = 12, 40
TIE = 1e-6


@pytest.fixture(scope="module", autouse=True)
def _version() -> None:
    sys.stdout.write(f"sae-lens {importlib.metadata.version('sae-lens')}\n")


def activations() -> Tensor:
    return torch.randn(200, D, generator=torch.Generator().manual_seed(1)) + 0.5


def scramble(module: torch.nn.Module) -> None:
    """Parameters that no start value has, so that every one of them matters."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise.abs() if name == "threshold" else 0.2 * noise)


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu", "gated"])
def test_sae_lens_loads_what_we_write(tmp_path: Path, activation: str) -> None:
    k = 5 if "topk" in activation else None
    coder = SparseAutoencoder(latent_dim=D, dictionary_size=F, activation=activation, k=k)
    scramble(coder)
    if activation == "batchtopk":
        coder.threshold.fill_(0.7)
    coder.input_scale.fill_(1.9)
    coder.eval()
    write_sae_lens(coder, tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path)
    x = activations()
    with torch.no_grad():
        f = coder.encode(x)
        assert 0 < (f > 0).double().mean() < 0.9
        torch.testing.assert_close(theirs.encode(x), f, rtol=TIE, atol=TIE * 10)
        torch.testing.assert_close(theirs(x), coder.decode(f), rtol=TIE, atol=TIE * 10)


def their_coder(architecture: str, *, bias_on_input: bool) -> torch.nn.Module:
    options = {"d_in": D, "d_sae": F, "apply_b_dec_to_input": bias_on_input}
    kinds = {
        "standard": (sae_lens.StandardSAE, sae_lens.StandardSAEConfig, {}),
        "topk": (sae_lens.TopKSAE, sae_lens.TopKSAEConfig, {"k": 4}),
        "topk-rescaled": (
            sae_lens.TopKSAE,
            sae_lens.TopKSAEConfig,
            {"k": 4, "rescale_acts_by_decoder_norm": True},
        ),
        "jumprelu": (sae_lens.JumpReLUSAE, sae_lens.JumpReLUSAEConfig, {}),
        "gated": (sae_lens.GatedSAE, sae_lens.GatedSAEConfig, {}),
    }
    kind, config, extra = kinds[architecture]
    coder = kind(config(**options, **extra))
    scramble(coder)
    return coder


@pytest.mark.parametrize("bias_on_input", [True, False])
@pytest.mark.parametrize("kind", ["standard", "topk", "topk-rescaled", "jumprelu", "gated"])
def test_we_load_what_sae_lens_writes(tmp_path: Path, kind: str, *, bias_on_input: bool) -> None:
    theirs = their_coder(kind, bias_on_input=bias_on_input)
    theirs.save_model(tmp_path)
    coder = read_sae_lens(SparseAutoencoder, tmp_path)
    x = activations()
    with torch.no_grad():
        f = theirs.encode(x)
        assert 0 < (f > 0).double().mean() < 0.9
        torch.testing.assert_close(coder.encode(x), f, rtol=TIE, atol=TIE * 10)
        torch.testing.assert_close(coder.decode(f), theirs.decode(f), rtol=TIE, atol=TIE * 10)


@pytest.mark.parametrize("inference", [True, False])
def test_a_trained_batchtopk_coder_keeps_its_threshold(tmp_path: Path, *, inference: bool) -> None:
    config = sae_lens.BatchTopKTrainingSAEConfig(d_in=D, d_sae=F, k=4.0)
    theirs = sae_lens.BatchTopKTrainingSAE(config)
    scramble(theirs)
    theirs.topk_threshold.fill_(1.1)
    theirs.save_inference_model(tmp_path / "inference")
    theirs.save_model(tmp_path / "training")
    reference = sae_lens.SAE.load_from_disk(tmp_path / "inference")
    coder = read_sae_lens(SparseAutoencoder, tmp_path / ("inference" if inference else "training"))
    assert coder.activation == ("jumprelu" if inference else "batchtopk")
    x = activations()
    with torch.no_grad():
        torch.testing.assert_close(coder.encode(x), reference.encode(x), rtol=TIE, atol=TIE * 10)
