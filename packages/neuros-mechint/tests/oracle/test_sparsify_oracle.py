"""Top-k autoencoder beside EleutherAI's sparsify: same weights, same forward, loss, gradients."""

import importlib.metadata
import os
import warnings

import pytest
import torch

from neuros_mechint.sae import SparseAutoencoder
from neuros_mechint.sae._losses import evaluate

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

# Without this it takes Triton kernels, which need a GPU.
os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("sparsify")
    from sparsify import SparseCoder, SparseCoderConfig

WIDTH, FEATURES, K = 16, 64, 4
VERSION = importlib.metadata.version("eai-sparsify")


@pytest.fixture(autouse=True)
def _version(request: pytest.FixtureRequest) -> None:
    report = request.config.pluginmanager.get_plugin("terminalreporter")
    if report is not None:
        report.write_line(f"eai-sparsify {VERSION}")


@pytest.mark.parametrize("n_dead", [0, 20])
def test_forward_loss_and_gradients_are_equal(n_dead: int) -> None:
    generator = torch.Generator().manual_seed(0)
    coder = SparseAutoencoder(
        latent_dim=WIDTH, dictionary_size=FEATURES, activation="topk", k=K, generator=generator
    )
    peer = SparseCoder(WIDTH, SparseCoderConfig(num_latents=FEATURES, k=K))
    with torch.no_grad():
        for parameter in (coder.b_enc, coder.b_dec, coder.W_enc):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        peer.encoder.weight.copy_(coder.W_enc)
        peer.encoder.bias.copy_(coder.b_enc)
        peer.W_dec.copy_(coder.W_dec)
        peer.b_dec.copy_(coder.b_dec)
    x = torch.randn(200, WIDTH, generator=generator)
    dead = torch.zeros(FEATURES, dtype=torch.bool)
    dead[10 : 10 + n_dead] = True
    result = evaluate(coder, x, x, dead)
    output = peer(x, dead_mask=dead)
    torch.testing.assert_close(coder(x).reconstruction, output.sae_out, rtol=1e-5, atol=1e-5)
    values, indices = coder.encode_sparse(x)
    theirs = output.latent_acts.sort(1, descending=True)
    torch.testing.assert_close(values, theirs.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(indices, output.latent_indices.gather(1, theirs.indices))
    # Theirs divides by the total variance of the data; ours the error by the number of
    # coordinates, and the auxiliary loss by the variance of the error, as the paper's code. Theirs
    # counts whole, ours with the 1/32 of the paper. k_aux is half the width in both.
    factor = x.numel() / (x - x.mean(0)).square().sum()
    expected = factor * result.terms["mse"]
    if n_dead:
        error = x - result.reconstruction.detach()
        variance = (error - error.mean(0)).square().mean()
        auxk = factor * 32 * variance * result.terms["auxk"]
        torch.testing.assert_close(auxk, output.auxk_loss, rtol=1e-5, atol=1e-5)
        expected = expected + auxk
    torch.testing.assert_close(factor * result.terms["mse"], output.fvu, rtol=1e-5, atol=1e-5)
    (output.fvu + output.auxk_loss).backward()
    parameters = [coder.W_dec]
    peers = [peer.W_dec]
    if not n_dead:
        # Theirs keeps the auxiliary loss from the encoder: the backward of its fused encoder drops
        # the gradient of the pre-activations. dictionary_learning's, as ours, does not.
        parameters += [coder.W_enc, coder.b_enc, coder.b_dec]
        peers += [peer.encoder.weight, peer.encoder.bias, peer.b_dec]
    found = torch.autograd.grad(expected, parameters)
    for a, b in zip(found, peers, strict=True):
        torch.testing.assert_close(a, b.grad, rtol=1e-5, atol=1e-5)
