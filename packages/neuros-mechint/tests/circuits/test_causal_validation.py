from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.circuits import LatentCircuitModel, validate_causal
from neuros_mechint.circuits._causal_perturb import correlations, null_agreement


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


def linear_circuit(n_outputs: int = 1) -> LatentCircuitModel:
    return LatentCircuitModel(
        3, 10, n_inputs=2, n_outputs=n_outputs, activation="identity", alpha=0.3, generator=gen()
    ).double()


def embedded(circuit: LatentCircuitModel) -> Callable[..., Tensor]:
    """The full model that is the circuit, seen through its embedding."""
    q, w_rec, w_in = (w.detach() for w in (circuit.q, circuit.w_rec, circuit.w_in))
    whole, inputs = q @ w_rec @ q.T, q @ w_in

    def step(h: Tensor, u: Tensor, w_rec: Tensor = whole, drive: Tensor | None = None) -> Tensor:
        total = h @ w_rec.mT.to(h) + u @ inputs.T.to(h)
        total = total if drive is None else total + drive
        return h + 0.3 * (total - h)

    step.weight = whole  # type: ignore[attr-defined]
    return step


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "where"), [("activity", "state"), ("activity", "input"), ("connectivity", "state")]
)
def test_an_embedded_linear_circuit_predicts_every_perturbation_exactly(
    kind: Any, where: Any, dtype: torch.dtype
) -> None:
    circuit = linear_circuit()
    readout = circuit.w_out.detach() @ circuit.q.detach().T
    found = validate_causal(
        circuit, embedded(circuit), draw(4, 20, 2, seed=1).to(dtype), kind=kind, where=where,
        readout=readout, n_null=20, generator=gen(2),
    )  # fmt: skip
    n = 9 if kind == "connectivity" else 3
    assert found.predicted.shape == (n, 4, 20, 3)
    assert float(found.predicted.abs().max()) > 1e-3
    assert float((found.predicted - found.observed).abs().max()) < 1e-5
    assert found.predicted_output is not None
    assert found.observed_output is not None
    assert found.output_correlation is not None
    assert float((found.predicted_output - found.observed_output).abs().max()) < 1e-5
    torch.testing.assert_close(found.correlation, torch.ones(n, dtype=dtype), atol=1e-4, rtol=0)
    assert float(found.r2.min()) > 0.999
    assert float(found.sign_agreement.min()) > 0.99
    assert float(found.p_value.max()) == pytest.approx(1 / 21)


def test_a_step_that_takes_its_weight_is_rewired_as_one_that_takes_a_drive() -> None:
    circuit = linear_circuit(0)
    full = embedded(circuit)
    weight = full.weight  # type: ignore[attr-defined]

    def by_weight(h: Tensor, u: Tensor, w_rec: Tensor = weight) -> Tensor:
        return full(h, u, w_rec=w_rec)

    u = draw(3, 12, 2, seed=1)
    driven, rewired = (
        validate_causal(circuit, step, u, w_rec=weight, n_null=5, generator=gen(2))
        for step in (full, by_weight)
    )
    torch.testing.assert_close(driven.observed, rewired.observed)
    torch.testing.assert_close(driven.null_correlation, rewired.null_correlation)
    assert rewired.weight_agreement is not None
    assert rewired.weight_agreement.correlation == pytest.approx(1)
    assert rewired.weight_agreement.slope == pytest.approx(1)
    assert rewired.to_dict()["weight_agreement"]["slope"] == pytest.approx(1)
    assert "w_rec beside Q^T W Q: correlation 1.000, slope 1.000" in rewired.summary()


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_an_rnn_of_torch_is_perturbed_as_its_equations_say(nonlinearity: str) -> None:
    torch.manual_seed(0)
    rnn = nn.RNN(2, 10, nonlinearity=nonlinearity, batch_first=True)
    circuit = LatentCircuitModel(3, 10, n_inputs=2, alpha=1.0, generator=gen())
    u = draw(4, 9, 2, seed=1)
    entries = [(0, 1), (2, 2)]
    found = validate_causal(circuit, rnn, u, entries=entries, strength=0.3, n_null=3)
    q = circuit.q.detach().double()
    weight = rnn.weight_hh_l0.detach().double()
    cell = nn.RNNCell(2, 10, nonlinearity=nonlinearity).double()
    for k, (i, j) in enumerate(entries):
        paths = []
        for w in (weight, weight + 0.3 * torch.outer(q[:, i], q[:, j])):
            state = {name.removesuffix("_l0"): p for name, p in rnn.state_dict().items()}
            cell.load_state_dict(state)
            cell.weight_hh.data.copy_(w)
            h = torch.zeros(4, 10, dtype=torch.float64)
            states = [h]
            for t in range(8):
                h = cell(u[:, t], h)
                states.append(h)
            paths.append(torch.stack(states, 1).detach())
        torch.testing.assert_close(
            found.observed[k], (paths[1] - paths[0]) @ q, atol=1e-6, rtol=1e-4
        )
    same = nn.RNNCell(2, 10, nonlinearity=nonlinearity)
    same.load_state_dict({n.removesuffix("_l0"): p for n, p in rnn.state_dict().items()})
    by_cell = validate_causal(circuit, same, u, entries=entries, strength=0.3, n_null=3)
    torch.testing.assert_close(by_cell.observed, found.observed)


def test_the_weights_of_an_rnn_are_compared_with_the_projected_ones() -> None:
    rnn = nn.RNN(2, 10, bias=False)
    circuit = LatentCircuitModel(3, 10, n_inputs=2, alpha=1.0, generator=gen())
    with torch.no_grad():
        projected = circuit.q.T @ rnn.weight_hh_l0 @ circuit.q
        circuit.w_rec.copy_(2 * projected + 1)
    found = validate_causal(circuit, rnn, draw(2, 5, 2), kind="activity", n_null=2)
    assert found.weight_agreement is not None
    assert found.weight_agreement.correlation == pytest.approx(1, abs=1e-5)
    assert found.weight_agreement.slope == pytest.approx(2, abs=1e-4)


def test_activity_is_added_to_the_state_before_every_step() -> None:
    circuit = linear_circuit(0)

    def step(h: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(1.3 * h) + u.sum(-1, keepdim=True)

    u, start = draw(2, 6, 2, seed=1), draw(10, seed=3)
    found = validate_causal(
        circuit, step, u, kind="activity", entries=[1], strength=0.4, hidden=start, n_null=2
    )
    q = circuit.q.detach()
    base, moved = start.expand(2, 10), start.expand(2, 10)
    for t in range(5):
        base, moved = step(base, u[:, t]), step(moved + 0.4 * q[:, 1], u[:, t])
        torch.testing.assert_close(found.observed[0, :, t + 1], (moved - base) @ q)
    x = moved_x = start.expand(2, 10) @ q
    push = torch.tensor([0.0, 0.4, 0.0])
    x, moved_x = circuit.step(x, u[:, 0]), circuit.step(moved_x + push, u[:, 0])
    torch.testing.assert_close(found.predicted[0, :, 1], (moved_x - x).detach())
    assert found.weight_agreement is None


def test_the_default_strength_is_a_tenth_of_what_is_perturbed() -> None:
    circuit = linear_circuit(0)
    u = draw(3, 12, 2, seed=1)
    found = validate_causal(circuit, embedded(circuit), u, n_null=2)
    rms = circuit.w_rec.detach().square().mean().sqrt()
    assert found.strength == pytest.approx(0.1 * float(rms))
    found = validate_causal(circuit, embedded(circuit), u, kind="activity", n_null=2)
    rms = circuit(u).latents.detach().square().mean().sqrt()
    assert found.strength == pytest.approx(0.1 * float(rms))


def test_a_wrong_circuit_is_told_from_the_right_one() -> None:
    circuit, other = linear_circuit(0), linear_circuit(0)
    with torch.no_grad():
        other.embedding.copy_(torch.linalg.qr(draw(10, 3, seed=8)).Q)
    u = draw(6, 20, 2, seed=1)
    right, wrong = (
        validate_causal(c, embedded(circuit), u, n_null=99, generator=gen(2))
        for c in (circuit, other)
    )
    assert float(right.p_value.max()) == pytest.approx(0.01)
    assert float(wrong.p_value.mean()) > 0.1
    assert float(wrong.r2.median()) < 0.5


@pytest.mark.slow  # 60 validations
def test_p_values_of_embeddings_without_regard_to_the_model_are_uniform() -> None:
    circuit = LatentCircuitModel(3, 10, n_inputs=2, generator=gen()).double()
    rnn = nn.RNN(2, 10)
    u = draw(3, 8, 2, seed=1)
    found = []
    for k in range(60):
        with torch.no_grad():
            circuit.embedding.copy_(torch.linalg.qr(draw(10, 3, seed=100 + k)).Q)
        one = validate_causal(circuit, rnn, u, entries=[(0, 1)], n_null=19, generator=gen(1000 + k))
        found.append(float(one.p_value))
    # The p-values are 1/20 to 1: the mean of 60 has sd 0.037, the count below 0.25 sd 3.4 of 15.
    # Five sds: a false alarm in 1e-6.
    values = torch.tensor(found)
    assert abs(float(values.mean()) - 0.525) < 5 * 0.0372
    assert abs(int((values <= 0.2501).sum()) - 15) < 5 * 3.35


def test_a_change_that_moves_nothing_has_no_p_value() -> None:
    circuit = linear_circuit(0)
    found = validate_causal(
        circuit, embedded(circuit), torch.zeros(2, 6, 2).double(), strength=0.1, n_null=3
    )
    assert bool(found.p_value.isnan().all())
    assert bool(found.correlation.isnan().all())


def test_chunks_of_perturbations_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = linear_circuit()
    kwargs = {"n_null": 4, "readout": circuit.w_out.detach() @ circuit.q.detach().T}
    u = draw(3, 8, 2, seed=1)
    whole = validate_causal(circuit, embedded(circuit), u, generator=gen(2), **kwargs)
    monkeypatch.setattr("neuros_mechint.circuits._causal_perturb._CHUNK", 1)
    parts = validate_causal(circuit, embedded(circuit), u, generator=gen(2), **kwargs)
    torch.testing.assert_close(parts.observed, whole.observed)
    torch.testing.assert_close(parts.observed_output, whole.observed_output)
    torch.testing.assert_close(parts.null_correlation, whole.null_correlation)


def test_the_names_of_a_drawn_embedding_follow_the_entry() -> None:
    changes = draw(4, 2, 3, 4)
    entries = torch.tensor([[2, 1], [3, 3]])
    predicted = torch.stack([changes[0][..., [2, 1, 0, 3]], changes[1][..., [1, 2, 3, 0]]])
    # For (2, 1): drawn column 0 is node 2, column 1 node 1; the others in their order.
    found = null_agreement(predicted, changes, entries)
    torch.testing.assert_close(found[0, 0], torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(found[1, 1], torch.tensor(1.0, dtype=torch.float64))
    a, b = draw(5), draw(5, seed=1)
    torch.testing.assert_close(correlations(a, b), torch.corrcoef(torch.stack([a, b]))[0, 1])


class Full(nn.Module):
    """A module with a step, in training mode, with something to lose."""

    def __init__(self, fails_at: int = 10**9) -> None:
        super().__init__()
        self.w_rec = nn.Parameter(0.1 * torch.randn(10, 10, generator=gen(3)))
        self.n_calls, self.fails_at = 0, fails_at

    def step(self, h: Tensor, u: Tensor, drive: Tensor | None = None) -> Tensor:
        self.n_calls += 1
        if self.n_calls > self.fails_at:
            raise RuntimeError("no more")
        total = h @ self.w_rec.T + u.sum(-1, keepdim=True)
        return torch.tanh(total if drive is None else total + drive)


def snapshot(model: nn.Module) -> list[Any]:
    found: list[Any] = [model.training]
    for p in model.parameters():
        found += [p.detach().clone(), p.requires_grad, p.grad, p._version]
    return found


@pytest.mark.parametrize("fails_at", [10**9, 11])
def test_the_full_model_and_the_circuit_stay_as_they_are(fails_at: int) -> None:
    full, circuit = Full(fails_at), LatentCircuitModel(3, 10, n_inputs=2, generator=gen())
    before = [snapshot(m) for m in (full, circuit)]
    u = draw(2, 6, 2).float()
    if fails_at == 11:
        with pytest.raises(RuntimeError, match="no more"):
            validate_causal(circuit, full, u, n_null=2)
    else:
        found = validate_causal(circuit, full, u, n_null=2)
        assert found.weight_agreement is not None
        assert not found.observed.requires_grad
    for model, was in zip((full, circuit), before, strict=True):
        for old, new in zip(was, snapshot(model), strict=True):
            assert torch.equal(old, new) if isinstance(old, Tensor) else old == new


def test_a_module_reads_the_states_out_in_its_own_precision() -> None:
    circuit = linear_circuit()
    layer = nn.Linear(10, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(circuit.w_out @ circuit.q.T)
    u = draw(3, 8, 2, seed=1)
    by_module, by_function = (
        validate_causal(circuit, embedded(circuit), u, readout=readout, n_null=2)
        for readout in (layer, lambda h: h @ layer.weight.double().T)
    )
    torch.testing.assert_close(
        by_module.observed_output, by_function.observed_output, atol=1e-6, rtol=1e-3
    )
    for reader in (nn.Tanh(), torch.tanh):
        with pytest.raises(ValueError, match=r"readout must give \(..., 1\), got 10"):
            validate_causal(circuit, embedded(circuit), u, readout=reader, n_null=2)


def test_a_gated_network_is_pushed_on_its_state_only() -> None:
    gru = nn.GRU(2, 10)
    circuit = LatentCircuitModel(3, 10, n_inputs=2, generator=gen())
    u = draw(2, 6, 2).float()
    found = validate_causal(circuit, gru, u, kind="activity", n_null=2)
    assert found.observed.dtype == torch.float64
    q, h, moved = circuit.q.detach(), torch.zeros(2, 10), torch.zeros(2, 10)
    with torch.no_grad():
        for t in range(2):
            h = gru(u[None, :, t], h[None])[1][0]
            moved = gru(u[None, :, t], (moved + found.strength * q[:, 2])[None])[1][0]
    change = ((moved - h) @ q).double()
    torch.testing.assert_close(found.observed[2, :, 2], change, atol=1e-6, rtol=1e-4)
    with pytest.raises(ValueError, match="kind='connectivity' needs a recurrent weight"):
        validate_causal(circuit, gru, u)


def test_wrong_arguments_are_refused_in_words() -> None:
    circuit = linear_circuit()
    full, u = embedded(circuit), draw(2, 6, 2)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"kind": "activities"}, r"kind must be one of|Type-check"),
        ({"where": "output"}, r"where must be one of|Type-check"),
        ({"kind": "connectivity", "where": "input"}, "where='input' is a way to add activity"),
        ({"n_null": 0}, "n_null must be at least 1, got 0"),
        ({"strength": 0}, "strength must differ from 0"),
        ({"stimuli": u[..., :1]}, r"stimuli must be \(trials, time, 2\), got shape"),
        ({"stimuli": u[None]}, r"stimuli must be \(trials, time, 2\), got shape"),
        ({"entries": [(0, 3)]}, "entries must lie in 0 to 2"),
        ({"entries": [0, 1]}, r"entries must be pairs \(i, j\)"),
        ({"entries": [0.5], "kind": "activity"}, "entries must be nodes i of whole numbers"),
        ({"hidden": draw(3)}, r"hidden must be \(10,\) or \(2, 10\), got shape \(3,\)"),
        ({"w_rec": draw(3, 3)}, r"w_rec must be \(10, 10\), got shape \(3, 3\)"),
        ({"readout": draw(2, 10)}, r"readout must be \(1, 10\), got shape \(2, 10\)"),
        ({"circuit": linear_circuit(0), "readout": draw(1, 10)}, "the circuit has n_outputs=0"),
        ({"step": nn.RNN(2, 10, 2)}, "one layer and one direction, got num_layers=2"),
        ({"step": nn.RNN(2, 10), "w_rec": draw(10, 10)}, "an nn.RNN has its own weight"),
        ({"step": nn.RNN(2, 9)}, "step must have the 10 units of the circuit, got 9"),
    ]
    for kwargs, message in cases:
        arguments = {"circuit": circuit, "step": full, "stimuli": u} | kwargs
        with pytest.raises((ValueError, TypeError), match=message):
            validate_causal(**arguments)

    def opaque(h: Tensor, u: Tensor) -> Tensor:
        return 0.5 * h + u.sum(-1, keepdim=True)

    with pytest.raises(ValueError, match=r"where='input' needs an nn\.RNN"):
        validate_causal(circuit, opaque, u, kind="activity", where="input")
    with pytest.raises(ValueError, match="kind='connectivity' needs a recurrent weight"):
        validate_causal(circuit, opaque, u, w_rec=draw(10, 10))
