import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.activations import Replace, Scale, intervene, run


def chain(*, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that hangs on the modules of a model, hooks and flags included."""
    return {name: copy.copy(vars(module)) for name, module in model.named_modules()}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# In-place successors ----------------------------------------------------------------------------


class AddsInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        y = self.linear(x)
        y += 1.0
        return y


def test_a_module_that_works_in_place_does_not_reach_a_captured_value(x: Tensor) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).double()
    cache = run(net, x, capture=["0", "1", "1:in"]).cache
    linear = net[0](x)
    assert (linear < 0).any()
    assert torch.equal(cache["0"], linear)
    assert torch.equal(cache["1:in"], linear)
    assert torch.equal(cache["1"], linear.relu())


def test_an_operation_in_place_is_reported_or_with_clone_harmless(x: Tensor) -> None:
    model = AddsInPlace().double()
    before = state(model)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match=r"overwritten in place later .* clone=True"):
            run(model, x, capture=["linear"])
        with intervene(model, capture=["linear"], clone=True) as cache:
            model(x)
        assert torch.equal(cache["linear"], model.linear(x))
    assert state(model) == before


def test_an_overwritten_value_is_refused_inside_the_block_too(x: Tensor) -> None:
    model = AddsInPlace().double()
    seen = []

    def read_inside() -> None:
        with intervene(model, capture=["linear"]) as cache:
            model(x)
            seen.append(x)
            seen.append(cache["linear"])

    with torch.no_grad(), pytest.raises(RuntimeError, match="clone=True"):
        read_inside()
    assert len(seen) == 1


def test_after_the_block_the_captured_tensor_belongs_to_the_caller(x: Tensor) -> None:
    cache = run(chain(), x, capture=["0"]).cache
    cache["0"].zero_()
    assert torch.equal(cache["0"], torch.zeros(5, 4).double())


def test_in_inference_mode_captured_values_survive_operations_in_place(x: Tensor) -> None:
    model = AddsInPlace().double()
    with torch.inference_mode():
        cache = run(model, x, capture=["linear"]).cache
        assert torch.equal(cache["linear"], model.linear(x))


def test_a_successor_in_place_does_not_write_into_the_value_of_replace(x: Tensor) -> None:
    value = -torch.ones(5, 4).double()
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True)).double()
    output = run(net, x, edits={"0": Replace(value)}).output
    assert torch.equal(output, torch.zeros(5, 4).double())
    assert torch.equal(value, -torch.ones(5, 4).double())


# Precision, gradients, compilation --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_precision_and_gradient_modes_give_the_plain_values(dtype, mode) -> None:
    net, x = chain(dtype=dtype), torch.ones(2, 3, dtype=dtype)
    with mode():
        plain = net(x)
        result = run(net, x, edits={"0": lambda v: v * 1}, capture=["1"])
        assert torch.equal(result.output, plain)
        assert torch.equal(result.cache["1"], net[1](net[0](x)))
        assert result.cache["1"].dtype == dtype


def test_captured_values_carry_gradients_when_they_are_not_detached(x: Tensor) -> None:
    net = chain()
    with intervene(net, capture=["1"], detach=False) as cache:
        output = net(x)
    (gradient,) = torch.autograd.grad(output.sum(), cache["1"])
    torch.testing.assert_close(gradient, net[2].weight.sum(0).expand(5, 4))


def test_gradients_flow_through_an_edit_of_a_slice(x: Tensor) -> None:
    net = chain()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    run(net, x, edits={"0[:, 0]": lambda v: v * scale}).output.sum().backward()
    hidden = net[0](x)[:, 0]
    slope = 1 - torch.tanh(2 * hidden).square()
    torch.testing.assert_close(scale.grad, (net[2].weight.sum(0)[0] * slope * hidden).sum())


class Twin(nn.Module):
    """Returns a floating-point tensor and an integer one."""

    def forward(self, x):
        return x, torch.arange(3)


def test_captured_values_are_converted_on_request(x: Tensor) -> None:
    model = nn.Sequential(Twin())
    with intervene(model, capture=["0", "0:out.1"], dtype=torch.float32, device="cpu") as c:
        model(x)
    assert c["0"].dtype == torch.float32
    assert c["0:out.1"].dtype == torch.int64


# The first compilation imports the compiler, several seconds.
@pytest.mark.slow
def test_a_compiled_module_is_a_site_and_what_lies_inside_is_refused(x: Tensor) -> None:
    net = chain()
    wrapped = nn.Sequential(torch.compile(net[0], backend="eager"), net[1], net[2])
    result = run(wrapped, x, edits={"0": Scale(2.0)}, capture=["0"])
    torch.testing.assert_close(result.cache["0"], 2 * net[0](x))
    torch.testing.assert_close(result.output, net[2](torch.tanh(2 * net[0](x))))
    whole = torch.compile(net, backend="eager")
    before = state(whole)
    for site in ("_orig_mod.0", "0"):
        with pytest.raises(ValueError, match="lies inside compiled code"):
            run(whole, x, capture=[site])
    assert state(whole) == before
    torch.testing.assert_close(run(whole, x, capture=[""]).cache[""], net(x))


@pytest.mark.slow  # as above, when it runs alone
def test_a_module_compiled_in_place_is_refused(x: Tensor) -> None:
    net = chain()
    net[1].compile(backend="eager")
    with pytest.raises(ValueError, match="site '1' lies inside compiled code"):
        run(net, x, capture=["1"])
