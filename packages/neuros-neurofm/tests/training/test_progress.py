"""The share of the training that a model is told, and the reversal that follows it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, nn
from torch.utils.data import DataLoader, IterableDataset

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.losses import (
    CombinedLoss,
    DomainAdversarialLoss,
    MaskedModelingLoss,
    NeuralMasker,
)
from neuros_neurofm.models import reversal_schedule
from neuros_neurofm.training import MultiModalTrainer


class Listener(nn.Module):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))
        self.heard: list[float] = []

    def set_progress(self, progress: float) -> None:
        self.heard.append(progress)

    def forward_batch(self, batch: Any) -> dict[str, Any]:
        return {"encoder": {"lfp": self.level.expand(batch["lfp"].shape)}}


BATCH = {"lfp": torch.ones(2, 8, 3)}


def trainer(model: nn.Module, loader: Any, **options: Any) -> MultiModalTrainer:
    return MultiModalTrainer(model, loader, device="cpu", seed=0, progress=False, **options)


def test_the_progress_rises_from_0_by_the_batches_of_all_epochs() -> None:
    model = Listener()
    trainer(model, [BATCH] * 5).fit(2)
    assert model.heard == pytest.approx([k / 10 for k in range(10)])


def test_a_step_of_several_batches_is_told_once() -> None:
    model = Listener()
    trainer(model, [BATCH] * 5, gradient_accumulation_steps=2).fit(2)
    assert model.heard == pytest.approx([0.0, 0.2, 0.4, 0.5, 0.7, 0.9])


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return iter([BATCH] * 3)


def test_a_loader_without_a_length_tells_whole_epochs() -> None:
    model = Listener()
    trainer(model, DataLoader(Endless(), batch_size=None)).fit(2)
    assert model.heard == [0.0] * 3 + [0.5] * 3


def test_more_epochs_stretch_the_progress_and_an_epoch_alone_tells_nothing() -> None:
    model = Listener()
    run = trainer(model, [BATCH] * 2)
    run.train_epoch()
    assert model.heard == []
    run.fit(4)
    assert model.heard == pytest.approx([0.25, 0.375, 0.5, 0.625, 0.75, 0.875])


def build_adversarial() -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        16, 1, 4, 12, True, 2, modalities=("lfp",), sampling_rates={"lfp": 100.0},
        behavior_dim=0, perceiver_depth=1, popt_depth=1,
    )  # fmt: skip


def domains() -> list[dict[str, torch.Tensor]]:
    generator = Generator().manual_seed(1)
    return [
        {
            "lfp": torch.randn(4, 20, 2, generator=generator),
            "species": torch.tensor([0, 1, -100, k]),
        }
        for k in (0, 1, 0, 1)
    ]


def run_adversarial(folder: Path) -> MultiModalTrainer:
    loss = CombinedLoss([MaskedModelingLoss(), DomainAdversarialLoss(weight=0.1)])
    return trainer(
        build_adversarial(),
        domains(),
        loss=loss,
        masker=NeuralMasker("random", 0.25),
        checkpoint_dir=folder,
    )


class Stop:
    """Saves in the middle of an epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_step_end(self, trainer: MultiModalTrainer, step: int, loss: float) -> None:
        if step == 6:
            trainer.save_checkpoint(self.path)

    def on_epoch_end(self, trainer: MultiModalTrainer, epoch: int, metrics: Any) -> None:
        pass


# The model itself, trained for eighteen steps.
@pytest.mark.slow
def test_an_adversarial_run_is_resumed_to_the_bit_with_its_reversal(tmp_path: Path) -> None:
    middle = tmp_path / "middle.ckpt"
    whole = run_adversarial(tmp_path / "a")
    whole.callbacks = (Stop(middle),)
    history = whole.fit(3)
    assert history[-1]["domain"] > 0
    last = reversal_schedule(11 / 12)
    assert float(whole.model.domain.reversal.lambd) == pytest.approx(last)
    resumed = run_adversarial(tmp_path / "b")
    resumed.load_checkpoint(middle)
    at_save = torch.full((), reversal_schedule(5 / 12))
    assert torch.equal(resumed.model.domain.reversal.lambd, at_save)
    resumed.fit(3)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
