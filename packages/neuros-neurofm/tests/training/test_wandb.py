"""What the trainer writes with the Weights & Biases client itself, without a network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neuros_neurofm.training import MultiModalTrainer
from neuros_neurofm.training._loggers import build_loggers

BATCH = {"lfp": torch.ones(2, 8, 3)}


class Level(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward_batch(self, batch: Any) -> dict[str, Any]:
        return {"encoder": {"lfp": self.level.expand(batch["lfp"].shape)}}


# The client starts a process of its own: 2 to 5 s.
@pytest.mark.slow
# The client leaves its sockets and files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_an_offline_run_keeps_the_numbers_of_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
    # Of sockets the tests allow those of the local host alone.
    monkeypatch.setattr("wandb.sdk.lib.service.ipc_support.SUPPORTS_UNIX", False)
    folder = tmp_path / "run"
    folder.mkdir()
    loggers = build_loggers(folder, tensorboard=False, wandb=True, project="atlas", mode="offline")
    trainer = MultiModalTrainer(
        Level(), [BATCH] * 3, device="cpu", seed=0, progress=False, loggers=loggers
    )
    trainer.fit(2)
    (logger,) = loggers
    run: Any = logger.version
    logger.finalize("success")
    (log,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    assert log.stem == f"run-{run}"
    written = log.read_bytes()
    for key in ("atlas", "epoch_loss"):
        assert key.encode() in written
