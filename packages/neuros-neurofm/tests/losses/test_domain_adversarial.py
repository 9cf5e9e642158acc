import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from neuros_neurofm.losses import CombinedLoss, domain_adversarial
from neuros_neurofm.losses.domain_adversarial import DomainAdversarialLoss, MMDLoss


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 2, -100, 1, -100, 0])


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.5]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_is_the_cross_entropy_of_torch(weights: list[float] | None, smoothing: float) -> None:
    logits = normal(8, 3)
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = functional.cross_entropy(
        logits, LABELS, weight=weight, label_smoothing=smoothing, ignore_index=-100
    )
    loss = DomainAdversarialLoss(class_weights=weights, label_smoothing=smoothing)
    torch.testing.assert_close(loss(logits, LABELS), expected, rtol=1e-7, atol=1e-7)
    rows = loss(logits.reshape(2, 4, 3), LABELS.reshape(2, 4))
    torch.testing.assert_close(rows, expected, rtol=1e-7, atol=1e-7)


def test_without_a_labelled_row_it_is_zero_with_a_gradient() -> None:
    logits = torch.full((2, 3), torch.nan, requires_grad=True)
    loss = DomainAdversarialLoss()(logits, torch.tensor([-100, -100]))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_rows_of_weight_zero_alone_cost_nothing() -> None:
    loss = DomainAdversarialLoss(class_weights=torch.tensor([0.0, 1.0]), label_smoothing=0.1)
    assert loss(torch.ones(2, 2), torch.tensor([0, 0])) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_logits_of_ten_thousand_stay_finite_in_float32(dtype: torch.dtype) -> None:
    logits = (1e4 * normal(8, 3).sign()).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = DomainAdversarialLoss()(logits, LABELS)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_class_weights_are_saved() -> None:
    state = DomainAdversarialLoss(class_weights=[1.0, 3.0]).state_dict()
    assert state["class_weights"].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"label_smoothing": 1.5}, r"label_smoothing must lie in \[0, 1\], got 1.5"),
        ({"class_weights": torch.ones(2, 2)}, r"class_weights must be \(domain,\)"),
        ({"class_weights": [0.0, 0.0]}, "not all 0, got"),
        ({"class_weights": [1.0, -1.0]}, ">= 0 and not all 0, got"),
    ],
)
def test_settings_out_of_range_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DomainAdversarialLoss(**kwargs)


def test_labels_that_do_not_fit_are_refused() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(TypeError, match=r"labels must be integers, got torch.float32"):
        DomainAdversarialLoss()(logits, torch.zeros(2))
    with pytest.raises(ValueError, match=r"logits must be \(..., domain\) and labels"):
        DomainAdversarialLoss()(logits, torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\).*got \[0, 3\]"):
        DomainAdversarialLoss()(logits, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="class_weights has 2 weights, logits have 3"):
        DomainAdversarialLoss(class_weights=[1, 1])(logits, torch.tensor([0, 1]))


def gram(x: Tensor, y: Tensor, sigma: float) -> np.ndarray:
    a, b = x.detach().numpy(), y.detach().numpy()
    return np.array([[math.exp(-((p - q) ** 2).sum() / (2 * sigma**2)) for q in b] for p in a])


@pytest.mark.parametrize("kernel", ["rbf", "multiscale"])
@pytest.mark.parametrize("unbiased", [False, True])
def test_it_is_the_estimate_of_a_double_loop(kernel: str, *, unbiased: bool) -> None:
    x, y = normal(7, 3), normal(5, 3, seed=1) + 0.5
    expected = []
    for scale in (0.25, 0.5, 1.0, 2.0, 4.0) if kernel == "multiscale" else (1.0,):
        xx, yy, xy = gram(x, x, 1.3 * scale), gram(y, y, 1.3 * scale), gram(x, y, 1.3 * scale)
        within = (xx.sum() - 7) / 42 + (yy.sum() - 5) / 20 if unbiased else xx.mean() + yy.mean()
        expected.append(within - 2 * xy.mean())
    found = MMDLoss(kernel, bandwidth=1.3, unbiased=unbiased)(x, y)
    assert float(found) == pytest.approx(np.mean(expected), abs=1e-10)


@pytest.mark.parametrize("unbiased", [False, True])
def test_two_normals_have_their_closed_form(*, unbiased: bool) -> None:
    # Sampling error at n = 2000: 0.7 % of the value (over 30 seeds), so 5 % is seven of them.
    d, sigma2, shift = 2, 4.0, 6.0
    x, y = normal(2000, d), normal(2000, d, seed=1)
    y[:, 0] += shift
    factor = (sigma2 / (sigma2 + 2)) ** (d / 2)
    expected = 2 * factor * (1 - math.exp(-(shift**2) / (2 * (sigma2 + 2))))
    found = MMDLoss(bandwidth=math.sqrt(sigma2), unbiased=unbiased)(x, y)
    assert float(found) == pytest.approx(expected, rel=0.05)


def test_the_linear_kernel_compares_means() -> None:
    x, y = normal(7, 3), normal(5, 3, seed=1)
    expected = (x.mean(0) - y.mean(0)).square().sum()
    torch.testing.assert_close(MMDLoss("linear")(x, y), expected)
    K, L, M = x @ x.T, y @ y.T, x @ y.T
    u = (K.sum() - K.trace()) / 42 + (L.sum() - L.trace()) / 20 - 2 * M.mean()
    torch.testing.assert_close(MMDLoss("linear", unbiased=True)(x, y), u)


def test_the_median_bandwidth_is_that_of_all_distances_and_has_no_gradient() -> None:
    x, y = normal(3, 2).requires_grad_(), normal(3, 2, seed=1)
    rows = torch.cat([x, y]).detach()
    sigma = float(torch.pdist(rows).median())
    gradients = []
    for bandwidth in ("median", sigma):
        loss = MMDLoss(bandwidth=bandwidth)(x, y)
        gradients.append(torch.autograd.grad(loss, x)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)
    assert (gradients[0] != 0).any()


def test_the_biased_estimate_is_never_negative_and_the_unbiased_one_may_be() -> None:
    x = normal(6, 3).float()
    assert MMDLoss()(x, x) >= 0
    assert float(MMDLoss()(x, x.flip(0))) == pytest.approx(0.0, abs=1e-6)
    assert MMDLoss(unbiased=True)(x, x.flip(0)) < 0


def test_equal_rows_have_no_discrepancy() -> None:
    x = torch.full((4, 3), 7.3, requires_grad=True)
    loss = MMDLoss()(x, x.detach()[:3])
    loss.backward()
    assert loss == 0
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_a_common_offset_changes_nothing() -> None:
    x, y = normal(20, 3).float(), normal(30, 3, seed=1).float()
    torch.testing.assert_close(
        MMDLoss()(x + 1000.0, y + 1000.0), MMDLoss()(x, y), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("kernel", ["rbf", "linear", "multiscale"])
def test_half_samples_are_compared_in_float32(kernel: str) -> None:
    x, y = normal(9, 3).bfloat16(), normal(8, 3, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = MMDLoss(kernel)(x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, MMDLoss(kernel)(x.float(), y.float()), rtol=1e-6, atol=1e-6)
    assert MMDLoss(kernel)(1e4 * x.half().sign(), y.double()).isfinite()


def test_nothing_leaves_the_device() -> None:
    x, y = normal(9, 3).requires_grad_(), normal(8, 3, seed=1)
    adversarial = DomainAdversarialLoss(class_weights=[1.0, 2.0, 3.0])
    with Operations() as seen:
        MMDLoss()(x, y).backward()
        adversarial(x, LABELS.new_ones(9)).backward()
    assert not any("local_scalar" in name for name in seen.names)
    assert ".item(" not in Path(domain_adversarial.__file__).read_text()


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("cubic",), {}, "kernel must be one of rbf, linear, multiscale, got 'cubic'"),
        (("linear",), {"bandwidth": 2.0}, "linear kernel has no bandwidth, got 2.0"),
        ((), {"bandwidth": 0}, "bandwidth must be 'median' or a finite number > 0, got 0"),
        ((), {"bandwidth": "mean"}, "bandwidth must be 'median' or .*, got 'mean'"),
    ],
)
def test_unknown_kernels_are_refused(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MMDLoss(*args, **kwargs)


def test_samples_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="equally many features"):
        MMDLoss()(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="at least 2 rows each, got 3 and 1"):
        MMDLoss()(torch.zeros(3, 2), torch.zeros(1, 2))


def test_as_an_objective_it_scores_the_domain_logits_on_the_species() -> None:
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, -100, 1, 1])
    loss = CombinedLoss([DomainAdversarialLoss(weight=0.25)])
    value = loss({"domain_logits": logits}, {"species": labels})
    expected = functional.cross_entropy(logits, labels, ignore_index=-100)
    torch.testing.assert_close(value, 0.25 * expected)
    assert list(loss.terms) == ["domain"]
    assert int(loss.counts({"species": labels})["domain"]) == 4


def test_a_batch_without_species_scores_0_with_a_gradient() -> None:
    logits = torch.randn(5, 3, requires_grad=True)
    loss = DomainAdversarialLoss()
    value = loss({"domain_logits": logits}, {})
    assert value == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros(5, 3))
    assert loss.count({}) == 0


def test_parts_of_a_batch_add_up_also_with_class_weights() -> None:
    logits, labels = torch.randn(7, 3), torch.tensor([0, 2, -100, 1, 1, 2, 0])
    loss = DomainAdversarialLoss(class_weights=[0.25, 1.0, 0.5])
    whole = loss({"domain_logits": logits}, {"species": labels})
    parts = [slice(0, 2), slice(2, 7)]
    values = torch.stack(
        [loss({"domain_logits": logits[p]}, {"species": labels[p]}) for p in parts]
    )
    counts = torch.stack([loss.count({"species": labels[p]}) for p in parts])
    torch.testing.assert_close((values * counts / counts.sum()).sum(), whole)
    # In units of the smallest weight no labelled row counts less than one.
    assert counts.min() >= 1


def test_what_is_neither_a_pair_of_tensors_nor_of_mappings_is_refused() -> None:
    with pytest.raises(TypeError, match="pass logits and labels, or outputs and batch, got dict"):
        DomainAdversarialLoss()({"domain_logits": torch.zeros(1, 2)}, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"outputs has no 'domain_logits', only .'latents'."):
        DomainAdversarialLoss()({"latents": torch.zeros(1, 2)}, {"species": torch.tensor([0])})
    with pytest.raises(ValueError, match="weight must be a finite number >= 0"):
        DomainAdversarialLoss(weight=-1.0)
