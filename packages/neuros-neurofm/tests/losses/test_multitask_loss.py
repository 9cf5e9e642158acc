import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuros_neurofm.losses import multitask_loss
from neuros_neurofm.losses.multitask_loss import MultiTaskLossManager


def losses(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


def fitted(form: str, values: dict[str, float]) -> list[float]:
    """Return the log variances after descent on constant losses."""
    manager = MultiTaskLossManager(list(values), form=form)
    optimizer = torch.optim.LBFGS(
        manager.parameters(), max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-7
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total, _ = manager.compute_loss(losses(**values))
        total.backward()
        return total.detach()

    optimizer.step(closure)
    return [float(s.detach()) for s in manager.log_vars]


VALUES = {"decode": 0.3, "mask": 2.0, "forecast": 7.0}


def test_kendall_is_its_formula() -> None:
    manager = MultiTaskLossManager(["a", "b"])
    manager.log_vars[0].data.fill_(1.0)
    total, parts = manager.compute_loss(losses(a=3.0, b=5.0))
    expected = 0.5 * math.exp(-1) * 3 + 0.5 + 0.5 * 5
    assert float(total.detach()) == pytest.approx(expected, rel=1e-6)
    assert {name: float(part) for name, part in parts.items()} == {"a": 3.0, "b": 5.0}
    assert not any(part.requires_grad for part in parts.values())
    assert manager.weights == pytest.approx({"a": 0.5 * math.exp(-1), "b": 0.5})


def test_the_optimum_of_kendall_is_the_logarithm_of_the_loss() -> None:
    expected = [math.log(value) for value in VALUES.values()]
    assert fitted("kendall", VALUES) == pytest.approx(expected, abs=1e-3)


def test_the_optimum_of_liebel_is_its_closed_form() -> None:
    found = [math.exp(s) for s in fitted("liebel", VALUES)]
    expected = [(L + math.sqrt(L**2 + 8 * L)) / 4 for L in VALUES.values()]
    assert found == pytest.approx(expected, abs=1e-3)


def test_liebel_is_never_negative() -> None:
    manager = MultiTaskLossManager(["a"], form="liebel")
    for s in (-5.0, 0.0, 5.0):
        manager.log_vars[0].data.fill_(s)
        assert manager.compute_loss(losses(a=0.0))[0] >= 0


def test_a_log_variance_stays_in_its_bounds_and_comes_back() -> None:
    manager = MultiTaskLossManager(["a"], log_var_bounds=(-1, 2))
    s = manager.log_vars[0]
    s.data.fill_(9.0)
    assert manager.weights["a"] == pytest.approx(0.5 * math.exp(-2))
    gradients = {}
    # The optimum of the first lies beyond the bound, that of the second within.
    for value in (1000.0, 1.0):
        s.grad = None
        manager.compute_loss(losses(a=value))[0].backward()
        assert s.grad is not None
        gradients[value] = float(s.grad)
    assert gradients[1000.0] == 0.0
    assert gradients[1.0] > 0.0
    s.data.fill_(-9.0)
    s.grad = None
    manager.compute_loss(losses(a=0.01))[0].backward()
    assert s.grad == 0.0


def quadratic(theta: Tensor, slopes: tuple[float, ...]) -> dict[str, Tensor]:
    return {name: slope * theta.sum() for name, slope in zip("abc", slopes, strict=False)}


def test_gradnorm_balances_two_slopes() -> None:
    theta = nn.Parameter(torch.ones(1))
    manager = MultiTaskLossManager(["a", "b"], "gradnorm", alpha=0)
    for _ in range(600):
        manager.compute_loss(quadratic(theta, (1.0, 100.0)), theta)
    weights = manager.weights
    assert weights["a"] / weights["b"] == pytest.approx(100.0, rel=0.05)
    assert sum(weights.values()) == pytest.approx(2.0, rel=1e-5)


def test_gradnorm_favours_the_task_that_learns_slowly() -> None:
    theta = nn.Parameter(torch.ones(2))
    manager = MultiTaskLossManager(["slow", "fast"], "gradnorm", alpha=1.0)
    for step in range(300):
        # Equal slopes, but the value of one falls to a third.
        value = 1.0 if step == 0 else 1.0 / 3.0
        shift = (theta - theta.detach()).sum()
        manager.compute_loss({"slow": 1.0 + shift, "fast": value + shift}, [theta])
    weights = manager.weights
    # Rates 1 and 1/3 over their mean: 1.5 and 0.5.
    assert weights["slow"] / weights["fast"] == pytest.approx(3.0, rel=0.05)


def test_the_total_of_gradnorm_is_the_weighted_sum_before_the_step() -> None:
    theta = nn.Parameter(torch.ones(1))
    manager = MultiTaskLossManager(["a", "b"], "gradnorm")
    total, _ = manager(quadratic(theta, (1.0, 100.0)), theta)
    total.backward()
    assert float(total.detach()) == 101.0
    assert theta.grad is not None
    assert float(theta.grad) == 101.0
    assert manager.weights["a"] > 1.0 > manager.weights["b"]


def test_gradnorm_rests_in_evaluation() -> None:
    manager = MultiTaskLossManager(["a", "b"], "gradnorm").eval()
    total, _ = manager.compute_loss(losses(a=1.0, b=2.0))
    assert float(total.detach()) == 3.0
    assert manager.initial_losses.isnan().all()
    assert manager.weights == {"a": 1.0, "b": 1.0}


def test_gradnorm_stores_the_first_positive_loss_of_every_task() -> None:
    theta = nn.Parameter(torch.ones(1))
    manager = MultiTaskLossManager(["a", "b"], "gradnorm")
    manager.compute_loss({"a": 3.0 * theta.sum(), "b": torch.zeros(())}, theta)
    manager.compute_loss({"a": 2.0 * theta.sum(), "b": 5.0 * theta.sum()}, theta)
    assert manager.initial_losses.tolist() == [3.0, 5.0]


def test_gradnorm_outlives_an_overflowed_gradient() -> None:
    theta = nn.Parameter(torch.zeros(1))
    manager = MultiTaskLossManager(["a", "b"], "gradnorm", alpha=0)
    # The slope of a root at 0 is infinite, its value is not.
    manager.compute_loss({"a": theta.sqrt().sum(), "b": theta.sum()}, theta)
    assert manager.weights == {"a": 1.0, "b": 1.0}


def test_manual_weights_multiply() -> None:
    manager = MultiTaskLossManager(["a", "b"], "manual", weights={"b": 0.25, "a": 2})
    total, _ = manager.compute_loss(losses(a=3.0, b=8.0))
    assert float(total.detach()) == 8.0
    assert manager.weights == {"a": 2.0, "b": 0.25}
    assert MultiTaskLossManager(["a"], "manual").weights == {"a": 1.0}


@pytest.mark.parametrize("form", ["kendall", "liebel"])
def test_absent_tasks_add_nothing_and_are_not_moved(form: str) -> None:
    manager = MultiTaskLossManager(["a", "b", "c"], form=form)
    optimizer = torch.optim.AdamW(manager.parameters(), lr=0.1, weight_decay=0.1)
    for s in manager.log_vars:
        s.data.fill_(1.0)
    manager.compute_loss(losses(a=1.0, b=9.0, c=9.0))[0].backward()
    optimizer.step()
    optimizer.zero_grad()
    before = [float(s.detach()) for s in manager.log_vars]
    total, parts = manager.compute_loss(losses(a=1.0) | {"b": None})
    total.backward()
    optimizer.step()
    alone = MultiTaskLossManager(["a"], form=form)
    alone.log_vars[0].data.fill_(before[0])
    torch.testing.assert_close(total, alone.compute_loss(losses(a=1.0))[0])
    assert list(parts) == ["a"]
    assert [s.grad is None for s in manager.log_vars] == [False, True, True]
    after = [float(s.detach()) for s in manager.log_vars]
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_gradnorm_leaves_the_weight_of_an_absent_task() -> None:
    theta = nn.Parameter(torch.ones(1))
    manager = MultiTaskLossManager(["a", "b", "c"], "gradnorm")
    manager.compute_loss({"a": theta.sum(), "b": 9 * theta.sum(), "c": None}, theta)
    assert manager.weights["c"] == 1.0
    assert manager.weights["a"] != 1.0
    assert sum(manager.weights.values()) == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize("method", ["uncertainty", "gradnorm", "manual"])
def test_without_any_task_the_total_is_zero_with_a_gradient(method: str) -> None:
    total, parts = MultiTaskLossManager(["a"], method).compute_loss({"a": None})
    total.backward()
    assert total == 0
    assert parts == {}


@pytest.mark.parametrize("method", ["uncertainty", "gradnorm", "manual"])
def test_a_restored_manager_continues_alike(method: str) -> None:
    theta = nn.Parameter(torch.ones(1))
    manager = MultiTaskLossManager(["a", "b"], method)
    for s in manager.parameters():
        s.data.fill_(0.7)
    manager.compute_loss(quadratic(theta, (1.0, 5.0)), theta)
    twin = MultiTaskLossManager(["a", "b"], method)
    twin.load_state_dict(copy.deepcopy(manager.state_dict()))
    totals = [m.compute_loss(quadratic(theta, (0.5, 4.0)), theta)[0] for m in (manager, twin)]
    assert totals[0] == totals[1]
    assert manager.weights == twin.weights


def test_the_state_of_other_tasks_is_refused() -> None:
    state = MultiTaskLossManager(["a", "b"]).state_dict()
    with pytest.raises(ValueError, match=r"of the tasks \['a', 'b'\], this manager has \['b', 'a'"):
        MultiTaskLossManager(["b", "a"]).load_state_dict(state)


@pytest.mark.parametrize("method", ["uncertainty", "gradnorm", "manual"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_losses_are_added_in_float32(method: str, dtype: torch.dtype) -> None:
    theta = nn.Parameter(torch.ones(1))
    manager = MultiTaskLossManager(["a", "b"], method)
    with torch.autocast("cpu", torch.bfloat16):
        half = {name: v.to(dtype) for name, v in quadratic(theta, (1e4, 3.0)).items()}
        total, _ = manager.compute_loss(half, theta)
    total.backward()
    assert total.dtype == torch.float32
    assert total.isfinite()
    assert theta.grad is not None
    assert theta.grad.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    with pytest.raises(ValueError, match=r"loss of task 'mask' must be finite, got (nan|inf)"):
        MultiTaskLossManager(["decode", "mask"]).compute_loss(losses(decode=1.0, mask=bad))


def test_a_negative_loss_is_warned_of_once() -> None:
    manager = MultiTaskLossManager(["a", "b"])
    with pytest.warns(UserWarning, match="loss of task 'b' is negative"):
        manager.compute_loss(losses(a=1.0, b=-2.0))
    # A second warning would be an error here, as would one for given weights.
    manager.compute_loss(losses(a=-1.0, b=-2.0))
    MultiTaskLossManager(["a"], "manual").compute_loss(losses(a=-1.0))


def test_a_negative_loss_has_no_training_rate() -> None:
    theta = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=r"needs them >= 0, got -1\.0 for task 'a'"):
        MultiTaskLossManager(["a"], "gradnorm").compute_loss({"a": -theta.sum()}, theta)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(KeyError, match=r"unknown tasks \['x'\]; the manager has \['a'\]"):
        MultiTaskLossManager(["a"]).compute_loss(losses(x=1.0))


def test_losses_that_are_no_scalar_tensors_are_refused() -> None:
    with pytest.raises(TypeError, match="loss of task 'a' must be a tensor or None, got float"):
        MultiTaskLossManager(["a"]).compute_loss({"a": 1.0})
    with pytest.raises(ValueError, match=r"loss of task 'a' must be a scalar, got shape \(2,\)"):
        MultiTaskLossManager(["a"]).compute_loss({"a": torch.ones(2)})


def test_gradnorm_needs_parameters_in_training() -> None:
    with pytest.raises(ValueError, match="needs shared_parameters, got none"):
        MultiTaskLossManager(["a"], "gradnorm").compute_loss(losses(a=1.0))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (([],), {}, r"at least one name, all different, got \[\]"),
        ((["a", "a"],), {}, "at least one name, all different"),
        ((["a"], "pareto"), {}, "balancing_method must be one of .*, got 'pareto'"),
        ((["a"],), {"form": "gauss"}, "form must be one of kendall, liebel, got 'gauss'"),
        ((["a"],), {"weights": {"a": 1.0}}, "weights belong to balancing_method 'manual'"),
        ((["a"], "manual"), {"weights": {"b": 1.0}}, r"must name the tasks \['a'\], got \['b'\]"),
        ((["a"], "manual"), {"weights": {"a": -1}}, "weights must be finite numbers >= 0"),
        ((["a"], "gradnorm"), {"alpha": -0.5}, "alpha must be a finite number >= 0, got -0.5"),
        ((["a"],), {"log_var_bounds": (1, 2)}, r"around 0, got \(1.0, 2.0\)"),
    ],
)
def test_settings_out_of_range_are_refused(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTaskLossManager(*args, **kwargs)


def test_one_string_is_not_several_names() -> None:
    with pytest.raises(TypeError, match="task_names must be several names, got 'decode'"):
        MultiTaskLossManager("decode")


def test_no_scalar_is_read_one_by_one() -> None:
    assert ".item(" not in Path(multitask_loss.__file__).read_text()
