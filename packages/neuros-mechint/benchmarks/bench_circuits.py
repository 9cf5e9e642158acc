"""Cost of edge scores beside one forward per edge and beside plain gradients, on GPT-2.

One thread; both sides interleaved; the shortest of the rounds counts, which is the least disturbed.
"""

import platform
import time
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from neuros_mechint.circuits import CircuitDiscovery, residual_graph
from neuros_mechint.interventions import logit_difference

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")
TORCH = f"torch {torch.__version__}, {platform.machine()}"
METRIC = logit_difference(3, 5)


@pytest.fixture(autouse=True)
def _one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=4, n_embd=128, n_head=4, vocab_size=1000, n_positions=64,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def tokens(seed: int) -> torch.Tensor:
    return torch.randint(0, 1000, (1, 16), generator=torch.Generator().manual_seed(seed))


def shortest(*sides: Callable[[], object], rounds: int = 9) -> list[float]:
    """Shortest time of each side, one after the other in every round."""
    best = [float("inf")] * len(sides)
    for side in sides:
        side()
    for _ in range(rounds):
        for k, side in enumerate(sides):
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
    # A known miss still fails when it grows by a half.
    assert met or (missed and (ratio >= bar / 1.5 if at_least else ratio <= 1.5 * bar))


def cached(model: nn.Module, inputs: torch.Tensor) -> tuple[object, dict[str, torch.Tensor]]:
    """Output of a run, and what embedding, heads and MLPs wrote in it."""
    seen: dict[str, torch.Tensor] = {}

    def on_output(name: str):
        return lambda _m, _args, out: seen.__setitem__(name, out)

    def on_input(name: str):
        return lambda _m, args: seen.__setitem__(name, args[0])

    handles = [model.transformer.drop.register_forward_hook(on_output("embedding"))]
    for b, block in enumerate(model.transformer.h):
        heads = on_input(f"transformer.h.{b}.attn")
        handles.append(block.attn.c_proj.register_forward_pre_hook(heads))
        handles.append(block.mlp.register_forward_hook(on_output(f"transformer.h.{b}.mlp")))
    output = model(inputs)
    for handle in handles:
        handle.remove()
    return output, seen


def edges(
    model: nn.Module, change: dict[str, torch.Tensor]
) -> list[tuple[str, str, nn.Module, torch.Tensor]]:
    """Every edge with the module that reads it and what patching it adds there."""
    found, written = [], {"embedding": change["embedding"]}

    def read(name: str) -> None:
        module = model.get_submodule(name)
        found.extend((writer, name, module, added) for writer, added in written.items())

    for b, block in enumerate(model.transformer.h):
        name = f"transformer.h.{b}"
        read(f"{name}.ln_1")
        for h in range(4):
            rows = slice(32 * h, 32 * h + 32)
            share = change[f"{name}.attn"][..., rows] @ block.attn.c_proj.weight[rows]
            written[f"{name}.attn:{h}"] = share
        read(f"{name}.ln_2")
        written[f"{name}.mlp"] = change[f"{name}.mlp"]
    read("transformer.ln_f")
    return found


@torch.no_grad()
def one_forward_per_edge(model: nn.Module, clean: torch.Tensor, corrupted: torch.Tensor) -> dict:
    """Edge patching by hand: cache both runs, then one hook and one forward for every edge."""
    output, ours = cached(model, clean)
    _, theirs = cached(model, corrupted)
    base = METRIC(output).mean()
    scores = {}
    for writer, reader, module, added in edges(model, {n: theirs[n] - ours[n] for n in ours}):
        handle = module.register_forward_pre_hook(
            lambda _m, args, added=added: (args[0] + added, *args[1:])
        )
        scores[writer, reader] = float(METRIC(model(clean)).mean() - base)
        handle.remove()
    return scores


def test_exact_scores_cost_a_sixth_of_one_forward_per_edge() -> None:
    model, clean, corrupted = gpt2(), tokens(0), tokens(1)
    search = CircuitDiscovery(model, graph=residual_graph(model), metric=METRIC)

    def ours() -> dict:
        return search.discover(clean, corrupted, method="exact", threshold=0.0).scores

    def by_hand() -> dict:
        return one_forward_per_edge(model, clean, corrupted)

    assert ours() == pytest.approx(by_hand(), abs=1e-5)
    rows = clean.repeat(105, 1)
    with torch.no_grad():
        mine, loop, once = shortest(ours, by_hand, lambda: model(rows))
    what = "exact scores of all 105 edges, GPT-2 4x(4 heads + MLP)"
    most = f"a single forward of 105 rows without edits would give {loop / once:.1f}"
    peer = f"one hook and forward per edge, {TORCH}"
    report(what, peer, loop / mine, 6.0, at_least=True, missed=most)


def test_path_scores_cost_what_their_gradients_cost() -> None:
    model, clean, corrupted = gpt2(), tokens(0), tokens(1)
    search = CircuitDiscovery(model, graph=residual_graph(model), metric=METRIC)

    def ours() -> object:
        return search.discover(clean, corrupted, method="eap_ig", threshold=0.0, steps=8)

    def gradients() -> None:
        for _ in range(8):
            model.zero_grad()
            METRIC(model(clean)).mean().backward()

    mine, plain = shortest(ours, gradients)
    what = "eap_ig of all 105 edges with 8 steps, GPT-2 4x(4 heads + MLP)"
    report(what, f"8 x (forward + backward), {TORCH}", mine / plain, 1.3)
