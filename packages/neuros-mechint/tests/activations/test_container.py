import copy
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.activations import Scale, Site, Zero, run


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that hangs on the modules of a model, hooks and flags included."""
    return {name: copy.copy(vars(module)) for name, module in model.named_modules()}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Pair(NamedTuple):
    label: str
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Record:
    label: str
    first: Tensor
    second: Tensor


class Returns(nn.Module):
    """Returns two tensors in a container; its parent adds them."""

    def __init__(self, build) -> None:
        super().__init__()
        self.build = build

    def forward(self, x):
        return self.build(x, 10 * x)


class Holder(nn.Module):
    def __init__(self, build) -> None:
        super().__init__()
        self.inner = Returns(build)

    def forward(self, x):
        return self.inner(x)


@dataclass(frozen=True)
class ReadOnly(Mapping):
    """Outputs by key and by attribute, without assignment."""

    label: str
    first: Tensor
    second: Tensor

    def __getitem__(self, key):
        return getattr(self, key)

    def __iter__(self):
        return iter(("label", "first", "second"))

    def __len__(self):
        return 3


CONTAINERS = {
    "tuple": (lambda a, b: ("t", a, b), 1, 2),
    "list": (lambda a, b: ["t", a, b], 1, 2),
    "dict": (lambda a, b: {"label": "t", "first": a, "second": b}, "first", "second"),
    "named tuple": (lambda a, b: Pair("t", a, b), "first", "second"),
    "named tuple by position": (lambda a, b: Pair("t", a, b), 1, -1),
    "dataclass": (lambda a, b: Record("t", a, b), "first", "second"),
    "read-only mapping": (lambda a, b: ReadOnly("t", a, b), "first", "second"),
    "dict by position": (lambda a, b: {"label": "t", "first": a, "second": b}, 1, 2),
    "nested": (lambda a, b: (("t", [a]), {"b": b}), 0, 1),
    "structseq": (lambda a, b: torch.return_types.max((a, b)), 0, 1),
}


def flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for member in value for leaf in flat(member)]
    if isinstance(value, dict):
        return flat(list(value.values()))
    if isinstance(value, (Record, ReadOnly)):
        return [value.label, value.first, value.second]
    return [value]


def test_a_container_that_cannot_be_rebuilt_is_refused(x: Tensor) -> None:
    model = Holder(lambda a, b: types.MappingProxyType({"first": a, "second": b}))
    with pytest.raises(TypeError, match="mappingproxy is read-only and cannot be rebuilt"):
        run(model, x, edits={"inner": Zero()})


@pytest.mark.parametrize("name", CONTAINERS)
def test_members_of_containers_are_read_and_exchanged_in_place(name: str, x: Tensor) -> None:
    build, first, second = CONTAINERS[name]
    model = Holder(build)
    sites = [Site("inner"), Site("inner", key=first), Site("inner", key=second)]
    cache = run(model, x, capture=sites).cache
    assert torch.equal(cache[sites[0]], x)
    assert torch.equal(cache[sites[1]], x)
    assert torch.equal(cache[sites[2]], 10 * x)
    for site, change in ((sites[0], 0), (sites[2], 1)):
        output = run(model, x, edits={site: lambda v: v + 1}).output
        assert type(output) is type(build(x, x))
        *label, a, b = flat(output)
        assert all(text == "t" for text in label)
        assert torch.equal(a, x + 1 if change == 0 else x)
        assert torch.equal(b, 10 * x + 1 if change == 1 else 10 * x)


def test_other_members_of_a_container_stay_the_same_objects(x: Tensor) -> None:
    keep = torch.ones(1)
    output = run(Holder(lambda a, _: {"a": a, "keep": keep}), x, edits={"inner": Zero()}).output
    assert output["keep"] is keep


def test_a_block_keeps_its_name_when_it_returns_a_tuple_or_a_tensor(x: Tensor) -> None:
    for build in (lambda a, b: a, lambda a, b: (a, b)):
        result = run(Holder(build), x, edits={"inner": Zero()}, capture=["inner"])
        assert torch.equal(result.cache["inner"], torch.zeros_like(x))


@pytest.mark.parametrize(
    ("build", "site", "error", "message"),
    [
        (lambda a, b: a, "inner:out.1", KeyError, "key 1 needs a container, got a Tensor"),
        (lambda a, b: (a, b), "inner:out.2", KeyError, r"no member 2 in a tuple with members"),
        (lambda a, b: {"a": a}, "inner:out.b", KeyError, r"no member 'b' .* members \['a'\]"),
        (lambda a, b: Pair("", a, b), "inner:out.x", KeyError, r"\['label', 'first', 'second'\]"),
        (lambda a, b: ("text", a), "inner:out.0", TypeError, "without a tensor"),
        (lambda a, b: None, "inner", TypeError, "site 'inner': a NoneType without a tensor"),
        (lambda a, b: a, "inner:in.mask", KeyError, "no argument 'mask' in a call with 1"),
    ],
)
def test_a_member_that_does_not_exist_is_named(build, site, error, message, x) -> None:
    model = Holder(build)
    before = state(model)
    with pytest.raises(error, match=message):
        run(model, x, capture=[site])
    assert state(model) == before


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Product()

    def forward(self, a, b):
        return self.inner(flag=True, a=a, b=b)


class Product(nn.Module):
    def forward(self, a, b=None, *, flag=False):
        return a * b if flag else a


def test_a_site_asked_for_under_two_names_is_captured_once() -> None:
    net = nn.Sequential(nn.Identity(), nn.ReLU())
    for capture in ([net[0], "0"], ["0", net[0], Site("0")]):
        cache = run(net, torch.tensor([-1.0]), capture=capture).cache
        assert len(cache) == 1
        assert cache[net[0]] is cache["0"]


def test_modules_called_with_keywords_only_are_read_and_edited() -> None:
    a, b = torch.tensor([2.0]), torch.tensor([5.0])
    result = run(Keyword(), a, b, capture=["inner:in", "inner:in.a", "inner:in.b"])
    assert [result.cache[s].item() for s in ("inner:in", "inner:in.a", "inner:in.b")] == [2, 2, 5]
    assert run(Keyword(), a, b, edits={"inner:in.b": Scale(10.0)}).output.item() == 100
    assert run(Keyword(), a, b, edits={"inner:in": Scale(10.0)}).output.item() == 100


def test_an_argument_passed_by_position_answers_to_its_name() -> None:
    a, b = torch.tensor([2.0]), torch.tensor([5.0])
    result = run(Product(), a, b, flag=True, edits={":in.b": Scale(2.0)}, capture=[":in.1"])
    assert result.output.item() == 20
    assert result.cache[":in.1"].item() == 10


class Modalities(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(2, 2)

    def forward(self, inputs, *, units=None):
        return {name: self.encode(value) for name, value in inputs.items()} | {"units": units}


def test_models_with_dict_inputs_are_read_and_edited() -> None:
    model, inputs = Modalities(), {"spike": torch.ones(1, 2), "lfp": torch.zeros(1, 2)}
    result = run(
        model,
        inputs,
        units={"spike": ["a"]},
        edits={":in.lfp": lambda v: v + 3},
        capture=[":in.lfp", ":out.spike", "encode@1"],
    )
    assert torch.equal(result.cache[":in.lfp"], torch.full((1, 2), 3.0))
    assert torch.equal(result.cache["encode@1"], model.encode(torch.full((1, 2), 3.0)))
    assert torch.equal(inputs["lfp"], torch.zeros(1, 2))
    assert result.output["units"] == {"spike": ["a"]}
