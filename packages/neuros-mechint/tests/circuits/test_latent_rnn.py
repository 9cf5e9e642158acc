import copy
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_mechint.circuits import LatentCircuitModel
from neuros_mechint.circuits._latent_scan import scan
from neuros_mechint.circuits._latent_weights import activation_named, haar

FUNCTIONS = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "softplus": lambda z: np.log1p(np.exp(z)),
    "identity": lambda z: z,
}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_of(
    *args: int, dtype: torch.dtype = torch.float64, **kwargs: object
) -> LatentCircuitModel:
    return LatentCircuitModel(*args, generator=gen(), **kwargs).to(dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_forward_is_the_recurrence_written_as_a_loop(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = model_of(3, 6, n_inputs=2, alpha=0.3, activation=name, dtype=dtype)
    u = torch.randn(4, 12, 2, generator=gen(1), dtype=dtype)
    w_rec, w_in, q = (w.detach().numpy() for w in (model.w_rec, model.w_in, model.q))
    x = np.zeros((4, 3), dtype=u.numpy().dtype)
    states = [x]
    for t in range(11):
        x = 0.7 * x + 0.3 * FUNCTIONS[name](x @ w_rec.T + u[:, t].numpy() @ w_in.T)
        states.append(x)
    responses, latents = model(u)
    np.testing.assert_allclose(latents.detach(), np.stack(states, 1), atol=tolerance)
    np.testing.assert_allclose(responses.detach(), np.stack(states, 1) @ q.T, atol=tolerance)
    other = u.clone()
    other[:, -1] = 100
    assert torch.equal(model(other).latents, latents)


def test_batches_numpy_and_single_sequences_agree() -> None:
    model = model_of(3, 6)
    u = torch.randn(2, 4, 7, 3, generator=gen(1), dtype=torch.float64)
    whole = model(u).responses
    assert whole.shape == (2, 4, 7, 6)
    torch.testing.assert_close(model(u[1, 2]).responses, whole[1, 2])
    torch.testing.assert_close(model(u.numpy()).responses, whole)
    assert model.float()(u.half()).responses.dtype == torch.float32


def test_a_first_state_is_where_it_starts_and_steps_are_the_sequence() -> None:
    model = model_of(3, 6)
    u = torch.randn(4, 7, 3, generator=gen(1), dtype=torch.float64)
    x = torch.rand(3, generator=gen(2), dtype=torch.float64)
    latents = model(u, x).latents
    assert torch.equal(latents[:, 0], x.expand(4, 3))
    torch.testing.assert_close(model.step(latents[:, 2], u[:, 2]), latents[:, 3])
    torch.testing.assert_close(model.step(x), model.step(x, torch.zeros(3).double()))
    pushed = model.step(x, drive=model.w_in @ u[0, 0])
    torch.testing.assert_close(pushed, model.step(x, u[0, 0]))
    fields = model(u).to_dict()
    assert sorted(fields) == ["latents", "responses"]


def test_noise_has_the_stated_size_and_comes_from_the_generator() -> None:
    model = model_of(2, 4, activation="identity", alpha=0.2)
    with torch.no_grad():
        model.w_rec.zero_()
    u = torch.zeros(4000, 2, 2, dtype=torch.float64)
    latents = model(u, noise_std=0.5, generator=gen(3)).latents[:, 1].detach()
    # alpha sqrt(2 alpha) sigma; the sd of 8000 draws is known to 0.8 %, six of which are 5 %.
    assert float(latents.std()) == pytest.approx(0.2 * (0.4**0.5) * 0.5, rel=0.05)
    assert torch.equal(model(u, noise_std=0.5, generator=gen(3)).latents[:, 1], latents)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(n=st.integers(1, 12), extra=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_embedding_is_orthonormal_whatever_an_optimiser_did(
    n: int, extra: int, seed: int
) -> None:
    for dtype, bar in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        model = LatentCircuitModel(n, n + extra, generator=gen(seed)).to(dtype)
        for _ in range(2):
            gap = model.q.detach().mT @ model.q.detach() - torch.eye(n, dtype=dtype)
            assert float(gap.abs().max()) <= bar
            with torch.no_grad():
                model.embedding.add_(torch.randn(n + extra, n, generator=gen(seed)).to(dtype))


def test_an_orthonormal_parameter_is_its_own_embedding() -> None:
    model = model_of(4, 9)
    with torch.no_grad():
        model.embedding.copy_(model.q)
    torch.testing.assert_close(model.q, model.embedding.data, atol=1e-14, rtol=0)


def test_a_new_circuit_has_radius_nine_tenths_and_positive_diagonal_inputs() -> None:
    model = model_of(6, 20, n_inputs=3, n_outputs=2)
    radius = torch.linalg.eigvals(model.w_rec.detach()).abs().max()
    assert float(radius) == pytest.approx(0.9, abs=1e-6)
    assert bool((model.w_rec != 0).all())
    w_in, w_out = model.w_in.detach(), model.w_out.detach()
    assert bool((w_in[:3].diagonal() > 0).all())
    assert int((w_in != 0).sum()) == 3
    assert bool((w_out[:, 4:].diagonal() > 0).all())
    assert int((w_out != 0).sum()) == 2
    one, other = model_of(6, 20), model_of(6, 20)
    assert torch.equal(one.w_rec, other.w_rec)
    assert torch.equal(one.q, other.q)


def test_the_embedding_is_drawn_from_all_orthonormal_matrices_alike() -> None:
    # The mean of q_11 over 400 draws in 5 dimensions has sd 1 / sqrt(5 * 400) = 0.022.
    first = haar(5, 2, gen(), batch=400)[:, 0, 0].tolist()
    assert abs(float(np.mean(first))) < 6 * 0.0224
    assert float(np.var(first)) == pytest.approx(0.2, abs=0.09)


def optimisers(model: LatentCircuitModel) -> list[torch.optim.Optimizer]:
    parameters = list(model.parameters())
    return [
        torch.optim.SGD(parameters, lr=5.0, momentum=0.9),
        torch.optim.Adam(parameters, lr=1.0),
        torch.optim.RMSprop(parameters, lr=0.5),
    ]


@pytest.mark.parametrize("which", range(3))
def test_signs_and_zeros_hold_after_every_step_of_any_optimiser(which: int) -> None:
    signs = torch.tensor([1.0, -1, 1, -1, 1])
    model = LatentCircuitModel(
        5, 12, n_inputs=3, n_outputs=2, enforce_dales=True, dale_signs=signs, generator=gen()
    )
    optimiser = optimisers(model)[which]
    u = torch.rand(6, 9, 3, generator=gen(1))
    before = model.w_rec.detach().clone()
    for _ in range(8):
        responses, latents = model(u)
        loss = (responses - 1).square().mean() + (model.readout(latents) + 1).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        shown = model.latent_rnn.weight_hh_l0.detach()
        assert bool((shown * signs >= 0).all())
        assert bool((model.w_in.diagonal() >= 0).all())
        assert int((model.w_in != 0).sum()) <= 3
        assert bool((model.w_out >= 0).all())
        assert int((model.w_out != 0).sum()) <= 2
        q = model.q.detach()
        assert float((q.mT @ q - torch.eye(5)).abs().max()) < 1e-5
    assert not torch.equal(before, model.w_rec)


def test_what_is_shown_is_what_is_computed_with() -> None:
    model = model_of(4, 9, enforce_dales=True)
    u = torch.randn(3, 6, 4, generator=gen(1), dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=gen(2), dtype=torch.float64))
    before = model(u).latents.detach()
    torch.testing.assert_close(before[:, 1], 0.2 * (u[:, 0] @ model.w_in.mT).relu())
    assert torch.equal(model(u).latents, before)


def test_the_names_of_torch_are_the_same_storage() -> None:
    model = model_of(3, 8)
    rnn = model.latent_rnn
    assert rnn.weight_hh_l0.data_ptr() == model.w_rec.data_ptr()
    assert rnn.weight_ih_l0.data_ptr() == model.w_in.data_ptr()
    rnn.weight_hh_l0.data.fill_(0.25)
    assert bool((model.w_rec == 0.25).all())
    state = model.state_dict()
    assert not any("mask" in name or "sign" in name for name in state)
    other = LatentCircuitModel(3, 8).double()
    other.load_state_dict(state)
    assert torch.equal(other.w_rec, model.w_rec)


def test_by_default_four_fifths_of_the_nodes_excite() -> None:
    model = model_of(10, 20, enforce_dales=True)
    circuit = model.extract_circuit()
    assert circuit["E_indices"].tolist() == [*range(8)]
    assert circuit["I_indices"].tolist() == [8, 9]
    assert len(circuit["mixed_indices"]) == 0


def test_an_extracted_circuit_names_kinds_above_a_threshold() -> None:
    model = model_of(4, 9)
    with torch.no_grad():
        model.w_rec.copy_(
            torch.tensor([[1.0, -2, 0.1, 0], [0.5, -1, 2, 0], [0, 0, -1, 0], [0, 0, 0, 0]])
        )
    circuit = model.extract_circuit(0.2)
    assert circuit["E_indices"].tolist() == [0]
    assert circuit["I_indices"].tolist() == [1]
    assert circuit["mixed_indices"].tolist() == [2]
    assert circuit["coupling_strength"][0].tolist() == [1.0, 2.0, 0.0, 0.0]
    names = "W_rec W_in W_out Q E_indices I_indices mixed_indices coupling_strength"
    assert list(circuit) == names.split()
    circuit["W_rec"].zero_()
    assert float(model.w_rec.detach()[0, 0]) == 1


def test_a_model_is_pickled_and_copied_whole() -> None:
    for name in FUNCTIONS:
        model = model_of(3, 6, activation=name)
        u = torch.rand(2, 5, 3, dtype=torch.float64)
        assert torch.equal(copy.deepcopy(model)(u).latents, model(u).latents)
        assert len(pickle.dumps(model)) > 1000


def test_custom_masks_free_any_sign_and_none_frees_everything() -> None:
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    model = model_of(3, 8, n_inputs=2, n_outputs=3, input_mask=mask, output_mask=None)
    assert torch.equal(model.w_in != 0, mask)
    assert bool((model.w_out != 0).all())
    assert bool((model.w_out < 0).any())
    free = model_of(2, 8, n_inputs=5, input_mask=None)
    assert bool((free.w_in < 0).any())
    assert free.w_in.shape == (2, 5)


def test_a_function_may_be_the_nonlinearity() -> None:
    by_name = model_of(3, 8, activation="softplus")
    by_function = model_of(3, 8, activation=torch.nn.functional.softplus)
    u = torch.randn(4, 6, 3, generator=gen(1), dtype=torch.float64)
    torch.testing.assert_close(by_function(u).latents, by_name(u).latents)
    z = torch.linspace(-2, 2, 5, dtype=torch.float64)
    slope = activation_named(torch.nn.functional.softplus).derivative(z)
    torch.testing.assert_close(slope, z.sigmoid())


@pytest.mark.parametrize("name", [*FUNCTIONS, "callable"])
def test_the_adjoint_of_the_scan_is_the_gradient(name: str) -> None:
    phi = activation_named(torch.sin if name == "callable" else name)
    w = torch.randn(2, 3, 3, generator=gen(), dtype=torch.float64, requires_grad=True)
    drive = torch.randn(5, 2, 3, 4, generator=gen(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: scan(a, b, 0.3, phi), (w, drive))


def test_the_scan_is_the_forward_of_the_model() -> None:
    model = model_of(3, 8, activation="tanh")
    u = torch.randn(4, 6, 3, generator=gen(1), dtype=torch.float64)
    drive = (u @ model.w_in.mT).permute(1, 2, 0)[:, None]
    states = scan(model.w_rec[None], drive, 0.2, model.activation)
    torch.testing.assert_close(states[:, 0].permute(2, 0, 1), model(u).latents)


def test_the_score_of_a_constant_shift_is_known() -> None:
    model = model_of(2, 5)
    u = torch.rand(3, 9, 2, generator=gen(1), dtype=torch.float64)
    y = model(u).responses.detach()
    spread = (y - y.mean((0, 1))).square().mean()
    assert not model.score(y, u).requires_grad
    shifted = float(model.score(y + 0.1, u))
    assert shifted == pytest.approx(float(1 - 0.01 / spread))
    assert float(model.score(y[0].numpy(), u[0].numpy())) == pytest.approx(1.0)


def test_wrong_sizes_are_refused_in_words() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"n_latent": 0}, "n_latent must be at least 1, got 0"),
        ({"n_latent": 3, "n_observed": 3}, "smaller than n_observed, got 3 nodes for 3 units"),
        ({"n_inputs": 0}, "n_inputs must be at least 1"),
        ({"n_outputs": -1}, "n_outputs must be at least 0"),
        ({"n_outputs": 1}, r"got n_inputs=10 \+ n_outputs=1 for n_latent=10"),
        ({"n_inputs": 11}, "diagonal masks need a node for every input and output"),
        ({"alpha": 0}, r"alpha must lie in \(0, 1\], got 0"),
        ({"activation": "gelu"}, "activation must be one of 'relu'"),
        ({"input_mask": "full"}, r"input_mask must be one of 'diagonal'|Type-check"),
        (
            {"input_mask": torch.ones(2, 2) > 0},
            r"input_mask must be \(10, 10\), got shape \(2, 2\)",
        ),
        ({"dale_signs": [1] * 10}, "dale_signs needs enforce_dales=True"),
        ({"dale_signs": [1, 0], "enforce_dales": True}, r"\+1 or -1 for each of the 10 latents"),
        ({"dale_signs": [2] * 10, "enforce_dales": True}, r"\+1 or -1 for each of the 10 latents"),
    ]
    for kwargs, message in cases:
        with pytest.raises((ValueError, TypeError), match=message):
            LatentCircuitModel(**kwargs)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"output_mask must be 'diagonal', None or a tensor of bool"
    ):
        LatentCircuitModel(n_inputs=2, n_outputs=2, output_mask=torch.ones(2, 10))


def test_wrong_calls_are_refused_in_words() -> None:
    model = model_of(3, 8)
    u = torch.zeros(2, 5, 3).double()
    with pytest.raises(ValueError, match=r"inputs must be \(..., time, n_inputs=3\), got shape"):
        model(u[..., :2])
    with pytest.raises(ValueError, match="inputs holds NaN or inf"):
        model(u / 0)
    with pytest.raises(ValueError, match=r"hidden must be \(..., 3\), got shape \(4,\)"):
        model(u, torch.zeros(4))
    with pytest.raises(ValueError, match="noise_std must be at least 0, got -1"):
        model(u, noise_std=-1)
    with pytest.raises(ValueError, match="threshold must be at least 0, got -1"):
        model.extract_circuit(-1.0)
    with pytest.raises(ValueError, match=r"responses must be \(2, 5, 8\) as the stimuli give"):
        model.score(torch.zeros(2, 5, 7), u)
    assert "activation='relu'" in repr(model)


@pytest.mark.slow  # a fresh interpreter imports torch
def test_importing_circuits_loads_nothing_heavy() -> None:
    heavy = ("scipy", "sklearn", "pandas", "matplotlib", "lightning", "networkx")
    code = "import sys, neuros_mechint.circuits.latent_rnn; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not [m for m, name in itertools.product(loaded, heavy) if m.split(".")[0] == name]


def test_gradients_reach_every_parameter() -> None:
    model = model_of(4, 9, n_inputs=2, n_outputs=1, enforce_dales=True)
    responses, latents = model(torch.rand(3, 6, 2, generator=gen(1), dtype=torch.float64))
    loss: Tensor = responses.square().sum() + model.readout(latents).square().sum()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().max()) > 0, name
