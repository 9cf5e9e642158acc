"""Cost of sites and edits beside a plain forward and hand-written hooks.

One thread; both sides interleaved; the shortest of the rounds counts, which is the least disturbed.
"""

import copy
import platform
import time
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from neuros_mechint.activations import Replace, intervene, run

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")
TORCH = f"torch {torch.__version__}, {platform.machine()}"


@pytest.fixture(autouse=True)
def _one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(n_threads)


def gpt2(n_layers: int = 4, width: int = 128) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=n_layers, n_embd=width, n_head=4, vocab_size=1000, n_positions=64,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def tokens(n_time: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 1000, (1, n_time), generator=torch.Generator().manual_seed(seed))


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(256, 256), nn.ReLU())])


CASES = {
    "GPT-2 4x128 T=16": (gpt2, lambda: tokens(16), [f"transformer.h.{k}" for k in range(4)]),
}
for n_rows in (64, 256):
    CASES[f"8 Linear(256)+ReLU, {n_rows} rows"] = (
        chain,
        lambda n_rows=n_rows: torch.randn(n_rows, 256, generator=torch.Generator().manual_seed(0)),
        [str(2 * k + 1) for k in range(8)],
    )
SHORT = "8 Linear(256)+ReLU, 64 rows"


def shortest(*sides: Callable[[], object], rounds: int = 60, repeats: int = 5) -> list[float]:
    """Shortest time of each side, one after the other in every round."""
    best = [float("inf")] * len(sides)
    for side in sides:
        side()
    for _ in range(rounds):
        for k, side in enumerate(sides):
            for _ in range(repeats):
                start = time.perf_counter()
                side()
                best[k] = min(best[k], time.perf_counter() - start)
    return best


def report(
    what: str, peer: str, ratio: float, bar: float, *, at_least: bool = False, missed: str = ""
) -> None:
    """Print one row and hold the bar; `missed` says why a bar is known not to be reached."""
    met = ratio >= bar if at_least else ratio <= bar
    note = "" if met else f", missed: {missed}"
    print(f"BENCH | {what} | {peer} | ratio {ratio:.2f} | bar {bar}{note}")
    # A known miss still fails when it doubles.
    assert met or (missed and (ratio >= bar / 2 if at_least else ratio <= 2 * bar))


@pytest.mark.parametrize("case", CASES)
def test_capturing_all_blocks_costs_what_hooks_by_hand_cost(case: str) -> None:
    build, make_input, names = CASES[case]
    model, x = build(), make_input()
    modules = [model.get_submodule(name) for name in names]

    def ours() -> None:
        with intervene(model, capture=names):
            model(x)

    def by_hand() -> None:
        cache = {}
        handles = [
            module.register_forward_hook(
                lambda _m, _a, out, n=n: cache.__setitem__(n, out.detach())
            )
            for n, module in zip(names, modules, strict=True)
        ]
        model(x)
        for handle in handles:
            handle.remove()

    mine, raw, plain = shortest(ours, by_hand, lambda: model(x))
    what = f"capture of all blocks, {case}"
    by_hand_alone = f"hooks by hand alone cost {raw / plain:.2f}"
    report(what, f"plain forward, {TORCH}", mine / plain, 1.10, missed=by_hand_alone)
    more = f"{(mine - raw) * 1e6:.0f} us more for {len(names)} outputs"
    report(what, f"register_forward_hook, {TORCH}", mine / raw, 1.05, missed=more)


def test_after_the_block_a_forward_costs_what_it_cost() -> None:
    model, x = gpt2(), tokens(16)
    used = copy.deepcopy(model)
    with intervene(used, capture=["transformer.h.0"]):
        used(x)
    after, plain = shortest(lambda: used(x), lambda: model(x))
    assert not any(module._forward_hooks for module in used.modules())
    report("forward after the block", f"plain forward, {TORCH}", after / plain, 1.05)


def test_stopping_at_the_first_of_four_blocks_saves_the_others() -> None:
    model, x = gpt2(), tokens(16)

    def ours() -> None:
        run(model, x, capture=["transformer.h.0"], stop=True)

    mine, plain = shortest(ours, lambda: model(x))
    report("stop at block 1 of 4, GPT-2", f"plain forward, {TORCH}", mine / plain, 0.45)


@pytest.mark.parametrize("case", CASES)
def test_one_replacement_costs_a_forward_and_a_copy(case: str) -> None:
    build, make_input, names = CASES[case]
    model, x = build(), make_input()
    value = run(model, x, capture=[names[1]]).cache[names[1]]

    def ours() -> None:
        run(model, x, edits={names[1]: Replace(value)})

    def peer() -> None:
        model(x)
        value.clone()

    mine, plain = shortest(ours, peer)
    report(f"one Replace, {case}", f"forward and clone, {TORCH}", mine / plain, 1.10)
