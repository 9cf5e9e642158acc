from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from neuros_core.domains import ClassSourceWeights, SourceWeights
from neuros_neurofm.training import DomainWeightedSampler, domain_weighted_loss

IDS = np.repeat([0, 1, 2], [50, 30, 20])
WEIGHTS = [0.2, 0.3, 0.5]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def sampler(**settings: Any) -> DomainWeightedSampler:
    settings = {"num_samples": 40, "generator": seeded(), **settings}
    return DomainWeightedSampler(IDS, settings.pop("weights", WEIGHTS), **settings)


# Bounds of five standard deviations: false alarms 6e-7 per domain.
def test_domains_come_with_their_weights_and_samples_uniformly() -> None:
    n = 100_000
    drawn = np.array(list(sampler(num_samples=n)))
    shares = np.bincount(IDS[drawn], minlength=3) / n
    w = np.array(WEIGHTS)
    assert (abs(shares - w) < 5 * np.sqrt(w * (1 - w) / n)).all()
    p = w[IDS] / np.bincount(IDS)[IDS]
    counts = np.bincount(drawn, minlength=100)
    assert (abs(counts - n * p) < 6 * np.sqrt(n * p)).all()


def test_one_seed_gives_one_sequence_and_every_epoch_another() -> None:
    first, second = sampler(), sampler()
    epoch = list(first)
    assert epoch == list(second)
    assert list(first) != epoch
    assert len(first) == len(epoch) == 40


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("position", [0, 1, 17, 39, 40])
def test_the_epoch_goes_on_from_the_position(position: int, *, replacement: bool) -> None:
    whole = sampler(replacement=replacement)
    list(whole)
    expected = [*whole, *whole]
    other = sampler(replacement=replacement)
    list(other)
    iterator = iter(other)
    used = [next(iterator) for _ in range(position)]
    state = other.state_dict()
    resumed = sampler(generator=seeded(99), replacement=replacement)
    resumed.load_state_dict(state)
    rest = [*resumed, *resumed]
    assert used + rest == expected


def test_an_abandoned_epoch_does_not_shorten_the_next() -> None:
    s = sampler()
    next(iter(s))
    assert len(list(s)) == 40


def test_processes_share_the_sequence_of_one() -> None:
    alone = list(sampler())
    ranks = [list(sampler(rank=rank, world_size=4)) for rank in range(4)]
    assert [x for group in zip(*ranks, strict=True) for x in group] == alone
    assert all(len(part) == 10 for part in ranks)


def test_without_replacement_a_domain_is_used_up_before_it_repeats() -> None:
    drawn = list(sampler(weights=[0.0, 0.0, 1.0], num_samples=45, replacement=False))
    counts = np.bincount(drawn, minlength=100)[80:]
    assert set(drawn[:20]) == set(range(80, 100))
    assert set(counts) == {2, 3}


def test_weights_may_have_names() -> None:
    weights = SourceWeights.uniform(["mouse", "rat"])
    names = ["rat", "mouse", "rat", "mouse"]
    drawn = list(DomainWeightedSampler(names, weights, num_samples=50, generator=seeded()))
    assert set(drawn) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": [0.5, 0.5, 0.1]}, "weights must be finite, >= 0 and sum to 1"),
        ({"weights": [1.5, -0.5, 0.0]}, "weights must be finite, >= 0 and sum to 1"),
        ({"weights": [0.5, 0.5]}, r"domain_ids must lie in \[0, 2\), got \[0, 2\]"),
        ({"weights": [0.2, 0.2, 0.2, 0.4]}, r"domains \[3\] have a positive weight but no sample"),
        ({"weights": []}, r"weights must be \(domain,\) or \(domain, class\), got shape \(0,\)"),
        ({"num_samples": 7, "world_size": 2}, "positive multiple of world_size = 2, got 7"),
        ({"num_samples": 0}, "positive multiple of world_size = 1, got 0"),
        ({"rank": 2, "world_size": 2}, r"rank must lie in \[0, world_size = 2\), got 2"),
    ],
)
def test_bad_samplers_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(**settings)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["cat"], r"domain_ids \['cat'\] have no weight; known are \['mouse'\]"),
        ([[0]], r"domain_ids must be \(sample,\), got shape \(1, 1\)"),
        ([0.5], "domain_ids must be integers, or names where the weights have names"),
    ],
)
def test_bad_ids_are_refused(ids: Any, message: str) -> None:
    weights = SourceWeights.uniform(["mouse"])
    with pytest.raises(ValueError, match=message):
        DomainWeightedSampler(ids, weights, num_samples=1, generator=seeded())


def risks(losses: torch.Tensor) -> float:
    means = [losses[k == IDS].mean().item() for k in range(3)]
    return float(np.dot(WEIGHTS, means))


def test_the_loss_over_all_data_is_the_risk_of_the_mixture() -> None:
    losses = torch.rand(100, dtype=torch.float64, generator=seeded())
    result = domain_weighted_loss(losses, IDS, WEIGHTS)
    assert result.loss.item() == pytest.approx(risks(losses), rel=1e-12)
    expected = [losses[k == IDS].mean().item() for k in range(3)]
    assert result.per_domain.tolist() == pytest.approx(expected)


# The mean of 800 batches against the exact risk, at five standard errors: false alarms 6e-7.
@pytest.mark.parametrize("way", ["importance", "stratified"])
def test_the_loss_of_random_batches_is_unbiased(way: str) -> None:
    losses = torch.rand(100, dtype=torch.float64, generator=seeded()) + torch.from_numpy(IDS)
    shares = np.bincount(IDS) / 100
    values = []
    for rows in torch.randint(100, (800, 24), generator=seeded()).numpy():
        if way == "importance":
            result = domain_weighted_loss(losses[rows], IDS[rows], WEIGHTS, sampling=shares)
        else:
            # 5 of 24 draws are from the rarest domain on average: a batch without it has
            # probability 0.005 and is left out, as the estimate then is not defined.
            if len(set(IDS[rows])) < 3:
                continue
            result = domain_weighted_loss(losses[rows], IDS[rows], WEIGHTS)
        values.append(result.loss.item())
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values) - risks(losses)) < 5 * error
    # The test could see the bias of the unweighted mean.
    assert abs(float(losses.mean()) - risks(losses)) > 10 * error


def test_a_batch_of_the_sampler_needs_no_second_weight() -> None:
    s = sampler(num_samples=2000)
    rows = np.array(list(s))
    losses = torch.rand(100, dtype=torch.float64, generator=seeded())[rows]
    result = domain_weighted_loss(losses, IDS[rows], WEIGHTS, sampler=s)
    torch.testing.assert_close(result.loss, losses.mean())
    same = domain_weighted_loss(losses, IDS[rows], WEIGHTS, sampler=s, sampling=WEIGHTS)
    assert torch.equal(same.loss, result.loss)


def test_counting_the_weights_twice_is_refused() -> None:
    s = sampler()
    rows = np.array(list(s))
    with pytest.raises(ValueError, match="would count the weights twice; leave sampling out"):
        domain_weighted_loss(
            torch.ones(40), IDS[rows], WEIGHTS, sampler=s, sampling=np.bincount(IDS) / 100
        )


def test_classes_have_weights_of_their_own() -> None:
    joint = np.array([[0.1, 0.4], [0.5, 0.0]])
    weights = ClassSourceWeights(("a", "b"), ("go", "stop"), joint)
    losses = torch.tensor([1.0, 2.0, 3.0, 5.0], dtype=torch.float64)
    result = domain_weighted_loss(
        losses, ["a", "a", "b", "b"], weights, class_ids=["go", "stop", "go", "go"]
    )
    # 0.1 * 1 + 0.4 * 2 + 0.5 * (3 + 5) / 2
    assert result.loss.item() == pytest.approx(2.9)
    assert result.per_domain.tolist() == [1.5, 4.0]


@settings(max_examples=50, derandomize=True, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_order_of_the_samples_does_not_matter(seed: int) -> None:
    losses = torch.rand(100, dtype=torch.float64, generator=seeded(seed))
    order = torch.randperm(100, generator=seeded(seed)).numpy()
    torch.testing.assert_close(
        domain_weighted_loss(losses[order], IDS[order], WEIGHTS).loss,
        domain_weighted_loss(losses, IDS, WEIGHTS).loss,
    )


def test_the_gradient_of_a_sample_is_its_weight_over_its_share() -> None:
    losses = torch.ones(100, dtype=torch.float64, requires_grad=True)
    domain_weighted_loss(losses, torch.from_numpy(IDS), WEIGHTS).loss.backward()
    assert losses.grad is not None
    expected = np.array(WEIGHTS)[IDS] / np.bincount(IDS)[IDS]
    np.testing.assert_allclose(losses.grad.numpy(), expected)


def test_a_domain_that_the_batch_lacks_has_no_mean() -> None:
    result = domain_weighted_loss(torch.ones(2), [0, 0], [0.5, 0.5], sampling=[0.5, 0.5])
    assert result.loss.item() == 1.0
    assert result.per_domain.isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("losses", "ids", "weights", "settings", "message"),
    [
        (torch.ones(()), [0], [1.0], {}, r"per_sample_loss must be \(sample,\)"),
        (torch.ones(0), [], [1.0], {}, "with at least one sample"),
        (torch.ones(3), [0, 0], [1.0], {}, "got 3 losses and 2 domain ids"),
        (torch.ones(2), [0, 0], [0.5, 0.5], {}, r"domains \[1\] have a positive weight but were"),
        (
            torch.ones(1),
            [0],
            [1.0],
            {"sampling": [0.5, 0.5]},
            r"sampling has shape \(2,\)",
        ),
        (
            torch.ones(1),
            [0],
            [1.0],
            {"class_ids": [0]},
            "weights with 1 axes have no use",
        ),
        (torch.ones(1), [0], [[1.0]], {}, "weights with 2 axes need class_ids"),
    ],
)
def test_bad_losses_are_refused(
    losses: Any, ids: Any, weights: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        domain_weighted_loss(losses, ids, weights, **settings)
