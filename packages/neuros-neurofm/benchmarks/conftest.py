"""What the benchmarks here share: one thread, interleaved repeats, and the row that is printed."""

import time
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from neuros_neurofm import MultiModalNeuroFMX

RATES = {"spike": 100.0, "lfp": 100.0, "ecog": 100.0}
Side = Callable[[], object]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def _fastest(
    sides: Mapping[str, Side], *, at_least: int = 5, at_most_seconds: float = 12.0
) -> dict[str, float]:
    """CPU seconds of each side: minimum over interleaved repeats, after one warm-up of each.

    Whatever else runs on the machine can only add time, so repeats go on until three rounds in a
    row have lowered no side by 1 %.
    """
    for run in sides.values():
        run()
    best = dict.fromkeys(sides, float("inf"))
    began, rounds, unchanged = time.monotonic(), 0, 0
    while rounds < 3 or (
        (rounds < at_least or unchanged < 3) and time.monotonic() - began < at_most_seconds
    ):
        lowered = False
        for name, run in sides.items():
            start = time.process_time()
            run()
            elapsed = time.process_time() - start
            lowered = lowered or elapsed < 0.99 * best[name]
            best[name] = min(best[name], elapsed)
        rounds, unchanged = rounds + 1, 0 if lowered else unchanged + 1
    return best


def _report(what: str, peer: str, ratio: float, bar: float, *, missed: str = "") -> None:
    """Print one row and hold the bar; `missed` says why a bar is known not to be reached."""
    note = "" if ratio <= bar else f", missed: {missed}"
    print(f"BENCH | {what} | {peer} | ratio {ratio:.2f} | bar {bar}{note}")
    # A known miss still fails when it doubles.
    assert ratio <= (2 * bar if missed else bar)


def _forward(module: nn.Module, x: Tensor) -> Side:
    def run() -> None:
        with torch.inference_mode():
            module(x)

    return run


def _forward_backward(module: nn.Module, x: Tensor, grad: Tensor) -> Side:
    x = x.clone().requires_grad_()

    def run() -> None:
        module.zero_grad()
        x.grad = None
        module(x).backward(grad)

    return run


@pytest.fixture
def fastest() -> Callable[..., dict[str, float]]:
    """Fixture of `_fastest`."""
    return _fastest


@pytest.fixture
def report() -> Callable[..., None]:
    """Fixture of `_report`."""
    return _report


@pytest.fixture(params=[False, True], ids=["inference", "training"])
def side_of(request: pytest.FixtureRequest) -> Callable[[nn.Module, Tensor, Tensor], Side]:
    """Make the timed call of a module: forward alone, or forward and backward."""

    def make(module: nn.Module, x: Tensor, grad: Tensor) -> Side:
        return _forward_backward(module, x, grad) if request.param else _forward(module, x)

    make.what = "forward + backward" if request.param else "inference"
    make.training = request.param
    return make


def _small_model() -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX.from_size("small", modalities=tuple(RATES), sampling_rates=RATES)


def _small_batch() -> dict[str, Tensor]:
    shape = (8, 100, 100)
    return {name: torch.randn(shape) for name in RATES} | {
        "spike": torch.poisson(torch.ones(shape))
    }


@pytest.fixture
def small_model() -> Callable[[], MultiModalNeuroFMX]:
    """Make the model `small` for three modalities, always with the same parameters."""
    return _small_model


@pytest.fixture
def small_batch() -> Callable[[], dict[str, Tensor]]:
    """Make a batch of 8 windows of 100 bins and 100 channels in each of three modalities."""
    return _small_batch
