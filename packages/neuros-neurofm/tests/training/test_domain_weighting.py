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


# Four standard deviations, 6e-5 per domain, of one fixed generator; six for the 100 samples.
def test_domains_come_with_their_weights_and_samples_uniformly() -> None:
    n = 100_000
    drawn = np.array(list(sampler(num_samples=n)))
    shares = np.bincount(IDS[drawn], minlength=3) / n
    w = np.array(WEIGHTS)
    assert (abs(shares - w) < 4 * np.sqrt(w * (1 - w) / n)).all()
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


@pytest.mark.parametrize("replacement", [True, False])
def test_every_process_goes_on_from_its_own_position(*, replacement: bool) -> None:
    def dealt(rank: int, seed: int) -> DomainWeightedSampler:
        return sampler(rank=rank, world_size=2, generator=seeded(seed), replacement=replacement)

    for rank in range(2):
        whole, part = dealt(rank, 0), dealt(rank, 0)
        expected = [*whole, *whole]
        iterator = iter(part)
        used = [next(iterator) for _ in range(7)]
        resumed = dealt(rank, 5)
        resumed.load_state_dict(part.state_dict())
        assert [*used, *resumed, *resumed] == expected


def test_an_announced_epoch_follows_from_the_seed_and_its_number() -> None:
    first, second = sampler(), sampler()
    list(first)
    epochs = []
    for s, order in ((first, [3, 0, 3]), (second, [3, 0, 3])):
        for epoch in order:
            s.set_epoch(epoch)
            epochs.append(list(s))
    assert epochs[0] == epochs[2] == epochs[3] == epochs[5]
    assert epochs[1] == epochs[4] != epochs[0]
    # One that is not announced is another one.
    assert list(first) != epochs[0]
    other = sampler(generator=seeded(1))
    other.set_epoch(3)
    assert list(other) != epochs[0]


def test_new_weights_hold_from_the_next_epoch_on() -> None:
    s = sampler()
    before = sampler()
    iterator = iter(s)
    first = [next(iterator) for _ in range(10)]
    s.set_weights([0.0, 0.0, 1.0])
    assert s.weights.tolist() == WEIGHTS
    assert first + list(iterator) == list(before)
    assert set(IDS[list(s)]) == {2}
    assert s.weights.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("position", [0, 13, 40])
def test_an_epoch_goes_on_with_the_weights_that_it_began_with(position: int) -> None:
    def changing() -> DomainWeightedSampler:
        s = sampler()
        list(s)
        s.set_weights([0.0, 0.5, 0.5])
        return s

    whole, part = changing(), changing()
    iterator, other = iter(whole), iter(part)
    expected = list(iterator)
    used = [next(other) for _ in range(position)]
    for s in (whole, part):
        s.set_weights([1.0, 0.0, 0.0])
    expected += list(whole)
    resumed = sampler(generator=seeded(9))
    resumed.load_state_dict(part.state_dict())
    rest = list(resumed)
    if position == 0:
        # Nothing had begun, so the last weights hold at once.
        assert set(IDS[rest]) == {0}
    else:
        assert used + rest + list(resumed) == expected


def test_a_state_for_other_domains_is_refused() -> None:
    state = sampler().state_dict()
    other = DomainWeightedSampler([0, 1], [0.5, 0.5], num_samples=2, generator=seeded())
    with pytest.raises(ValueError, match=r"the state has shape \(3,\), weights have \(2,\)"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.5], r"weights has shape \(2,\), weights have \(3,\); they must be equal"),
        ([0.5, 0.6, 0.0], "must be finite, >= 0 and sum to 1"),
    ],
)
def test_bad_new_weights_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler().set_weights(weights)


def test_new_weights_must_be_of_the_same_domains_and_have_samples() -> None:
    mouse_only = SourceWeights(("mouse", "rat"), [1.0, 0.0], "example")
    s = DomainWeightedSampler(["mouse"], mouse_only, num_samples=1, generator=seeded())
    with pytest.raises(ValueError, match=r"names \['rat', 'mouse'\], .* in the same order"):
        s.set_weights(SourceWeights.uniform(["rat", "mouse"]))
    with pytest.raises(ValueError, match=r"domains \[1\] have a positive weight but no sample"):
        s.set_weights(SourceWeights.uniform(["mouse", "rat"]))


JOINT = ClassSourceWeights(("a", "b"), ("go", "stop"), [[0.1, 0.4], [0.5, 0.0]])


# Four standard deviations, 6e-5 per cell, of one fixed generator.
def test_domains_and_classes_come_with_their_joint_weights() -> None:
    domains, classes = np.repeat(["a", "b"], 30), np.tile(["go", "stop", "go"], 20)
    n = 20_000
    s = DomainWeightedSampler(domains, JOINT, class_ids=classes, num_samples=n, generator=seeded())
    drawn = np.array(list(s))
    for i, domain in enumerate(JOINT.names):
        for j, label in enumerate(JOINT.classes):
            share = ((domains[drawn] == domain) & (classes[drawn] == label)).mean()
            p = JOINT.joint[i, j]
            assert abs(share - p) <= 4 * np.sqrt(p * (1 - p) / n)
    losses = torch.rand(n, dtype=torch.float64, generator=seeded())
    result = domain_weighted_loss(
        losses, domains[drawn], JOINT, sampler=s, class_ids=classes[drawn]
    )
    torch.testing.assert_close(result.loss, losses.mean())


def test_a_joint_needs_classes_and_samples_in_every_cell() -> None:
    with pytest.raises(ValueError, match="weights with 2 axes need class_ids"):
        DomainWeightedSampler(["a"], JOINT, num_samples=1, generator=seeded())
    with pytest.raises(
        ValueError, match=r"\(domain, class\) \[\(0, 1\), \(1, 0\)\] have a positive"
    ):
        DomainWeightedSampler(["a"], JOINT, class_ids=["go"], num_samples=1, generator=seeded())
    with pytest.raises(ValueError, match="got 2 domain ids and 1 class ids"):
        DomainWeightedSampler(
            ["a", "b"], JOINT, class_ids=["go"], num_samples=1, generator=seeded()
        )
    with pytest.raises(
        ValueError, match=r"\(domain, class\) \[\(0, 1\), \(1, 0\)\] have a .* never"
    ):
        domain_weighted_loss(torch.ones(1), ["a"], JOINT, class_ids=["go"])


def test_sampling_in_another_order_of_names_is_refused() -> None:
    w = SourceWeights(("a", "b"), [0.9, 0.1], "example")
    q = SourceWeights(("b", "a"), [0.9, 0.1], "example")
    with pytest.raises(ValueError, match=r"sampling has the names .* in the same order"):
        domain_weighted_loss(torch.ones(2), ["a", "b"], w, sampling=q)
    s = DomainWeightedSampler(["a", "b"], w, num_samples=1, generator=seeded())
    with pytest.raises(ValueError, match=r"the sampler has the names .* in the same order"):
        domain_weighted_loss(torch.ones(2), ["a", "b"], q, sampler=s)


# 400 batches of 64 against the exact risk of other weights, at five standard errors.
def test_the_sampler_and_the_loss_correct_each_other_exactly() -> None:
    losses = torch.rand(100, dtype=torch.float64, generator=seeded()) + torch.from_numpy(IDS)
    s = sampler(weights=[0.4, 0.4, 0.2], num_samples=400 * 64)
    rows = np.array(list(s)).reshape(400, 64)
    values = [domain_weighted_loss(losses[r], IDS[r], WEIGHTS, sampler=s).loss.item() for r in rows]
    assert abs(np.mean(values) - risks(losses)) < 5 * np.std(values) / 20
    assert abs(float(losses[rows].mean()) - risks(losses)) > 10 * np.std(values) / 20


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


# The mean of 400 batches against the exact risk, at five standard errors: false alarms 6e-7.
@pytest.mark.parametrize("way", ["importance", "stratified"])
def test_the_loss_of_random_batches_is_unbiased(way: str) -> None:
    losses = torch.rand(100, dtype=torch.float64, generator=seeded()) + torch.from_numpy(IDS)
    shares = np.bincount(IDS) / 100
    values = []
    for rows in torch.randint(100, (400, 24), generator=seeded()).numpy():
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
