import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from neuros_neurofm.losses import _info_nce, contrastive_loss
from neuros_neurofm.losses._positives import find_positives
from neuros_neurofm.losses.contrastive_loss import TriModalContrastiveLoss

PAIRS = ("neural_behavior", "neural_stimulus", "behavior_stimulus")


def embeddings(batch: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    generator = Generator().manual_seed(seed)
    return [torch.randn(batch, 5, generator=generator, dtype=dtype) for _ in range(3)]


def ids(batch: int, seed: int = 0) -> dict[str, Tensor]:
    generator = Generator().manual_seed(seed)
    return {
        "temporal_indices": torch.randint(0, 12, (batch,), generator=generator),
        "stimulus_ids": torch.randint(0, 4, (batch,), generator=generator),
        "session_ids": torch.randint(0, 2, (batch,), generator=generator),
    }


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def double_loop(a: Tensor, b: Tensor, tau: float, related: Any) -> float:
    A, B = (x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True) for x in (a, b))
    total = 0.0
    for logits in (A @ B.T / tau, B @ A.T / tau):
        for i in range(len(A)):
            positives = [j for j in range(len(A)) if i == j or related(i, j)]
            log_norm = np.log(np.exp(logits[i]).sum())
            total -= np.mean([logits[i, j] - log_norm for j in positives]) / len(A)
    return total / 2


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_without_extra_positives_it_is_cross_entropy_both_ways(
    dtype: torch.dtype, tol: float
) -> None:
    embs = embeddings(17, dtype)
    loss, parts = TriModalContrastiveLoss(0.2)(*embs)
    units = dict(zip(("neural", "behavior", "stimulus"), embs, strict=True))
    labels = torch.arange(17)
    expected = []
    for pair in PAIRS:
        a, b = (functional.normalize(units[name]) for name in pair.split("_"))
        logits = a @ b.T / 0.2
        ce = functional.cross_entropy
        expected.append((ce(logits, labels) + ce(logits.T, labels)) / 2)
        torch.testing.assert_close(parts[pair], expected[-1], rtol=tol, atol=tol)
        assert not parts[pair].requires_grad
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=tol, atol=tol)


@pytest.mark.parametrize("given", ["times", "stimuli", "times and sessions", "all"])
def test_several_positives_equal_a_double_loop(given: str) -> None:
    a, b, _ = embeddings(23)
    x = ids(23)
    t, stim, ses = x["temporal_indices"], x["stimulus_ids"], x["session_ids"]
    use_times, use_stim = given != "stimuli", given in {"stimuli", "all"}
    use_sessions = given in {"times and sessions", "all"}

    def related(i: int, j: int) -> bool:
        close = use_times and abs(int(t[i]) - int(t[j])) <= 2
        close = close and not (use_sessions and ses[i] != ses[j])
        return close or (use_stim and bool(stim[i] == stim[j]))

    loss, _ = TriModalContrastiveLoss(0.3, temporal_window=2 if use_times else 0)(
        a,
        b,
        temporal_indices=t if use_times else None,
        stimulus_ids=stim if use_stim else None,
        session_ids=ses if use_sessions else None,
    )
    assert float(loss) == pytest.approx(double_loop(a, b, 0.3, related), abs=1e-6)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.integers(2, 20), st.integers(0, 1000))
def test_the_order_of_the_batch_does_not_matter(batch: int, seed: int) -> None:
    embs, x = embeddings(batch, seed=seed), ids(batch, seed)
    order = torch.randperm(batch, generator=Generator().manual_seed(seed))
    loss = TriModalContrastiveLoss(temporal_window=1.5)
    before, _ = loss(*embs, **x)
    after, _ = loss(*[e[order] for e in embs], **{k: v[order] for k, v in x.items()})
    torch.testing.assert_close(before, after, rtol=1e-9, atol=1e-9)


def test_aligned_orthogonal_embeddings_cost_nothing() -> None:
    eye = torch.eye(8)
    # 7 others at e^-100 each.
    loss, _ = TriModalContrastiveLoss(0.01)(eye, 3.0 * eye, 0.1 * eye)
    assert abs(float(loss)) < 1e-5


def test_equal_embeddings_cost_the_logarithm_of_the_batch() -> None:
    one = torch.ones(9, 3)
    loss, _ = TriModalContrastiveLoss()(one, one, one, stimulus_ids=torch.arange(9) // 3)
    assert float(loss) == pytest.approx(math.log(9), abs=1e-5)


def test_unsigned_times_do_not_wrap_around() -> None:
    a, b, _ = embeddings(4)
    times = torch.tensor([0, 255, 3, 100])
    loss = TriModalContrastiveLoss(temporal_window=4)
    expected, _ = loss(a, b, temporal_indices=times)
    found, _ = loss(a, b, temporal_indices=times.to(torch.uint8))
    torch.testing.assert_close(found, expected)


def test_a_row_of_unknown_time_is_its_own_positive() -> None:
    a, b, _ = embeddings(5)
    found, _ = TriModalContrastiveLoss()(a, b, temporal_indices=torch.full((5,), torch.nan))
    torch.testing.assert_close(found, TriModalContrastiveLoss()(a, b)[0])


@pytest.mark.parametrize("weights", [{"neural_stimulus": 3.0, "neural_behavior": 1}, (1.0, 3, 0)])
def test_pairs_are_averaged_with_their_weights(weights: Any) -> None:
    loss, parts = TriModalContrastiveLoss(pair_weights=weights)(*embeddings(6))
    assert sorted(parts) == ["neural_behavior", "neural_stimulus"]
    expected = (parts["neural_behavior"] + 3 * parts["neural_stimulus"]) / 4
    torch.testing.assert_close(loss, expected)


def test_a_learned_temperature_starts_like_a_fixed_one_and_has_a_gradient() -> None:
    embs = embeddings(6, torch.float32)
    learned = TriModalContrastiveLoss(0.1, learnable_temperature=True)
    loss, _ = learned(*embs)
    torch.testing.assert_close(loss, TriModalContrastiveLoss(0.1)(*embs)[0])
    loss.backward()
    assert learned.log_scale is not None
    assert learned.log_scale.grad is not None
    assert learned.log_scale.grad != 0


def test_the_logit_scale_stops_at_one_hundred_and_comes_back() -> None:
    assert TriModalContrastiveLoss(1e-4).logit_scale == 100.0
    learned = TriModalContrastiveLoss(1e-4, learnable_temperature=True)
    assert float(learned.logit_scale.detach()) == pytest.approx(100.0, abs=1e-4)
    # Opposite pairs ask for a smaller scale, aligned ones for a larger.
    learned(torch.eye(4), torch.eye(4).roll(1, 0))[0].backward()
    assert learned.log_scale is not None
    assert learned.log_scale.grad is not None
    assert learned.log_scale.grad > 0
    learned.zero_grad()
    learned(torch.eye(4), torch.eye(4))[0].backward()
    assert learned.log_scale.grad == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    embs = [e.to(dtype) for e in embeddings(8, torch.float32)]
    expected, _ = TriModalContrastiveLoss()(*[e.float() for e in embs])
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = TriModalContrastiveLoss()(*embs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_entries_of_ten_thousand_and_zero_rows_stay_finite(dtype: torch.dtype) -> None:
    a, b, c = ((1e4 * e.sign()).to(dtype).requires_grad_() for e in embeddings(6))
    loss, _ = TriModalContrastiveLoss(1e-4)(a, b, c.detach() * 0)
    loss.backward()
    assert loss.isfinite()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_no_tensor_is_larger_than_batch_squared_and_nothing_leaves_the_device() -> None:
    embs = [e.requires_grad_() for e in embeddings(32, torch.float32)]
    with Operations() as seen:
        TriModalContrastiveLoss(temporal_window=1)(*embs, **ids(32))[0].backward()
    assert seen.largest == 32 * 32
    assert not any("local_scalar" in name for name in seen.names)
    for module in (contrastive_loss, _info_nce):
        assert ".item(" not in Path(module.__file__).read_text()


# 2100 rows are five tiles of logits.
def test_tiles_of_rows_give_the_loss_and_gradient_of_the_whole_matrix() -> None:
    a, b, _ = (e.requires_grad_() for e in embeddings(2100))
    groups = torch.arange(2100) // 3
    with Operations() as seen:
        loss, _ = TriModalContrastiveLoss(0.2)(a, b, stimulus_ids=groups)
        ours = torch.autograd.grad(loss, (a, b))
    assert seen.largest < 2100 * 600
    logits = functional.normalize(a) @ functional.normalize(b).T / 0.2
    target = (groups[:, None] == groups).double()
    target = target / target.sum(1, keepdim=True)
    ce = functional.cross_entropy
    expected = (ce(logits, target) + ce(logits.T, target)) / 2
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for found, wanted in zip(ours, torch.autograd.grad(expected, (a, b)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("given", [(), ("stimulus_ids",), ("temporal_indices", "session_ids")])
def test_gradcheck_of_embeddings_and_temperature(given: tuple[str, ...]) -> None:
    a, b, _ = (e.requires_grad_() for e in embeddings(7))
    x = {name: ids(7)[name] for name in given}
    loss = TriModalContrastiveLoss(0.3, learnable_temperature=True).double()
    assert loss.log_scale is not None

    def run(a: Tensor, b: Tensor, _: Tensor) -> Tensor:
        return loss(a, b, **x)[0]

    assert torch.autograd.gradcheck(run, (a, b, loss.log_scale))


@settings(max_examples=30, derandomize=True, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000), st.sampled_from([0.0, 0.1, 0.2, 1.0]))
def test_positives_are_those_of_the_definition(batch: int, seed: int, window: float) -> None:
    generator = Generator().manual_seed(seed)
    # Multiples of 0.1: sums and differences of them are rounded.
    times = torch.randint(0, 9, (batch,), generator=generator, dtype=torch.float64) / 10
    times[torch.rand(batch, generator=generator) < 0.2] = math.nan
    stimuli, sessions = (torch.randint(0, 3, (batch,), generator=generator) for _ in range(2))
    eye = torch.eye(batch, dtype=torch.float64)
    found = find_positives(times, stimuli, sessions, window)
    mask = found.sum_over(eye)
    near = (times[:, None] - times).abs() <= window
    expected = near & (sessions[:, None] == sessions) | (stimuli[:, None] == stimuli)
    torch.testing.assert_close(mask, mask.mT, atol=0, rtol=0)
    unsure = (times[:, None] - times).abs().sub(window).abs() < 1e-9
    assert bool(((mask.bool() == (expected | eye.bool())) | unsure).all())
    torch.testing.assert_close(found.shares(eye)[:, 0], 1 / mask.sum(1))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
        ({"temporal_window": -1}, "temporal_window must be a finite number >= 0, got -1.0"),
        ({"pair_weights": (1.0, 2.0)}, "one weight for each of .*, got 2"),
        ({"pair_weights": {"eeg": 1.0}}, r"may name .*, got \['eeg'\]"),
        ({"pair_weights": (0, 0, 0)}, "not all 0, got"),
        ({"pair_weights": (-1, 1, 1)}, ">= 0 and not all 0, got"),
    ],
)
def test_settings_out_of_range_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TriModalContrastiveLoss(**kwargs)


def test_unequal_shapes_are_refused() -> None:
    a, b, _ = embeddings(4)
    for x, y in ((a, b[:3]), (a[:0], b[:0]), (a[0], b[0])):
        with pytest.raises(ValueError, match="embeddings must all be"):
            TriModalContrastiveLoss()(x, y)
    with pytest.raises(ValueError, match=r"stimulus_ids must be \(batch,\) = \(4,\), got"):
        TriModalContrastiveLoss()(a, b, stimulus_ids=torch.zeros(3))


def test_a_window_without_times_is_refused() -> None:
    a, b, _ = embeddings(4)
    with pytest.raises(ValueError, match=r"temporal_window = 2\.0 needs temporal_indices"):
        TriModalContrastiveLoss(temporal_window=2)(a, b)


def test_a_batch_without_a_weighted_pair_is_refused() -> None:
    a, b, _ = embeddings(4)
    with pytest.raises(ValueError, match="whose weight is 0"):
        TriModalContrastiveLoss(pair_weights=(0, 1, 1))(a, b)
