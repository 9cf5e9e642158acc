"""A probe for the domain, and the null that it is read against."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from neuros_neurofm.evaluation.domains import DomainLeakage, domain_leakage


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def probe(latents: Any, ids: Any, seed: int = 0, **options: Any) -> DomainLeakage:
    return domain_leakage(latents, ids, generator=rng(seed), **options)


def test_the_accuracy_is_that_of_the_best_linear_rule() -> None:
    z = rng().normal(size=(4000, 3))
    z[2000:, 1] += 2.0
    result = probe(z, np.repeat([0, 1], 2000), n_permutations=5)
    # Two unit Gaussians 2 apart: the midpoint is right with probability Phi(1) = 0.841; five
    # standard errors of 4000 samples are 0.029.
    assert result.accuracy == pytest.approx(ndtr(1.0), abs=0.029)
    assert result.recall == pytest.approx([ndtr(1.0)] * 2, abs=0.05)
    assert result.domains == (0, 1)


def test_domains_of_unequal_size_are_weighted_equally() -> None:
    z = rng().normal(size=(1000, 2))
    z[900:, 0] += 2.0
    result = probe(z, ["a"] * 900 + ["b"] * 100, n_permutations=5)
    assert result.accuracy == pytest.approx(result.recall.mean())
    # The small domain is met as often as the large one; five standard errors of 100 are 0.18.
    assert result.recall == pytest.approx([ndtr(1.0)] * 2, abs=0.18)


@pytest.mark.slow  # A share of many tests, each with its null.
def test_without_leakage_small_p_values_are_as_rare_as_they_say() -> None:
    p = np.array(
        [
            probe(rng(k).normal(size=(24, 3)), np.arange(24) % 2, k, n_permutations=39).p_value
            for k in range(100)
        ]
    )
    # Of 100 tests at 0.05, 19 or more have probability 5e-7 (binomial); of 100 at 0.5, 76 or more
    # have 9e-8, and so have 24 or less.
    assert (p <= 0.05).sum() < 19
    assert 24 < (p <= 0.5).sum() < 76


def recordings(seed: int, n_domains: int = 2, shift: float = 0.0) -> tuple[np.ndarray, ...]:
    """Eight recordings of 40 samples, each around a level of its own, four per domain."""
    group = np.repeat(np.arange(4 * n_domains), 40)
    domain = group % n_domains
    level = rng(seed).normal(size=(4 * n_domains, 3))
    z = level[group] + 0.1 * rng(seed + 500).normal(size=(len(group), 3))
    z[:, 0] += shift * domain
    return z, domain, group


def test_levels_of_recordings_are_not_taken_for_domains() -> None:
    p = np.array(
        [
            (probe(z, d, k, groups=g, n_permutations=19).p_value, probe(z, d, k, n_permutations=19))
            for k in range(40)
            for z, d, g in [recordings(k)]
        ],
        dtype=object,
    )
    # 17 or more of 40 at 0.05 have probability 2e-12.
    assert (p[:, 0] <= 0.05).sum() < 17
    # Samples of one recording taken for independent: nearly every test is wrong.
    assert sum(result.p_value <= 0.05 for result in p[:, 1]) > 30


def test_a_domain_that_shows_in_every_recording_is_found() -> None:
    z, domain, group = recordings(0, shift=20.0)
    result = probe(z, domain, groups=group)
    assert result.accuracy == 1.0
    # 2 of the 70 ways to choose four of eight groups are as good as the truth.
    assert result.p_value < 0.1


def test_a_row_of_a_batch_is_a_group() -> None:
    z, domain, group = recordings(1, shift=1.0)
    batch = torch.as_tensor(z.reshape(8, 40, 3))
    by_row = probe(batch, domain[::40])
    by_group = probe(z, domain, groups=group)
    assert by_row.accuracy == by_group.accuracy
    np.testing.assert_array_equal(by_row.null, by_group.null)


def test_as_many_shuffles_as_asked_for_and_a_p_value_that_counts_the_data() -> None:
    z, domain, _ = recordings(2)
    result = probe(z, domain, n_permutations=7)
    assert result.null.shape == (7,)
    n_reached = (result.null >= result.accuracy - 1e-9).sum()
    assert result.p_value == (1 + n_reached) / 8


def test_domains_may_be_names() -> None:
    z = rng().normal(size=(30, 2))
    result = probe(z, ["rat", "mouse", "monkey"] * 10, n_permutations=3)
    assert result.domains == ("monkey", "mouse", "rat")
    assert result.chance == pytest.approx(1 / 3)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.01, 100.0), st.floats(-50.0, 50.0))
def test_shift_scale_and_rotation_of_the_latents_change_nothing(
    seed: int, scale: float, shift: float
) -> None:
    z = rng(seed).normal(size=(40, 3))
    q, _ = np.linalg.qr(rng(seed + 1).normal(size=(3, 3)))
    first, second = (
        probe(x, np.arange(40) % 2, n_permutations=3) for x in (z, scale * z @ q + shift)
    )
    assert first.accuracy == second.accuracy


@pytest.mark.parametrize(
    ("latents", "ids", "options", "message"),
    [
        (np.ones(4), [0, 1, 0, 1], {}, r"latents must be \(sample, dim\) .* got \(4,\)"),
        (np.ones((0, 2)), [], {}, "and not empty"),
        (np.full((4, 2), np.nan), [0, 1, 0, 1], {}, "latents must be finite"),
        (np.ones((4, 2)), [0, 1, 0, 1], {}, "latents do not vary"),
        (np.eye(4), [0, 1], {}, r"domain_ids must be one id for each of 4 rows, got \(2,\)"),
        (np.eye(4), [0] * 4, {}, "at least two domains of at least two groups each, got {0: 4}"),
        (np.eye(4), ["a", "a", "a", "b"], {}, "two groups each, got {'a': 3, 'b': 1}"),
        (np.eye(4), [0, 1, 0, 1], {"groups": [0, 0, 1, 1]}, "every group must have one domain"),
        (np.eye(4), [0, 1, 0, 1], {"groups": [0]}, "groups must be one id for each of 4 rows"),
        (np.eye(4), [0, 1, 0, 1], {"n_folds": 1}, "n_folds must be >= 2 and .* got 1 and 200"),
        (np.eye(4), [0, 1, 0, 1], {"n_permutations": 0}, "n_permutations >= 1, got 5 and 0"),
    ],
)
def test_what_cannot_be_probed_is_refused(
    latents: Any, ids: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        probe(latents, ids, **options)
