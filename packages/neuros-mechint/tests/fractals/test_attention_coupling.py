"""Coupling of attention with the roughness of signals."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_mechint.fractals import AttentionFractalCoupling, HiguchiFractalDimension
from neuros_mechint.fractals._graph_spectrum import spectral_dimension
from neuros_mechint.fractals._rank_correlation import (
    adjusted,
    permutation_p_values,
    ranks,
    unit_ranks,
)


def attention_of(width: Tensor, n_time: int = 12) -> Tensor:
    """Attention that falls off with distance over some width, of the shape of the width."""
    step = torch.arange(n_time, dtype=width.dtype)
    return (-(step[:, None] - step).abs() / width[..., None, None]).softmax(-1)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=3, max_size=12))
def test_ranks_are_those_of_scipy_also_with_ties(values: list[int]) -> None:
    found = ranks(torch.tensor(values, dtype=torch.float64))
    np.testing.assert_array_equal(found.numpy(), scipy.stats.rankdata(values))


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.floats(0.0005, 1.0), min_size=1, max_size=12))
def test_adjusted_p_values_are_those_of_scipy(values: list[float]) -> None:
    found = adjusted(torch.tensor(values, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), scipy.stats.false_discovery_control(values))


def test_p_values_are_the_share_of_permutations_that_reach_the_correlation() -> None:
    variables, target = unit_ranks(draw(3, 7)), unit_ranks(draw(7, seed=1))
    generator = torch.Generator().manual_seed(2)
    orders = torch.rand((50, 7), generator=generator, dtype=torch.float64).argsort(-1).tolist()
    observed = (variables @ target).abs()
    reached = torch.zeros(3)
    for order in orders:
        reached += (variables @ target[order]).abs() >= observed - 1e-9
    found = permutation_p_values(variables, target, 50, torch.Generator().manual_seed(2))
    torch.testing.assert_close(found, (1 + reached.double()) / 51)


def test_correlations_are_those_of_scipy_for_every_descriptor() -> None:
    attention = draw(20, 3, 9, 9).softmax(-1)
    signals = draw(20, 80, 2, seed=1).cumsum(1)
    found = AttentionFractalCoupling(n_permutations=99).compute(attention, signals)
    dimension = HiguchiFractalDimension().compute(signals, dim=1).mean(1)
    step = torch.arange(9)
    distance = (step[:, None] - step).abs().double()
    described = [
        -(attention * attention.log()).sum(-1).mean(-1),
        spectral_dimension(attention),
        (attention * distance).sum(-1).mean(-1),
    ]
    for k, values in enumerate(described):
        for head in range(3):
            rho = scipy.stats.spearmanr(values[:, head], dimension).statistic
            assert float(found.correlation[head, k]) == pytest.approx(rho, abs=1e-12)
            for lag in (-2, -1, 0, 1, 2):
                pairs = (
                    values[max(-lag, 0) : 20 - max(lag, 0), head],
                    dimension[max(lag, 0) : 20 - max(-lag, 0)],
                )
                rho = scipy.stats.spearmanr(*pairs).statistic
                assert float(found.lagged[head, k, lag + 2]) == pytest.approx(rho, abs=1e-12)


def test_a_lag_at_which_signals_follow_is_found() -> None:
    signals = draw(40, 64, 1)
    # Attention gets wider with the dimension of the next window.
    dimension = HiguchiFractalDimension().compute(signals, dim=1)[:, 0]
    attention = attention_of(torch.roll(dimension, -1)[:, None].exp())
    found = AttentionFractalCoupling(descriptors="entropy", max_lag=3).compute(attention, signals)
    assert float(found.lagged[0, 0, 3 + 1]) == pytest.approx(1.0, abs=1e-12)
    # Windows are independent: a correlation of 37 pairs has a deviation of .17, five of them.
    others = found.lagged[0, 0, [0, 1, 2, 3, 5, 6]]
    assert float(others.abs().max()) < 0.85


def test_p_values_do_not_depend_on_other_heads_but_for_the_adjustment() -> None:
    attention, signals = draw(16, 4, 6, 6).softmax(-1), draw(16, 64, 1, seed=1)
    one = AttentionFractalCoupling(adjust="none", n_permutations=299)
    every = one.compute(attention, signals, generator=torch.Generator().manual_seed(3))
    single = one.compute(attention[:, 2:3], signals, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(every.p_value[2:3], single.p_value)
    together = AttentionFractalCoupling(n_permutations=299).compute(
        attention, signals, generator=torch.Generator().manual_seed(3)
    )
    expected = scipy.stats.false_discovery_control(every.p_value.numpy().ravel())
    np.testing.assert_allclose(together.p_value.numpy().ravel(), expected)


@pytest.mark.slow  # 3840 tests of independent heads
def test_on_unrelated_data_five_in_a_hundred_tests_reach_a_p_value_of_five_percent() -> None:
    coupling = AttentionFractalCoupling(
        descriptors="entropy", n_permutations=199, adjust="none", max_lag=0
    )
    generator = torch.Generator().manual_seed(0)
    reached = []
    for _ in range(60):
        attention = torch.randn(32, 64, 5, 5, generator=generator).softmax(-1)
        signals = torch.randn(32, 48, 1, generator=generator)
        found = coupling.compute(attention, signals, generator=generator)
        reached.append(float((found.p_value <= 0.05).double().mean()))
    # Heads share their 199 permutations, so that the rate of a run has a deviation of
    # (.05 * .95 / 199)**.5 = .015 beside the binomial one: .0041 over all. The bar of 7 % is 4.9
    # of them away, a chance of 5e-7.
    assert sum(reached) / 60 <= 0.07
    assert sum(reached) / 60 >= 0.03


@pytest.mark.slow  # 25 data sets of 128 samples
def test_a_planted_coupling_of_six_tenths_is_found() -> None:
    coupling = AttentionFractalCoupling(
        descriptors=("entropy", "mean_distance"), n_permutations=1999
    )
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(25):
        signals = torch.randn(128, 64, 1, generator=generator, dtype=torch.float64)
        dimension = HiguchiFractalDimension().compute(signals, dim=1)[:, 0]
        z = (dimension - dimension.mean()) / dimension.std()
        other = torch.randn(128, 8, generator=generator, dtype=torch.float64)
        other[:, 3] = 0.6 * z + 0.8 * other[:, 3]
        found = coupling.compute(attention_of((other / 2).exp()), signals, generator=generator)
        hits += int(bool((found.p_value[3] <= 0.05).all()))
    # Fisher's z of the rank correlation (6 / pi) asin(.3) = .58 is .67 with a deviation of .094;
    # sixteen tests need |z| > 3.2 * .094, so one in 2e4 data sets is missed: two of 25 in 1e-7.
    assert hits >= 24


def test_arrays_give_arrays_and_precision_follows_the_signals() -> None:
    attention, signals = draw(10, 2, 6, 6).softmax(-1).numpy(), draw(10, 64, 2, seed=1).numpy()
    coupling = AttentionFractalCoupling(n_permutations=49)
    arrays = coupling.compute(attention, signals)
    tensors = coupling.compute(torch.from_numpy(attention), torch.from_numpy(signals))
    for array, tensor in zip(arrays, tensors, strict=True):
        assert isinstance(array, np.ndarray)
        np.testing.assert_array_equal(array, tensor.numpy())
    halves = coupling.compute(
        torch.from_numpy(attention).bfloat16(), torch.from_numpy(signals).half()
    )
    assert halves.correlation.dtype == torch.float32
    assert halves.correlation.shape == (2, 3)


def test_a_descriptor_that_never_changes_has_no_correlation() -> None:
    attention = torch.cat(
        [draw(10, 1, 6, 6).softmax(-1), torch.full((10, 1, 6, 6), 1 / 6).double()], 1
    )
    coupling = AttentionFractalCoupling(descriptors=["entropy"], n_permutations=99)
    with pytest.warns(UserWarning, match=r"1 of 2 items \(head and descriptor\) are the same"):
        found = coupling.compute(attention, draw(10, 64, 1, seed=1))
    assert math.isnan(found.correlation[1, 0])
    assert math.isnan(found.p_value[1, 0])
    assert 0 < float(found.p_value[0, 0]) <= 1


def test_the_same_generator_gives_the_same_p_values() -> None:
    attention, signals = draw(12, 2, 6, 6).softmax(-1), draw(12, 64, 1, seed=1)
    coupling = AttentionFractalCoupling(n_permutations=99)
    default = coupling.compute(attention, signals)
    seeded = coupling.compute(attention, signals, generator=torch.Generator().manual_seed(0))
    other = coupling.compute(attention, signals, generator=torch.Generator().manual_seed(1))
    assert torch.equal(default.p_value, seeded.p_value)
    assert not torch.equal(default.p_value, other.p_value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"descriptors": ["rank"]}, r"descriptors needs some of entropy, .*got \['rank'\]"),
        ({"descriptors": ()}, "descriptors needs some of .* got none"),
        ({"n_permutations": 0}, "n_permutations >= 1 and max_lag >= 0 are needed, got 0, 2"),
        ({"max_lag": -1}, "n_permutations >= 1 and max_lag >= 0 are needed"),
        ({"adjust": "holm"}, "adjust needs 'bh' or 'none', got 'holm'"),
        ({"metric": "fd"}, "no metric named 'fd'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionFractalCoupling(**options)


def test_bad_data_are_refused() -> None:
    attention, signals = draw(8, 2, 6, 6).softmax(-1), draw(8, 64, 1, seed=1)
    compute = AttentionFractalCoupling(n_permutations=9).compute
    with pytest.raises(ValueError, match=r"attention needs shape \(batch, head, time, time\)"):
        compute(attention[..., :3], signals)
    with pytest.raises(ValueError, match=r"the 8 samples of attention, got \(7, 64, 1\)"):
        compute(attention, signals[:7])
    with pytest.raises(ValueError, match=r"signals needs shape .* got \(64,\)"):
        compute(attention, signals[0, :, 0])
    with pytest.raises(ValueError, match=r"max_lag \+ 4 = 6 samples are needed, got 5"):
        compute(attention[:5], signals[:5])
    with pytest.raises(ValueError, match="attention must not be negative"):
        compute(draw(8, 2, 6, 6), signals)
    with pytest.raises(ValueError, match="needs to sum to 1, got a sum that is off by 1"):
        compute(2 * attention, signals)
    with pytest.raises(ValueError, match="attention must be finite"):
        compute(torch.where(attention > 0.3, math.nan, attention), signals)
    with pytest.raises(TypeError, match=r"attention must be real, got torch\.complex128"):
        compute(attention.to(torch.complex128), signals)
    with pytest.raises(ValueError, match="the same fractal metric in every sample"):
        compute(attention, signals[:1].expand(8, -1, -1))
    signals[3] = 0.0
    with (
        pytest.warns(UserWarning, match="1 of 8"),
        pytest.raises(ValueError, match="1 of 8 samples have no channel with a fractal metric"),
    ):
        compute(attention, signals)


def test_the_representation_says_how_to_make_it_again() -> None:
    text = repr(AttentionFractalCoupling(descriptors="entropy"))
    assert text == (
        "AttentionFractalCoupling(metric='higuchi', descriptors=('entropy',), "
        "n_permutations=9999, max_lag=2, adjust='bh')"
    )
