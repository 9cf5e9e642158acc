"""Sparse autoencoders beside dictionary_learning: same weights, forward, loss and gradients."""

import importlib.metadata
import warnings
from typing import Any

import pytest
import torch

from neuros_mechint.sae import SparseAutoencoder
from neuros_mechint.sae._losses import evaluate

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("dictionary_learning")
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.jumprelu import JumpReluAutoEncoder
    from dictionary_learning.trainers.top_k import TopKTrainer

WIDTH, FEATURES, K = 16, 64, 4
VERSION = importlib.metadata.version("dictionary-learning")


@pytest.fixture(autouse=True)
def _version(request: pytest.FixtureRequest) -> None:
    report = request.config.pluginmanager.get_plugin("terminalreporter")
    if report is not None:
        report.write_line(f"dictionary-learning {VERSION}")


def ours(activation: str, **options: Any) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(0)
    coder = SparseAutoencoder(
        latent_dim=WIDTH, dictionary_size=FEATURES, activation=activation, generator=generator,
        **options,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in (coder.b_enc, coder.b_dec, coder.W_enc):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return coder


def rows() -> torch.Tensor:
    return torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
@pytest.mark.parametrize("dead", [False, True])
def test_training_loss_and_gradients_are_equal(activation: str, *, dead: bool) -> None:
    coder, x = ours(activation, k=K), rows()
    kind = TopKTrainer if activation == "topk" else BatchTopKTrainer
    trainer = kind(
        steps=10_000, activation_dim=WIDTH, dict_size=FEATURES, k=K, layer=0, lm_name="none",
        device="cpu",
    )  # fmt: skip
    peer = trainer.ae
    with torch.no_grad():
        peer.encoder.weight.copy_(coder.W_enc)
        peer.encoder.bias.copy_(coder.b_enc)
        peer.decoder.weight.copy_(coder.W_dec.T)
        peer.b_dec.copy_(coder.b_dec)
    mask = torch.zeros(FEATURES, dtype=torch.bool)
    if dead:
        # Few rows, so that some features do not fire: theirs wakes up those that do at once.
        x = x[:12]
        with torch.no_grad():
            mask = (coder(x).features <= 0).all(0)
        assert 5 < mask.sum() < FEATURES
        trainer.num_tokens_since_fired[mask] = 10**8
    result = evaluate(coder.train(), x, x, mask if dead else None)
    loss = trainer.loss(x, step=0)
    # Theirs sums the error over coordinates; the auxiliary loss is a share of it in both.
    expected = WIDTH * result.terms["mse"]
    if dead:
        expected = expected + result.terms["auxk"]
        assert result.terms["auxk"] > 0
    torch.testing.assert_close(expected, loss, rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(expected, [coder.W_enc, coder.b_enc, coder.W_dec, coder.b_dec])
    loss.backward()
    gradients = [peer.encoder.weight, peer.encoder.bias, peer.decoder.weight, peer.b_dec]
    for a, b in zip(found, gradients, strict=True):
        wanted = b.grad.T if a.shape != b.grad.shape else b.grad
        torch.testing.assert_close(a, wanted, rtol=1e-5, atol=1e-5)


def test_jumprelu_features_are_equal() -> None:
    coder, x = ours("jumprelu", bandwidth=0.8), rows()
    peer = JumpReluAutoEncoder(WIDTH, FEATURES, device="cpu")
    with torch.no_grad():
        peer.W_enc.copy_(coder.W_enc.T)
        # Theirs does not subtract the decoder's bias from the input by default.
        peer.b_enc.copy_(coder.encoder_bias())
        peer.W_dec.copy_(coder.W_dec)
        peer.b_dec.copy_(coder.b_dec)
        peer.threshold.copy_(coder.log_threshold.exp())
        reconstruction, features = peer(x, output_features=True)
    output = coder(x)
    torch.testing.assert_close(output.features, features)
    torch.testing.assert_close(output.reconstruction, reconstruction)
    assert 0 < features.count_nonzero() < features.numel() / 2
