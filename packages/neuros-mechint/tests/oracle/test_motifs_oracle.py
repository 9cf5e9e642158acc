"""Counts of motifs beside bctpy."""

import numpy as np
import pytest
import torch

from neuros_mechint.circuits.motifs import MotifFinder

pytestmark = pytest.mark.oracle

# Directed triangles and directed paths of two edges, counted both ways, in a triad of each kind.
TRIANGLES = (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 2, 2, 2, 4, 8)
PATHS = (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 5, 5, 8, 12)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.6])
def test_counts_of_triads_add_up_to_the_transitivity_of_bctpy(density):
    # Its own table of motifs (motif34lib.mat) is missing from the wheel of bctpy 0.6.1, and the one
    # that it makes does not load with this scipy, so the sum over triads is what it can judge.
    bct = pytest.importorskip("bct")
    graph = (np.random.default_rng(0).random((40, 40)) < density).astype(float)
    np.fill_diagonal(graph, 0)
    counts = MotifFinder(n_null=1, n_swaps=1, generator=torch.Generator()).find(graph).counts
    weighed = 3 * float(counts @ counts.new_tensor(TRIANGLES))
    paths = float(counts @ counts.new_tensor(PATHS))
    assert weighed / (2 * paths) == pytest.approx(bct.transitivity_bd(graph), rel=1e-12)
