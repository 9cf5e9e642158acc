"""Inputs, baselines and targets in every form, and what is refused."""

import pytest
import torch
from torch import nn

from neuros_mechint.attribution import Attribution
from neuros_mechint.interventions import cross_entropy


def test_every_way_to_name_a_target_gives_the_same(normal, chain, Function) -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    rows = torch.tensor([2, 2, 2])
    expected = Attribution(net, target=2).attribute(x, steps=16).values
    column = nn.Sequential(net, Function(lambda y: y[:, 2:]))
    single = nn.Sequential(net, Function(lambda y: y[:, 2]))
    for model, target in (
        (net, (2,)),
        (net, rows),
        (net, lambda y: y[:, 2]),
        (net, lambda y: y[:, 2:3]),
        (column, None),
        (single, None),
        (Function(lambda x: {"logits": net(x)}), 2),
        (Function(lambda x: {"logits": net(x)}), lambda out: out["logits"][:, 2]),
    ):
        values = Attribution(model, target=target).attribute(x, steps=16, batch_size=13).values
        torch.testing.assert_close(values, expected, atol=1e-13, rtol=0.0)


def test_a_tensor_of_targets_names_one_per_row(normal, chain) -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    both = Attribution(net, target=torch.tensor([0, 2, 1])).attribute(x).values
    for row, target in enumerate([0, 2, 1]):
        one = Attribution(net, target=target).attribute(x[row : row + 1]).values[0]
        torch.testing.assert_close(both[row], one, atol=1e-13, rtol=0.0)


@pytest.mark.parametrize("tol", [None, 1e-3])
def test_a_target_function_may_hold_a_label_per_row(normal, chain, tol: float | None) -> None:
    net, x = chain(nn.ReLU), normal(3, 12)
    labels = torch.tensor([0, 2, 1])
    result = Attribution(net, target=cross_entropy(labels)).attribute(x, tol=tol)
    alone = [
        Attribution(net, target=cross_entropy(labels[k : k + 1])).attribute(x[k : k + 1], tol=tol)
        for k in range(3)
    ]
    expected = torch.cat([one.values for one in alone])
    slack = 1e-2 if tol else 1e-13
    torch.testing.assert_close(result.values, expected, atol=slack, rtol=0.0)


@pytest.mark.parametrize("tol", [None, 1e-8])
def test_a_target_of_all_rows_has_one_gap(normal, chain, tol: float | None) -> None:
    net, x = chain(nn.ReLU), normal(3, 12)
    result = Attribution(net, target=lambda y: y[:, 0].sum()).attribute(x, tol=tol, steps=200)
    single = Attribution(net, target=0).attribute(x, tol=tol, steps=200)
    assert result.delta.shape == (1,)
    # The gaps of the rows cancel in their sum, so that less of each row is resolved.
    slack = 1e-3 if tol else 1e-13
    torch.testing.assert_close(result.values, single.values, atol=slack, rtol=0.0)
    torch.testing.assert_close(result.delta, single.delta.sum(0, keepdim=True), atol=3e-8, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 5, 64, 10_000])
def test_the_batch_size_changes_nothing(normal, chain, batch_size: int) -> None:
    net, x = chain(nn.ReLU, depth=2), normal(3, 12)
    expected = Attribution(net, target=0).attribute(x, tol=1e-3, steps=8)
    found = Attribution(net, target=0).attribute(x, tol=1e-3, steps=8, batch_size=batch_size)
    assert expected.steps > 32
    torch.testing.assert_close(found.values, expected.values, atol=1e-12, rtol=0.0)
    assert found.steps == expected.steps


def test_baselines_may_be_numbers_rows_or_whole_inputs(normal, chain) -> None:
    net, x = chain(nn.Tanh), normal(3, 12)
    whole = torch.full_like(x, 0.5)
    expected = Attribution(net, target=0).attribute(x, whole).values
    for baseline in (0.5, whole[:1], whole[0]):
        values = Attribution(net, target=0).attribute(x, baseline).values
        assert torch.equal(values, expected)


def test_inputs_in_containers_come_back_in_containers(normal, chain, Function, rise) -> None:
    net = chain(nn.Tanh, width=4)

    def forward(a, mask, *, b=None):
        return net(a * mask[:, None] + (0.0 if b is None else b))

    model = Function(forward)
    model.forward = forward
    a, b = normal(2, 4), normal(2, 4, seed=1)
    mask = torch.tensor([1, 1])
    expected = Attribution(net, target=0).attribute(a).values
    positional = Attribution(model, target=0).attribute((a, mask)).values
    assert isinstance(positional, tuple)
    assert positional[1] is None
    torch.testing.assert_close(positional[0], expected)
    named = Attribution(model, target=0).attribute({"a": a, "mask": mask, "b": b})
    assert set(named.values) == {"a", "mask", "b"}
    assert named.values["mask"] is None
    total = named.values["a"].sum(1) + named.values["b"].sum(1)
    torch.testing.assert_close(total, rise(net, a + b, torch.zeros_like(a), 0))
    # A dictionary of modalities is one argument.
    lookup = Function(lambda inputs: net(inputs["lfp"] + inputs["spike"]))
    modal = Attribution(lookup, target=0).attribute({"lfp": a, "spike": b}).values
    torch.testing.assert_close(modal["lfp"], named.values["a"])


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"target": None}, {}, r"target None leaves shape \(3,\) of each row of the output"),
        ({"target": 7}, {}, r"target 7 does not fit the output of shape \(4, 3\)"),
        ({"target": torch.tensor([0])}, {}, "one index per row for an output of 2 rows"),
        ({"target": lambda y: y}, {}, r"a scalar or one value per row, \(2,\), got shape \(2, 3\)"),
        ({"target": 0}, {"steps": 0}, "steps needs at least 1 node, got 0"),
        ({"target": 0}, {"tol": 0.0}, "tol needs a positive number"),
        ({"target": 0}, {"batch_size": 0}, "batch_size needs at least 1 row, got 0"),
        ({"target": 0}, {"baseline": torch.zeros(2, 12)}, r"convert it with .to\(torch.float64\)"),
        ({"target": 0}, {"baseline": torch.ones(2, 5).double()}, r"baseline of shape \(2, 5\)"),
        ({"target": 0}, {"baseline": (torch.zeros(2, 12),)}, "baseline needs the form of x, a T"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(normal, chain, options, call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attribution(chain(nn.Tanh), **options).attribute(normal(2, 12), **call)


def test_methods_and_metrics_of_the_wrong_kind_are_refused(normal, chain) -> None:
    # With type checks at run time, those come first.
    wrong = r"method needs one of .*, got 'saliency'|Type-check"
    with pytest.raises((ValueError, TypeError), match=wrong):
        Attribution(nn.Identity(), "saliency")
    with pytest.raises(TypeError, match=r"target needs to return a tensor, got float|Type-check"):
        Attribution(chain(nn.Tanh), target=lambda _: 1.0).attribute(normal(2, 12))
    with pytest.raises(ValueError, match="tol belongs to integrated gradients, got tol"):
        Attribution(nn.Identity(), "gradient_x_input").attribute(normal(2, 1), tol=1e-3)
    assert repr(Attribution(nn.Identity(), site="0")) == (
        "Attribution(Identity, 'integrated_gradients', site='0')"
    )


def test_integers_need_a_site_and_a_baseline() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 5))
    x = torch.tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match=r"x holds no floating-point tensor .* name a site"):
        Attribution(model, target=0).attribute(x, x)
    with pytest.raises(ValueError, match="give a baseline in the form of x"):
        Attribution(model, target=0, site="0").attribute(x)
    with pytest.raises(ValueError, match=r"site '0:in' holds torch.int64"):
        Attribution(model, target=0, site="0:in").attribute(x, torch.zeros_like(x))


class Growing(nn.Module):
    """Calls its layer as often as the input is long, or as its value says."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()
        self.bias = nn.Identity()

    def forward(self, x):
        n = 1 + int(x.abs().max() > 1)
        for _ in range(n):
            x = self.layer(x)
        for _ in range(1 + int(x.abs().max() > 1)):
            x = self.bias(x)
        return (x * self.bias(torch.ones(x.shape[-1], dtype=x.dtype))).sum(1)


def test_sites_that_differ_between_the_runs_or_lack_the_batch_are_refused(Function) -> None:
    model, big, small = Growing(), torch.full((2, 3), 2.0), torch.full((2, 3), 0.5)
    with pytest.raises(ValueError, match=r"shapes .* for x and .* for the baseline"):
        Attribution(model, site="layer").attribute(big, small)
    with pytest.raises(ValueError, match=r"site 'bias@1' does not carry the batch"):
        Attribution(model, site="bias@1").attribute(small, 0.1)
    with pytest.raises(ValueError, match="the output needs one row per input row, 4"):
        Attribution(Function(lambda x: x.sum(0))).attribute(big)


def test_a_number_of_calls_that_changes_along_the_line_is_refused() -> None:
    class Jumpy(Growing):
        def forward(self, x):
            rows = self.layer(x)
            # Both copies at the ends together have more rows than either alone.
            for _ in range(len(x) - 1 if self.more else 3 - len(x)):
                rows = self.layer(rows)
            return rows.sum(1)

    model, x = Jumpy(), torch.ones(2, 3)
    model.more = True
    with pytest.raises(ValueError, match="reached more often on the line than the 2 times"):
        Attribution(model, site="layer").attribute(x)
    model.more = False
    with pytest.raises(ValueError, match="was reached 1 times on the line and 2 times at its ends"):
        Attribution(model, site="layer").attribute(x)
