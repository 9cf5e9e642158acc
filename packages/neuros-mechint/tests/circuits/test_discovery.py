"""Circuits that are known: planted, hand-built, linear, redundant, gated."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.circuits import (
    CircuitDiscovery,
    neuron_graph,
    site_graph,
)
from neuros_mechint.circuits._hashes import row_hashes

METHODS = ["exact", "acdc", "eap", "eap_ig", "hybrid"]
SEEDS = range(20)
THRESHOLD = 1e-6


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def first_value(output: Tensor) -> Tensor:
    return output[:, 0]


class Counted(nn.Module):
    """A chain that counts its forwards."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.forwards: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.forwards.append(len(x))
        return self.layers(x)


WIDTHS = [6, 8, 8, 8, 1]
STEADY = 5  # the input that is equal in both runs


def planted_paths(rng: np.random.Generator) -> set[tuple[int, int, int]]:
    """5 to 9 edges (layer, from, to) on paths from inputs to the output; units below 4 only."""
    while True:
        paths = [
            [int(rng.integers(STEADY)), *rng.integers(4, size=3).tolist(), 0]
            for _ in range(rng.integers(2, 4))
        ]
        edges = {(k, p[k], p[k + 1]) for p in paths for k in range(4)}
        if 5 <= len(edges) <= 9:
            return edges


def planted(seed: int, rest: float = 0.0) -> tuple[Counted, set[tuple[str, str]], Tensor, Tensor]:
    """Network, its edges that matter, and two inputs; all other weights are `rest`."""
    rng = np.random.default_rng(seed)
    edges = planted_paths(rng)
    decoys = set()
    for k in range(3):
        # Unit 7 leads nowhere; units 4 to 6 hang on the steady input alone.
        decoys |= {(k, u, 7) for u in rng.permutation(4)[:2].tolist()}
        steady = [STEADY] if k == 0 else [4, 5, 6]
        decoys |= {(k, u, v) for u in steady for v in (4, 5, 6)}
        decoys |= {(k, u, int(rng.integers(4))) for u in steady}
    decoys.add((3, 4, 0))
    layers: list[nn.Module] = []
    for sizes in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(*sizes), nn.Tanh()]
    model = Counted(*layers[:-1]).double()
    for k in range(4):
        layer = model.layers[2 * k]
        weight = torch.full_like(layer.weight, rest)
        for level, u, v in sorted(edges | decoys):
            if level == k:
                weight[v, u] = rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.2)
        layer.weight.data.copy_(weight)
        layer.bias.data.copy_(0.2 * torch.randn(layer.bias.shape, generator=gen(seed)))
    clean = torch.randn(3, 6, generator=gen(seed), dtype=torch.float64)
    corrupted = clean + 0.5 + torch.rand(3, 6, generator=gen(seed + 1), dtype=torch.float64)
    corrupted[:, STEADY] = clean[:, STEADY]
    names = {
        (f"layers.{2 * k - 2}:{u}" if k else f"input:{u}", f"layers.{2 * k}:{v}")
        for k, u, v in edges
    }
    return model, names, clean, corrupted


@pytest.mark.slow  # 20 searches under the shape checks of every inner function
@pytest.mark.parametrize("method", METHODS)
def test_a_planted_circuit_is_found_exactly(method: str) -> None:
    for seed in SEEDS:
        model, edges, clean, corrupted = planted(seed)
        search = CircuitDiscovery(model, graph=neuron_graph(model))
        found = search.discover(clean, corrupted, method=method, threshold=THRESHOLD, steps=4)
        assert found.edges == edges, seed


@pytest.mark.slow  # some fifty forwards for each search by acdc
def test_hybrid_finds_what_acdc_finds_with_a_fifth_of_the_forwards() -> None:
    forwards = {"acdc": 0, "hybrid": 0}
    for seed in range(4):
        # With weights of 1e-12 every edge carries something, and has to be tried.
        model, edges, clean, corrupted = planted(seed, rest=1e-12)
        search = CircuitDiscovery(model)
        search.discover(clean, corrupted, method="eap", threshold=1.0)  # checks the units
        for method in forwards:
            model.forwards.clear()
            found = search.discover(clean, corrupted, method=method, threshold=THRESHOLD)
            forwards[method] += len(model.forwards)
            assert found.edges == edges, seed
            assert max(model.forwards) <= search.batch_size
    assert forwards["acdc"] >= 5 * forwards["hybrid"], forwards


def test_eap_takes_two_forwards_once_the_units_are_checked() -> None:
    model, _, clean, corrupted = planted(0)
    search = CircuitDiscovery(model)
    search.discover(clean, corrupted, method="eap", threshold=THRESHOLD)
    model.forwards.clear()
    search.discover(clean, corrupted, method="eap", threshold=THRESHOLD)
    assert len(model.forwards) == 2


class Attention(nn.Module):
    """Causal heads with separate maps; `mask` says what each head writes back."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v, self.out = (
            nn.Linear(width, width * n_heads, bias=False, dtype=torch.float64) for _ in range(4)
        )
        self.out = nn.Linear(width * n_heads, width, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            m(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v)
        )
        n_time = x.shape[1]
        future = torch.ones(n_time, n_time, dtype=torch.bool).triu(1)
        scores = (q @ k.mT).masked_fill(future, -torch.inf)
        heads = scores.softmax(-1) @ v
        return self.out(heads.transpose(1, 2).flatten(-2))


class AttentionBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = Attention(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x)


N_TOKENS, N_TIME = 6, 8
# Blocks of the stream: token, position, previous token, answer, and one that nothing reads.
TOKEN, POSITION, PREVIOUS, ANSWER, JUNK = torch.arange(36).split([6, 8, 6, 6, 10])


class Induction(nn.Module):
    """Head 0 of layer 0 writes the previous token; head 0 of layer 1 looks it up and copies on."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        width = 36
        self.tokens = nn.Embedding(N_TOKENS, width, dtype=torch.float64)
        self.positions = nn.Parameter(torch.zeros(N_TIME, width, dtype=torch.float64))
        self.blocks = nn.ModuleList(AttentionBlock(width) for _ in range(2))
        self.unembed = nn.Linear(width, N_TOKENS, bias=False, dtype=torch.float64)
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad=False).zero_()
        # The blocks of the stream are scattered; signs keep products of weights exact.
        signs = torch.randint(2, (width, 1), generator=gen(seed)) * 2.0 - 1
        self.basis = signs * torch.eye(width)[torch.randperm(width, generator=gen(seed))]
        self.basis = self.basis.double()
        self.tokens.weight.copy_(self.basis[TOKEN])
        self.positions.copy_(self.basis[POSITION])
        self.unembed.weight.copy_(self.basis[ANSWER])
        back = torch.diag(torch.ones(N_TIME - 1, dtype=torch.float64), -1)
        here = torch.eye(N_TIME, dtype=torch.float64)
        same = torch.eye(N_TOKENS, dtype=torch.float64)
        self.set_head(0, 0, POSITION, back, POSITION, TOKEN, PREVIOUS)
        self.set_head(0, 1, POSITION, here, POSITION, TOKEN, JUNK[:6])
        self.set_head(1, 0, TOKEN, same, PREVIOUS, TOKEN, ANSWER)
        self.set_head(1, 1, POSITION, back, POSITION, TOKEN, JUNK[:6])

    def set_head(self, layer, head, query, match, key, value, written) -> None:
        attn, width = self.blocks[layer].attn, 36
        rows = slice(head * width, (head + 1) * width)
        n = len(match)
        sharpness = 5.0
        attn.q.weight[rows][:n] = sharpness * match.mT @ self.basis[query]
        attn.k.weight[rows][:n] = self.basis[key]
        attn.v.weight[rows][: len(value)] = self.basis[value]
        attn.out.weight[:, rows][:, : len(value)] = self.basis[written].mT

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.unembed(x)


@pytest.mark.slow  # as above
@pytest.mark.parametrize("method", METHODS)
def test_the_induction_circuit_is_found_and_no_other_head(method: str) -> None:
    for seed in SEEDS:
        model = Induction(seed)
        order = torch.randperm(N_TOKENS, generator=gen(seed))
        a, b, other, *rest = order.tolist()
        # ... A B ... A -> B; without the first A there is nothing to look up.
        clean = torch.tensor([[rest[0], a, b, rest[1], rest[2], rest[0], rest[1], a]])
        corrupted = clean.clone()
        corrupted[0, 1] = other
        search = CircuitDiscovery(model, metric=lambda logits, b=b: logits[:, -1, b])
        found = search.discover(clean, corrupted, method=method, threshold=1e-3, steps=4)
        assert found.edges == {
            ("embedding", "blocks.0.attn.v:0"),
            ("blocks.0.attn:0", "blocks.1.attn.k:0"),
            ("blocks.1.attn:0", "unembed"),
        }, seed
        heads = {node for node in found.nodes if ".attn:" in node}
        assert heads == {"blocks.0.attn:0", "blocks.1.attn:0"}


class Dag(nn.Module):
    """Linear structural equations: node k is the sum of its parents, or an input."""

    def __init__(self, seed: int, n: int = 7) -> None:
        super().__init__()
        draw = torch.randn(n, n, generator=gen(seed), dtype=torch.float64)
        present = torch.rand(n, n, generator=gen(seed + 1)) < 0.5
        self.weights = (draw * present).triu(1)
        self.nodes = nn.ModuleList(nn.Identity() for _ in range(n))

    def graph(self):
        columns = [column.nonzero()[:, 0].tolist() for column in self.weights.T]
        return site_graph(
            {f"nodes.{k}": [f"nodes.{k}:in"] if column else [] for k, column in enumerate(columns)},
            {
                f"nodes.{k}:in": {f"nodes.{j}": self.weights[j, k].reshape(1, 1) for j in column}
                for k, column in enumerate(columns)
                if column
            }
            | {":out": {f"nodes.{len(columns) - 1}": None}},
        )

    def forward(self, x: Tensor) -> Tensor:
        values: list[Tensor] = []
        for k, node in enumerate(self.nodes):
            parents = self.weights[:, k].nonzero()[:, 0].tolist()
            terms = [self.weights[j, k] * values[j] for j in parents]
            values.append(node(sum(terms) if terms else x[:, k : k + 1]))
        return values[-1]


@pytest.mark.slow  # as above
@pytest.mark.parametrize("method", METHODS)
def test_edges_of_a_linear_graph_have_their_total_effects(method: str) -> None:
    for seed in SEEDS:
        model = Dag(seed)
        n = len(model.nodes)
        clean, corrupted = torch.randn(2, 4, n, generator=gen(seed), dtype=torch.float64)
        total = torch.linalg.inv(torch.eye(n, dtype=torch.float64) - model.weights)
        source = (model.weights == 0).all(0)
        change = ((corrupted - clean) * source) @ total
        weight = model.weights * change.mean(0)[:, None] * total[:, -1]
        effects = {
            (f"nodes.{j}", f"nodes.{k}:in"): weight[j, k].item()
            for j, k in model.weights.nonzero().tolist()
        }
        search = CircuitDiscovery(model, graph=model.graph())
        found = search.discover(clean, corrupted, method=method, threshold=THRESHOLD, steps=2)
        expected = {edge for edge, effect in effects.items() if abs(effect) > THRESHOLD}
        assert found.edges - {(f"nodes.{n - 1}", ":out")} == expected
        if method != "acdc":
            for edge, effect in effects.items():
                assert found.scores[edge] == pytest.approx(effect, abs=1e-8)


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers).double().eval()


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    layer.weight.data = torch.tensor(weight)
    if bias is not None:
        layer.bias.data = torch.tensor(bias)
    return layer


@pytest.mark.parametrize("method", ["eap", "eap_ig"])
def test_first_order_scores_are_exact_on_linear_models(method: str) -> None:
    for seed in range(4):
        torch.manual_seed(seed)
        model = chain(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 1))
        clean, corrupted = torch.randn(2, 5, 2, generator=gen(seed), dtype=torch.float64)
        search = CircuitDiscovery(model)
        exact = search.discover(clean, corrupted, method="exact", n_edges=3).scores
        first = search.discover(clean, corrupted, method=method, n_edges=3, steps=2).scores
        assert exact.keys() == first.keys() == {*search.graph.edges}
        assert max(abs(exact[edge] - first[edge]) for edge in exact) < 1e-8


@pytest.mark.parametrize("batch_size", [64, 20, 1])
def test_path_scores_of_the_first_layer_add_up_to_the_whole_effect(batch_size: int) -> None:
    # Fundamental theorem of calculus along the path of the inputs, through every first-layer sum.
    torch.manual_seed(3)
    model = chain(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    clean, corrupted = torch.randn(2, 4, 3, generator=gen(3), dtype=torch.float64)
    search = CircuitDiscovery(model, batch_size=batch_size)
    scores = search.discover(clean, corrupted, method="eap_ig", n_edges=1, steps=24).scores
    first = sum(score for (u, _), score in scores.items() if u.startswith("input:"))
    assert first == pytest.approx((model(corrupted) - model(clean)).mean().item(), abs=1e-9)


def test_a_metric_that_ignores_the_graph_has_scores_of_zero() -> None:
    model, _, clean, corrupted = planted(0)
    search = CircuitDiscovery(model, metric=lambda y: torch.ones(len(y)))
    for method in METHODS:
        found = search.discover(clean, corrupted, method=method)
        assert not found.edges
        assert set(found.scores.values()) == {0.0}


def test_gradients_work_without_grad_mode_and_not_in_inference_mode() -> None:
    model, edges, clean, corrupted = planted(0)
    search = CircuitDiscovery(model)
    with torch.no_grad():
        for method in METHODS:
            found = search.discover(clean, corrupted, method=method, threshold=THRESHOLD)
            assert found.edges == edges
    with torch.inference_mode(), pytest.raises(ValueError, match=r"leave torch\.inference_mode"):
        search.discover(clean, corrupted, method="eap")


def or_pair() -> nn.Sequential:
    """min(a + b, 1) of two hidden units that copy the two inputs."""
    return chain(
        linear([[1.0, 0.0], [0.0, 1.0]]),
        nn.ReLU(),
        linear([[1.0, 1.0]]),
        nn.Hardtanh(),
        linear([[3.0]]),
    )


BACKUPS = {("0:0", "2:0"), ("0:1", "2:0")}


@pytest.mark.parametrize("method", ["exact", "eap"])
def test_edges_that_back_each_other_up_are_individually_null(method: str) -> None:
    clean, corrupted = (
        torch.ones(2, 1, 2, dtype=torch.float64) * torch.tensor([1.0, 0.0])[:, None, None]
    )
    search = CircuitDiscovery(or_pair())
    found = search.discover(clean, corrupted, method=method, threshold=THRESHOLD)
    assert not found.edges
    assert [found.scores[edge] for edge in sorted(BACKUPS)] == [0.0, 0.0]


def test_acdc_and_the_minimal_circuit_keep_one_of_two_backups() -> None:
    clean, corrupted = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    model = or_pair()
    found = CircuitDiscovery(model).discover(clean, corrupted, threshold=THRESHOLD)
    assert len(found.edges & BACKUPS) == 1
    kept = CircuitDiscovery(model, ablation="zero").discover_minimal_circuit(
        clean, model(clean).detach(), ["1"]
    )
    assert len(kept["1"]) == 1


def test_an_edge_without_slope_at_the_clean_point_needs_the_path() -> None:
    # |a - b| is 0 at a = b with slope 0 (of ReLU at 0), and 1 when a alone goes to 0.
    model = chain(linear([[1.0, -1.0], [-1.0, 1.0]]), nn.ReLU(), linear([[1.0, 1.0]]))
    clean = torch.ones(1, 2, dtype=torch.float64)
    corrupted = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    planted_edges = {("input:0", "0:1"), ("0:1", "2:0")}
    search = CircuitDiscovery(model)
    for method in METHODS:
        found = search.discover(clean, corrupted, method=method, threshold=THRESHOLD)
        assert found.edges == (set() if method == "eap" else planted_edges), method
    averaged = search.discover(clean, corrupted, method="eap_ig", threshold=THRESHOLD)
    assert averaged.scores["input:0", "0:1"] == pytest.approx(1.0, abs=1e-12)


def test_activation_patching_gives_the_recovery_of_the_metric() -> None:
    model = chain(nn.Identity(), linear([[1.0, 3.0]]))
    clean, corrupted = torch.ones(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    search = CircuitDiscovery(model)
    assert search.activation_patching(clean, corrupted, "0") == 1.0
    assert search.activation_patching(clean, corrupted, "0", [0]) == 0.25
    assert search.activation_patching(clean, corrupted, "1") == 1.0


def test_the_number_of_edges_can_be_asked_for() -> None:
    model = chain(linear([[4.0, -3.0, 2.0, 1.0]]))
    clean, corrupted = torch.ones(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    for method in ("exact", "eap", "eap_ig", "hybrid"):
        found = CircuitDiscovery(model).discover(clean, corrupted, method=method, n_edges=2)
        assert found.edges == {("input:0", "0:0"), ("input:1", "0:0")}


def test_hybrid_stops_where_the_rest_of_the_ranking_cannot_matter() -> None:
    model = Counted(nn.Linear(40, 1, bias=False)).double()
    model.layers[0].weight.data = 0.5 ** torch.arange(40, dtype=torch.float64)[None]
    clean, corrupted = (
        torch.ones(1, 40, dtype=torch.float64),
        torch.zeros(1, 40, dtype=torch.float64),
    )
    search = CircuitDiscovery(model, batch_size=5)
    model.forwards.clear()
    few = search.discover(clean, corrupted, method="hybrid", threshold=0.3, steps=1)
    used = len(model.forwards)
    assert few.edges == {(f"input:{k}", "layers.0:0") for k in range(2)}
    model.forwards.clear()
    search.discover(clean, corrupted, method="hybrid", threshold=0.0, steps=1)
    assert len(model.forwards) > used


def test_without_a_threshold_edges_above_one_percent_are_kept() -> None:
    model = chain(linear([[10.0, 1.0, 0.09]]))
    clean, corrupted = torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
    found = CircuitDiscovery(model).discover(clean, corrupted)
    assert found.edges == {("input:0", "0:0"), ("input:1", "0:0")}


def test_scores_are_means_over_rows_for_metrics_of_either_kind() -> None:
    model = chain(linear([[2.0, 1.0]]), nn.Tanh(), linear([[1.0]]))
    clean, corrupted = torch.randn(2, 6, 2, generator=gen(), dtype=torch.float64)
    for method in ("exact", "eap", "eap_ig"):
        scores = [
            CircuitDiscovery(model, metric=metric, batch_size=size)
            .discover(clean, corrupted, method=method, n_edges=1)
            .scores
            for metric, size in ((first_value, 64), (lambda y: y.mean(), 64), (first_value, 1))
        ]
        for other in scores[1:]:
            assert other == pytest.approx(scores[0], abs=1e-12)


def test_zero_ablation_needs_no_corrupted_inputs() -> None:
    model = chain(linear([[2.0, 1.0]]))
    clean = torch.ones(1, 2, dtype=torch.float64)
    found = CircuitDiscovery(model, ablation="zero").discover(clean, None, threshold=0.5)
    assert found.scores == {("input:0", "0:0"): -2.0, ("input:1", "0:0"): -1.0}
    assert found.discovery_hashes == row_hashes(clean)
    with pytest.raises(ValueError, match="ablation 'resample' needs corrupted inputs, got None"):
        CircuitDiscovery(model).discover(clean, None)


def test_the_rows_of_both_runs_are_remembered() -> None:
    model = chain(linear([[2.0, 1.0]]))
    clean, corrupted = torch.randn(2, 3, 2, generator=gen(), dtype=torch.float64)
    found = CircuitDiscovery(model).discover(clean, corrupted)
    assert found.discovery_hashes == row_hashes(torch.cat([clean, corrupted]))


def test_the_graph_is_chosen_by_the_structure_of_the_model() -> None:
    assert "input:0" in CircuitDiscovery(chain(linear([[1.0]]))).graph.nodes
    assert "embedding" in CircuitDiscovery(Induction(0)).graph.nodes
    with pytest.raises(ValueError, match=r"no graph fits ReLU by itself\. As a residual model: "):
        _ = CircuitDiscovery(nn.ReLU()).graph


def test_a_graph_that_does_not_add_up_gives_no_scores() -> None:
    model = chain(nn.Identity(), nn.Tanh(), nn.Identity())
    x = torch.ones(1, 1, dtype=torch.float64)
    search = CircuitDiscovery(model, graph=site_graph({"0": []}, {"2:in": ["0"]}))
    for method in METHODS:
        with pytest.raises(ValueError, match="contributions to '2:in' do not"):
            search.discover(x, 0 * x, method=method)


def test_the_model_is_left_as_it_was() -> None:
    model, _, clean, corrupted = planted(0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for method in METHODS:
        CircuitDiscovery(model).discover(clean, corrupted, method=method)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_choices_that_contradict_each_other_are_refused() -> None:
    model = chain(linear([[2.0, 1.0]]))
    x = torch.ones(1, 2, dtype=torch.float64)
    search = CircuitDiscovery(model)
    assert repr(search) == "CircuitDiscovery(Sequential, ablation='resample')"
    for options, message in (
        ({"method": "magic"}, "method needs one of .*, got 'magic'"),
        ({"threshold": 1.0, "n_edges": 1}, "threshold and n_edges are two ways"),
        ({"threshold": -1.0}, "threshold needs a number of at least 0, got -1"),
        ({"n_edges": 0, "method": "eap"}, "n_edges needs at least 1 edge, got 0"),
        ({"n_edges": 1}, "acdc keeps edges by a threshold"),
        ({"steps": 0, "method": "eap_ig"}, "steps needs at least 1 node, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            search.discover(x, 0 * x, **options)
    with pytest.raises(ValueError, match="clean and corrupted differ in shape at '0:in'"):
        search.discover(x, x.repeat(2, 1))
    with pytest.raises(ValueError, match="does not return one number per row, so a metric is"):
        CircuitDiscovery(chain(linear([[1.0, 1.0], [1.0, 1.0]]))).discover(x, 0 * x)
    with pytest.raises(TypeError, match="metric needs to return a tensor, got float"):
        CircuitDiscovery(model, metric=lambda y: 1.0).discover(x, 0 * x)
    with pytest.raises(ValueError, match=r"ablation needs one of .*, got 'noise'"):
        CircuitDiscovery(model, ablation="noise")
    with pytest.raises(ValueError, match="batch_size needs at least 1 row, got 0"):
        CircuitDiscovery(model, batch_size=0)
