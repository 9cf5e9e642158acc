"""What the benchmarks beside several peers share: a model, a clock and one form of a row."""

import time
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def gpt2() -> Callable[..., nn.Module]:
    """Makes a GPT-2 of the library with random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")

    def make(n_layers: int = 4, width: int = 128) -> nn.Module:
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            n_layer=n_layers, n_embd=width, n_head=4, vocab_size=1000, n_positions=64,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config).eval()

    return make


@pytest.fixture
def shortest() -> Callable[..., list[float]]:
    """Times sides without gradient, one after the other in every round, on one thread."""

    def measure(*sides: Callable[[], object], rounds: int) -> list[float]:
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        best = [float("inf")] * len(sides)
        with torch.no_grad():
            for side in sides:
                side()
            for _ in range(rounds):
                for k, side in enumerate(sides):
                    start = time.perf_counter()
                    side()
                    best[k] = min(best[k], time.perf_counter() - start)
        torch.set_num_threads(n_threads)
        return best

    return measure


@pytest.fixture
def report() -> Callable[..., None]:
    """Prints one row and holds the bar; `missed` says why a bar is known not to be reached."""

    def row(what: str, peer: str, ratio: float, bar: float, missed: str = "") -> None:
        note = "" if ratio >= bar else f", missed: {missed}"
        print(f"BENCH | {what} | {peer} | ratio {ratio:.2f} | bar {bar}{note}")
        # A known miss still fails when it doubles.
        assert ratio >= bar or (missed and ratio >= bar / 2)

    return row
