"""Runs of two processes, started by torchrun, that write what they found: see test_distributed.py.

Arguments: the folder of the results, and the strategy.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Generator
from torch.utils.data import DataLoader

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.losses import BehaviorLoss, CombinedLoss, MaskedModelingLoss, NeuralMasker
from neuros_neurofm.training import MultiModalTrainer, collate

N_SAMPLES, BATCH = 26, 2  # 13 batches: the last round of two processes is incomplete.
SETTINGS: dict[str, Any] = {"device": "cpu", "seed": 1, "progress": False, "max_grad_norm": 1.0}


def windows() -> list[dict[str, Any]]:
    """Windows of spikes and LFP; some lack one of them, and behaviour is missing here and there."""
    generator = Generator().manual_seed(11)
    samples: list[dict[str, Any]] = []
    for k in range(N_SAMPLES):
        sample: dict[str, Any] = {
            "behavior": torch.randn(8, 2, generator=generator),
            "behavior_mask": torch.rand(8, generator=generator) < 0.6,
        }
        if k % 4 < 2:
            sample["spike"] = torch.poisson(torch.ones(8, 3), generator=generator)
        else:
            sample["lfp"] = torch.randn(8, 4, generator=generator)
        samples.append(sample)
    return samples


def model() -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        16, 2, 8, 16, modalities=("spike", "lfp"), dropout=0.0, modality_dropout=0.0, popt_depth=1,
        patches={"lfp": 1.0},
    )  # fmt: skip


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.5)


def behaviour_trainer(**settings: Any) -> MultiModalTrainer:
    """Deterministic but for the order of the batches, which a seed fixes."""
    loader = DataLoader(windows(), BATCH, shuffle=False, collate_fn=collate)
    validation = DataLoader(windows()[:7], BATCH, collate_fn=collate)
    options = SETTINGS | {"optimizer": sgd, "loss": BehaviorLoss()} | settings
    return MultiModalTrainer(model(), loader, validation, **options)


def shuffled_trainer(**settings: Any) -> MultiModalTrainer:
    loader = DataLoader(windows(), BATCH, shuffle=True, collate_fn=collate)
    options = SETTINGS | {
        "loss": CombinedLoss([MaskedModelingLoss(), BehaviorLoss()]),
        "masker": NeuralMasker("random", 0.3),
        "gradient_accumulation_steps": 2,
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9),
    }
    return MultiModalTrainer(model(), loader, **(options | settings))


class SaveAt:
    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_step_end(self, trainer: MultiModalTrainer, step: int, loss: float) -> None:
        if step == self.step:
            trainer.save_checkpoint(self.path)

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Any) -> None:
        pass


def main(folder: Path, strategy: str) -> None:
    torch.set_num_threads(1)
    spread = {"strategy": strategy, "devices": "auto"}
    trainer = behaviour_trainer(**spread)
    history = trainer.fit(2)
    trainer.save_checkpoint(folder / "behaviour.ckpt")
    whole = shuffled_trainer(**spread, callbacks=[SaveAt(folder / "middle.ckpt", 5)])
    whole.fit(3)
    whole.save_checkpoint(folder / "whole.ckpt")
    rest = shuffled_trainer(**spread)
    rest.load_checkpoint(folder / "middle.ckpt")
    rest.fit(3)
    rest.save_checkpoint(folder / "rest.ckpt")
    rank = trainer.fabric.global_rank
    torch.save({"history": history}, folder / f"history_{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
