"""Motifs beside networkx and bctpy, one thread, sides interleaved."""

from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
import torch

from neuros_mechint.circuits._motif_census import triad_census
from neuros_mechint.circuits.motifs import MotifFinder


def adjacency() -> np.ndarray:
    graph = (np.random.default_rng(0).random((100, 100)) < 0.1).astype(float)
    np.fill_diagonal(graph, 0)
    return graph


def test_census_is_faster_than_that_of_networkx(
    shortest: Callable[..., list[float]], report: Callable[..., None]
) -> None:
    graph = adjacency()
    theirs = nx.from_numpy_array(graph, create_using=nx.DiGraph)
    edges = torch.from_numpy(graph).bool()[None]
    mine, peer = shortest(lambda: triad_census(edges), lambda: nx.triadic_census(theirs), rounds=7)
    report("triad census, n=100, p=0.1", f"networkx {nx.__version__}", peer / mine, 30)


def test_nulls_are_faster_than_those_of_bctpy(
    shortest: Callable[..., list[float]], report: Callable[..., None]
) -> None:
    bct = pytest.importorskip("bct")
    graph = adjacency()
    finder = MotifFinder(n_null=100, generator=torch.Generator().manual_seed(0))

    def one() -> None:
        rewired, _ = bct.randmio_dir(graph, 10, seed=0)
        nx.triadic_census(nx.from_numpy_array(rewired, create_using=nx.DiGraph))

    # The peer makes one null after the other; one of them is timed.
    mine, peer = shortest(lambda: finder.find(graph), one, rounds=7)
    report("100 nulls with rewiring and census", "bctpy 0.6.1", 100 * peer / mine, 10)
