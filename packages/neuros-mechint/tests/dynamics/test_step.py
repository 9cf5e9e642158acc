import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.circuits import LatentCircuitModel
from neuros_mechint.dynamics._step import as_step, functional_step, jacobian

RECURRENT = [
    nn.RNN(2, 4, batch_first=True), nn.RNN(2, 4, nonlinearity="relu"), nn.GRU(2, 4, bias=False),
    nn.LSTM(2, 4), nn.RNN(2, 4, num_layers=2), nn.LSTM(2, 3, num_layers=2), nn.RNNCell(2, 4),
    nn.GRUCell(2, 4), nn.LSTMCell(2, 4),
]  # fmt: skip


def torch_step(layer: nn.Module, h: Tensor, u: Tensor) -> Tensor:
    lstm = isinstance(layer, nn.LSTM | nn.LSTMCell)
    if isinstance(layer, nn.RNNCellBase):
        out = layer(u, h.chunk(2, -1) if lstm else h)
        return torch.cat(out, -1) if lstm else out
    size, depth = layer.hidden_size, layer.num_layers
    parts = torch.stack(h.split(size, -1))
    state = (parts[:depth].contiguous(), parts[depth:].contiguous()) if lstm else parts
    u = u.unsqueeze(1) if layer.batch_first else u.unsqueeze(0)
    out = layer(u, state)[1]
    return torch.cat([*(torch.cat(out) if lstm else out)], -1)


@pytest.mark.parametrize("layer", RECURRENT, ids=repr)
def test_a_recurrent_layer_steps_as_torch_does(layer: nn.Module) -> None:
    step = as_step(layer)
    assert step.n_states is not None
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(5, step.n_states, generator=generator)
    u = torch.randn(5, 2, generator=generator)
    torch.testing.assert_close(step(h, u), torch_step(layer, h, u))
    torch.testing.assert_close(step(h, None), torch_step(layer, h, 0 * u))
    double = functional_step(layer)(h.double(), u.double())
    torch.testing.assert_close(double.float(), step(h, u))
    assert double.dtype == torch.float64
    assert next(layer.parameters()).dtype == torch.float32


def test_jacobians_are_those_of_reverse_differentiation() -> None:
    call = functional_step(nn.GRUCell(2, 3))
    h, u = torch.rand(4, 3).double(), torch.rand(4, 2).double()
    for at in range(4):
        by_state, by_input = torch.autograd.functional.jacobian(
            call, (h[at : at + 1], u[at : at + 1])
        )
        torch.testing.assert_close(jacobian(call, h, u, chunk=3)[at], by_state[0, :, 0])
        torch.testing.assert_close(jacobian(call, h, u, by_input=True)[at], by_input[0, :, 0])


def test_a_map_that_ignores_its_argument_has_a_zero_jacobian() -> None:
    h = torch.ones(2, 3).double()
    assert not jacobian(lambda h, _u: torch.zeros_like(h), h, None).any()
    assert not jacobian(lambda h, _u: 2 * h, h, h, by_input=True).any()


def test_modules_methods_and_steps_are_read() -> None:
    model = LatentCircuitModel(4, 6, generator=torch.Generator().manual_seed(0))
    h, u = torch.rand(3, 4), torch.rand(3, 4)
    assert as_step(model).n_states == 4
    torch.testing.assert_close(as_step(model)(h, u), model.step(h, u))
    torch.testing.assert_close(
        functional_step(model.step)(h.double(), u.double()).float(), model.step(h, u)
    )
    assert as_step(as_step(model), n_states=4).n_states == 4


def test_what_is_no_step_is_refused() -> None:
    with pytest.raises(TypeError, match=r"step must be a callable|Type-check"):
        as_step(3)
    with pytest.raises(ValueError, match="bidirectional=True"):
        as_step(nn.GRU(2, 3, bidirectional=True))
    with pytest.raises(ValueError, match="n_states is 5, but the step has 3"):
        as_step(nn.GRUCell(2, 3), n_states=5)
    with pytest.raises(ValueError, match="Dropout in training mode"):
        as_step(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    weight = torch.eye(2)
    with pytest.raises(TypeError, match="cannot compute in"):
        functional_step(lambda h, _u: h @ weight)(torch.ones(1, 2).double(), None)
    with pytest.raises(RuntimeError, match="mine"):
        functional_step(raising)(torch.ones(1, 2).double(), None)
    with pytest.raises(ValueError, match="must return the next state"):
        functional_step(lambda h, _u: h.sum())(torch.ones(1, 2).double(), None)


def raising(_h: Tensor, _u: Tensor | None) -> Tensor:
    raise RuntimeError("mine")
