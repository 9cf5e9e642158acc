"""Every metric keeps the same promises: one row of a table per class, and every class has one.

A metric that is exported without a row fails here. A row says how to draw items, what to read of
a result, and what an item without a value looks like; the tests below walk all rows.
"""

import ast
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from neuros_mechint.fractals import MultiplicativeCascade, metrics

N_SAMPLES = 256


class Row(NamedTuple):
    """One configuration of a metric.

    Attributes:
        estimator: the metric.
        draw: items `(item, ...)` in float64 from their number and a seed.
        read: the values of a result, items first.
        degenerate: makes an item that has no value; None where every item has one.
        is_signal: items have a time axis, and the values a gradient.
        offset: of the unit, in standard deviations, that changes nothing.
    """

    estimator: Any
    draw: Callable[[int, int], Tensor]
    read: Callable[[Any], Tensor]
    degenerate: Callable[[Tensor], Tensor] | None
    is_signal: bool = True
    offset: float = 1e3

    def values(self, items: Any, **options: int) -> Tensor:
        return torch.as_tensor(self.read(self.estimator.compute(items, **options)))


def walks(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, N_SAMPLES, generator=generator, dtype=torch.float64).cumsum(-1)


def noises(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, N_SAMPLES, generator=generator, dtype=torch.float64)


def masses(count: int, seed: int) -> Tensor:
    cascade = MultiplicativeCascade(kind="shuffled")
    generator = torch.Generator().manual_seed(seed)
    options = {"weights": [0.7, 0.3], "batch": count, "generator": generator}
    return cascade.generate(8, **options, dtype=torch.float64).reshape(count, -1)


def images(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, 24, 32, generator=generator) > 0.8).double()


def rings(count: int, seed: int) -> Tensor:
    """Rings of 48 nodes, each with a chord of its own."""
    generator = torch.Generator().manual_seed(seed)
    graphs = torch.eye(48, dtype=torch.float64).roll(1, 0).repeat(count, 1, 1)
    for graph, start in zip(graphs, torch.randint(40, (count,), generator=generator), strict=True):
        graph[start, start + 5] = 1
    return (graphs + graphs.mT).clamp(max=1)


def itself(result: Tensor) -> Tensor:
    return result


def all_of(result: tuple[Any, ...]) -> Tensor:
    return torch.stack([torch.as_tensor(part) for part in result if part is not None], -1)


def signal(
    estimator: Any,
    read: Callable[[Any], Tensor] = itself,
    draw: Callable[[int, int], Tensor] = walks,
) -> Row:
    return Row(estimator, draw, read, lambda x: torch.full_like(x, 0.1))


def alpha(result: Any) -> Tensor:
    return result.alpha


def tau(result: Any) -> Tensor:
    return result.tau


def dimension(result: Any) -> Tensor:
    return result.dimension


HURST = [
    metrics.HurstExponent(method=method)
    for method in ("whittle", "wavelet", "abry_veitch", "local_whittle", "dfa", "rs")
]
SLOPES = [
    metrics.SpectralSlope(),
    metrics.SpectralSlope(method="auto", fit="ols", detrend="linear"),
    metrics.SpectralSlope(method="periodogram", fit="robust"),
    metrics.SpectralSlope(method="welch", nperseg=64, exclude=((0.1, 0.12),)),
]
SPECTRUM = metrics.MultifractalSpectrum
ROWS: dict[str, list[Row]] = {
    "HiguchiFractalDimension": [
        signal(metrics.HiguchiFractalDimension()),
        signal(metrics.HiguchiFractalDimension(k_max=17, weights="inverse_k")),
    ],
    "DetrendedFluctuationAnalysis": [
        signal(metrics.DetrendedFluctuationAnalysis(), alpha),
        signal(metrics.DetrendedFluctuationAnalysis(order=2, overlap=True), alpha),
        signal(metrics.DetrendedFluctuationAnalysis(bias_correction=True), alpha, noises),
    ],
    "HurstExponent": [
        *(signal(estimator, draw=noises) for estimator in HURST),
        signal(metrics.HurstExponent(kind="path")),
        signal(metrics.HurstExponent(kind="auto")),
    ],
    "SpectralSlope": [signal(estimator) for estimator in SLOPES],
    "MultifractalSpectrum": [
        signal(SPECTRUM(), tau, noises),
        signal(SPECTRUM(method="leaders"), tau, noises),
        # A constant is a measure, and an offset changes one.
        Row(SPECTRUM(method="measure"), masses, tau, None, offset=0.0),
    ],
    "FractalMetricsBundle": [signal(metrics.FractalMetricsBundle(), all_of)],
    "BoxCountingDimension": [
        Row(metrics.BoxCountingDimension(), images, dimension, torch.zeros_like, is_signal=False),
    ],
    "GraphFractalDimension": [
        Row(estimator, rings, dimension, torch.ones_like, is_signal=False)
        for name in ("GraphFractalDimension",)
        if name in metrics.__all__
        for estimator in (getattr(metrics, name)(), getattr(metrics, name)(method="sandbox"))
    ],
}
EVERY = [row for rows in ROWS.values() for row in rows]
SIGNALS = [row for row in EVERY if row.is_signal]


def named(row: Row) -> str:
    return repr(row.estimator)


every = pytest.mark.parametrize("row", EVERY, ids=named)
signals = pytest.mark.parametrize("row", SIGNALS, ids=named)


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_public_name_is_a_result_or_has_a_row(name: str) -> None:
    public = getattr(metrics, name)
    assert isinstance(public, type)
    if issubclass(public, tuple):
        assert public._fields
        return
    assert {type(row.estimator) for row in ROWS[name]} == {public}


def assert_same(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, check_dtype=False)


@every
def test_a_batch_equals_its_items_in_any_order_and_layout(row: Row) -> None:
    items = row.draw(5, 0)
    whole = row.values(items)
    for i, item in enumerate(items):
        assert_same(row.values(item), whole[i], 1e-10)
    apart = items.movedim(0, -1).contiguous().movedim(-1, 0)
    assert not apart.is_contiguous()
    assert_same(row.values(apart), whole, 1e-10)
    assert_same(row.values(items[::2].flip(0)), whole[::2].flip(0), 1e-10)
    assert_same(
        row.values(items[:4].reshape(2, 2, *items.shape[1:])).flatten(0, 1), whole[:4], 1e-10
    )


@signals
def test_single_precision_agrees_between_a_batch_and_its_items(row: Row) -> None:
    items = row.draw(3, 1).float()
    whole = row.values(items)
    for i, item in enumerate(items):
        assert_same(row.values(item), whole[i], 1e-5)


@signals
def test_any_axis_can_be_time(row: Row) -> None:
    items = row.draw(3, 2)
    expected = row.values(items)
    assert_same(row.values(items.mT.contiguous(), dim=0), expected, 1e-10)
    assert_same(row.values(items[..., None].expand(-1, -1, 2), dim=1)[:, 1], expected, 1e-10)


@every
def test_an_empty_batch_gives_no_values(row: Row) -> None:
    items = row.draw(1, 3)
    assert row.values(items[:0]).shape == (0, *row.values(items).shape[1:])


@signals
@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("side", [-1.0, 0.0, 1.0])
def test_the_unit_and_the_offset_do_not_matter(row: Row, scale: float, side: float) -> None:
    items = row.draw(2, 4)
    moved = scale * (items + side * row.offset * items.std(-1, keepdim=True))
    assert_same(row.values(moved), row.values(items), 1e-6)


@pytest.mark.parametrize("row", [row for row in EVERY if row.degenerate], ids=named)
def test_an_item_without_a_value_is_nan_alone_and_warned_of_once(row: Row) -> None:
    items = row.draw(3, 5)
    items[1] = row.degenerate(items[1])
    items.requires_grad_(row.is_signal)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        values = row.values(items)
    assert [w.category for w in caught] == [UserWarning]
    assert "1 of 3 items" in str(caught[0].message)
    assert values[1].isnan().any()
    assert_same(values[[0, 2]].detach(), row.values(items.detach()[[0, 2]]), 1e-10)
    if row.is_signal:
        (gradient,) = torch.autograd.grad(values[~values.isnan()].sum(), items)
        assert gradient.isfinite().all()
        assert (gradient[1] == 0).all()
        assert (gradient[0] != 0).any()


@signals
def test_gradients_are_exact(row: Row) -> None:
    items = row.draw(2, 6).requires_grad_()
    # Fast mode compares one random projection of the Jacobian: 200 times fewer evaluations.
    assert torch.autograd.gradcheck(row.values, (items,), fast_mode=True)


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(row: Row, bad: float) -> None:
    items = row.draw(5, 7)
    items[1].view(-1)[7] = items[3].view(-1)[0] = items[3].view(-1)[1] = bad
    counted = "NaN or infinity in 2 of 5 items" if row.is_signal else "finite"
    with pytest.raises(ValueError, match=counted):
        row.values(items)


@signals
def test_a_signal_that_is_too_short_is_refused_with_its_length(row: Row) -> None:
    with pytest.raises(ValueError, match=r"(needs|at least).*\b3\b"):
        row.values(row.draw(1, 8)[:, :3])


@every
def test_what_is_not_an_array_is_refused(row: Row) -> None:
    # The second message is that of the shape checker, which sees the argument first when it is on.
    with pytest.raises(TypeError, match=r"got (list|str)|Type-check error"):
        row.values("samples")


@every
def test_the_type_of_numbers_follows_the_input(row: Row) -> None:
    items = row.draw(2, 9)
    assert row.values(items).dtype == torch.float64
    for half in (torch.float16, torch.bfloat16):
        low = row.values(items.to(half))
        assert low.dtype == torch.float32
        assert_same(low, row.values(items.to(half).float()), 1e-6)
    counts = (items * 100).round().to(torch.int64)
    whole = row.values(counts)
    assert whole.dtype == torch.get_default_dtype()
    assert_same(whole, row.values(counts.to(torch.get_default_dtype())), 1e-6)


@every
def test_an_array_gives_arrays_and_the_same_values(row: Row) -> None:
    items = row.draw(2, 10)
    result = row.estimator.compute(items.numpy())
    parts = result if isinstance(result, tuple) else (result,)
    # Sizes that are the same for all items stand in a plain tuple.
    assert all(isinstance(part, np.ndarray | tuple) for part in parts if part is not None)
    np.testing.assert_array_equal(row.read(result), row.values(items).numpy())


@every
def test_two_calls_give_the_same_values_and_leave_the_input_alone(row: Row) -> None:
    items = row.draw(3, 11)
    kept = items.clone()
    assert torch.equal(row.values(items), row.values(items))
    assert torch.equal(items, kept)


@every
def test_the_representation_makes_the_same_estimator(row: Row) -> None:
    call = ast.parse(repr(row.estimator), mode="eval").body
    assert isinstance(call, ast.Call)
    options = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert repr(type(row.estimator)(**options)) == repr(row.estimator)


@signals
def test_autocast_does_not_lower_the_precision(row: Row) -> None:
    items = row.draw(2, 12).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = row.values(items)
    assert_same(inside, row.values(items), 1e-6)


MEASURE = """
import json, re, sys, torch
from pathlib import Path
from neuros_mechint.fractals import metrics
torch.set_num_threads(1)
status = lambda key: int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
codes, repeats = json.loads(sys.argv[1]), int(sys.argv[2])
# Seen again and again, the same rows are a large batch that takes no memory of its own.
rows = torch.rand(100, 1000, generator=torch.Generator().manual_seed(0))
for code in codes:
    estimator = eval(code, vars(metrics))
    estimator.compute(rows)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    estimator.compute(rows.expand(repeats, 100, 1000))
    print(code, (status("VmHWM") - before) // 1024, sep="\\t")
"""


N_REPEATS = 64


@pytest.mark.slow  # a process of its own, in which nothing else has raised the peak
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's counters")
def test_memory_does_not_grow_with_the_batch() -> None:
    codes = {name: named(rows[0]) for name, rows in ROWS.items() if rows[0].is_signal}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(list(codes.values())), str(N_REPEATS)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    taken = {code: int(mib) for code, mib in (li.split("\t") for li in done.stdout.splitlines())}
    for name, code in codes.items():
        # 6,400 x 1,000 samples: one copy in double precision would be 49 MiB.
        assert taken[code] <= 45, (name, taken[code])
