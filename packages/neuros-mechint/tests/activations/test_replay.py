"""Sweeps beside other tools on the same modules, and metrics of whole batches."""

import functools

import pytest
import torch
from torch import nn

from neuros_mechint.activations import Replace, Scale, Zero, run, run_batched
from neuros_mechint.activations.batched import stream_batched
from neuros_mechint.interventions import ActivationPatcher


def chain(n: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(3, 3) for _ in range(n)]).double().eval()


X = torch.randn(2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SETS = [{str(k): Scale(float(s))} for k in range(1, 4) for s in range(2, 5)]


class Offloading:
    """Stands on an instance as an accelerator's hook does: it wraps the forward it found."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.inner, self.calls = module, module.forward, 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return 2 * self.inner(*args, **kwargs)


@pytest.mark.parametrize("call", ["run", "run_batched", "patch", "sweep", "raises"])
def test_a_forward_that_another_tool_put_on_an_instance_is_put_back_as_found(call: str) -> None:
    net, plain = chain(), chain()
    own = {}
    for k in (0, 2):
        own[k] = net[k].forward = Offloading(net[k])
    if call == "run":
        run(net, X, edits={"1": Zero()}, capture=["0"])
    elif call == "run_batched":
        for output, edits in zip(run_batched(net, X, SETS), SETS, strict=True):
            torch.testing.assert_close(output, run(net, X, edits=edits).output)
    elif call == "patch":
        ActivationPatcher(net).patch(X, 2 * X, ["1"], lambda y: y[:, 0])
    elif call == "sweep":
        table = ActivationPatcher(net).systematic_patching("1", X, 2 * X, neurons=range(3))
        assert len(table) == 3
    else:
        with pytest.raises(ValueError, match="does not fit the activation's shape"):
            run_batched(net, X, [*SETS, {"1": Replace(torch.ones(5).double())}])
    assert own[0].calls > 0
    for k, module in enumerate(net):
        assert vars(module).get("forward") is own.get(k)
    # It still acts: the doubled forward of two layers is not that of the plain chain.
    assert not torch.equal(net(X), plain(X))


def test_the_prefix_is_replayed_also_under_the_forward_of_another_tool() -> None:
    net = chain()
    net[0].forward = Offloading(net[0])
    run_batched(net, X, SETS)
    # The unedited run alone: every batch starts behind it.
    assert net[0].forward.calls == 1


def measured(measure, *, batch_size: int = 100) -> tuple[dict[int, torch.Tensor], int]:
    """Results of a measure over all sets, and how often it was called."""
    calls = []

    def counted(output):
        calls.append(1)
        return measure(output)

    pieces = stream_batched(chain(), X, SETS, batch_size=batch_size, measure=counted)
    return dict(pieces), len(calls)


def single(measure) -> list[torch.Tensor]:
    net = chain()
    return [measure(run(net, X, edits=edits).output) for edits in SETS]


class Rows:
    """One number per row."""

    def __call__(self, y):
        return y[:, 0].square() - y[:, 1]


class Labelled:
    """One number per row, from labels that fit one copy of the rows only."""

    labels = torch.tensor([0, 2])

    def __call__(self, y):
        return y.gather(1, self.labels[:, None])[:, 0]


MEASURES = {
    "rows": Rows(),
    "labelled": Labelled(),
    "scalar": lambda y: y.mean(),
    "matrix": lambda y: y,
    "rows that see each other": lambda y: y[:, 0] - y[:, 0].mean(),
    "first row": lambda y: y[:, 0] - y[0, 0],
    "rank": lambda y: y[:, 0].argsort().argsort().double(),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("batch_size", [1, 7, 9, 100])
def test_a_measure_of_a_batch_equals_the_measures_of_its_sets(name: str, batch_size: int) -> None:
    found, _ = measured(MEASURES[name], batch_size=batch_size)
    for k, expected in enumerate(single(MEASURES[name])):
        torch.testing.assert_close(found[k], expected, rtol=0, atol=1e-12)


def test_a_measure_of_rows_is_called_once_per_batch_after_the_first() -> None:
    _, by_rows = measured(Rows(), batch_size=8)
    _, by_sets = measured(Labelled(), batch_size=8)
    assert by_rows < len(SETS)
    assert by_sets >= len(SETS)


def test_a_measure_that_fails_raises_its_own_error() -> None:
    def broken(_output):
        raise LookupError("no such label")

    with pytest.raises(LookupError, match="no such label"):
        measured(broken)


class Split(nn.Module):
    """Puts time before the batch in one of its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        y = self.inner(x)
        return {"time_first": y.transpose(0, 1), "rows": y}


def test_outputs_with_the_batch_elsewhere_are_measured_set_by_set() -> None:
    x = torch.arange(12.0).reshape(2, 3, 2)
    sets = [{"inner": Scale(float(k))} for k in range(2, 5)]
    pieces = stream_batched(
        Split(), x, sets, batch_size=50, measure=lambda out: out["time_first"][0, :, 1]
    )
    for k, value in pieces:
        assert torch.equal(value, (k + 2) * x[:, 0, 1])


@pytest.mark.parametrize(("batch_size", "most"), [(2, 2), (5, 2), (6, 6), (9, 8), (100, 14)])
def test_no_forward_of_a_sweep_holds_more_rows_than_the_batch_size(batch_size, most) -> None:
    net, seen = chain(), []
    inner = net[3].forward

    def watching(x):
        seen.append(len(x))
        return inner(x)

    net[3].forward = watching
    ActivationPatcher(net, batch_size=batch_size).systematic_patching(
        ["0", "1"], X, 2 * X, functools.partial(torch.sum, dim=1), neurons=range(3)
    )
    # Two rows for each of the six patches and for the unedited copy.
    assert max(seen) == most
