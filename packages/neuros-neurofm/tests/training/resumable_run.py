"""A short run with every kind of state, that kills itself when told to: see test_resume.py."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from neuros_neurofm.losses import BehaviorLoss, CombinedLoss, MaskedModelingLoss, NeuralMasker
from neuros_neurofm.training import DomainWeightedSampler, MultiModalTrainer, collate

N_SAMPLES, BATCH = 24, 2
KINDS = ("replayed", "batches", "weighted")
# Six steps make an epoch: in the middle of one, at its end before the validation, after one step.
KILLS = (9, 12, 1)


class Windows(Dataset):
    """Windows of counts and of a behaviour, with noise from NumPy's global generator.

    Python's own generator is left to test_random_state.py: the type checker that the tests run
    under draws from it.
    """

    def __init__(self, *, noisy: bool) -> None:
        generator = Generator().manual_seed(11)
        rates = 1 + torch.rand(N_SAMPLES, 8, 4, generator=generator)
        self.counts = torch.poisson(rates, generator=generator)
        self.noisy = noisy

    def __len__(self) -> int:
        return N_SAMPLES

    def __getitem__(self, index: int) -> dict[str, Any]:
        counts = self.counts[index]
        noise = np.random.mtrand.random_sample() if self.noisy else 0.0
        behavior = counts.mean(dim=1, keepdim=True) + 0.01 * noise
        return {"spike": counts, "behavior": behavior}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh())
        self.encoder, self.decoder = nn.Linear(16, 4), nn.Linear(16, 1)

    def forward_batch(self, batch: Any) -> dict[str, Any]:
        hidden = self.body(batch["spike"])
        return {
            "encoder": {"spike": self.encoder(hidden)},
            "decoder": self.decoder(hidden),
            "latents": hidden,
        }


class RunningEnergy(nn.Module):
    """A regularizer that remembers: its buffer is part of the run's state."""

    reads = "latents"
    name = "energy"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, latents: Tensor) -> Tensor:
        energy = latents.square().mean()
        self.mean = 0.9 * self.mean + 0.1 * energy.detach()
        return 0.1 * (energy - self.mean).square()


class ResumableBatches(BatchSampler):
    """A shuffled batch sampler with a position, as data sets of many recordings have."""

    def __init__(self) -> None:
        super().__init__(range(N_SAMPLES), BATCH, drop_last=False)
        self.epoch, self.position = 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(N_SAMPLES, generator=Generator().manual_seed(self.epoch))
        batches = order.reshape(-1, BATCH).tolist()
        begin, self.position = self.position, 0
        for k in range(begin, len(batches)):
            self.position = k + 1
            yield batches[k]
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]


def build_loader(kind: str) -> DataLoader:
    data = Windows(noisy=kind == "replayed")
    if kind == "replayed":
        return DataLoader(data, BATCH, shuffle=True, collate_fn=collate)
    if kind == "batches":
        return DataLoader(data, batch_sampler=ResumableBatches(), collate_fn=collate)
    sampler = DomainWeightedSampler(
        [k % 3 for k in range(N_SAMPLES)],
        [0.5, 0.3, 0.2],
        num_samples=N_SAMPLES,
        generator=Generator().manual_seed(5),
    )
    return DataLoader(data, BATCH, sampler=sampler, collate_fn=collate)


def build_trainer(kind: str, callbacks: Any = (), folder: Path | None = None) -> MultiModalTrainer:
    torch.manual_seed(3)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    validation = DataLoader(Windows(noisy=False), 5, collate_fn=collate)
    trainer = MultiModalTrainer(
        model,
        build_loader(kind),
        validation,
        optimizer,
        loss=CombinedLoss([MaskedModelingLoss(), BehaviorLoss(), RunningEnergy()]),
        masker=NeuralMasker("random", 0.3),
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20),
        gradient_accumulation_steps=2,
        checkpoint_dir=folder,
        callbacks=callbacks,
        device="cpu",
        seed=1,
        progress=False,
    )
    np.random.mtrand.seed(3)
    return trainer


class KillAt:
    """Save after a step, then die as a machine does: no exit handler runs."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_step_end(self, trainer: MultiModalTrainer, step: int, loss: float) -> None:
        if step == self.step:
            trainer.save_checkpoint(self.path)
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Any) -> None:
        pass


def die(kind: str, step: int, path: Path) -> None:
    """Run in a child of this process, and make sure that it was killed."""
    child = os.fork()
    if child == 0:
        build_trainer(kind, [KillAt(path, step)]).fit(3)
    _, status = os.wait()
    if not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL):
        raise SystemExit(f"{kind} was not killed at step {step}: status {status}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    build_trainer("replayed")  # Loads Lightning once, before the forks.
    for name in KINDS:
        for at in KILLS:
            die(name, at, Path(sys.argv[1]) / f"{name}_{at}.ckpt")
