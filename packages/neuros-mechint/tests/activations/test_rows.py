"""Copies of the input in one batch: each module is called for the copies that need it."""

import platform
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuros_mechint.activations import Replace, Scale, Zero, run, run_batched
from neuros_mechint.activations._rows import Layout

CI = settings(max_examples=50, derandomize=True, deadline=None)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@CI
@given(n_sets=st.integers(1, 40), n_rows=st.integers(1, 4), n_active=st.integers(0, 40))
def test_sets_edited_first_fill_a_window_around_the_unedited_copy(n_sets, n_rows, n_active) -> None:
    layout = Layout(n_sets, n_rows)
    copies = [layout.copy(position) for position in range(n_sets)]
    assert sorted([*copies, layout.control]) == list(range(layout.copies))
    window = layout.window(n_active)
    inside = {*range(window.first, window.first + window.copies)}
    assert {layout.control, *copies[:n_active]} <= inside
    assert len(inside) == 1 + min(n_sets, max(2, n_active))
    # With neighbours on both sides, a recurrence in either direction reaches the unedited copy.
    if n_sets > 1:
        assert {layout.control - 1, layout.control + 1} <= inside


@CI
@given(n_sets=st.integers(1, 9), n_active=st.integers(1, 9), axis=st.integers(0, 1))
def test_rows_outside_of_a_window_are_those_of_the_unedited_run(n_sets, n_active, axis) -> None:
    layout, one = Layout(n_sets, 2), torch.arange(4.0).reshape(2, 2)
    value = torch.randn(2 * layout.copies, 2, generator=gen())
    window = layout.window(n_active)
    kept = window.cut(value)
    filled = window.fill(kept.movedim(0, axis), one.movedim(0, axis)).movedim(axis, 0)
    for copy, rows in enumerate(filled.split(2)):
        inside = window.first <= copy < window.first + window.copies
        assert torch.equal(rows, value[2 * copy : 2 * copy + 2] if inside else one)


class Counted(nn.Linear):
    """Notes how many rows each call had, where no state of the module shows it."""

    def __init__(self, rows: list[int], width: int = 3) -> None:
        super().__init__(width, width)
        self.rows = rows

    def forward(self, x):
        self.rows.append(len(x))
        return super().forward(x)


def counted(n_layers: int) -> tuple[nn.Sequential, list[list[int]]]:
    torch.manual_seed(0)
    rows: list[list[int]] = [[] for _ in range(n_layers)]
    return nn.Sequential(*map(Counted, rows)).double().eval(), rows


def assert_as_separate_runs(model: nn.Module, x: torch.Tensor, sets: list[dict]) -> None:
    for output, edits in zip(run_batched(model, x, sets), sets, strict=True):
        torch.testing.assert_close(output, run(model, x, edits=edits).output, rtol=0, atol=1e-10)


def test_a_module_is_called_for_the_sets_that_are_edited_before_it_ends() -> None:
    model, rows = counted(4)
    x = torch.randn(2, 3, generator=gen(), dtype=torch.float64)
    sets = [{str(k): Scale(float(s))} for k in (2, 0) for s in range(3)]
    run_batched(model, x, sets)
    # Two rows unedited; layers 1 and 2 for three sets and the unedited copy, layer 3 for all six.
    assert rows == [[2], [2, 8], [2, 8], [2, 14]]
    assert_as_separate_runs(model, x, sets)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parts_of_a_batch_in_half_precision_are_those_of_single_runs(dtype) -> None:
    model, _ = counted(3)
    model, x = model.to(dtype), torch.randn(2, 3, generator=gen()).to(dtype)
    sets = [{str(k): Scale(float(s))} for k in range(3) for s in range(2)]
    for output, edits in zip(run_batched(model, x, sets), sets, strict=True):
        expected = run(model, x, edits=edits).output
        torch.testing.assert_close(output, expected, rtol=0, atol=8 * torch.finfo(dtype).eps)


class Mixing(nn.Module):
    """The middle module takes the mean over rows away."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = nn.Linear(3, 3), nn.Identity(), nn.Linear(3, 3)
        self.middle.forward = lambda x: x - x.mean(0)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


def test_rows_that_mix_between_two_edits_are_noticed() -> None:
    x = torch.randn(2, 3, generator=gen(), dtype=torch.float64)
    sets = [{place: Scale(k)} for place in ("first", "last:in") for k in (0.5, 3.0)]
    assert_as_separate_runs(Mixing().double().eval(), x, sets)


class Positions(nn.Module):
    """Reads a table as long as the batch by chance, and one without rows between two edits."""

    def __init__(self, n_time: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lift, self.place, self.mix = nn.Linear(3, 3), nn.Embedding(n_time, 3), Added()
        self.read = nn.Linear(3, 2)

    def forward(self, x):
        table = self.place(torch.arange(x.shape[1]))
        return self.read(self.mix(self.lift(x), self.place.weight) + table)


class Added(nn.Module):
    def forward(self, x, table):
        return x + table.flip(0)


@pytest.mark.parametrize("n_time", range(4, 10))
def test_a_table_that_is_as_long_as_the_batch_keeps_its_rows(n_time: int) -> None:
    x = torch.randn(1, n_time, 3, generator=gen(), dtype=torch.float64)
    # Three sets at each of two places and the unedited copy: seven rows.
    sets = [{place: Scale(k)} for place in ("lift", "read:in") for k in (0.0, 0.5, 3.0)]
    assert_as_separate_runs(Positions(n_time).double().eval(), x, sets)


@pytest.mark.parametrize("n_sets", range(2, 9))
def test_batches_have_nearly_one_size(n_sets: int) -> None:
    model, rows = counted(2)
    x = torch.randn(1, 3, generator=gen(), dtype=torch.float64)
    values = [torch.randn(1, 3, generator=gen(k), dtype=torch.float64) for k in range(n_sets)]
    sets = [{"0": Replace(value)} for value in values]
    outputs = run_batched(model, x, sets, batch_size=4)
    for output, value in zip(outputs, values, strict=True):
        torch.testing.assert_close(output, model[1](value), rtol=0, atol=1e-12)
    sizes = rows[1][1:-n_sets]
    assert sum(n - 1 for n in sizes) == n_sets
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 4


def test_a_set_that_is_left_over_is_run_alone() -> None:
    model, rows = counted(2)
    x = torch.randn(1, 3, generator=gen(), dtype=torch.float64)
    sets = [{"0": Zero()}, {"0": Scale(2.0)}, {"1": Scale(2.0)}]
    assert_as_separate_runs(model, x, sets)
    rows[0].clear()
    # Of one copy beside the unedited one, a recurrence over rows would reach only one of the two.
    run_batched(model, x, sets, batch_size=3)
    assert rows[0] == [1, 1]


PROBE = """
import resource, torch
from neuros_mechint.activations._heap import keep_freed_memory

def faults():
    def forward():
        # Freed together, they are more than twice the largest: what glibc hands back by itself.
        blocks = [torch.ones(2**21, dtype=torch.uint8) for _ in range(8)]
        blocks.clear()
    forward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        forward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print(faults())
"""


# A fresh interpreter, whose allocator has not seen a large block, has to import torch.
@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
def test_the_memory_of_a_batch_is_not_mapped_anew_for_the_next() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    # Five times 16 MiB in pages of 4 KiB are 20480.
    assert int(done.stdout) < 2048
