"""Sparse autoencoders: formulas, gradients, units, files."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_mechint.activations import Splice, run
from neuros_mechint.sae import HierarchicalSAE, SparseAutoencoder
from neuros_mechint.sae._arguments import check_sizes
from neuros_mechint.sae._boundary import checked_rows

KINDS = ["relu", "topk", "batchtopk", "jumprelu", "gated"]
D, F, K = 6, 20, 3


def coder_of(activation: str, *, seed: int = 0, **options: Any) -> SparseAutoencoder:
    """Float64, every parameter and the unit away from its start value."""
    generator = torch.Generator().manual_seed(seed)
    options = {"k": K} | options if activation.endswith("topk") else options
    coder = SparseAutoencoder(
        latent_dim=D, dictionary_size=F, activation=activation, generator=generator, **options
    ).double()
    with torch.no_grad():
        for name, parameter in coder.named_parameters():
            if name != "W_dec":
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.2 * noise)
        if activation == "jumprelu":
            coder.log_threshold.add_(-0.5 - coder.log_threshold.mean())
        coder.input_scale.fill_(1.7)
    return coder


def rows(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, D, generator=generator, dtype=torch.float64)


def by_hand(coder: SparseAutoencoder, x: Tensor) -> dict[str, Tensor]:
    """Dense formulas of the papers, in the units of training."""
    p = dict(coder.named_parameters())
    x = x * coder.input_scale
    z = (x - p["b_dec"]) @ p["W_enc"].T + p["b_enc"]
    norms = p["W_dec"].norm(dim=1)
    penalty = x.new_zeros(())
    if coder.activation == "topk":
        kept = z.topk(K)
        f = torch.zeros_like(z).scatter(1, kept.indices, kept.values.relu())
    elif coder.activation == "batchtopk":
        kept = z.flatten().topk(K * len(z))
        f = torch.zeros_like(z).flatten().scatter(0, kept.indices, kept.values.relu()).view_as(z)
    elif coder.activation == "jumprelu":
        f = z * (z > p["log_threshold"].exp())
        penalty = 0.01 * (f > 0).double().sum(1).mean()
    elif coder.activation == "gated":
        gain = p["log_gain"].exp()
        f = (z > 0) * (gain * ((x - p["b_dec"]) @ p["W_enc"].T) + p["b_mag"]).relu()
        held = z.relu() @ p["W_dec"].detach() + p["b_dec"].detach()
        penalty = 0.01 * (z.relu() * norms).sum(1).mean() + (held - x).square().mean()
    else:
        f = z.relu()
        penalty = 0.01 * (f * norms).sum(1).mean()
    reconstruction = f @ p["W_dec"] + p["b_dec"]
    loss = (reconstruction - x).square().mean() + penalty
    scale = coder.input_scale
    return {"features": f / scale, "reconstruction": reconstruction / scale, "loss": loss}


@pytest.mark.parametrize("activation", KINDS)
def test_features_reconstruction_and_loss_are_those_of_the_papers(activation: str) -> None:
    coder, x = coder_of(activation), rows(40)
    output, expected = coder(x), by_hand(coder, x)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(output, name), value, rtol=1e-10, atol=1e-10)
    assert output.features.count_nonzero() > 0
    torch.testing.assert_close(output.loss, torch.stack([*output.terms.values()]).sum())


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "gated"])
@pytest.mark.parametrize("n_features", [F, 300])
def test_gradients_are_those_of_dense_autograd(activation: str, n_features: int) -> None:
    generator = torch.Generator().manual_seed(3)
    k = K if activation.endswith("topk") else None
    coder = SparseAutoencoder(
        latent_dim=D, dictionary_size=n_features, activation=activation, k=k, generator=generator
    ).double()
    x = rows(30).requires_grad_()
    names, parameters = zip(*coder.named_parameters(), strict=True)
    found = torch.autograd.grad(coder(x).loss, [*parameters, x])
    expected = torch.autograd.grad(by_hand(coder, x)["loss"], [*parameters, x])
    for name, a, b in zip([*names, "x"], found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, msg=f"{name} differs")


def test_float32_gradients_of_topk_agree_to_1e_5() -> None:
    coder = coder_of("topk").float()
    x = rows(200).float()
    parameters = list(coder.parameters())
    found = torch.autograd.grad(coder(x).loss, parameters)
    expected = torch.autograd.grad(by_hand(coder, x)["loss"], parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_thresholds_learn_by_the_rectangle_kernel() -> None:
    coder, x = coder_of("jumprelu", bandwidth=0.5), rows(60)
    output = coder(x)
    (found,) = torch.autograd.grad(output.loss, [coder.log_threshold], retain_graph=True)
    # Rajamanoharan 2024b, eq. 11 and 12; d theta / d log theta = theta.
    scaled = x * coder.input_scale
    z = (scaled - coder.b_dec) @ coder.W_enc.T + coder.b_enc
    theta = coder.log_threshold.exp()
    near = ((z - theta).abs() < 0.25).double()
    error = coder(x).reconstruction * coder.input_scale - scaled
    by_feature = 2 * error @ coder.W_dec.T / error.numel()
    expected = -(theta / 0.5 * (near * by_feature).sum(0) + near.sum(0) * 0.01 / 60 / 0.5) * theta
    assert near.sum() > 20
    torch.testing.assert_close(found, expected)


def test_target_l0_penalises_the_squared_relative_distance() -> None:
    coder, x = coder_of("jumprelu", target_l0=4.0, sparsity_coefficient=0.5), rows(50)
    output = coder(x)
    l0 = output.features.count_nonzero(1).double().mean()
    torch.testing.assert_close(output.terms["sparsity"], 0.5 * (l0 / 4.0 - 1).square())


@pytest.mark.parametrize("activation", KINDS)
def test_matryoshka_sums_the_error_of_every_prefix(activation: str) -> None:
    coder, x = coder_of(activation, matryoshka=[2, 9, F]), rows(30).requires_grad_()
    output = coder(x)
    scaled, f = x * coder.input_scale, output.features * coder.input_scale
    errors = [
        (f[:, :n] @ coder.W_dec[:n] + coder.b_dec - scaled).square().mean() for n in (2, 9, F)
    ]
    torch.testing.assert_close(output.terms["mse"], torch.stack(errors).sum())
    found = torch.autograd.grad(output.terms["mse"], [coder.W_dec, x], retain_graph=True)
    expected = torch.autograd.grad(torch.stack(errors).sum(), [coder.W_dec, x])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("activation", KINDS)
def test_decoding_the_features_gives_the_reconstruction(activation: str) -> None:
    coder, x = coder_of(activation), rows(2, 5)
    output = coder(x)
    assert output.features.shape == (2, 5, F)
    torch.testing.assert_close(coder.encode(x), output.features)
    torch.testing.assert_close(coder.decode(output.features), output.reconstruction)


@pytest.mark.parametrize("activation", KINDS)
def test_sparse_features_hold_all_of_the_dense_ones(activation: str) -> None:
    coder, x = coder_of(activation), rows(3, 4)
    values, indices = coder.encode_sparse(x)
    rebuilt = torch.zeros(3, 4, F, dtype=torch.float64).scatter(-1, indices, values)
    torch.testing.assert_close(rebuilt, coder.encode(x))
    assert (values.diff(dim=-1) <= 0).all()
    most = K if activation == "topk" else int(coder.encode(x).count_nonzero(-1).max())
    assert values.shape == (3, 4, most)


def test_no_rows_have_no_sparse_features() -> None:
    values, indices = coder_of("relu").encode_sparse(torch.zeros(0, D, dtype=torch.float64))
    assert values.shape == indices.shape == (0, 0)


@given(st.floats(1e-3, 1e3))
@settings(max_examples=20, derandomize=True, deadline=None)
def test_topk_features_grow_with_the_input(factor: float) -> None:
    coder = coder_of("topk")
    with torch.no_grad():
        coder.b_enc.zero_()
        coder.b_dec.zero_()
    x = rows(10)
    torch.testing.assert_close(coder.encode(factor * x), factor * coder.encode(x))


@pytest.mark.parametrize("activation", KINDS)
def test_rows_do_not_see_each_other_in_evaluation(activation: str) -> None:
    coder, x = coder_of(activation).eval(), rows(20)
    if activation == "batchtopk":
        coder.threshold.fill_(0.4)
    together = coder.encode(x)
    torch.testing.assert_close(together, torch.cat([coder.encode(row[None]) for row in x]))
    assert 0 < together.count_nonzero() < together.numel()


def test_batchtopk_before_training_is_relu_in_evaluation() -> None:
    coder, x = coder_of("batchtopk").eval(), rows(20)
    z = (x * coder.input_scale - coder.b_dec) @ coder.W_enc.T + coder.b_enc
    torch.testing.assert_close(coder.encode(x), z.relu() / coder.input_scale)


def test_the_encoder_starts_as_the_transposed_decoder_of_unit_rows() -> None:
    tied = SparseAutoencoder(latent_dim=D, dictionary_size=F)
    free = SparseAutoencoder(latent_dim=D, dictionary_size=F, tied_init=False)
    assert torch.equal(tied.W_enc, tied.W_dec)
    assert not torch.allclose(free.W_enc, free.W_dec)
    for rows_of_unit_norm in (tied.dictionary, free.dictionary, free.W_enc):
        torch.testing.assert_close(rows_of_unit_norm.norm(dim=1), torch.ones(F))


def test_a_generator_decides_the_start_values() -> None:
    first, second = coder_of("relu", seed=4), coder_of("relu", seed=4)
    assert torch.equal(first.W_dec, second.W_dec)
    assert not torch.equal(first.W_dec, coder_of("relu", seed=5).W_dec)


@pytest.mark.parametrize("activation", KINDS)
def test_a_saved_coder_is_folded_and_computes_the_same(activation: str, tmp_path: Any) -> None:
    coder, x = coder_of(activation).eval(), rows(25)
    if activation == "batchtopk":
        coder.threshold.fill_(0.4)
    coder.save(tmp_path / "new" / "coder")
    loaded = SparseAutoencoder.load(tmp_path / "new" / "coder")
    assert not loaded.training
    assert loaded.input_scale.item() == 1.0
    assert coder.input_scale.item() == pytest.approx(1.7)
    torch.testing.assert_close(loaded.encode(x), coder.encode(x))
    torch.testing.assert_close(loaded(x).reconstruction, coder(x).reconstruction)
    torch.testing.assert_close(loaded.dictionary, coder.dictionary)
    manifest = json.loads((tmp_path / "new" / "coder" / "coder.json").read_text())["manifest"]
    assert manifest["config"]["activation"] == activation
    assert "torch" in manifest["versions"]


def test_a_hierarchical_coder_comes_back_with_its_levels(tmp_path: Any) -> None:
    coder = HierarchicalSAE(latent_dim=D, levels=[4, F], activation="topk", k=K)
    coder.save(tmp_path)
    loaded = HierarchicalSAE.load(tmp_path)
    assert loaded.levels == (4, F)
    x = rows(3).float()
    assert len(loaded.reconstructions(x)) == 2
    torch.testing.assert_close(loaded.reconstructions(x)[-1], coder(x).reconstruction)
    with pytest.raises(ValueError, match="holds a HierarchicalSAE, not a SparseAutoencoder"):
        SparseAutoencoder.load(tmp_path)


def test_damaged_files_are_refused(tmp_path: Any) -> None:
    with pytest.raises(FileNotFoundError, match="no sparse coder"):
        SparseAutoencoder.load(tmp_path)
    coder_of("relu").save(tmp_path)
    (tmp_path / "coder.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="does not hold a whole sparse coder"):
        SparseAutoencoder.load(tmp_path)


@pytest.mark.parametrize("activation", KINDS)
def test_splicing_with_the_error_kept_changes_nothing_and_reaches_features(activation: str) -> None:
    coder = coder_of(activation).eval()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, D), torch.nn.Linear(D, 2)).double()
    inputs = 5.0 * torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double()
    edited = run(net, inputs, edits={"0": Splice(coder, keep_error=True)}).output
    torch.testing.assert_close(edited, net(inputs), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(edited.sum(), [coder.W_dec])
    assert gradient.count_nonzero() > 0


def test_half_precision_goes_in_and_comes_out() -> None:
    coder = coder_of("topk").float()
    output = coder(rows(4).half())
    assert output.reconstruction.dtype == torch.float16
    assert output.features.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "need to be at least 1"),
        ({"dictionary_size": 0}, "need to be at least 1"),
        ({"sparsity_coefficient": -0.1}, "sparsity_coefficient needs"),
        ({"activation": "topk"}, "k belongs to the activations"),
        ({"k": 3}, "k belongs to the activations"),
        ({"activation": "topk", "k": 9}, "k needs 1 <= k <= dictionary_size = 8, got 9"),
        ({"activation": "topk", "k": 0}, "k needs 1 <= k"),
        ({"target_l0": 3.0}, "target_l0 needs"),
        ({"activation": "jumprelu", "target_l0": 0.0}, "target_l0 needs"),
        ({"bandwidth": 0.0}, "bandwidth needs"),
        ({"matryoshka": [4, 2, 8]}, "prefix sizes need to rise"),
        ({"matryoshka": [2, 4]}, "prefix sizes need to rise"),
        ({"matryoshka": []}, "prefix sizes need to rise"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseAutoencoder(**{"latent_dim": 4, "dictionary_size": 8, **options})


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation needs one of"):
        check_sizes([4], [], dictionary_size=8, sparsity_coefficient=0.0, activation="tanh", k=None)


def test_a_hierarchy_needs_levels() -> None:
    with pytest.raises(ValueError, match="levels needs at least one"):
        HierarchicalSAE(latent_dim=4, levels=[])


def test_tensors_that_do_not_fit_are_refused() -> None:
    coder = coder_of("relu")
    with pytest.raises(ValueError, match=r"x needs shape \(\.\.\., 6\)"):
        coder(torch.ones(2, 5))
    with pytest.raises(ValueError, match=r"f needs shape \(\.\.\., 20\)"):
        coder.decode(torch.ones(2, 6))
    with pytest.raises(TypeError, match=r"floating-point tensor, got a tensor of torch\.int64"):
        coder.encode(torch.ones(2, 6, dtype=torch.long))
    with pytest.raises(TypeError, match="floating-point tensor, got list"):
        checked_rows(coder, [1.0] * 6, "x", [6])
