"""Time and accuracy of attributions beside captum.

One thread; both sides interleaved; the shortest of the rounds counts, which is the least disturbed.
"""

import importlib.metadata
import time
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from neuros_mechint.attribution import Attribution, LayerConductance
from neuros_mechint.interventions import InformationFlow

captum = pytest.importorskip("captum.attr")
pytestmark = pytest.mark.filterwarnings("ignore")
PEER = f"captum {importlib.metadata.version('captum')}"
# Rows and nodes at once: the whole of every case below.
WHOLE = 4096


@pytest.fixture(autouse=True)
def _one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def chain(width: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [m for _ in range(8) for m in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers).eval()


def gpt2() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=4, n_embd=128, n_head=4, vocab_size=1000, n_positions=64,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def shortest(*sides: Callable[[], object], rounds: int = 15) -> list[float]:
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
    what: str, ratio: float, bar: float, *, at_least: bool, missed: str = "", peer: str = PEER
) -> None:
    """Print one row and hold the bar; `missed` says why a bar is known not to be reached."""
    met = ratio >= bar if at_least else ratio <= bar
    note = "" if met else f", missed: {missed}"
    print(f"BENCH | {what} | {peer} | ratio {ratio:.2f} | bar {bar}{note}")
    # A known miss still fails when it doubles.
    assert met or (missed and (ratio >= bar / 2 if at_least else ratio <= 2 * bar))


MATRICES = "both sides spend their time in the same matrix products"


@pytest.mark.parametrize(
    ("width", "n_rows", "missed"),
    [(64, 1, ""), (64, 16, ""), (256, 1, ""), (256, 4, MATRICES), (256, 16, MATRICES)],
)
def test_integrated_gradients_with_their_gap_are_faster(width, n_rows, missed) -> None:
    net, x = chain(width), torch.randn(n_rows, width, generator=torch.Generator().manual_seed(0))
    ours, theirs = Attribution(net, target=3), captum.IntegratedGradients(net)
    mine, other = shortest(
        lambda: ours.attribute(x, steps=50, batch_size=WHOLE),
        lambda: theirs.attribute(x, target=3, n_steps=50, return_convergence_delta=True),
    )
    what = f"integrated gradients, 50 nodes, 8 Linear({width})+ReLU, {n_rows} rows"
    report(what, other / mine, 1.5, at_least=True, missed=missed)


def test_integrated_gradients_of_an_embedding_are_faster() -> None:
    model = gpt2()
    tokens = torch.randint(0, 1000, (1, 16), generator=torch.Generator().manual_seed(0))
    padding = torch.zeros_like(tokens)

    def logit(out):
        return out.logits[:, -1, 7]

    def forward(x):
        return model(x).logits[:, -1]

    theirs = captum.LayerIntegratedGradients(forward, model.transformer.wte)
    ours = Attribution(model, site="transformer.wte", target=logit)
    mine, other = shortest(
        lambda: ours.attribute(tokens, padding, steps=50),
        lambda: theirs.attribute(
            tokens, padding, target=7, n_steps=50, return_convergence_delta=True
        ),
        rounds=9,
    )
    what = "integrated gradients of the embedding, 50 nodes, GPT-2 4x128 T=16"
    report(what, other / mine, 1.5, at_least=True, missed=MATRICES)


@pytest.mark.parametrize(("width", "n_rows"), [(256, 4), (256, 16)])
def test_the_same_gap_is_reached_faster(width: int, n_rows: int) -> None:
    net = chain(width, nn.Tanh).double()
    x = torch.randn(n_rows, width, generator=torch.Generator().manual_seed(0)).double()
    ours, theirs = Attribution(net, target=3), captum.IntegratedGradients(net)
    tol = 1e-8
    mine, other = shortest(
        lambda: ours.attribute(x, tol=tol, batch_size=WHOLE),
        lambda: theirs.attribute(x, target=3, n_steps=50, return_convergence_delta=True),
    )
    gap = theirs.attribute(x, target=3, n_steps=50, return_convergence_delta=True)[1]
    assert ours.attribute(x, tol=tol).delta.abs().max() <= tol
    assert gap.abs().max() <= tol
    what = f"integrated gradients to a gap of 1e-8, 8 Linear({width})+tanh, {n_rows} rows"
    report(what, other / mine, 1.5, at_least=True, peer=f"{PEER}, 50 nodes")


@pytest.mark.parametrize(("width", "n_rows"), [(64, 4), (256, 1), (256, 4), (256, 16)])
def test_conductance_of_all_layers_costs_little_more_than_of_one(width, n_rows) -> None:
    net, x = chain(width), torch.randn(n_rows, width, generator=torch.Generator().manual_seed(0))
    sites = [str(2 * k + 1) for k in range(8)]
    flow = InformationFlow(net, batch_size=WHOLE)
    layers = [captum.LayerConductance(net, net[int(sites[k])]) for k in (0, 4, 7)]
    mine, *others = shortest(
        lambda: flow.compute(x, None, 3, sites, steps=50),
        *[
            lambda one=one: one.attribute(x, target=3, n_steps=50, return_convergence_delta=True)
            for one in layers
        ],
    )
    shape = f"8 Linear({width})+ReLU, {n_rows} rows"
    for name, other in zip(("first", "middle", "last"), others, strict=True):
        print(f"{shape}: {name} layer {mine / other:.2f}")
    work = "three products per layer and node stand beside captum's one to two"
    what = f"conductance of 8 layers against one in the middle, {shape}"
    report(what, mine / others[1], 1.5, at_least=False, missed=work)


def test_conductance_of_all_layers_to_captums_gap_costs_less_than_one() -> None:
    net = chain(256, nn.Tanh).double()
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(0)).double()
    sites = [str(2 * k + 1) for k in range(8)]
    flow, layer = InformationFlow(net, batch_size=WHOLE), captum.LayerConductance(net, net[9])
    mine, other = shortest(
        lambda: flow.compute(x, None, 3, sites, steps=16),
        lambda: layer.attribute(x, target=3, n_steps=50, return_convergence_delta=True),
    )
    _, gap = layer.attribute(x, target=3, n_steps=50, return_convergence_delta=True)
    with torch.no_grad():
        change = (net(x) - net(torch.zeros_like(x)))[:, 3]
    found = flow.compute(x, None, 3, sites, steps=16)
    worst = max((values.sum(1) - change).abs().max().item() for values in found.values())
    assert worst <= min(1e-6, gap.abs().max().item())
    what = f"conductance of 8 layers, 16 nodes (gap {worst:.0e}), against one in the middle"
    peer = f"{PEER}, 50 nodes (gap {gap.abs().max().item():.0e})"
    report(what, mine / other, 1.5, at_least=False, peer=peer)


def test_fifty_nodes_leave_less_of_a_gap() -> None:
    net = chain(32, nn.Tanh).double()
    x = 3 * torch.randn(8, 32, generator=torch.Generator().manual_seed(0)).double()
    mine = LayerConductance(net, "7", target=3).attribute(x, steps=50).delta.abs().max().item()
    _, gap = captum.LayerConductance(net, net[7]).attribute(
        x, target=3, n_steps=50, return_convergence_delta=True
    )
    theirs = gap.abs().max().item()
    print(f"gap at 50 nodes: ours {mine:.1e}, captum {theirs:.1e}")
    assert mine <= 1e-6 < theirs
    what = f"gap of a layer's conductance, 50 nodes (ours {mine:.0e}, theirs {theirs:.0e})"
    report(what, mine / theirs, 1e-3, at_least=False)
