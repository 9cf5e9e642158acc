"""Steps of the model `small` in the processes that torchrun started: see bench_processes.py.

Arguments: batches per process and step, batches per process.
"""

import os
import sys
import time
from typing import Any

import torch

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.training import MultiModalTrainer


class Clock:
    """Seconds of every step but the first two, in which memory is fetched."""

    def __init__(self) -> None:
        self.last = time.perf_counter()
        self.seconds: list[float] = []

    def on_step_end(self, _trainer: Any, step: int, _loss: float) -> None:
        now = time.perf_counter()
        if step > 2:
            self.seconds.append(now - self.last)
        self.last = now

    def on_epoch_end(self, _trainer: Any, _epoch: int, _metrics: Any) -> None:
        pass


def main(accumulation: int, n_batches: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MultiModalNeuroFMX.from_size("small", modalities=("lfp",), behavior_dim=0)
    batch = {"lfp": torch.randn(8, 100, 32)}
    clock = Clock()
    world = int(os.environ["WORLD_SIZE"])
    trainer = MultiModalTrainer(
        model, [batch] * (n_batches * world), devices="auto", device="cpu", seed=0, progress=False,
        gradient_accumulation_steps=accumulation, callbacks=[clock],
    )  # fmt: skip
    trainer.train_epoch()
    if trainer.fabric.global_rank == 0:
        print(f"SECONDS {min(clock.seconds)}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
