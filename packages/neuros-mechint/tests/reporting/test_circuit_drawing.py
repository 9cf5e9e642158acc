"""Circuits and scores of coders in a report."""

import math
import re
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from neuros_mechint.reporting import Report
from neuros_mechint.reporting._circuit_drawing import draw_circuit

Edge = tuple[str, str]

DIAMOND = {("in", "a"): 3.0, ("in", "b"): -1.5, ("a", "out"): 0.3, ("b", "out"): 0.0}


def circuit(scores: dict[Edge, float], nodes: frozenset[str] = frozenset()) -> Any:
    return SimpleNamespace(edges=frozenset(scores), nodes=nodes, scores=scores)


def report() -> Report:
    return Report("A title", provenance={"seed": 3})


def boxes(svg: str) -> dict[str, tuple[float, ...]]:
    """Left, top, width and height of every node, by its full name."""
    node = (
        r"<g><title>(.*?)</title>"
        r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"'
    )
    return {name: tuple(map(float, sides)) for name, *sides in re.findall(node, svg)}


class Line(NamedTuple):
    """One drawn edge."""

    path: str
    width: float
    dashed: bool


def lines(svg: str) -> dict[str, Line]:
    """Every edge by its title, in the order of drawing."""
    edge = r'<path d="(.*?)".*?style="(.*?)"><title>(.*?)</title></path>'
    return {
        title: Line(path, float(style.split("stroke-width:")[1].split(";")[0]), "dash" in style)
        for path, style, title in re.findall(edge, svg)
    }


def test_every_edge_leads_to_the_right() -> None:
    chain = {("in", "a"): 1.0, ("a", "b"): 1.0, ("b", "out"): 1.0, ("in", "out"): 1.0}
    for scores in (DIAMOND, chain):
        places = boxes(draw_circuit(scores, []))
        assert all(places[u][0] + places[u][2] < places[v][0] for u, v in scores)


def test_nodes_do_not_overlap_and_lie_inside() -> None:
    scores = {(f"a{i}", f"b{j}"): 1.0 for i in range(5) for j in range(6)}
    scores |= {("a0", "end"): 1.0, ("b0", "end"): 1.0}
    svg = draw_circuit(scores, ["alone"])
    places = list(boxes(svg).values())
    size = re.match(r'<svg viewBox="0 0 (\d+) (\d+)" width="\1" height="\2"', svg)
    assert size is not None
    width, height = map(float, size.groups())
    assert len(places) == 13
    for k, (x, y, w, h) in enumerate(places):
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
        for other in places[:k]:
            apart_x = x >= other[0] + other[2] or other[0] >= x + w
            assert apart_x or y >= other[1] + other[3] or other[1] >= y + h


def test_a_long_edge_passes_beside_the_nodes_of_the_columns_between() -> None:
    svg = draw_circuit({("in", "a"): 1.0, ("a", "out"): 1.0, ("in", "out"): 1.0}, [])
    (_, top, _, height) = boxes(svg)["a"]
    straight = re.findall(r"([\d.]+)h", lines(svg)["in to out: 1"].path)
    assert len(straight) == 1
    assert not top <= float(straight[0]) <= top + height


def test_width_follows_the_size_of_the_score_and_dashes_its_sign() -> None:
    svg = draw_circuit({**DIAMOND, ("in", "out"): math.nan}, [])
    drawn = lines(svg)
    assert drawn["in to a: 3"].width == pytest.approx(7.0)
    assert drawn["in to b: -1.5"].width == pytest.approx(4.0)
    assert drawn["b to out: 0"].width == drawn["in to out: nan"].width == 1.0
    assert [title for title, line in drawn.items() if line.dashed] == ["in to b: -1.5"]
    # The strongest comes last and lies on top.
    assert [*drawn][-1] == "in to a: 3"


def test_crossings_that_can_be_avoided_are() -> None:
    scores = {(f"a{k}", f"z{4 - k}"): 1.0 for k in range(5)}
    places = boxes(draw_circuit(scores, []))
    left = sorted(range(5), key=lambda k: places[f"a{k}"][1])
    right = sorted(range(5), key=lambda k: places[f"z{4 - k}"][1])
    assert left == right


def test_a_long_name_keeps_both_ends_and_its_title() -> None:
    name = "encoder.blocks.11.attention.head.7"
    svg = draw_circuit({("in", name): 1.0}, [])
    assert re.findall(r"<text .*?>(.*?)</text>", svg) == ["encoder.bl\u2026ion.head.7", "in"]
    assert name in boxes(svg)


def test_a_circuit_is_drawn_with_its_scores_below() -> None:
    made = report()
    made.add_circuit(circuit(DIAMOND), caption="The diamond")
    source = made.to_html()
    assert source.count("<g><title>") == 4
    assert 'aria-label="The diamond: 4 edges, listed below"' in source
    assert "<summary>Scores of the 4 edges</summary>" in source
    rows = re.findall(r"<tr><td>(\w+)</td><td>(\w+)</td><td class=n data-v=([-\d.]+)>", source)
    assert rows == [
        ("in", "a", "3.0"),
        ("in", "b", "-1.5"),
        ("a", "out", "0.3"),
        ("b", "out", "0.0"),
    ]
    assert repr(made).endswith("tables=0, figures=1)")


def test_an_edge_without_a_score_comes_last() -> None:
    made = report()
    one = SimpleNamespace(edges=[("a", "b"), ("b", "c")], nodes=[], scores={("b", "c"): 0.0})
    made.add_circuit(one)
    source = made.to_html()
    assert re.findall(r"<tr><td>(\w)</td>", source) == ["b", "a"]
    assert 'aria-label="Figure 1: 2 edges, listed below"' in source
    made.add_circuit(circuit({("a", "b"): 1.0}))
    assert "Scores of the edge<" in made.to_html()


def test_a_large_circuit_is_a_table() -> None:
    scores = {("in", f"unit:{k}"): float(k) for k in range(61)}
    made = report()
    made.add_circuit(circuit(scores), caption="Many")
    assert repr(made).endswith("tables=1, figures=0)")
    assert made.to_html().count("<tr><td>in</td>") == 61


def test_hostile_names_are_shown_and_never_read_as_markup() -> None:
    bad = "<script>\"'&\x00"
    made = report()
    made.add_circuit(circuit({(bad, "out"): 1.0}), caption=bad)
    source = made.to_html()
    assert "&lt;script&gt;&quot;&#x27;&amp;\ufffd" in source
    assert source.count("<script") == 2


def test_what_is_no_circuit_is_refused() -> None:
    made = report()
    with pytest.raises(TypeError, match="needs the edges, nodes and scores of a Circuit, got dict"):
        made.add_circuit({})
    with pytest.raises(ValueError, match="the circuit has no edges to show"):
        made.add_circuit(circuit({}))
    with pytest.raises(ValueError, match=r"the edges form a cycle among \['a', 'b'\]"):
        made.add_circuit(circuit({("a", "b"): 1.0, ("b", "a"): 1.0}))
    assert repr(made).endswith("tables=0, figures=0)")


def test_a_circuit_of_the_search_is_drawn() -> None:
    import torch

    from neuros_mechint.circuits import CircuitDiscovery

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    found = CircuitDiscovery(net).discover(
        torch.ones(1, 2), torch.zeros(1, 2), method="exact", threshold=1e-6
    )
    made = report()
    made.add_circuit(found)
    assert made.to_html().count("<path d=") == len(found.edges) > 0


class Scores(NamedTuple):
    n_rows: int
    fvu: float
    loss_recovered: float | None = None
    probing: dict[int, float] | None = None
    extra: float = 1.5


def test_scores_of_a_coder_are_named_and_those_not_measured_left_out() -> None:
    made = report()
    made.add_sae(Scores(20000, 0.052, probing={1: 0.71, 5: 0.84}), caption="One coder")
    rows = re.findall(
        r'<th scope="row">(.*?)</th><td class=n data-v=(.*?)>(.*?)</td><td class=note>(.*?)</td>',
        made.to_html(),
    )
    assert [row[:3] for row in rows] == [
        ("Activations", "20000", "20,000"),
        ("Variance unexplained", "0.052", "0.05200"),
        ("Probing (1)", "0.71", "0.7100"),
        ("Probing (5)", "0.84", "0.8400"),
        ("extra", "1.5", "1.500"),
    ]
    assert rows[1][3] == "0 is a perfect reconstruction"


def test_coders_are_compared_line_by_line() -> None:
    made = report()
    made.add_sae({"topk": Scores(9, 0.1), "relu <b>": Scores(9, 0.2, loss_recovered=0.9)})
    source = made.to_html()
    assert re.findall(r'<th scope="col"[^>]*>(.*?)</th>', source) == [
        "coder",
        "Activations",
        "Variance unexplained",
        "extra",
        "Loss recovered",
    ]
    assert re.findall(r'<th scope="row">(.*?)</th>', source) == ["topk", "relu &lt;b&gt;"]


def test_what_are_no_scores_is_refused() -> None:
    with pytest.raises(TypeError, match=r"scores need a SAEMetrics, .* got float"):
        report().add_sae(0.5)
    with pytest.raises(TypeError, match=r"scores need a SAEMetrics, .* got float"):
        report().add_sae({"topk": 0.5})
    with pytest.raises(ValueError, match="at least one coder is needed"):
        report().add_sae({})
