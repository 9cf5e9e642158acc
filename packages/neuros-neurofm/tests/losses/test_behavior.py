import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, nn

from neuros_neurofm.losses import BehaviorLoss


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_continuous_behaviour_scores_the_squared_error_of_the_valid_queries() -> None:
    target, output = torch.randn(2, 4, 9, 3, dtype=torch.float64, generator=seeded())
    valid = torch.rand(4, 9, generator=seeded(1)) < 0.5
    batch = {"behavior": target, "behavior_mask": valid}
    oracle = nn.MSELoss()(output[valid], target[valid])
    torch.testing.assert_close(BehaviorLoss()({"decoder": output}, batch), oracle)
    assert BehaviorLoss().count(batch) == 3 * valid.sum()


@pytest.mark.parametrize("axes", [2, 3])
def test_labels_score_the_cross_entropy_of_the_valid_queries(axes: int) -> None:
    logits = torch.randn(4, 9, 5, generator=seeded())
    labels = torch.randint(5, (4, 9), generator=seeded(1))
    valid = torch.rand(4, 9, generator=seeded(2)) < 0.5
    labels[~valid] = -7
    batch = {"behavior": labels if axes == 2 else labels[..., None], "behavior_mask": valid}
    oracle = nn.CrossEntropyLoss()(logits[valid], labels[valid])
    torch.testing.assert_close(BehaviorLoss()({"decoder": logits}, batch), oracle)
    assert BehaviorLoss().count(batch) == valid.sum()


def test_unrecorded_values_may_be_nan() -> None:
    target = torch.tensor([[[1.0], [float("nan")]]])
    batch = {"behavior": target, "behavior_mask": ~target.isnan().squeeze(-1)}
    output = torch.zeros(1, 2, 1, requires_grad=True)
    loss = BehaviorLoss()({"decoder": output}, batch)
    loss.backward()
    assert loss.item() == 1.0
    assert output.grad is not None
    assert output.grad.flatten().tolist() == [-2.0, 0.0]


@pytest.mark.parametrize("empty", [{}, {"behavior": torch.ones(1, 2, 1), "behavior_mask": None}])
def test_without_behaviour_the_loss_is_zero_with_a_gradient(empty: dict[str, object]) -> None:
    batch = dict(empty)
    if batch:
        batch["behavior_mask"] = torch.zeros(1, 2, dtype=torch.bool)
    output = torch.full((1, 2, 1), 3.0, requires_grad=True)
    loss = BehaviorLoss()({"decoder": output}, batch)
    loss.backward()
    assert loss.item() == 0
    assert BehaviorLoss().count(batch) == 0
    assert output.grad is not None
    assert (output.grad == 0).all()


@settings(max_examples=50, derandomize=True, deadline=None)
@given(weight=st.floats(0, 10), seed=st.integers(0, 50))
def test_the_loss_does_not_depend_on_the_order_of_the_rows(weight: float, seed: int) -> None:
    target, output = torch.randn(2, 6, 3, 2, dtype=torch.float64, generator=seeded(seed))
    order = torch.randperm(6, generator=seeded(seed))
    loss = BehaviorLoss(weight=weight)
    torch.testing.assert_close(
        loss({"decoder": output[order]}, {"behavior": target[order]}),
        weight * BehaviorLoss()({"decoder": output}, {"behavior": target}),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    output = torch.randn(2, 5, 3, generator=seeded()).to(dtype)
    for target in (torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.long)):
        with torch.autocast("cpu", torch.bfloat16):
            half = BehaviorLoss()({"decoder": output}, {"behavior": target})
        full = BehaviorLoss()({"decoder": output.float()}, {"behavior": target})
        assert torch.equal(half, full)


@pytest.mark.parametrize("logit", [1e4, -1e4])
def test_huge_logits_give_no_nan(logit: float) -> None:
    output = torch.tensor([[[logit, 0.0]]], requires_grad=True)
    loss = BehaviorLoss()({"decoder": output}, {"behavior": torch.zeros(1, 1, dtype=torch.long)})
    loss.backward()
    assert loss.isfinite()
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"decoder's shape \(1, 2, 3\) must equal .* \(1, 2, 2\)"):
        BehaviorLoss()({"decoder": torch.ones(1, 2, 3)}, {"behavior": torch.ones(1, 2, 2)})


def test_a_mask_of_another_shape_is_refused() -> None:
    batch = {"behavior": torch.ones(1, 2, 2), "behavior_mask": torch.ones(1, 3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"behavior_mask must be .* \(1, 2\), got \(1, 3\)"):
        BehaviorLoss()({"decoder": torch.ones(1, 2, 2)}, batch)


def test_labels_outside_the_classes_are_refused() -> None:
    batch = {"behavior": torch.tensor([[0, 4]])}
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), .* got \[0, 4\]"):
        BehaviorLoss()({"decoder": torch.ones(1, 2, 3)}, batch)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="weight must be a finite number >= 0, got -1"):
        BehaviorLoss(weight=-1.0)
