import copy
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from neuros_core import Callback, RunManifest
from neuros_neurofm.losses import BehaviorLoss, CombinedLoss, MaskedModelingLoss, NeuralMasker
from neuros_neurofm.training import MultiModalTrainer


class Model(nn.Module):
    """A model of the contract's form, small enough to reason about."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(3, 8)
        self.encoder, self.decoder = nn.Linear(8, 3), nn.Linear(8, 2)

    def forward_batch(self, batch: Any) -> dict[str, Any]:
        hidden = torch.tanh(self.body(batch["lfp"]))
        return {
            "encoder": {"lfp": self.encoder(hidden)},
            "decoder": self.decoder(hidden),
            "latents": hidden,
        }


def make_batch(n_rows: int, seed: int, n_times: int = 6) -> dict[str, Any]:
    generator = Generator().manual_seed(seed)
    return {
        "lfp": torch.randn(n_rows, n_times, 3, generator=generator),
        "behavior": torch.randn(n_rows, n_times, 2, generator=generator),
        "behavior_mask": torch.rand(n_rows, n_times, generator=generator) < 0.6,
    }


def join(batches: list[Any]) -> dict[str, Any]:
    joined = {k: torch.cat([b[k] for b in batches]) for k in ("lfp", "behavior", "behavior_mask")}
    for key in ("masks", "targets", "masked"):
        joined[key] = {"lfp": torch.cat([batch[key]["lfp"] for batch in batches])}
    return joined


def masked(n_rows: int, seed: int) -> dict[str, Any]:
    masker = NeuralMasker("random", 0.1 * (1 + seed % 7))
    return masker(make_batch(n_rows, seed), Generator().manual_seed(seed))


def make_trainer(
    batches: Any, model: nn.Module | None = None, *, lr: float = 0.1, **settings: Any
) -> MultiModalTrainer:
    model = model or Model()
    settings.setdefault("optimizer", torch.optim.SGD(model.parameters(), lr=lr))
    settings.setdefault("loss", BehaviorLoss())
    settings.setdefault("progress", False)
    settings.setdefault("device", "cpu")
    return MultiModalTrainer(model, batches, **settings)


class Recorder:
    def __init__(self) -> None:
        self.steps: list[tuple[int, float]] = []
        self.epochs: list[tuple[int, dict[str, float]]] = []

    def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
        self.steps.append((step, loss))

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Any) -> None:
        self.epochs.append((epoch, dict(metrics)))


class Energy(nn.Module):
    reads = "latents"
    name = "energy"

    def forward(self, latents: Tensor) -> Tensor:
        return latents.square().mean()


def parameters(trainer: MultiModalTrainer) -> list[Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def test_a_step_is_that_of_a_hand_written_loop() -> None:
    batches = [masked(4, seed) for seed in range(5)]
    trainer = make_trainer(batches, loss=MaskedModelingLoss(), max_grad_norm=None)
    trainer.train_epoch()
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in batches:
        optimizer.zero_grad()
        MaskedModelingLoss()(model.forward_batch(batch), batch).backward()
        optimizer.step()
    for ours, theirs in zip(parameters(trainer), model.parameters(), strict=True):
        assert torch.equal(ours, theirs.detach())


# Micro-batches of 4, 4 and a last one of 1 row, each with another number of targets per objective.
@pytest.mark.parametrize("sizes", [(4, 4), (5, 3, 1)])
def test_accumulated_batches_give_the_gradient_of_the_joined_batch(sizes: tuple[int, ...]) -> None:
    def objective() -> CombinedLoss:
        return CombinedLoss([MaskedModelingLoss(), BehaviorLoss(weight=0.5), Energy()])

    batches = [masked(n, seed) for seed, n in enumerate(sizes)]
    settings: dict[str, Any] = {"max_grad_norm": None, "lr": 1.0}
    parts = make_trainer(
        batches, loss=objective(), gradient_accumulation_steps=len(sizes), **settings
    )
    whole = make_trainer([join(batches)], loss=objective(), **settings)
    mean_of_parts, mean_of_whole = parts.train_epoch(), whole.train_epoch()
    assert parts.global_step == whole.global_step == 1
    for a, b in zip(parameters(parts), parameters(whole), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert mean_of_parts == pytest.approx(mean_of_whole, rel=1e-5)


def test_a_last_group_may_be_shorter() -> None:
    trainer = make_trainer([masked(2, seed) for seed in range(5)], gradient_accumulation_steps=2)
    trainer.train_epoch()
    assert trainer.global_step == 3


def test_a_part_without_targets_changes_nothing() -> None:
    full, empty = masked(4, 1), masked(4, 2)
    empty["behavior_mask"] = torch.zeros_like(empty["behavior_mask"])
    both = make_trainer([full, empty], gradient_accumulation_steps=2)
    one = make_trainer([full])
    both.train_epoch()
    one.train_epoch()
    for a, b in zip(parameters(both), parameters(one), strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_is_clipped_to_the_norm() -> None:
    before = Model()
    trainer = make_trainer([make_batch(4, 0)], before, lr=1.0, max_grad_norm=0.01)
    old = parameters(trainer)
    trainer.train_epoch()
    moved = [new - was for new, was in zip(parameters(trainer), old, strict=True)]
    norm = torch.cat([step.flatten() for step in moved]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_training_lowers_the_validation_loss_and_keeps_the_best(tmp_path: Path) -> None:
    batches = [make_batch(8, seed) for seed in range(4)]
    trainer = make_trainer(batches, val_loader=batches[:1], checkpoint_dir=tmp_path)
    history = trainer.fit(5)
    assert [set(metrics) for metrics in history] == [
        {"loss", "behavior", "val_loss", "val_behavior"}
    ] * 5
    losses = [metrics["val_loss"] for metrics in history]
    assert losses[-1] < losses[0]
    assert trainer.best_loss == min(losses)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    best = make_trainer(batches, val_loader=batches[:1])
    best.load_checkpoint(tmp_path / "best.ckpt")
    assert best.validate()["loss"] == min(losses)


def test_a_worse_epoch_does_not_replace_the_best(tmp_path: Path) -> None:
    batches = [make_batch(8, 0)]
    trainer = make_trainer(batches, val_loader=batches, checkpoint_dir=tmp_path)
    trainer.fit(1)
    best = (tmp_path / "best.ckpt").read_bytes()
    for group in trainer.optimizer.param_groups:
        group["lr"] = -1.0
    trainer.fit(2)
    assert trainer.history[1]["val_loss"] > trainer.history[0]["val_loss"]
    assert (tmp_path / "best.ckpt").read_bytes() == best
    assert (tmp_path / "last.ckpt").read_bytes() != best


def test_validation_is_the_mean_over_all_targets_and_disturbs_nothing() -> None:
    batches = [make_batch(4, 0)]
    parts = [masked(n, seed) for seed, n in enumerate((5, 3, 1))]
    trainer = make_trainer(
        batches, loss=CombinedLoss([MaskedModelingLoss(), BehaviorLoss()]), val_loader=parts
    )
    trainer.model.eval()
    before = torch.get_rng_state()
    scores = trainer.validate()
    assert not trainer.model.training
    assert torch.equal(torch.get_rng_state(), before)
    joined = join(parts)
    with torch.no_grad():
        outputs = trainer.model.forward_batch(joined)
    assert scores["behavior"] == pytest.approx(BehaviorLoss()(outputs, joined).item())
    assert scores["masked_modeling"] == pytest.approx(MaskedModelingLoss()(outputs, joined).item())
    assert scores["loss"] == pytest.approx(scores["behavior"] + scores["masked_modeling"])


def test_without_a_loss_a_quarter_of_the_input_is_filled_in() -> None:
    trainer = MultiModalTrainer(Model(), [make_batch(8, 0)], progress=False, seed=4)
    first = trainer.train_epoch()
    assert list(first) == ["loss", "masked_modeling"]
    assert repr(trainer.masker) == "NeuralMasker(mode='random', ratio=0.25, span=1)"
    (last,) = MultiModalTrainer(Model(), [make_batch(8, 0)] * 200, progress=False, seed=4).fit(1)
    assert last["loss"] < first["loss"]


def test_one_seed_gives_one_run_and_another_gives_another() -> None:
    def run(seed: int | None) -> list[Tensor]:
        trainer = make_trainer(
            [make_batch(4, 0)] * 3,
            loss=MaskedModelingLoss(),
            masker=NeuralMasker("random", 0.5),
            seed=seed,
        )
        trainer.train_epoch()
        return parameters(trainer)

    first, second, third = run(1), run(1), run(2)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])
    torch.manual_seed(8)
    free = run(None)
    torch.manual_seed(8)
    assert torch.equal(free[0], run(None)[0])


def test_the_default_optimizer_decays_matrices_only() -> None:
    model = Model()
    model.body.weight._no_weight_decay = True
    trainer = MultiModalTrainer(model, [make_batch(2, 0)], progress=False)
    decayed, rest = trainer.optimizer.param_groups
    assert {id(p) for p in decayed["params"]} == {
        id(model.encoder.weight),
        id(model.decoder.weight),
    }
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.01, 0.0)
    assert len(rest["params"]) == 4


def test_a_model_that_is_frozen_whole_is_refused() -> None:
    with pytest.raises(ValueError, match="no parameter that needs a gradient"):
        MultiModalTrainer(Model().requires_grad_(requires_grad=False), [], progress=False)


class Poisoned(Model):
    """Gives a NaN gradient for the batches that say so."""

    def forward_batch(self, batch: Any) -> dict[str, Any]:
        outputs = super().forward_batch(batch)
        if batch.get("bad"):
            outputs["decoder"] = outputs["decoder"] * float("nan")
        return outputs


def test_steps_with_a_nan_gradient_are_skipped_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good, bad = make_batch(4, 0), make_batch(4, 1) | {"bad": True}
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer([good, *[bad] * 10, good], Poisoned())
        mean = trainer.train_epoch()
    assert (trainer.global_step, trainer.skipped_steps) == (2, 10)
    assert "the gradient after step 1 is not finite" in caplog.text
    clean = make_trainer([good, good])
    assert mean == clean.train_epoch()
    assert all(
        torch.equal(a, b) for a, b in zip(parameters(trainer), parameters(clean), strict=True)
    )


def test_more_than_ten_skipped_steps_in_a_row_end_the_run() -> None:
    trainer = make_trainer([make_batch(4, 1) | {"bad": True}] * 30, Poisoned())
    with pytest.raises(FloatingPointError, match=r"11 steps in a row had a NaN .* at most 10"):
        trainer.train_epoch()
    assert trainer.skipped_steps == 11


def test_the_scheduler_steps_with_the_optimizer() -> None:
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    trainer = make_trainer([make_batch(2, 0)] * 5, model, optimizer=optimizer, scheduler=scheduler)
    trainer.train_epoch()
    assert scheduler.get_last_lr() == pytest.approx([0.01])


@pytest.mark.parametrize("settings", [{"mixed_precision": True}, {"precision": "bf16-mixed"}])
def test_bfloat16_autocast_trains_float32_parameters(settings: dict[str, Any]) -> None:
    seen = []

    class Spy(Model):
        def forward_batch(self, batch: Any) -> dict[str, Any]:
            outputs = super().forward_batch(batch)
            seen.append(outputs["decoder"].dtype)
            return outputs

    batches = [make_batch(8, 0)]
    half, full = make_trainer(batches, Spy(), **settings), make_trainer(batches)
    half.train_epoch()
    full.train_epoch()
    assert seen == [torch.bfloat16]
    for a, b in zip(parameters(half), parameters(full), strict=True):
        assert a.dtype == torch.float32
        # One step of size 0.1 along a gradient of norm <= 1 with three digits.
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)


def test_callbacks_see_every_step_and_epoch() -> None:
    recorder = Recorder()
    assert isinstance(recorder, Callback)
    trainer = make_trainer([make_batch(2, seed) for seed in range(3)], callbacks=[recorder])
    history = trainer.fit(2)
    assert [step for step, _ in recorder.steps] == [1, 2, 3, 4, 5, 6]
    assert recorder.epochs == [(1, history[0]), (2, history[1])]


def test_fitting_again_to_the_same_number_of_epochs_does_nothing() -> None:
    trainer = make_trainer([make_batch(2, 0)])
    first = trainer.fit(2)
    before = parameters(trainer)
    assert trainer.fit(2) == first
    assert all(torch.equal(a, b) for a, b in zip(parameters(trainer), before, strict=True))
    assert len(trainer.fit(3)) == 3


def test_loggers_get_steps_and_epochs(tmp_path: Path) -> None:
    from lightning_fabric.loggers import CSVLogger

    logger = CSVLogger(tmp_path, name="run", version="v", flush_logs_every_n_steps=1)
    make_trainer([make_batch(2, 0)] * 2, loggers=[logger]).fit(1)
    text = (tmp_path / "run" / "v" / "metrics.csv").read_text()
    assert "epoch_behavior" in text.splitlines()[0]
    assert len(text.splitlines()) == 4


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from lightning_fabric.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path)
    history = make_trainer([make_batch(2, 0)] * 2, loggers=[logger]).fit(2)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 2, 3, 4]
    logged = [e.value for e in events.Scalars("epoch_behavior")]
    assert logged == pytest.approx([epoch["behavior"] for epoch in history], rel=1e-6)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("screen", "progress", "shown"),
    [(Terminal, True, True), (Terminal, False, False), (io.StringIO, True, False)],
)
@pytest.mark.parametrize("sized", [True, False])
def test_the_progress_bar_shows_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, screen: Any, progress: bool, shown: bool, sized: bool
) -> None:
    class Stream:
        def __iter__(self) -> Iterator[Any]:
            return iter([make_batch(2, 0)] * 2)

    trainer = make_trainer([make_batch(2, 0)] * 2 if sized else Stream(), progress=progress)
    monkeypatch.setattr(sys, "stderr", screen())
    trainer.train_epoch()
    assert ("epoch 1" in sys.stderr.getvalue()) == shown


def test_a_checkpoint_carries_the_manifest_of_its_run(tmp_path: Path) -> None:
    path = tmp_path / "a" / "run.ckpt"
    trainer = make_trainer([make_batch(2, 0)], seed=5, data_hash="d" * 64)
    trainer.fit(1)
    trainer.save_checkpoint(path)
    twin = make_trainer([make_batch(2, 0)])
    manifest = twin.load_checkpoint(path)
    assert isinstance(manifest, RunManifest)
    assert (manifest.kind, manifest.seed, manifest.data_hash) == ("checkpoint", 5, "d" * 64)
    assert manifest.config["model"] == "Model"
    assert manifest.config["optimizer"]["lr"] == 0.1
    assert {"torch", "neuros-neurofm"} <= set(manifest.versions)
    other = tmp_path / "twin.ckpt"
    twin.save_checkpoint(other)
    assert twin.load_checkpoint(other).model_hash == manifest.model_hash
    twin.fit(2)
    twin.save_checkpoint(other)
    assert twin.load_checkpoint(other).model_hash != manifest.model_hash
    assert twin.history[0] == trainer.history[0]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    make_trainer([make_batch(2, 0)]).save_checkpoint(path)
    larger = Model()
    larger.body = nn.Linear(3, 9)
    with pytest.raises(ValueError, match=r"run\.ckpt does not fit this [\s\S]*size mismatch"):
        make_trainer([], larger).load_checkpoint(path)


def test_a_checkpoint_with_another_scheduler_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    make_trainer([make_batch(2, 0)]).save_checkpoint(path)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    trainer = make_trainer([], model, optimizer=optimizer, scheduler=scheduler)
    with pytest.raises(ValueError, match=r"run\.ckpt has no scheduler, this trainer has one"):
        trainer.load_checkpoint(path)
    trainer.save_checkpoint(path)
    with pytest.raises(ValueError, match=r"run\.ckpt has a scheduler, this trainer has none"):
        make_trainer([]).load_checkpoint(path)


def test_optimizer_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    make_trainer([make_batch(2, 0)]).save_checkpoint(path)
    model = Model()
    groups = [{"params": [p]} for p in model.parameters()]
    trainer = make_trainer([], model, optimizer=torch.optim.SGD(groups, lr=0.1))
    with pytest.raises(ValueError, match=r"does not fit this trainer .*parameter group"):
        trainer.load_checkpoint(path)


def test_the_batches_given_are_not_modified() -> None:
    batch = make_batch(4, 0)
    before = copy.deepcopy(batch)
    make_trainer([batch], loss=MaskedModelingLoss(), masker=NeuralMasker("random", 0.5)).fit(2)
    assert set(batch) == set(before)
    assert all(torch.equal(batch[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be greater than 0, got 0.0; None does"),
        ({"precision": "8-bit"}, "precision must be 32-true, bf16-mixed or 16-mixed, got"),
        ({"precision": "32-true", "mixed_precision": True}, "mixed_precision=True asks for bf16"),
        ({"device": "abacus"}, "device must be one of auto, cpu, cuda, got 'abacus'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer([], **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(RuntimeError, match="needs a CUDA device, none was found"):
        make_trainer([], device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_trains_as_the_cpu_does() -> None:
    batches = [masked(4, seed) for seed in range(3)]
    there = make_trainer(batches, loss=MaskedModelingLoss(), device="cuda")
    here = make_trainer(batches, loss=MaskedModelingLoss())
    there.train_epoch()
    here.train_epoch()
    for a, b in zip(parameters(there), parameters(here), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-5)


def test_a_model_without_the_contract_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model must have a method forward_batch\(batch\), Linear"):
        make_trainer([], nn.Linear(2, 2))


def test_an_empty_loader_is_refused() -> None:
    with pytest.raises(ValueError, match="train_loader yielded no batch"):
        make_trainer([]).train_epoch()
    with pytest.raises(ValueError, match="val_loader yielded no batch"):
        make_trainer([], val_loader=[]).validate()
    with pytest.raises(ValueError, match="validate needs a val_loader"):
        make_trainer([]).validate()


def test_a_number_of_epochs_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="num_epochs must be at least 1, got 0"):
        make_trainer([]).fit(0)
