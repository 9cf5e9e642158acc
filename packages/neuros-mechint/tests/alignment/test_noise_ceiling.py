import pytest
import torch
from torch import Tensor

from neuros_mechint.alignment import RSA, NoiseCeiling


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(noise: float, repeats: int, samples: int = 4000) -> Tensor:
    """Responses with signal variance 1."""
    return draw(samples, 3) + noise**0.5 * draw(repeats, samples, 3, seed=1)


# The standard error of a correlation of 4000 samples is 0.016 at most; with three targets averaged
# 0.009, so 0.03 is more than three of them, and the seed is fixed.
@pytest.mark.parametrize(
    ("method", "lower", "upper"),
    [
        ("split_half", 0.6, 0.6**0.5),  # halves of 3 repeats with noise 2: 1 / (1 + 2 / 3)
        ("spearman_brown", 0.75, 0.75**0.5),  # six repeats: 1 / (1 + 2 / 6)
        ("explainable_variance", 1 / 3, 0.75),  # one repeat, and the mean of six
    ],
)
def test_planted_noise_is_found(method: str, lower: float, upper: float) -> None:
    found = NoiseCeiling(method=method).compute(planted(2.0, 6))
    assert float(found.lower.mean()) == pytest.approx(lower, abs=0.03)
    assert float(found.upper.mean()) == pytest.approx(upper, abs=0.03)
    assert found.sem.shape == (3,)


def test_an_odd_repeat_is_counted_by_spearman_brown() -> None:
    found = NoiseCeiling(method="spearman_brown").compute(planted(2.0, 5))
    assert float(found.lower.mean()) == pytest.approx(1 / (1 + 2 / 5), abs=0.03)


def test_a_perfect_model_reaches_the_upper_bound() -> None:
    signal, data = draw(4000, 3), planted(2.0, 6)
    mean = data.mean(0)
    r = torch.stack(
        [torch.corrcoef(torch.stack(p))[0, 1] for p in zip(signal.T, mean.T, strict=True)]
    )
    ceiling = NoiseCeiling(method="spearman_brown").compute(data)
    assert bool(((r - ceiling.upper).abs() < 0.03).all())


def test_the_error_is_the_spread_over_new_data() -> None:
    data = draw(300, 100, 1)[:, None] + draw(300, 4, 100, 1, seed=2)
    for method in ("split_half", "explainable_variance"):
        found = NoiseCeiling(method=method).compute(data)
        spread = float(found.upper.std())
        # A jackknife over stretches of samples is right to about a tenth here.
        assert float(found.sem.mean()) == pytest.approx(spread, rel=0.25)


def test_noise_alone_has_no_ceiling() -> None:
    data = draw(4, 2000, 1)
    found = NoiseCeiling(method="explainable_variance").compute(data)
    assert abs(float(found.upper)) < 0.2
    assert float(NoiseCeiling(method="split_half").compute(-data).lower) < 0.1
    opposite = torch.stack([data[0], -data[0]])
    assert float(NoiseCeiling(method="split_half").compute(opposite).upper) == 0


@pytest.mark.parametrize("compare", ["spearman", "pearson", "cosine", "tau_a", "rho_a", "whitened"])
def test_subjects_that_agree_have_a_ceiling_of_one(compare: str) -> None:
    rdm = RSA(distance="euclidean").rdm(draw(8, 5))
    found = NoiseCeiling(compare=compare).compute(torch.stack([rdm, 2 * rdm, rdm]))
    assert float(found.lower) == pytest.approx(1)
    assert float(found.upper) == pytest.approx(1)
    assert float(found.sem) == pytest.approx(0, abs=1e-9)


def test_the_bounds_enclose_the_true_geometry() -> None:
    truth = RSA(distance="euclidean", compare="pearson")
    signal = draw(20, 30)
    rdms = truth.rdm(signal + 1.5 * draw(12, 20, 30, seed=1))
    found = NoiseCeiling(compare="pearson").compute(rdms)
    score = truth.compare_rdms(rdms, truth.rdm(signal).expand_as(rdms)).mean()
    assert float(found.lower) - 0.05 < float(score) < float(found.upper)


def test_a_batch_equals_its_items() -> None:
    data = draw(2, 4, 50, 3)
    for method in ("split_half", "spearman_brown", "explainable_variance"):
        ceiling = NoiseCeiling(method=method)
        both = ceiling.compute(data)
        for k in range(2):
            one = ceiling.compute(data[k].numpy())
            for name, value in one.to_dict().items():
                torch.testing.assert_close(both.to_dict()[name][k], value)


def test_many_repeats_are_split_at_random_but_the_same_again() -> None:
    data = draw(12, 200, 1, seed=5) + draw(200, 1)
    ceiling = NoiseCeiling(method="split_half", n_splits=20)
    first, again = ceiling.compute(data), ceiling.compute(data)
    assert torch.equal(first.lower, again.lower)
    other = ceiling.compute(data, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(first.lower, other.lower)
    assert float(other.lower) == pytest.approx(float(first.lower), abs=0.02)


def test_wrong_input_is_refused_in_words() -> None:
    wrong = (ValueError, TypeError)
    with pytest.raises(wrong, match=r"method must be one of|Type-check"):
        NoiseCeiling(method="loo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_splits must be at least 1, got 0"):
        NoiseCeiling(n_splits=0)
    with pytest.raises(ValueError, match=r"data must be \(..., subjects >= 2"):
        NoiseCeiling().compute(draw(1, 5, 5))
    with pytest.raises(ValueError, match=r"\(..., subjects, conditions, conditions\), got"):
        NoiseCeiling().compute(draw(3, 5, 4))
    with pytest.raises(ValueError, match="a target of data is constant"):
        NoiseCeiling(method="split_half").compute(torch.ones(2, 5, 1))
    assert repr(NoiseCeiling()) == "NoiseCeiling(method='rsa', compare='spearman', n_splits=100)"
