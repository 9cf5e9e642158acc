"""Coders between sites."""

from typing import Any

import pytest
import torch
from torch import Tensor

from neuros_mechint.sae import Crosscoder, Transcoder

KINDS = ["relu", "topk", "batchtopk", "jumprelu", "gated"]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(coder: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for buffer in coder.scales:
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return coder.eval()


def options(activation: str) -> dict[str, Any]:
    return {"activation": activation, "k": 2 if activation.endswith("topk") else None}


@pytest.mark.parametrize("activation", KINDS)
def test_a_transcoder_predicts_the_other_space(activation: str, tmp_path: Any) -> None:
    coder = shaken(Transcoder(3, 5, dictionary_size=12, **options(activation)))
    x, y = randn(4, 7, 3), randn(4, 7, 5, seed=2)
    output = coder(x, y)
    torch.testing.assert_close(coder.encode(x), output.features)
    torch.testing.assert_close(coder.decode(output.features), output.reconstruction)
    assert output.reconstruction.shape == y.shape
    values, indices = coder.encode_sparse(x)
    rebuilt = torch.zeros(4, 7, 12).scatter(-1, indices, values)
    torch.testing.assert_close(rebuilt, output.features)
    error = (output.reconstruction - y) * coder.output_scale
    torch.testing.assert_close(output.terms["mse"], error.square().mean())
    coder.save(tmp_path)
    loaded = Transcoder.load(tmp_path)
    torch.testing.assert_close(loaded(x, y).reconstruction, output.reconstruction)
    torch.testing.assert_close(loaded.dictionary, coder.dictionary)


@pytest.mark.parametrize("activation", KINDS)
def test_a_crosscoder_shares_features_between_sites(activation: str, tmp_path: Any) -> None:
    coder = shaken(Crosscoder({"a": 3, "b": 4}, dictionary_size=12, **options(activation)))
    x = {"a": randn(6, 3), "b": randn(6, 4, seed=2)}
    output = coder(x)
    torch.testing.assert_close(coder.encode(x), output.features)
    for site, value in coder.decode(output.features).items():
        torch.testing.assert_close(value, output.reconstruction[site])
    values, indices = coder.encode_sparse(x)
    rebuilt = torch.zeros(6, 12).scatter(-1, indices, values)
    torch.testing.assert_close(rebuilt, output.features)
    coder.save(tmp_path)
    loaded = Crosscoder.load(tmp_path)
    assert loaded.dims == {"a": 3, "b": 4}
    for site, value in loaded(x).reconstruction.items():
        torch.testing.assert_close(value, output.reconstruction[site], rtol=1e-4, atol=1e-5)


def test_a_crosscoder_pays_for_each_site_apart() -> None:
    coder = Crosscoder({"a": 3, "b": 4}, dictionary_size=12)
    x = {"a": randn(6, 3), "b": randn(6, 4, seed=2)}
    output = coder(x)
    parts = coder.dictionaries
    norms = parts["a"].norm(dim=1) + parts["b"].norm(dim=1)
    expected = 0.01 * (output.features * norms).sum(1).mean()
    torch.testing.assert_close(output.terms["sparsity"], expected)
    torch.testing.assert_close(coder.dictionary.norm(dim=1), torch.ones(12))


def test_a_crosscoder_finds_which_site_a_feature_belongs_to() -> None:
    generator = torch.Generator().manual_seed(0)
    active = (torch.rand(4096, 6, generator=generator) < 0.15) * 1.0
    strength = active * (0.5 + torch.rand(4096, 6, generator=generator))
    # Features 0, 1 are seen by both sites, 2, 3 by a alone, 4, 5 by b alone.
    a, b = strength[:, [0, 1, 2, 3]], 5.0 * strength[:, [0, 1, 4, 5]]
    coder = Crosscoder({"a": 4, "b": 4}, dictionary_size=8, activation="topk", k=2)
    with torch.no_grad():
        start = torch.nn.functional.normalize(torch.randn(8, 8, generator=generator), dim=1)
        coder.W_dec.copy_(start)
        coder.W_enc.copy_(start)
    log = coder.fit({"b": b, "a": a}, steps=250, batch_size=128, lr=0.02)
    assert log.loss[-1] < 0.2 * log.loss[0]
    share = coder.dictionaries["a"].norm(dim=1)
    # Unit norm together: a feature of one site has share 0 or 1, one of both about 0.7.
    assert (share > 0.97).sum() >= 2
    assert (share < 0.25).sum() >= 2
    assert ((share > 0.5) & (share < 0.9)).sum() >= 2
    output = coder({"a": a, "b": b})
    torch.testing.assert_close(
        coder.input_scale, torch.stack([a.square().mean(), b.square().mean()]).rsqrt()
    )
    assert (output.reconstruction["b"] - b).square().mean() < 0.2 * b.var()


def test_a_transcoder_learns_a_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.eye(6)[torch.randint(6, (2048,), generator=generator)]
    y = 3.0 * x @ randn(6, 4, seed=5)
    coder = Transcoder(6, 4, dictionary_size=12, activation="topk", k=1, generator=generator)
    log = coder.fit((x, y), steps=150, batch_size=64, lr=0.03, generator=generator)
    assert log.loss[-1] < 0.01 * log.loss[0]
    residual = (coder(x, y).reconstruction - y).square().sum()
    assert residual < 0.02 * (y - y.mean(0)).square().sum()


def test_shapes_that_do_not_fit_are_refused() -> None:
    transcoder = Transcoder(3, 5, dictionary_size=8)
    with pytest.raises(ValueError, match="need the same rows"):
        transcoder(randn(2, 3), randn(3, 5))
    with pytest.raises(ValueError, match=r"y needs shape \(\.\.\., 5\)"):
        transcoder(randn(2, 3), randn(2, 4))
    crosscoder = Crosscoder({"a": 3, "b": 4}, dictionary_size=8)
    with pytest.raises(ValueError, match=r"\['b'\] are missing"):
        crosscoder({"a": randn(2, 3)})
    with pytest.raises(ValueError, match="needs the same rows at every site"):
        crosscoder({"a": randn(2, 3), "b": randn(3, 4)})
    with pytest.raises(ValueError, match="needs the same rows at every site"):
        crosscoder({"a": randn(2, 3), "b": randn(2, 3)})
    with pytest.raises(ValueError, match="widths and dictionary_size"):
        Crosscoder({}, dictionary_size=8)
