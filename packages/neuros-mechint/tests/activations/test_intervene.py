import copy
import pathlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import neuros_mechint
from neuros_mechint.activations import Add, Replace, Scale, Site, Zero, intervene, run


def chain(*, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that hangs on the modules of a model, hooks and flags included."""
    return {name: copy.copy(vars(module)) for name, module in model.named_modules()}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_capturing_gives_what_the_modules_return_and_changes_nothing(x: Tensor) -> None:
    net = chain()
    before = state(net)
    plain = net(x)
    with intervene(net, capture=["0", "1", "2:in", ""]) as cache:
        output = net(x)
    assert torch.equal(output, plain)
    assert torch.equal(cache["0"], net[0](x))
    assert torch.equal(cache["1"], cache["2:in"])
    assert torch.equal(cache[""], plain)
    assert not cache["0"].requires_grad
    assert state(net) == before


def test_editing_replaces_what_later_modules_see(x: Tensor) -> None:
    net = chain()
    value = torch.ones(5, 4).double()
    result = run(net, x, edits={"0": Replace(value)}, capture=["0", "1"])
    assert torch.equal(result.cache["0"], value)
    assert torch.equal(result.output, net[2](torch.tanh(value)))


def test_an_edit_of_an_input_is_seen_by_the_module(x: Tensor) -> None:
    net = chain()
    result = run(net, x, edits={"2:in": Zero()}, capture=["1", "2:in"])
    assert torch.equal(result.output, net[2].bias.expand(5, 2))
    assert torch.equal(result.cache["2:in"], torch.zeros(5, 4).double())
    assert not torch.equal(result.cache["1"], result.cache["2:in"])


def test_an_index_limits_reading_and_editing_to_a_slice(x: Tensor) -> None:
    net = chain()
    plain = net[0](x)
    site = Site("0", index=(slice(1, 3), [0, 2]))
    result = run(net, x, edits={site: Zero()}, capture=["0", "0[1:3, [0, 2]]"])
    expected = plain.clone()
    expected[1:3, [0, 2]] = 0
    assert torch.equal(result.cache["0"], expected)
    assert result.cache[site].shape == (2, 2)


def test_an_index_that_does_not_fit_names_site_and_shape(x: Tensor) -> None:
    for arguments in ({"capture": ["0[:, 9]"]}, {"edits": {"0[:, 9]": Zero()}}):
        with pytest.raises(
            IndexError, match=r"site '0\[:, 9\]': the index does not fit .*\(5, 4\)"
        ):
            run(chain(), x, **arguments)


def test_a_module_of_the_model_is_a_site(x: Tensor) -> None:
    net = chain()
    result = run(net, x, edits={net[1]: Scale(2.0)}, capture=[net[1]])
    assert torch.equal(result.cache[net[1]], result.cache["1"])
    with pytest.raises(KeyError, match="this Tanh was not captured as a module"):
        result.cache[nn.Tanh()]
    with pytest.raises(KeyError, match="this ReLU is not a module of the model"):
        run(net, x, capture=[nn.ReLU()])


def test_a_site_of_another_kind_is_refused(x: Tensor) -> None:
    with pytest.raises(TypeError, match=r"needs a Site, a str or a module|Type-check error"):
        run(chain(), x, capture=[3])


# Repeated calls ---------------------------------------------------------------------------------


class Loop(nn.Module):
    def __init__(self, n_steps: int = 4) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 3)
        self.n_steps = n_steps

    def forward(self, x):
        h = torch.zeros_like(x)
        for _ in range(self.n_steps):
            h = self.cell(x, h)
        return h


def by_hand(model: Loop, x: Tensor, change) -> list[Tensor]:
    h, states = torch.zeros_like(x), []
    for k in range(model.n_steps):
        h = change(k, model.cell(x, h))
        states.append(h)
    return states


def test_a_module_called_often_keeps_every_call_in_order() -> None:
    model, x = Loop(), torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    cache = run(model, x, capture=["cell"]).cache
    expected = by_hand(model, x, lambda _, h: h)
    assert len(cache.calls("cell")) == 4
    for k in range(4):
        assert torch.equal(cache["cell", k], expected[k])
        assert torch.equal(cache[f"cell@{k}"], expected[k])
    with pytest.raises(ValueError, match="site 'cell' was reached 4 times"):
        cache["cell"]
    with pytest.raises(KeyError, match="has 4 calls, got call 4"):
        cache["cell", 4]


def test_an_edit_without_a_call_acts_on_every_call_and_with_one_on_that() -> None:
    model, x = Loop(), torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    every = run(model, x, edits={"cell": lambda h: h + 1}).output
    torch.testing.assert_close(every, by_hand(model, x, lambda _, h: h + 1)[-1])
    second = run(model, x, edits={"cell@1": lambda h: h + 1}, capture=["cell@1"])
    torch.testing.assert_close(second.output, by_hand(model, x, lambda k, h: h + (k == 1))[-1])
    assert len(second.cache) == 1


def test_calls_are_counted_over_all_forwards_of_a_block() -> None:
    net = nn.Sequential(nn.Identity())
    with intervene(net, {"0": lambda v, context: v + context.call}, capture=["0"]) as cache:
        for _ in range(3):
            net(torch.zeros(1))
    assert [t.item() for t in cache.calls("0")] == [0, 1, 2]


class TiedNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.parametrize("name", ["first", "second"])
def test_either_name_of_a_tied_module_means_the_module(name: str) -> None:
    model, x = TiedNames(), torch.ones(1, 3)
    cache = run(model, x, capture=[name]).cache
    assert len(cache.calls(name)) == 2
    output = run(model, x, edits={f"{name}@1": Zero()}).output
    assert torch.equal(output, torch.zeros(1, 3))


# Errors and clean-up ----------------------------------------------------------------------------


def test_an_unknown_path_gives_the_three_nearest_names(x: Tensor) -> None:
    net = nn.ModuleDict({"encoder": chain(), "decoder": chain()})
    with pytest.raises(KeyError) as caught:
        intervene(net, capture=["encodr.1"])
    assert "no module 'encodr.1' in ModuleDict" in str(caught.value)
    nearest = str(caught.value).split("nearest names: ")[1]
    assert nearest.count("'") == 6
    assert "'encoder.1'" in nearest


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Identity(), nn.Identity()

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capture": ["unused"]}, "capture at site 'unused' was never reached: .* called 0 times"),
        ({"edits": {"unused": Zero()}}, "the edit at site 'unused' was never reached"),
        ({"edits": {"used@2": Zero()}}, "site 'used@2' was never reached: .* called 1 times"),
        ({"capture": ["used@1"]}, "site 'used@1' was never reached"),
    ],
)
def test_a_site_that_is_never_reached_is_an_error(arguments, message, x: Tensor) -> None:
    model = Skips()
    before = state(model)
    with pytest.raises(RuntimeError, match=message):
        run(model, x, **arguments)
    assert state(model) == before


def test_a_block_without_a_forward_is_an_error() -> None:
    context = intervene(chain(), capture=["0"])
    context.__enter__()
    with pytest.raises(RuntimeError, match="never reached"):
        context.__exit__(None, None, None)


class Fails(nn.Module):
    def forward(self, x):
        raise OSError("broken")


def test_an_exception_leaves_no_trace_on_the_model(x: Tensor) -> None:
    net = nn.Sequential(nn.Linear(3, 3), Fails()).double()
    before = state(net)
    with pytest.raises(OSError, match="broken"):
        run(net, x, edits={"0": Zero(), "1:in": Zero()}, capture=["0", "1"])
    assert state(net) == before
    with pytest.raises(ZeroDivisionError):
        run(net, x, edits={"0": lambda v: v / (1 // 0)})
    assert state(net) == before
    assert all(p.grad is None for p in net.parameters())


def test_an_exception_while_setting_up_leaves_no_trace(x: Tensor) -> None:
    net = chain()
    before = state(net)
    with pytest.raises(KeyError):
        run(net, x, edits={"0": Zero()}, capture=["1", "missing"])
    assert state(net) == before


def test_one_intervention_serves_one_block(x: Tensor) -> None:
    net = chain()
    context = intervene(net, capture=["0"])
    with context:
        net(x)
    with pytest.raises(RuntimeError, match="call intervene again"), context:
        net(x)
    assert "_neuros_mechint_stations" not in vars(net[0])


def test_hooks_of_others_stay_and_run(x: Tensor) -> None:
    net, seen = chain(), []
    handle = net[0].register_forward_hook(lambda *_: seen.append(1))
    run(net, x, edits={"0": Zero()}, capture=["0"])
    net(x)
    assert len(seen) == 2
    handle.remove()


# Composition ------------------------------------------------------------------------------------


def test_inner_edits_see_outer_edits_and_every_capture_sees_all(x: Tensor) -> None:
    net = chain()
    plain = net[0](x)
    with intervene(net, {"0": Scale(2.0)}, capture=["0"]) as outer:
        with intervene(net, {"0": Add(torch.ones(4).double())}, capture=["0"]) as inner:
            net(x)
        assert torch.equal(inner["0"], 2 * plain + 1)
        assert torch.equal(outer["0"], inner["0"])
        net(x)
        assert torch.equal(outer["0", 1], 2 * plain)


def test_edits_of_one_block_are_applied_in_their_order(x: Tensor) -> None:
    net = chain()
    plain = net[0](x)
    edits = {Site("0"): Scale(2.0), Site("0", index=...): lambda v: v + 1}
    assert torch.equal(run(net, x, edits=edits, capture=["0"]).cache["0"], 2 * plain + 1)
    turned = dict(reversed(edits.items()))
    assert torch.equal(run(net, x, edits=turned, capture=["0"]).cache["0"], 2 * (plain + 1))


def test_the_same_block_twice_acts_twice(x: Tensor) -> None:
    net = chain()
    with intervene(net, {"2": Scale(3.0)}), intervene(net, {"2": Scale(3.0)}):
        tripled = net(x)
    torch.testing.assert_close(tripled, 9 * net(x))


# Stopping ---------------------------------------------------------------------------------------


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def forward(self, x):
        self.n += 1
        return x


def test_stop_ends_the_forward_when_every_captured_site_was_reached(x: Tensor) -> None:
    net = nn.Sequential(nn.Identity(), nn.Identity(), Counts())
    before = state(nn.Sequential(net[0], net[1]))
    result = run(net, x, capture=["0", "1"], stop=True)
    assert result.output is None
    assert torch.equal(result.cache["1"], x)
    assert net[2].n == 0
    assert state(nn.Sequential(net[0], net[1])) == before


def test_stop_waits_for_the_call_that_the_site_names() -> None:
    model = Loop(10)
    cache = run(model, torch.ones(1, 3), capture=["cell@2"], stop=True).cache
    assert torch.equal(cache["cell@2"], by_hand(model, torch.ones(1, 3), lambda _, h: h)[2])


def test_stop_cannot_be_swallowed_by_the_model(x: Tensor) -> None:
    class Swallows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x):
            try:
                return self.inner(x)
            except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
                return -x

    assert run(Swallows(), x, capture=["inner"], stop=True).output is None


def test_a_stop_passes_through_an_inner_block(x: Tensor) -> None:
    net = chain()
    before = state(net)
    with intervene(net, capture=["0"], stop=True) as outer:
        with intervene(net, {"2": Zero()}, capture=["2"]):
            net(x)
        pytest.fail("the stop belongs to the outer block")
    assert torch.equal(outer["0"], net[0](x))
    assert state(net) == before


def test_stop_without_a_captured_site_is_refused() -> None:
    with pytest.raises(ValueError, match="stop=True needs at least one site in capture"):
        intervene(chain(), stop=True)


def test_an_edit_behind_the_stop_is_an_error(x: Tensor) -> None:
    with pytest.raises(RuntimeError, match="the edit at site '2' was never reached"):
        run(chain(), x, edits={"2": Zero()}, capture=["0"], stop=True)


def test_hooks_are_put_on_modules_in_one_file_of_the_package() -> None:
    source = pathlib.Path(neuros_mechint.__file__).parent
    files = [p.name for p in source.rglob("*.py") if "register_forward" in p.read_text("utf-8")]
    assert files == ["_hooks.py"]
