"""A training whose states are known, and one that must not notice that it is watched."""

import sys
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuros_core import Callback
from neuros_mechint.dynamics import RepresentationDrift, TrajectoryRecorder

PROBE = torch.ones(4, 2)


class Net(nn.Module):
    """Dropout draws, batch norm has buffers, and the forward draws in evaluation mode as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 5)
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.01 * torch.randn_like(x)
        return self.last(self.drop(self.norm(self.first(x)).relu()))


def counter() -> nn.Module:
    """A layer whose weight says how many updates were made."""
    net = nn.Sequential(nn.Linear(2, 1, bias=False))
    nn.init.zeros_(net[0].weight)
    return net


def update(net: nn.Module) -> None:
    net(torch.ones(1, 2))
    with torch.no_grad():
        net[0].weight += 0.5


def draw() -> tuple[float, float]:
    """One number of each global generator that the shape checks of the tests do not draw from."""
    return np.random.mtrand.random_sample(), float(torch.rand(()))


def train(net: nn.Module, n_steps: int, told: TrajectoryRecorder | None = None) -> None:
    for k in range(n_steps):
        net.zero_grad()
        net(torch.randn(8, 2)).square().mean().backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.sub_(0.1 * parameter.grad)
        draw()
        if told is not None:
            told.step(k + 1)


def test_checkpoints_hold_the_state_after_that_many_updates() -> None:
    net = counter()
    with TrajectoryRecorder(net, ["0"], 3, PROBE) as recorder:
        for _ in range(12):
            update(net)
    found = recorder.trajectories()
    assert found.steps.tolist() == [0, 3, 6, 9, 12]
    expected = found.steps.float()[:, None, None].expand(5, 4, 1)
    assert torch.equal(found.activations["0"], expected)


@pytest.mark.parametrize("every", [1, 2])
def test_told_updates_replace_the_count_of_forwards(every: int) -> None:
    net = counter()
    with TrajectoryRecorder(net, ["0"], every, PROBE) as recorder:
        for _ in range(4):
            net(torch.ones(1, 2))  # a first half of the batch
            update(net)
            recorder.step()
    found = recorder.trajectories()
    assert found.steps.tolist() == [*range(0, 5, every)]
    assert torch.equal(found.activations["0"][:, 0, 0], found.steps.float())


def test_evaluations_are_not_counted_as_updates() -> None:
    net = counter()
    with TrajectoryRecorder(net, ["0"], 1, PROBE) as recorder:
        update(net)
        with torch.no_grad():
            net(PROBE)
        net.eval()(PROBE)
        net.train()
        update(net)
    assert recorder.trajectories().steps.tolist() == [0, 1, 2]


def test_a_second_block_goes_on_with_the_count() -> None:
    net = counter()
    recorder = TrajectoryRecorder(net, ["0"], 2, PROBE)
    for _ in range(2):
        with recorder:
            for _ in range(3):
                update(net)
    assert recorder.trajectories().steps.tolist() == [0, 2, 4, 6]
    assert recorder.trajectories().activations["0"][:, 0, 0].tolist() == [0.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize("most", [2, 3, 4, 5, 16])
@pytest.mark.parametrize("n_steps", [1, 7, 40, 101])
def test_memory_is_bounded_and_what_is_kept_is_evenly_spaced(most: int, n_steps: int) -> None:
    net = counter()
    recorder = TrajectoryRecorder(net, ["0"], 1, PROBE, max_checkpoints=most)
    largest = 0
    with recorder:
        for _ in range(n_steps):
            update(net)
            largest = max(largest, len(recorder._kept))
    steps = recorder.trajectories().steps
    assert largest <= most
    assert len(steps) > most // 2 or len(steps) == n_steps + 1
    assert steps[0] == 0
    assert steps.diff().unique().numel() <= 1
    # No later checkpoint of the same spacing is missing.
    assert n_steps - int(steps[-1]) < int(steps[1] - steps[0] if len(steps) > 1 else n_steps + 1)
    assert torch.equal(recorder.trajectories().activations["0"][:, 0, 0], steps.float())


@pytest.mark.parametrize("mode", ["forwards", "told"])
def test_a_training_does_not_notice_the_recorder(mode: str) -> None:
    results = []
    for watched in (False, True):
        np.random.mtrand.seed(0)
        torch.manual_seed(0)
        net = Net()
        net.drop.eval()
        if not watched:
            train(net, 10)
        elif mode == "told":
            train(net, 10, TrajectoryRecorder(net, ["norm", "last"], 2, PROBE))
        else:
            with TrajectoryRecorder(net, ["norm", "last"], 2, PROBE):
                train(net, 10)
        results.append((net, draw()))
    (alone, first), (seen, second) = results
    assert first == second
    for a, b in zip(alone.state_dict().values(), seen.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(alone.parameters(), seen.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    assert [m.training for m in alone.modules()] == [m.training for m in seen.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in seen.modules())


def test_the_model_is_as_it_was_after_an_error_in_the_training() -> None:
    net = Net()
    recorder = TrajectoryRecorder(net, ["norm"], 1, PROBE)

    def fail_after_two_updates() -> None:
        with recorder:
            train(net, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_two_updates()
    assert recorder.trajectories().steps.tolist() == [0, 1]
    assert all(m.training for m in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_the_model_is_as_it_was_after_an_error_in_the_probe() -> None:
    net = Net()
    net.drop.eval()
    net.first.bias.requires_grad_(False)
    net.last.bias.grad = torch.ones(1)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        TrajectoryRecorder(net, ["norm"], 1, torch.ones(4, 3)),
    ):
        pytest.fail("the block must not begin")
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert [net.training, net.drop.training] == [True, False]
    assert [p.requires_grad for p in net.first.parameters()] == [True, False]
    assert torch.equal(net.last.bias.grad, torch.ones(1))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_probe_inputs_and_records_are_copies() -> None:
    class Grows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(1.0)

    net, probe = nn.Sequential(nn.Identity(), Grows()), torch.zeros(3, 2)
    recorder = TrajectoryRecorder(net, ["0", "1"], 1, probe)
    probe.fill_(9.0)
    recorder.step()
    recorder.step()
    found = recorder.trajectories()
    assert torch.equal(found.activations["0"], torch.zeros(2, 3, 2))
    assert torch.equal(found.activations["1"], torch.ones(2, 3, 2))


def test_inputs_go_in_as_arguments_keywords_or_one_value() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sum = nn.Identity()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.sum(a - b)

    a, b = torch.full((2, 1), 5.0), torch.full((2, 1), 2.0)
    for inputs in ((a, b), {"b": b, "a": a}):
        recorder = TrajectoryRecorder(Two(), "sum", 1, inputs)
        recorder.step()
        assert torch.equal(recorder.trajectories().activations["sum"], torch.full((1, 2, 1), 3.0))


def test_records_do_not_depend_on_autocast_and_are_of_at_least_32_bits() -> None:
    net = Net()
    torch.manual_seed(0)
    recorder = TrajectoryRecorder(net, ["first"], 1, PROBE)
    recorder.step()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        recorder.step()
    values = recorder.trajectories().activations["first"]
    assert torch.equal(values[0], values[1])
    half = nn.Sequential(nn.Linear(2, 2)).bfloat16()
    recorder = TrajectoryRecorder(half, ["0"], 1, PROBE.bfloat16())
    recorder.step()
    assert recorder.trajectories().activations["0"].dtype == torch.float32


def test_drift_takes_the_representations() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(1, 3, 5))
    with TrajectoryRecorder(net, ["0"], 1, torch.randn(2, 1, 20)) as recorder:
        net(torch.randn(2, 1, 20))
        with torch.no_grad():
            net[0].weight.normal_()
    found = recorder.trajectories()
    reps = found.representations("0", unit_axis=1)
    assert reps.shape == (2, 32, 3)
    assert torch.equal(reps[1, :16], found.activations["0"][1, 0].T)
    assert torch.equal(found.representations("0", unit_axis=-2), reps)
    assert RepresentationDrift().compute(reps).distances[0, 1] > 0
    assert found.to_dict()["steps"] == [0, 1]


def test_a_trainer_of_another_package_tells_its_steps() -> None:
    net = counter()
    recorder = TrajectoryRecorder(net, ["0"], 2, PROBE)
    assert isinstance(recorder, Callback)
    for step in range(1, 6):
        update(net)
        recorder.on_step_end(SimpleNamespace(), step, 0.0)
        recorder.on_epoch_end(SimpleNamespace(), step, {})
    found = recorder.trajectories()
    assert found.steps.tolist() == [1, 3, 5]
    assert found.activations["0"][:, 0, 0].tolist() == [1.0, 3.0, 5.0]


@pytest.mark.slow  # imports Lightning and fits
def test_lightning_tells_its_optimiser_steps(tmp_path: Any) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = counter()

        def training_step(self, batch: Tensor, _index: int) -> Tensor:
            # The gradient is -1 for each weight, so an update adds 0.5 to it.
            return -self.net(torch.ones_like(batch)).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    module = Module()
    recorder = TrajectoryRecorder(module.net, ["0"], 2, PROBE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning.Trainer(
            max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
            accumulate_grad_batches=2, callbacks=[recorder.lightning_callback()],
        ).fit(module, torch.utils.data.DataLoader(torch.randn(16, 2), batch_size=2))  # fmt: skip
    found = recorder.trajectories()
    assert found.steps.tolist() == [0, 2, 4, 6, 8]
    assert found.activations["0"][:, 0, 0].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_only_the_first_process_of_lightning_records() -> None:
    pytest.importorskip("lightning.pytorch")
    recorder = TrajectoryRecorder(counter(), ["0"], 2, PROBE)
    trainer = SimpleNamespace(is_global_zero=False, global_step=0)
    recorder.lightning_callback().on_train_start(trainer, recorder.model)
    with pytest.raises(RuntimeError, match="nothing was recorded yet"):
        recorder.trajectories()


def test_without_lightning_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch.callbacks", None)
    with pytest.raises(ImportError, match=r"neuros-mechint\[lightning\]"):
        TrajectoryRecorder(counter(), ["0"], 1, PROBE).lightning_callback()


def test_bad_settings_are_refused() -> None:
    net = counter()
    with pytest.raises(ValueError, match="every needs at least 1, got 0"):
        TrajectoryRecorder(net, ["0"], 0, PROBE)
    with pytest.raises(ValueError, match="max_checkpoints needs at least 2, got 1"):
        TrajectoryRecorder(net, ["0"], 1, PROBE, max_checkpoints=1)
    with pytest.raises(ValueError, match="at least one layer is needed, got none"):
        TrajectoryRecorder(net, [], 1, PROBE)
    with pytest.raises(KeyError, match="no module '7' in Sequential"):
        TrajectoryRecorder(net, ["7"], 1, PROBE)
    shown = repr(TrajectoryRecorder(net, net[0], 4, PROBE))
    assert shown == "TrajectoryRecorder(Sequential, ['0'], every=4, max_checkpoints=100)"


def test_what_cannot_be_recorded_is_told() -> None:
    net = counter()
    recorder = TrajectoryRecorder(net, ["0"], 1, PROBE)
    with pytest.raises(RuntimeError, match="nothing was recorded yet"):
        recorder.trajectories()
    with recorder:
        net(PROBE)
        with pytest.raises(RuntimeError, match="the recorder is active already"):
            recorder.__enter__()
    recorder.step(5)
    with pytest.raises(ValueError, match="steps must not decrease, got 4 after 5"):
        recorder.step(4)
    with (
        pytest.raises(RuntimeError, match="was never called in training mode and with gradient"),
        TrajectoryRecorder(net, ["0"], 1, PROBE),
    ):
        net.eval()(PROBE)
    found = recorder.trajectories()
    with pytest.raises(KeyError, match="no layer '1'; recorded are"):
        found.representations("1")
    with pytest.raises(ValueError, match="unit_axis=2 needs an activation with that axis"):
        found.representations("0", unit_axis=2)


def test_a_layer_that_is_called_twice_or_changes_its_shape_is_told() -> None:
    one = nn.Identity()
    recorder = TrajectoryRecorder(nn.Sequential(one, one), [one], 1, PROBE)
    with pytest.raises(ValueError, match="site '0' was reached 2 times"):
        recorder.step()

    class Changes(nn.Module):
        n_calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.n_calls += 1
            return x[: self.n_calls]

    recorder = TrajectoryRecorder(nn.Sequential(Changes()), ["0"], 1, PROBE)
    recorder.step()
    with pytest.raises(ValueError, match=r"layer '0' gave shape \(2, 2\), at the first"):
        recorder.step()
