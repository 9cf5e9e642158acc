"""Rows that are not independent, or lie elsewhere: what must not be stacked is run alone."""

import copy

import pytest
import torch
from torch import nn

from neuros_mechint.activations import Scale, Zero, run, run_batched


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_as_separate_runs(model, x, sets) -> None:
    outputs = run_batched(model, x, sets)
    for output, edits in zip(outputs, sets, strict=True):
        torch.testing.assert_close(output, run(model, x, edits=edits).output, rtol=0, atol=1e-10)


class TimeFirst(nn.Module):
    """Rows are time: nothing may be stacked along dimension 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.read = nn.GRU(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.read(self.rnn(x)[0])


def test_a_model_whose_rows_depend_on_each_other_is_run_one_by_one() -> None:
    model = TimeFirst().double().eval()
    x = torch.randn(6, 2, 3, generator=gen(), dtype=torch.float64)
    sets = [{"rnn": Scale(0.5)}, {"read:in[..., 0]": Zero()}, {"rnn:in": Zero()}]
    assert_as_separate_runs(model, x, sets)
    norm = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double().train()
    before = copy.deepcopy(norm.state_dict())
    assert len(run_batched(norm, x[0], [{"0": Scale(k)} for k in (1.0, 2.0, 3.0)])) == 3
    after = norm.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


class Transposes(nn.Module):
    """Batch first outside, time first inside; as many time steps as rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lift, self.rnn, self.read = nn.Linear(3, 4), nn.GRU(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.read(self.rnn(self.lift(x.mT.contiguous().mT.transpose(0, 1)))[0])[-1]


@pytest.mark.parametrize("n_time", [2, 5])
def test_inner_modules_may_carry_the_batch_in_another_dimension(n_time: int) -> None:
    model = Transposes().double().eval()
    x = torch.randn(2, n_time, 3, generator=gen(), dtype=torch.float64)
    sets = [{"lift": Scale(0.5)}, {"rnn": Zero()}, {"rnn[0]": Zero()}, {"rnn[:, 1]": Scale(2.0)}]
    sets += [{"read": Scale(2.0)}, {"read:in": Scale(2.0)}]
    assert_as_separate_runs(model, x, sets)


class Flattens(nn.Module):
    """Time and batch in one dimension, time first: stacked copies lie interleaved."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lift, self.read = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        batch, n_time, _ = x.shape
        y = self.read(self.lift(x.transpose(0, 1).reshape(-1, 3)))
        return y.reshape(n_time, batch, 2).transpose(0, 1)


def test_interleaved_rows_do_not_get_the_edits_of_others() -> None:
    model = Flattens().double().eval()
    x = torch.randn(2, 3, 3, generator=gen(), dtype=torch.float64)
    assert_as_separate_runs(model, x, [{"lift": Scale(k)} for k in (0.0, 0.5, 3.0)])
    assert_as_separate_runs(model, x, [{"read:in[0]": Scale(k)} for k in (0.0, 0.5, 3.0)])


def test_an_output_over_all_rows_is_computed_set_by_set() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, x):
            return {"rows": self.inner(x), "loss": self.inner(x).mean(), "table": torch.ones(3)}

    x = torch.tensor([[1.0], [3.0]])
    # The mean over both sets and the unedited copy is that of the unedited run.
    outputs = run_batched(Loss(), x, [{"inner": Scale(k)} for k in (0.0, 2.0)])
    assert [out["loss"].item() for out in outputs] == [0.0, 4.0]
    assert torch.equal(outputs[1]["rows"], 2 * x)
    assert torch.equal(outputs[1]["table"], torch.ones(3))


def test_a_table_of_the_model_is_handed_on_whole() -> None:
    class Tabled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.table = nn.Identity(), nn.Parameter(torch.arange(3.0))
            self.sizes = []

        def forward(self, x):
            self.sizes.append(len(x))
            return self.inner(x), self.table

    model = Tabled()
    outputs = run_batched(model, torch.ones(1, 2), [{"inner": Scale(k)} for k in (0.0, 2.0)])
    assert outputs[1][1] is model.table
    assert model.sizes == [1, 3]


def test_edits_that_change_the_number_of_calls_are_run_one_by_one() -> None:
    class While(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = nn.Identity()

        def forward(self, x):
            while x.max() > 1:
                x = self.step(x / 2)
            return x

    assert_as_separate_runs(
        While(), torch.tensor([[8.0]]).double(), [{"step": Scale(1.5)}, {"step@0": Zero()}]
    )
