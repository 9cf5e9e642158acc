from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuros_mechint.sae import ConceptSAE
from neuros_mechint.sae._supervision import Supervision, slots


def coder_of(concepts: object = ("a", "b", "c"), **options: object) -> ConceptSAE:
    generator = torch.Generator().manual_seed(0)
    return ConceptSAE(
        latent_dim=4, levels=[3, 8], concepts=concepts, generator=generator, **options
    )


def planted(n: int = 300, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Concept c lies along axis c; several may be present at once."""
    generator = torch.Generator().manual_seed(1)
    labels = (torch.rand(n, 3, generator=generator) < 0.4).long()
    x = noise * torch.randn(n, 4, generator=generator)
    x[:, :3] += 2.0 * labels
    return x, labels


def axes_coder(concepts: object = ("a", "b", "c")) -> ConceptSAE:
    """Features 5, 6, 7 are the axes of the concepts, the others are mixtures."""
    coder = coder_of(concepts)
    with torch.no_grad():
        mixed = torch.tensor(
            [[1.0, 1, 0, 0], [0.0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]]
        )
        coder.W_enc.copy_(torch.cat([mixed, torch.eye(4)[:3]]))
        coder.W_dec.copy_(torch.nn.functional.normalize(coder.W_enc, dim=1))
    return coder


def test_planted_concepts_find_their_features() -> None:
    coder, (x, labels) = axes_coder(), planted()
    found = coder.align(coder.encode(x), labels)
    assert found.concepts == ("a", "b", "c")
    assert found.features.tolist() == [5, 6, 7]
    assert (found.auc > 0.999).all()
    assert (found.best_other < found.auc - 0.05).all()
    fresh, present = planted(100)
    score = coder.concept_score(fresh)
    assert torch.equal(score > 0.5, present.bool())
    torch.testing.assert_close(coder.concept_directions(), torch.eye(4)[:3])


def test_a_concept_bound_to_a_level_is_looked_for_there() -> None:
    coder, (x, labels) = axes_coder({"a": 0, "b": 1, "c": 1}), planted()
    found = coder.align(coder.encode(x), labels)
    assert int(found.features[0]) in {0, 2}
    assert found.features[1:].tolist() == [6, 7]


def test_two_concepts_do_not_share_a_feature() -> None:
    coder, (x, labels) = axes_coder(), planted()
    labels = labels[:, [0, 0, 2]]
    found = coder.align(coder.encode(x), labels)
    assert len(set(found.features.tolist())) == 3
    assert 5 in found.features[:2].tolist()


def test_numbers_of_concepts_are_labels_too() -> None:
    coder = axes_coder()
    numbers = torch.arange(90) % 3
    x = 2 * torch.eye(4)[numbers] + 0.01 * torch.randn(90, 4)
    one_hot = torch.nn.functional.one_hot(numbers, 3)
    features = coder.encode(x).reshape(9, 10, 8)
    found = coder.align(features, numbers.reshape(9, 10))
    again = coder.align(features, one_hot.reshape(9, 10, 3))
    assert torch.equal(found.features, again.features)
    assert torch.equal(found.auc, again.auc)


@settings(max_examples=15, derandomize=True, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100))
def test_the_area_counts_pairs_and_ignores_units(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    coder = coder_of(["only"])
    f = torch.randn(20, 8, generator=generator).relu()
    labels = (torch.arange(20) % 3 == 0).long()[:, None]
    found = coder.align(scale * f, labels)
    j = int(found.features[0])
    with_, without = f[labels[:, 0] == 1, j], f[labels[:, 0] == 0, j]
    above = (with_[:, None] > without).double() + 0.5 * (with_[:, None] == without).double()
    assert float(found.auc[0]) == pytest.approx(float(above.mean()), abs=1e-12)
    assert float(found.best_other[0]) <= float(found.auc[0])


def test_the_score_is_a_probability_in_the_unit_of_the_data() -> None:
    coder, (x, labels) = axes_coder(), planted(noise=1.0)
    coder.align(coder.encode(x), labels)
    score = coder.concept_score(x)
    # A logistic regression with a bias is calibrated on the whole, up to its mild penalty.
    torch.testing.assert_close(score.mean(0), labels.float().mean(0), rtol=0, atol=0.01)
    score.sum().backward()
    assert coder.W_enc.grad is not None


def test_the_match_is_saved_with_the_coder(tmp_path: Path) -> None:
    coder, (x, labels) = axes_coder({"a": 1, "b": 1, "c": 1}), planted()
    coder.input_scale.fill_(3.0)
    coder.align(coder.encode(x), labels)
    coder.save(tmp_path)
    again = ConceptSAE.load(tmp_path)
    assert again.concepts == {"a": 1, "b": 1, "c": 1}
    torch.testing.assert_close(again.concept_score(x), coder.concept_score(x), rtol=0, atol=1e-5)


def test_it_trains_as_a_hierarchy() -> None:
    x, _ = planted(512)
    generator = torch.Generator().manual_seed(0)
    coder = coder_of(activation="topk", k=2)
    coder.fit(x, steps=40, batch_size=64, generator=generator)
    errors = [(x - part).square().sum() for part in coder.reconstructions(x)]
    assert errors[0] >= errors[1]


def hidden_concept(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Eight strong sparse features, and a concept on a weak direction that reconstruction skips."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(99)))[0]
    active = (torch.rand(n, 8, generator=generator) < 0.25).float()
    strength = active * (1 + torch.rand(n, 8, generator=generator))
    labels = (torch.rand(n, 1, generator=generator) < 0.3).long()
    noise = 0.12 * torch.randn(n, 16, generator=generator)
    return 3 * strength @ axes[:8] + 0.6 * labels * axes[8] + noise, labels


# Slow: two trainings of 300 steps, until a random feature has become the concept's.
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu"},
        {"activation": "topk", "k": 6},
        {"activation": "batchtopk", "k": 3},
    ],
    ids=lambda options: options["activation"],
)
def test_labels_in_training_give_a_concept_the_feature_that_it_lacks_without(
    options: dict[str, Any],
) -> None:
    (x, labels), (fresh, told) = hidden_concept(4096, 1), hidden_concept(2000, 2)
    areas = {}
    for supervised in (False, True):
        generator = torch.Generator().manual_seed(0)
        coder = ConceptSAE(
            latent_dim=16, levels=[8, 24], concepts=["weak"], generator=generator, **options
        )
        given = {"labels": labels} if supervised else {}
        log = coder.fit(x, steps=300, batch_size=256, lr=5e-3, generator=generator, **given)
        assert ("concept" in log.terms) == supervised
        if supervised:
            # The first free feature of the last level, and the score is ready.
            assert coder.concept_features.tolist() == [8]
            with torch.no_grad():
                score = coder.concept_score(fresh)
            assert ((score > 0.5) == told.bool()).float().mean() > 0.9
        with torch.no_grad():
            areas[supervised] = float(coder.align(coder.encode(fresh), told).auc[0])
    assert areas[True] >= 0.95
    # The best of 24 features that never saw a label.
    assert areas[False] < 0.85


def test_the_loss_of_the_labels_is_its_formula() -> None:
    coder, (x, labels) = coder_of(activation="jumprelu"), planted(50)
    with torch.no_grad():
        coder.b_dec.add_(0.3)
        coder.b_enc.add_(0.2)
    present = labels.bool()
    supervision = Supervision(present, torch.tensor([4, 0, 7]), 0.7)
    with torch.no_grad():
        found = supervision.loss(coder, x, present)
        u = ((x - coder.b_dec) @ coder.W_enc.T + coder.b_enc - coder.bandwidth)[:, [4, 0, 7]]
    loss = torch.where(present, torch.nn.functional.softplus(-u), torch.nn.functional.softplus(u))
    expected = sum(
        (loss[present[:, c], c].mean() + loss[~present[:, c], c].mean()) / 2 for c in range(3)
    )
    torch.testing.assert_close(found, 0.7 * expected)


def test_a_matched_concept_keeps_its_feature_in_training() -> None:
    coder, (x, labels) = axes_coder(), planted(400)
    coder.align(coder.encode(x), labels)
    coder.fit(x, labels=labels, steps=5, batch_size=64)
    assert coder.concept_features.tolist() == [5, 6, 7]


def test_concepts_take_the_first_free_features_of_their_levels() -> None:
    assert slots({"a": 1, "b": 0, "c": 1}, [2, 6]) == [2, 0, 3]
    # A level that is full lends from those before it.
    assert slots({"a": 1, "b": 1}, [3, 4]) == [3, 0]


def test_labels_of_any_form_and_rows_of_any_shape_train_alike() -> None:
    numbers = torch.arange(60) % 3
    x = 2 * torch.eye(4)[numbers]
    coders = [coder_of(), coder_of()]
    coders[0].fit(x, labels=numbers, steps=5, batch_size=16)
    one_hot = torch.nn.functional.one_hot(numbers, 3).reshape(6, 10, 3)
    coders[1].fit(x.reshape(6, 10, 4), labels=one_hot, steps=5, batch_size=16)
    assert torch.equal(coders[0].W_enc, coders[1].W_enc)
    assert torch.equal(coders[0].concept_weights, coders[1].concept_weights)


def test_an_interrupted_training_with_labels_ends_with_the_same_bits(tmp_path: Path) -> None:
    x, labels = planted(256)

    def trained(path: Path | None, fails_at: int = 0) -> ConceptSAE:
        class Stop:
            def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
                if step == fails_at:
                    raise KeyboardInterrupt

            def on_epoch_end(self, trainer: Any, epoch: int, metrics: dict[str, float]) -> None:
                pass

        coder = coder_of(activation="topk", k=2)
        coder.fit(
            x,
            labels=labels,
            steps=12,
            batch_size=32,
            checkpoint=path,
            checkpoint_every=4,
            callbacks=[Stop()],
        )
        return coder

    whole, path = trained(None), tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(path, fails_at=7)
    for name, value in trained(path).state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    with pytest.raises(ValueError, match=r"another training.*concept_coefficient"):
        coder_of(activation="topk", k=2).fit(
            x,
            labels=labels,
            concept_coefficient=2.0,
            steps=12,
            batch_size=32,
            checkpoint=path,
            checkpoint_every=4,
        )


def test_labels_that_do_not_fit_the_training_are_refused() -> None:
    coder, (x, labels) = coder_of(), planted(50)
    with pytest.raises(TypeError, match=r"labels= needs activations in a tensor, .* got a tuple"):
        coder.fit((x,), labels=labels, steps=1)
    with pytest.raises(TypeError, match="no site=, got a Tensor and site='a'"):
        coder.fit(x, labels=labels, site="a", steps=1)
    with pytest.raises(ValueError, match=r"labels needs shape \(50, 3\)"):
        coder.fit(x, labels=labels[:20], steps=1)
    with pytest.raises(ValueError, match="concept_coefficient needs a number above 0, got 0"):
        coder.fit(x, labels=labels, concept_coefficient=0.0, steps=1)
    with pytest.raises(ValueError, match="activations need finite numbers, batch 0"):
        coder.fit(x / 0, labels=labels, steps=1)


def test_bad_concepts_are_refused() -> None:
    with pytest.raises(ValueError, match="concepts needs at least one name, each of them once"):
        coder_of([])
    with pytest.raises(ValueError, match=r"each of them once, got \['a'\]"):
        coder_of(["a", "a"])
    with pytest.raises(ValueError, match="concept 'a' is bound to level 2; levels are 0 to 1"):
        coder_of({"a": 2})
    with pytest.raises(ValueError, match="4 concepts share the 3 features of levels up to 0"):
        coder_of(dict.fromkeys("abcd", 0))


def test_scores_need_an_alignment() -> None:
    with pytest.raises(RuntimeError, match=r"call align\(features, labels\) first"):
        coder_of().concept_score(torch.ones(1, 4))
    with pytest.raises(RuntimeError, match=r"call align\(features, labels\) first"):
        coder_of().concept_directions()


def test_bad_labels_are_refused() -> None:
    coder, f = coder_of(), torch.rand(6, 8)
    good = torch.eye(3).repeat(2, 1).long()

    def refuse(message: str, features: Tensor, labels: Tensor) -> None:
        with pytest.raises(ValueError, match=message):
            coder.align(features, labels)

    refuse(r"features needs shape \(..., 8\), got \(6, 7\)", f[:, :7], good)
    refuse("features needs finite numbers", f / 0, good)
    refuse(r"labels needs shape \(6, 3\) of zeros and ones or \(6,\)", f, good[:5])
    refuse("labels needs numbers of concepts from 0 to 2", f, torch.arange(6))
    refuse("needs zeros and ones", f, 2 * good)
    refuse("concept 'b' is never present", f, torch.tensor([0, 0, 0, 2, 2, 2]))
    refuse("concept 'a' is always present", f, torch.ones(6, 3))
