"""Fractional Ornstein-Uhlenbeck processes and branching trees against their laws."""

import math

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_toeplitz

from neuros_mechint.fractals import (
    BoxCountingDimension,
    DendriteGrowthSimulator,
    DendriteTree,
    FractionalBrownianMotion,
    FractionalOU,
    HiguchiFractalDimension,
)
from neuros_mechint.fractals._fractional_motion import noise_autocovariance
from neuros_mechint.fractals._ornstein_uhlenbeck_start import _regression, past_covariance
from neuros_mechint.fractals._ornstein_uhlenbeck_sum import decaying_sum

F64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def covariances(H, lags):
    exponent = torch.tensor([[H]], dtype=F64)
    return noise_autocovariance(torch.as_tensor(lags, dtype=F64).abs(), exponent)[0]


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 5000])
@pytest.mark.parametrize("kappa", [1e-6, 0.01, 3.0, 800.0])
def test_the_sum_is_the_recursion(n, kappa):
    kicks = torch.randn(3, n, generator=seeded(), dtype=F64)
    expected, y = [], torch.zeros(3, dtype=F64)
    for k in range(n):
        y = math.exp(-kappa) * y + kicks[:, k]
        expected.append(y)
    torch.testing.assert_close(decaying_sum(kicks, kappa), torch.stack(expected, -1))


@pytest.mark.parametrize("H", [0.05, 0.3, 0.51, 0.8, 0.97])
@pytest.mark.parametrize("kappa", [2.0, 0.01, 3e-4])
def test_the_past_has_its_covariance_with_the_noise(H, kappa):
    ages = torch.arange(math.ceil(45 / kappa), dtype=F64)
    decay = torch.exp(-kappa * ages)
    found = past_covariance(300, H, kappa)
    for k in (1, 17, 300):
        expected = (decay * covariances(H, ages + k)).sum()
        assert abs(found[k - 1] / expected - 1) < 1e-9
    weights, deviation = _regression(300, H, kappa)
    direct = solve_toeplitz(covariances(H, torch.arange(300)).numpy(), found.numpy())
    np.testing.assert_allclose(weights, direct, atol=1e-9 * abs(direct).max())
    # The variance of the past, by its definition, less what the noise tells.
    lags = covariances(H, ages)
    variance = (2 * (decay * lags).sum() - 1) / -math.expm1(-2 * kappa)
    assert abs(deviation**2 / float(variance - weights @ found) - 1) < 1e-6


@pytest.mark.parametrize("H", [0.2, 0.5, 0.8])
def test_the_variance_is_that_of_the_stationary_law(H):
    process = FractionalOU(H=H, theta=2.0, mu=3.0, sigma=0.7)
    x = process.simulate(100, 0.005, batch=60_000, generator=seeded(1), dtype=F64)
    squares = (x - 3).square().mean(-1)
    ratio = squares.mean() / process.stationary_variance
    assert abs(ratio - 1) < 0.03
    # The bar is at least five standard errors wide.
    assert 5 * squares.std() / math.sqrt(60_000) < 0.03 * process.stationary_variance
    assert process.stationary_variance == pytest.approx(
        0.49 * 2 ** (-2 * H) * math.gamma(2 * H + 1) / 2
    )


@pytest.mark.parametrize("H", [0.2, 0.4, 0.6, 0.8])
def test_the_recursion_itself_has_that_variance(H):
    kappa = 0.01
    ages = torch.arange(4500, dtype=F64)
    double = 2 * float((torch.exp(-kappa * ages) * covariances(H, ages)).sum()) - 1
    weight = -math.expm1(-kappa) / kappa
    variance = kappa ** (2 * H) * double / -math.expm1(-2 * kappa)
    exact = FractionalOU(H=H, sigma=1.0).stationary_variance
    assert abs(variance * weight**2 / exact - 1) < 5e-4
    # Without the weight of the response it would be one percent high.
    assert abs(variance / exact - 1.01) < 1e-3


@pytest.mark.parametrize("H", [0.2, 0.5, 0.8])
def test_the_law_is_the_same_from_the_first_sample_on(H):
    n, draws = 60, 40_000
    process = FractionalOU(H=H, theta=1.0, sigma=1.0)
    x = process.simulate(n, 0.1, batch=draws, generator=seeded(2), dtype=F64)
    # The autocovariance of the recursion, by sums over its past.
    ages = torch.arange(500, dtype=F64)
    decay = torch.exp(-0.1 * ages)
    scale = 0.1**H * -math.expm1(-0.1) / 0.1

    def expected(lag):
        past = (decay * (covariances(H, ages + lag) + covariances(H, ages - lag))).sum()
        return float(scale**2 * (past - covariances(H, [lag])[0]) / -math.expm1(-0.2))

    for start, lag in [(0, 0), (0, 1), (0, 7), (0, 59), (1, 1), (20, 0), (20, 30), (59, 0)]:
        products = x[:, start] * x[:, start + lag]
        error = products.std() / math.sqrt(draws)
        # Beyond 5.5 standard errors: 4e-8 each.
        assert abs(products.mean() - expected(lag)) <= 5.5 * error, (start, lag)


def test_without_memory_it_is_the_classical_process():
    process = FractionalOU(H=0.5, theta=3.0, sigma=2.0)
    x = process.simulate(400, 0.002, batch=20_000, generator=seeded(3), dtype=F64)
    for lag in (0, 10, 100, 399):
        products = x[:, 0] * x[:, lag]
        expected = 4 / 6 * math.exp(-3 * 0.002 * lag)
        error = products.std() / math.sqrt(len(x))
        # The response to a straight path is within (theta dt)^2 / 12 of the classical variance.
        assert abs(products.mean() - expected) <= 5.5 * error + 1e-5


@pytest.mark.parametrize("H", [0.2, 0.5, 0.8])
def test_over_short_times_the_path_is_as_rough_as_its_noise(H):
    x = FractionalOU(H=H, theta=0.5).simulate(4000, 0.001, batch=40, generator=seeded(4), dtype=F64)
    dimension = HiguchiFractalDimension().compute(x)
    # Sixteenth of the RMSE of the estimator would be 0.005; the decay adds a little.
    assert abs(dimension.mean() - (2 - H)) < 0.02


@pytest.mark.parametrize("x0", [0.3, torch.tensor([0.3, -1.0, 2.0])])
def test_a_given_start_is_followed_by_the_recursion(x0):
    process = FractionalOU(H=0.7, theta=4.0, mu=1.5, sigma=0.4)
    x = process.simulate(130, 0.01, x0, 3, generator=seeded(5), dtype=F64)
    steps = FractionalBrownianMotion().increments(129, 0.7, 1, 3, generator=seeded(5), dtype=F64)
    decay, y = math.exp(-0.04), torch.as_tensor(x0).expand(3).to(F64)
    expected = [y]
    for k in range(129):
        step = 0.4 * 0.01**0.7 * steps[:, 0, k]
        y = 1.5 + decay * (y - 1.5) + (1 - decay) / 0.04 * step
        expected.append(y)
    torch.testing.assert_close(x, torch.stack(expected, -1))


def test_shapes_and_types_follow_the_call():
    process = FractionalOU()
    assert process.simulate(7).shape == (7,)
    assert process.simulate(7).dtype == torch.get_default_dtype()
    assert process.simulate(1, batch=2, dtype=F64).shape == (2, 1)
    assert process.simulate(1, x0=2.0).tolist() == [2.0]


def test_a_single_stationary_sample_has_the_stationary_variance():
    process = FractionalOU(H=0.7, theta=1.0, sigma=1.0)
    x = process.simulate(1, 0.001, batch=20_000, generator=seeded(6), dtype=F64)
    # 5.5 standard errors of a variance.
    assert abs(x.square().mean() / process.stationary_variance - 1) < 5.5 * math.sqrt(2 / 20_000)


def test_both_names_of_the_exponent_mean_the_same():
    assert FractionalOU(alpha=0.3).hurst == FractionalOU(H=0.3).hurst == 0.3
    assert FractionalOU(H=0.3, alpha=0.3).hurst == 0.3
    assert FractionalOU().hurst == 0.8


def test_equal_generators_give_equal_bits():
    for draw in (
        lambda g: FractionalOU().simulate(300, batch=2, generator=g),
        lambda g: DendriteGrowthSimulator().grow(5, generator=g).positions,
    ):
        assert torch.equal(draw(seeded(7)), draw(seeded(7)))
        assert not torch.equal(draw(seeded(7)), draw(seeded(8))[: len(draw(seeded(7)))])


# Five trees of 35 000 nodes each for every dimension.
@pytest.mark.slow
@pytest.mark.parametrize("target", [1.3, 1.5, 1.7])
def test_trees_have_the_dimension_that_was_asked_for(target):
    simulator = DendriteGrowthSimulator(target_fd=target)
    found = [
        BoxCountingDimension().of_points(simulator.grow(13, generator=seeded(s)).positions)
        for s in range(5)
    ]
    mean = sum(float(box.dimension) for box in found) / 5
    assert abs(mean - target) < 0.12


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.integers(1, 7), st.floats(0.1, 1.0), st.sampled_from([2, 3]), st.integers(0, 2**31))
def test_what_grows_is_a_tree_from_the_origin(n_iterations, share, ndim, seed):
    simulator = DendriteGrowthSimulator(branching_prob=share, ndim=ndim, target_fd=1.4)
    tree = simulator.grow(n_iterations, generator=seeded(seed), dtype=F64)
    n = len(tree.positions)
    assert tree.positions.shape == (n, ndim)
    assert tree.positions[0].abs().sum() == 0
    assert tree.parents[0] == -1
    # Every parent comes before its child: no cycle, one root.
    assert bool((tree.parents[1:] < torch.arange(1, n)).all())
    assert bool((tree.parents[1:] >= 0).all())
    children = torch.bincount(tree.parents[1:], minlength=n)
    assert int(children.max()) <= 2
    assert int((children == 2).sum()) == 2**n_iterations - 1
    assert int((children == 0).sum()) == 2**n_iterations
    graph = tree.to_networkx()
    assert nx.is_arborescence(graph)
    assert graph.number_of_edges() == n - 1
    connectivity = tree.connectivity
    assert connectivity.shape == (n, n)
    assert connectivity.is_sparse
    edges = {(int(i), int(j)) for i, j in connectivity.indices().T}
    assert edges == set(graph.edges)
    assert bool((connectivity.values() == 1).all())


def test_branches_shrink_by_the_contraction_of_the_dimension():
    tree = DendriteGrowthSimulator(branching_prob=1.0, target_fd=1.6, step=3.0).grow(6, dtype=F64)
    lengths = (tree.positions[1:] - tree.positions[tree.parents[1:]]).norm(dim=-1)
    generation = torch.tensor([math.floor(math.log2(i + 1)) for i in range(len(lengths))])
    expected = 3.0 * 2 ** (-generation.double() / 1.6)
    torch.testing.assert_close(lengths, expected)


@pytest.mark.parametrize("share", [0.15, 0.3, 0.6, 1.0])
def test_branches_end_at_the_asked_share_of_the_growing_nodes(share):
    tree = DendriteGrowthSimulator(branching_prob=share).grow(13, generator=seeded())
    children = torch.bincount(tree.parents[1:], minlength=len(tree.parents))[1:]
    found = float((children == 2).sum() / (children > 0).sum())
    # 8191 branchings: a relative standard error of 1 %.
    assert abs(found / share - 1) < 0.06


def test_the_first_segments_have_the_asked_length_on_average():
    simulator = DendriteGrowthSimulator(step=2.0, branching_prob=0.4)
    firsts = []
    for seed in range(400):
        tree = simulator.grow(1, generator=seeded(seed), dtype=F64)
        fork = int((torch.bincount(tree.parents[1:]) == 2).nonzero()[0])
        firsts.append((fork, float((tree.positions[fork] - tree.positions[0]).norm())))
    n_segments, length = map(sum, zip(*firsts, strict=True))
    # The branch is as long as ever; its segments are 2 in the mean over all of them.
    assert abs(length / 400 - 5) < 0.1
    assert abs(n_segments / 400 - 2.5) < 6 * math.sqrt(0.6) / 0.4 / 20


def test_swc_lines_are_nodes_from_one_and_parents_before_children():
    tree = DendriteGrowthSimulator(ndim=3).grow(4, generator=seeded(), dtype=F64)
    lines = tree.to_swc(radius=0.25).splitlines()
    rows = np.array([line.split() for line in lines[1:]], dtype=float)
    assert lines[0].startswith("#")
    np.testing.assert_array_equal(rows[:, 0], np.arange(1, len(rows) + 1))
    assert rows[0, 1] == 1
    assert set(rows[1:, 1]) == {3}
    np.testing.assert_allclose(rows[:, 2:5], tree.positions, atol=1e-8)
    assert set(rows[:, 5]) == {0.25}
    np.testing.assert_array_equal(rows[1:, 6], tree.parents[1:] + 1)
    assert rows[0, 6] == -1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FractionalOU(H=0.3, alpha=0.4), "alpha is another name of H, got H = 0.3"),
        (lambda: FractionalOU(H=1.0), "H must lie strictly between 0 and 1, got 1.0"),
        (lambda: FractionalOU(theta=0.0), "theta must be positive and sigma at least 0"),
        (lambda: FractionalOU(sigma=-1.0), "sigma at least 0, got theta = 1.0, sigma = -1.0"),
        (lambda: FractionalOU(mu=math.inf), "mu must be finite, got inf"),
        (lambda: FractionalOU().simulate(0), "n_steps and batch must be at least 1"),
        (lambda: FractionalOU().simulate(4, batch=0), "got n_steps = 4, batch = 0"),
        (lambda: FractionalOU().simulate(4, 0.0), "dt must be a positive time, got 0.0"),
        (
            lambda: FractionalOU().simulate(4, x0=torch.zeros(2), batch=3),
            "x0 must be one number or one per path = 3, got 2",
        ),
        (lambda: FractionalOU().simulate(4, x0=math.nan), "x0 must be finite"),
        (lambda: DendriteGrowthSimulator(ndim=4), "ndim must be 2 or 3, got 4"),
        (
            lambda: DendriteGrowthSimulator(target_fd=2.0),
            "target_fd must lie between 1 and ndim = 2, got 2.0",
        ),
        (lambda: DendriteGrowthSimulator(branching_prob=0.0), r"branching_prob must lie in \(0, 1"),
        (lambda: DendriteGrowthSimulator(step=-1.0), "step be positive"),
        (lambda: DendriteGrowthSimulator().grow(0), "n_iterations must be 1 to 22"),
        (lambda: DendriteGrowthSimulator().grow(23), "each doubles the branches, got 23"),
        (
            lambda: DendriteTree(torch.zeros(1, 4), torch.tensor([-1])).to_swc(),
            "at most 3 coordinates, got 4",
        ),
        (
            lambda: DendriteTree(torch.zeros(1, 2), torch.tensor([-1])).to_swc(radius=0.0),
            "radius must be a positive length",
        ),
    ],
)
def test_unfit_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
