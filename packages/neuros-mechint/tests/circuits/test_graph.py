import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.activations import Site, run
from neuros_mechint.circuits import (
    CircuitDiscovery,
    CircuitGraph,
    neuron_graph,
    residual_graph,
    site_graph,
)
from neuros_mechint.circuits._contrast import Contrast
from neuros_mechint.circuits._wiring import Readers, Writers
from neuros_mechint.circuits.graph import build_causal_graph


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Attention(nn.Module):
    """Causal attention; `n_kv` heads of keys and values are shared by `n_heads` of queries."""

    def __init__(self, width: int, n_heads: int, n_kv: int | None = None) -> None:
        super().__init__()
        n_kv = n_kv or n_heads
        self.n_heads, self.group = n_heads, n_heads // n_kv
        size = width // n_heads
        self.q, self.k, self.v, self.out = (
            nn.Linear(width, n * size) for n in (n_heads, n_kv, n_kv, n_heads)
        )

    def forward(self, x: Tensor) -> Tensor:
        size = self.q.out_features // self.n_heads
        q, k, v = (m(x).unflatten(-1, (-1, size)).transpose(1, 2) for m in (self.q, self.k, self.v))
        k, v = (t.repeat_interleave(self.group, 1) for t in (k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(-2))


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Block(nn.Module):
    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.attn, self.mlp = Attention(width, 2), mlp(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(0.5)
        if kind == "gated":
            self.gate = nn.Parameter(torch.tensor(0.5))
        if kind == "single":
            del self.norm2

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "post":
            x = self.norm1(x + self.attn(x))
            return self.norm2(x + self.mlp(x))
        if self.kind == "parallel":
            return x + self.attn(self.norm1(x)) + self.mlp(self.norm2(x))
        if self.kind == "single":
            y = self.norm1(x)
            return x + self.attn(y) + self.mlp(y)
        if self.kind == "gated":
            x = x + self.gate * self.attn(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    def __init__(self, kind: str = "sequential", width: int = 8, final: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(Block(width, kind) for _ in range(2))
        self.norm = nn.LayerNorm(width) if final else nn.Identity()
        self.head = nn.Linear(width, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def tokens(n: int = 2) -> Tensor:
    return torch.randint(0, 11, (n, 5), generator=gen())


def test_a_residual_graph_lists_what_every_reader_sums() -> None:
    graph = residual_graph(Transformer().eval())
    a0, a1 = (tuple(f"blocks.{b}.attn:{h}" for h in range(2)) for b in range(2))
    sums = {
        "blocks.0.norm1": ("embedding",),
        "blocks.0.norm2": ("embedding", *a0),
        "blocks.1.norm1": ("embedding", *a0, "blocks.0.mlp"),
        "blocks.1.norm2": ("embedding", *a0, "blocks.0.mlp", *a1),
        "norm": ("embedding", *a0, "blocks.0.mlp", *a1, "blocks.1.mlp"),
    }
    assert graph.edges == tuple((u, v) for v, us in sums.items() for u in us)
    assert graph.inputs == {"embedding"}
    assert graph.outputs == {"norm"}
    assert {u for v, u in graph.inside if v == "blocks.1.norm1"} == {*a1}
    assert [graph.layer(v) for v in sums] == [1, 3, 5, 7, 9]
    assert repr(graph) == "CircuitGraph(12 nodes, 21 edges)"


@pytest.mark.parametrize("heads", [True, False])
@pytest.mark.parametrize("kind", ["sequential", "single"])
def test_contributions_add_up_where_the_structure_is_as_assumed(kind: str, heads: bool) -> None:
    graph = residual_graph(Transformer(kind).eval(), heads=heads)
    # Refuses sums that miss a reader's input.
    graph.verify(tokens())
    assert graph.edges


@pytest.mark.parametrize(
    ("kind", "reader"),
    [("parallel", "blocks.0.norm2"), ("post", "blocks.0.norm1"), ("gated", "blocks.0.norm2")],
)
def test_other_structures_are_refused_by_the_name_of_the_reader(kind: str, reader: str) -> None:
    graph = residual_graph(Transformer(kind).eval())
    with pytest.raises(ValueError, match=rf"contributions to '{reader}:in' do not add up"):
        graph.verify(tokens())


def test_dropout_in_train_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        residual_graph(Transformer()).verify(tokens())


def test_without_a_final_norm_the_unembedding_is_the_end() -> None:
    graph = residual_graph(Transformer(final=False).eval())
    assert graph.outputs == {"head"}
    graph.verify(tokens())


def test_attention_without_a_norm_is_read_head_by_head() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.mlp = Attention(8, 4, n_kv=2), mlp(8)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.attn(x)
            return x + self.mlp(x)

    torch.manual_seed(0)
    model = nn.Sequential(Bare(), Bare())
    graph = residual_graph(model)
    x = torch.randn(2, 3, 8, generator=gen())
    graph.verify(x)
    reads = {v for v, u in graph.inside if u == "0.attn:3"}
    assert reads == {"0.attn.q:3", "0.attn.k:1", "0.attn.v:1"}
    assert {v for v, u in graph.inside if u == "1.mlp"} == {"1.mlp:in"}
    assert graph.outputs == {"1"}
    whole = residual_graph(model, heads=False)
    whole.verify(x)
    assert ("0.attn", "1.attn:in") in whole.edges


def test_one_map_of_queries_keys_and_values_is_read_as_a_whole() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n_heads = 2
            self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 2)).unbind(-3)
            return self.out((q * k + v).flatten(-2))

    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Fused()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.attn(x)

    model = nn.Sequential(Bare(), Bare())
    graph = residual_graph(model)
    graph.verify(torch.randn(2, 4, generator=gen()))
    assert ("0.attn:1", "1.attn:in") in graph.edges


def test_ablating_all_edges_gives_the_corrupted_run() -> None:
    model = Transformer().double().eval()
    clean = tokens()
    corrupted = (clean + 3) % 11

    def metric(logits: Tensor) -> Tensor:
        return logits[:, -1, 3]

    search = CircuitDiscovery(model, metric=metric)
    circuit = search.discover(clean, corrupted, method="eap", n_edges=3)
    values = torch.stack([metric(model(x)).mean() for x in (clean, corrupted)])
    for edges, share in ((circuit.graph.edges, 1.0), ((), 0.0)):
        chosen = circuit.with_edges(edges)
        assert chosen.faithfulness(clean, corrupted) == pytest.approx(share, abs=1e-12)
    contrast = Contrast(
        *(circuit.graph, clean, corrupted), metric=metric, ablation="resample", batch_size=8
    )
    ablated = contrast.measure([(), circuit.graph.edges])
    assert ablated == pytest.approx(values.tolist(), abs=1e-12)


def test_exact_scores_are_those_of_one_patch_per_edge_by_hand() -> None:
    model = Transformer().double().eval()
    clean = tokens()
    corrupted = (clean + 3) % 11
    search = CircuitDiscovery(model, metric=lambda logits: logits[:, -1, 3])
    scores = search.discover(clean, corrupted, method="exact", n_edges=3).scores
    places = {"embedding": "blocks.0:in", "blocks.0.mlp": "blocks.0.mlp"}
    places |= {f"blocks.{b}.attn": f"blocks.{b}.attn.out:in" for b in range(2)}
    runs = [run(model, x, capture=places.values()).cache for x in (clean, corrupted)]
    base = model(clean)[:, -1, 3].mean()
    for (u, v), score in scores.items():
        if u == "blocks.1.mlp":
            continue
        name, _, head = u.partition(":")
        change = runs[1][places[name]] - runs[0][places[name]]
        if head:
            rows = slice(4 * int(head), 4 * int(head) + 4)
            out = model.get_submodule(name).out.weight
            change = change[..., rows] @ out[:, rows].mT
        patched = run(model, clean, edits={f"{v}:in": lambda x, c=change: x + c}).output
        by_hand = (patched[:, -1, 3].mean() - base).item()
        assert score == pytest.approx(by_hand, abs=1e-12)


def test_half_precision_adds_up_to_its_own_rounding() -> None:
    residual_graph(Transformer().bfloat16().eval()).verify(tokens())
    neuron_graph(Chain("plain").bfloat16()).verify(torch.randn(3, 4, generator=gen()).bfloat16())
    with pytest.raises(ValueError, match="do not add up"):
        residual_graph(Transformer("gated").bfloat16().eval()).verify(tokens())


def test_structures_that_cannot_be_told_are_refused() -> None:
    with pytest.raises(ValueError, match="no repeated blocks"):
        residual_graph(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no attention, mixer or MLP"):
        residual_graph(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    model = Transformer()
    for block in model.blocks:
        block.norm3 = nn.LayerNorm(8)
    with pytest.raises(ValueError, match=r"norm3'\] and the parts .* cannot be paired"):
        residual_graph(model)
    model = Transformer()
    for block in model.blocks:
        del block.attn.n_heads
    with pytest.raises(ValueError, match="number of heads of Transformer is not known"):
        residual_graph(model)


def test_a_neuron_graph_has_one_edge_per_weight() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    graph = neuron_graph(model)
    assert len(graph.edges) == 3 * 2 + 2 * 2 + 2
    assert ("0:1", "2:0") in graph.edges
    assert graph.inputs == {"input:0", "input:1", "input:2"}
    assert graph.outputs == {"4:0"}
    assert not graph.inside
    graph.verify(torch.randn(4, 3, generator=gen()))
    graph.verify(torch.randn(4, 5, 3, generator=gen()))


class Chain(nn.Module):
    """Two hidden layers with something between them that a chain has not."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.a(x))
        if self.kind == "input skip":
            y = y + x
        if self.kind == "norm":
            y = nn.functional.layer_norm(y, (4,))
        z = torch.tanh(self.b(y))
        if self.kind == "skip":
            z = z + y
        return self.c(z)


def test_calls_in_the_forward_serve_as_activations() -> None:
    graph = neuron_graph(Chain("plain"))
    graph.verify(torch.randn(3, 4, generator=gen()))
    assert graph.edges


@pytest.mark.parametrize("kind", ["input skip", "norm", "skip"])
def test_units_that_depend_on_more_than_their_sum_are_refused(kind: str) -> None:
    graph = neuron_graph(Chain(kind))
    with pytest.raises(ValueError, match="are not functions of their own sums at"):
        graph.verify(torch.randn(3, 4, generator=gen()))


def test_what_is_no_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="no linear module in ReLU"):
        neuron_graph(nn.ReLU())
    with pytest.raises(ValueError, match="'1' reads 3 units, '0' before it has 2"):
        neuron_graph(nn.Sequential(nn.Linear(1, 2), nn.Linear(3, 1)))
    shared = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="was reached 2 times"):
        neuron_graph(nn.Sequential(shared, nn.Tanh(), shared)).verify(torch.ones(1, 2))


def test_a_site_graph_takes_maps_and_sites() -> None:
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 3, bias=False), nn.Identity())
    maps = {Site("0"): model[1].weight.detach()}
    graph = site_graph({Site("0"): []}, {"2:in": maps})
    with pytest.raises(ValueError, match="this graph has no model yet"):
        graph.verify(torch.ones(1, 2))
    graph.bind(model).verify(torch.ones(1, 2))
    assert graph.place(("0", "2:in")) == (0, 0, 0, 0)


def test_site_graphs_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="reader 'b:in' sums 'c', which is not among the writers"):
        site_graph({"a": []}, {"b:in": ["c"]})
    with pytest.raises(ValueError, match="a writer reads 'c:in', which is not among the readers"):
        site_graph({"a": ["c:in"]}, {"b:in": ["a"]})
    with pytest.raises(ValueError, match="the edges close a cycle: "):
        site_graph({"a": ["a:in"]}, {"a:in": ["a"]})
    with pytest.raises(ValueError, match="node 'a' is given more than once"):
        site_graph({"a": [], Site("a"): []}, {})
    net = nn.Sequential(nn.Identity(), nn.Linear(2, 3))
    wide = site_graph({"0": []}, {"1": ["0"]}, model=net)
    with pytest.raises(
        ValueError, match=r"has shape \(1, 2\), which does not fit its input \(1, 3\)"
    ):
        wide.verify(torch.ones(1, 2))


def test_unknown_edges_and_nodes_are_refused() -> None:
    graph = neuron_graph(nn.Sequential(nn.Linear(2, 1)))
    for edge in (("0:0", "input:0"), ("input:0", "1:0")):
        with pytest.raises(ValueError, match=f"the graph has no edge {edge[0]} -> {edge[1]}"):
            graph.masks([edge])
    two = neuron_graph(nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1)))
    with pytest.raises(ValueError, match="the graph has no edge input:0 -> 1:0"):
        two.place(("input:0", "1:0"))
    with pytest.raises(KeyError, match="no node 'x' in this graph"):
        graph.layer("x")


def test_edges_off_every_path_are_pruned() -> None:
    graph = neuron_graph(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)))
    path = {("input:0", "0:0"), ("0:0", "2:0")}
    assert graph.pruned(path | {("input:1", "0:1")}) == path
    assert graph.pruned(path | {("0:1", "2:0")}) == path
    assert graph.pruned([("input:0", "0:0")]) == frozenset()


def test_a_circuit_becomes_a_causal_graph() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    circuit = CircuitDiscovery(net).discover(
        torch.ones(1, 1), torch.zeros(1, 1), method="exact", n_edges=2
    )
    assert dict(build_causal_graph(circuit).edges) == dict(circuit.scores)


def test_groups_of_nodes_may_share_a_sum_without_a_map() -> None:
    # Two halves of one value, read as a whole and half by half; no builder makes such a graph.
    net = nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(4, 1, bias=False)).double()
    writers = [
        Writers(Site("0"), ("a", "b"), ((), ())),
        Writers(Site("1"), ("c", "d"), (("left",), ("right",))),
    ]
    readers = [
        Readers(Site("1", io="input"), ("left", "right"), {0: None}),
        Readers(Site("2", io="input"), ("end",), {1: None}),
    ]
    clean, corrupted = torch.randn(2, 3, 4, generator=gen(), dtype=torch.float64)
    change = ((corrupted - clean) * net[2].weight).mean(0).detach()
    left, right = change[:2].sum().item(), change[2:].sum().item()
    expected = {("a", "left"): left, ("b", "right"): right, ("c", "end"): left, ("d", "end"): right}
    search = CircuitDiscovery(net, graph=CircuitGraph(writers, readers))
    for method in ("exact", "eap", "eap_ig", "hybrid", "acdc"):
        found = search.discover(clean, corrupted, method=method, threshold=1e-9)
        assert found.edges == expected.keys()
        # Once an edge is dropped, acdc scores the next one beside it; here none is.
        assert {e: found.scores[e] for e in expected} == pytest.approx(expected, abs=1e-12)
    half = found.with_edges([("a", "left"), ("c", "end")])
    assert half.faithfulness(clean, corrupted) == pytest.approx(left / (left + right), abs=1e-12)
