"""Diagrams: every edge once, the same text every time, numbers that can be counted by hand."""

import math
import re

import matplotlib as mpl
import pytest
import torch

from neuros_mechint.circuits.ei_diagram import EICircuitDiagram

WEIGHTS = torch.tensor([[0.5, 1.0, -2.0], [1.0, 0.0, -1.0], [3.0, 0.0, 0.0]])


@pytest.fixture
def diagram():
    return EICircuitDiagram(WEIGHTS, names=["exc", "b<&", 'q"'])


def test_summary_is_what_a_hand_counts(diagram):
    summary = diagram.summary()
    assert (summary.n_excitatory, summary.n_inhibitory, summary.n_edges) == (2, 1, 6)
    assert summary.density == pytest.approx(5 / 6)
    assert summary.balance == (0.75, 1.0, math.inf)
    assert summary.dale_consistency == 1
    assert summary.reciprocity == pytest.approx(4 / 5)
    assert summary.n_loops == 1
    assert summary.mean_weights["E->E"] == pytest.approx(2.5 / 3)
    assert summary.mean_weights["I->E"] == -1.5
    assert math.isnan(summary.mean_weights["I->I"])
    assert summary.to_dict()["n_loops"] == 1


def test_mixed_columns_break_dales_law():
    summary = EICircuitDiagram(torch.tensor([[0.0, 1.0], [0.0, -1.0]])).summary()
    assert summary.dale_consistency == 0


def test_single_node_without_edges_has_no_reciprocity():
    summary = EICircuitDiagram(torch.zeros(1, 1)).summary()
    assert summary.density == 0
    assert math.isnan(summary.reciprocity)
    assert math.isnan(summary.dale_consistency)
    assert math.isnan(summary.balance[0])


def test_every_edge_stands_once_in_the_texts(diagram):
    mermaid, svg = diagram.to_mermaid(), diagram.to_svg()
    assert mermaid.count("-->") == 4
    assert mermaid.count("--x") == 2
    titles = re.findall(r"<path [^>]*><title>(.*?)</title></path>", svg)
    assert len(titles) == len(set(titles)) == 6
    assert "q&quot; to exc: -2" in titles
    assert svg.count("<circle") == 2


def test_texts_are_the_same_every_time(diagram):
    again = EICircuitDiagram(WEIGHTS.numpy(), names=["exc", "b<&", 'q"'])
    assert again.to_svg() == diagram.to_svg()
    assert again.to_mermaid() == diagram.to_mermaid()
    assert torch.equal(again.layout(), diagram.layout())


def test_layout_keeps_nodes_apart_and_in_the_square():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(12, 12, generator=generator)
    places = EICircuitDiagram(weights * (weights > 0.8)).layout()
    assert places.min() >= 0
    assert places.max() <= 1
    assert torch.pdist(places).min() > 0.05


def test_plot_draws_every_node_and_edge(diagram):
    mpl.use("Agg")
    axes = diagram.plot()
    assert len(axes.lines) == 3
    assert len(axes.texts) == 3 + 6
    assert diagram.plot(axes) is axes
    mpl.pyplot.close(axes.figure)


def test_kinds_can_be_given():
    assert EICircuitDiagram(torch.eye(2), ei="IE").summary().n_inhibitory == 1


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"w_rec must be one square matrix, got shape \(2, 3\)"):
        EICircuitDiagram(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="names needs 2 different names, got"):
        EICircuitDiagram(torch.zeros(2, 2), names=["a", "a"])
    with pytest.raises(ValueError, match="ei needs 2 letters 'E' or 'I', got"):
        EICircuitDiagram(torch.zeros(2, 2), ei="EX")


def test_repr_counts_nodes_and_edges(diagram):
    assert repr(diagram) == "EICircuitDiagram(3 nodes, 6 edges)"
