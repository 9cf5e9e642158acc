"""Class-conditional weights, weights without a target, and the combination of predictors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_core.domains import DomainStatistics
from neuros_sourceweigher import (
    ClassConditionalWeigher,
    DoReMiWeights,
    SourceWeigher,
    distribution_weighted_combination,
)

CI = settings(max_examples=30, derandomize=True, deadline=None)
MEANS = np.random.default_rng(0).normal(size=(2, 3, 8))  # source, class, feature


def source(k: int, labels: str = "xyz", n: int = 50) -> DomainStatistics:
    parts = {
        c: DomainStatistics(c, n, MEANS[k, i], np.eye(8))
        for i, c in enumerate("xyz")
        if c in labels
    }
    mean = np.mean([part.mean for part in parts.values()], axis=0)
    return DomainStatistics(f"s{k}", n * len(parts), mean, np.eye(8), classes=parts)


def target_of(joint: np.ndarray, *, labelled: bool = False) -> DomainStatistics:
    classes = {}
    if labelled:
        classes = {
            c: DomainStatistics(
                c, round(1000 * joint[:, i].sum()), joint[:, i] @ MEANS[:, i] / joint[:, i].sum()
            )
            for i, c in enumerate("xyz")
            if joint[:, i].sum()
        }
    return DomainStatistics("t", 1000, np.einsum("kc,kcp->p", joint, MEANS), np.eye(8), "", classes)


@CI
@given(st.integers(0, 2**32 - 1), st.sampled_from(["identity", "diagonal", "efficient"]))
def test_an_unlabelled_target_gives_the_joint_weights(seed: int, metric: str) -> None:
    joint = np.random.default_rng(seed).dirichlet(np.ones(6)).reshape(2, 3)
    got = ClassConditionalWeigher(metric=metric).fit([source(0), source(1)], target_of(joint))
    np.testing.assert_allclose(got.joint, joint, atol=1e-9)
    assert got.names == ("s0", "s1")
    assert got.classes == ("x", "y", "z")


@CI
@given(st.integers(0, 2**32 - 1))
def test_a_labelled_target_gives_each_class_its_weights(seed: int) -> None:
    joint = np.random.default_rng(seed).dirichlet(np.ones(6)).reshape(2, 3)
    # Counts are whole, so the shares of the classes are rounded to a thousandth.
    counts = np.maximum(np.round(1000 * joint.sum(axis=0)), 1)
    joint = joint / joint.sum(axis=0) * counts / counts.sum()
    target = target_of(joint, labelled=True)
    got = ClassConditionalWeigher().fit([source(0), source(1)], target)
    np.testing.assert_allclose(got.conditional, joint / joint.sum(axis=0), atol=1e-9)
    np.testing.assert_allclose(got.class_prior, joint.sum(axis=0), atol=2e-3)
    priors = {"x": 0.5, "y": 0.5, "z": 0.0}
    got = ClassConditionalWeigher().fit([source(0), source(1)], target, target_priors=priors)
    np.testing.assert_allclose(got.class_prior, [0.5, 0.5, 0.0], atol=1e-12)


@CI
@given(st.integers(0, 2**32 - 1))
def test_known_class_shares_are_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    joint = rng.dirichlet(np.ones(6)).reshape(2, 3)
    priors = dict(zip("xyz", joint.sum(axis=0).tolist(), strict=True))
    total = sum(priors.values())
    priors = {c: p / total for c, p in priors.items()}
    weigher = ClassConditionalWeigher()
    got = weigher.fit([source(0), source(1)], target_of(joint), target_priors=priors)
    np.testing.assert_allclose(got.class_prior, list(priors.values()), atol=1e-12)
    np.testing.assert_allclose(got.joint, joint, atol=1e-3)
    # Priors that do not fit the target are kept all the same.
    even = dict.fromkeys("xyz", 1 / 3)
    got = weigher.fit([source(0), source(1)], target_of(joint), target_priors=even)
    np.testing.assert_allclose(got.class_prior, 1 / 3, atol=1e-12)


def test_class_shares_that_do_not_settle_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuros_sourceweigher._class_conditional._SWEEPS", 1)
    joint = np.array([[0.3, 0.3, 0.0], [0.1, 0.1, 0.2]])
    priors = {"x": 0.4, "y": 0.4, "z": 0.2}
    with pytest.raises(RuntimeError, match=r"the weights by class reached a gap of .* in 1 sweeps"):
        ClassConditionalWeigher().fit(
            [source(0), source(1)], target_of(joint), target_priors=priors
        )


def test_class_shares_no_longer_look_like_domains() -> None:
    # The target is source 0 with other class shares: plain matching gives source 1 weight.
    joint = np.array([[0.8, 0.1, 0.1], [0.0, 0.0, 0.0]])
    sources, target = [source(0), source(1)], target_of(joint)
    np.testing.assert_allclose(
        ClassConditionalWeigher().fit(sources, target).source, [1.0, 0.0], atol=1e-9
    )
    assert SourceWeigher(metric="identity").fit(sources, target).weights[0] < 0.95


def test_a_class_that_a_source_lacks_gets_no_weight_there() -> None:
    joint = np.array([[0.3, 0.3, 0.0], [0.1, 0.1, 0.2]])
    got = ClassConditionalWeigher().fit([source(0, "xy"), source(1)], target_of(joint))
    np.testing.assert_allclose(got.joint, joint, atol=1e-9)
    few = source(0).classes | {"z": DomainStatistics("z", 1, MEANS[0, 2])}
    thin = DomainStatistics("s0", 100, np.zeros(8), classes=few)
    got = ClassConditionalWeigher().fit([thin, source(1)], target_of(joint))
    assert got.joint[0, 2] == 0.0
    got = ClassConditionalWeigher(min_count=1).fit(
        [thin, source(1)], target_of(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    )
    assert got.joint[0, 2] == pytest.approx(1.0)


def test_a_ridge_pulls_to_equal_weights() -> None:
    joint = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    weigher = ClassConditionalWeigher(ridge=1e9)
    got = weigher.fit([source(0), source(1)], target_of(joint))
    np.testing.assert_allclose(got.joint, 1 / 6, atol=1e-6)
    priors = {"x": 0.6, "y": 0.4}
    got = weigher.fit([source(0), source(1)], target_of(joint), target_priors=priors)
    np.testing.assert_allclose(got.joint, [[0.3, 0.2, 0.0], [0.3, 0.2, 0.0]], atol=1e-6)


def test_unfit_classes_are_refused() -> None:
    full, some = source(0), source(1, "xy")
    labelled = target_of(np.full((2, 3), 1 / 6), labelled=True)
    weigher = ClassConditionalWeigher()
    with pytest.raises(ValueError, match=r"got none for \['z'\]; leave them out, or lower min_c"):
        weigher.fit([some], labelled)
    with pytest.raises(ValueError, match="sources needs classes of at least min_count = 99"):
        ClassConditionalWeigher(min_count=99).fit([full], labelled)
    xy = target_of(np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]), labelled=True)
    with pytest.raises(ValueError, match=r"classes of the labelled target, got \['z'\] besides"):
        weigher.fit([full], xy, target_priors={"x": 0.5, "z": 0.5})
    with pytest.raises(ValueError, match="target_priors needs entries that sum to 1"):
        weigher.fit([full], xy, target_priors={"x": 0.5})
    with pytest.raises(ValueError, match="sources needs at least one domain"):
        weigher.fit([], xy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "x"}, "metric needs one of"),
        ({"ridge": -1.0}, "ridge needs a finite number >= 0, got -1.0"),
        ({"min_count": 0}, "min_count needs a number >= 1, got 0"),
    ],
)
def test_unknown_configuration_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassConditionalWeigher(**change)
    assert repr(ClassConditionalWeigher()) == (
        "ClassConditionalWeigher(metric='identity', ridge=0.0, min_count=2)"
    )


def test_doremi_follows_its_algorithm() -> None:
    doremi = DoReMiWeights(["a", "b", "c"], eta=0.5, smoothing=0.1)
    reference = np.array([1.0, 1.0, 1.0])
    w, total = np.full(3, 1 / 3), np.zeros(3)
    rng = np.random.default_rng(0)
    assert doremi.average().weights.tolist() == w.tolist()
    for step in range(5):
        losses = rng.gamma(2.0, size=3)
        raised = w * np.exp(0.5 * np.maximum(losses - reference, 0))
        w = 0.9 * raised / raised.sum() + 0.1 / 3
        total += w
        got = doremi.update(losses, reference)
        np.testing.assert_allclose(got.weights, w, atol=1e-14)
        np.testing.assert_allclose(doremi.average().weights, total / (step + 1), atol=1e-14)
    assert doremi.current().meta["steps"] == 5


def test_doremi_resumes_where_it_stopped() -> None:
    one, two = DoReMiWeights(["a", "b"]), DoReMiWeights(["a", "b"])
    one.update([2.0, 1.0], [1.0, 1.0])
    two.load_state_dict(one.state_dict())
    for doremi in (one, two):
        doremi.update([1e6, 3.0], [1.0, 1.0])
    assert one.average().to_dict() == two.average().to_dict()
    assert one.current()["b"] == pytest.approx(0.0005)
    with pytest.raises(ValueError, match=r"state needs the domains \['c'\], got \['a', 'b'\]"):
        DoReMiWeights(["c"]).load_state_dict(one.state_dict())
    assert repr(one) == "DoReMiWeights(['a', 'b'], eta=1.0, smoothing=0.001)"


def test_unfit_doremi_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eta needs a finite number > 0, got 0\.0"):
        DoReMiWeights(["a"], eta=0.0)
    with pytest.raises(ValueError, match=r"smoothing needs a share in \[0, 1\), got 1.0"):
        DoReMiWeights(["a"], smoothing=1.0)
    with pytest.raises(ValueError, match="names needs every name once"):
        DoReMiWeights(["a", "a"])
    with pytest.raises(ValueError, match=r"losses needs shape \(1,\), got \(2,\)"):
        DoReMiWeights(["a"]).update([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="reference_losses needs finite values"):
        DoReMiWeights(["a"]).update([1.0], [np.nan])


@CI
@given(st.integers(0, 2**32 - 1))
def test_combined_probabilities_are_those_of_bayes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(3), size=(5, 4))
    densities, w = rng.gamma(1.0, size=(5, 4)), rng.dirichlet(np.ones(4))
    got = distribution_weighted_combination(probs, densities, w)
    joint = w[None, :, None] * densities[:, :, None] * probs
    np.testing.assert_allclose(got, joint.sum(axis=1) / joint.sum(axis=(1, 2))[:, None], rtol=1e-10)
    tiny = distribution_weighted_combination(probs, densities * 1e-300, w)
    np.testing.assert_allclose(tiny, got, rtol=1e-10)


@pytest.mark.parametrize(
    ("probs", "densities", "w", "message"),
    [
        ([[1.0]], [[1.0]], [1.0], r"probs needs shape \(..., K, C\)"),
        ([[1.0], [1.0]], [1.0, -1.0], [0.5, 0.5], "densities needs values >= 0, got -1.0"),
        ([[1.0], [1.0]], [1.0, 1.0], [0.5, 0.4], "w needs entries that sum to 1"),
        ([[[1.0], [1.0]]], [[1.0, 0.0]], [0.0, 1.0], r"got none at index \(0,\); add a floor"),
        ([[np.nan]], [1.0], [1.0], "probs needs finite values"),
    ],
)
def test_unfit_combinations_are_refused(
    probs: list, densities: list, w: list, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        distribution_weighted_combination(probs, densities, w)
