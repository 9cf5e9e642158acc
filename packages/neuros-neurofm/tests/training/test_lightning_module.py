import logging
import warnings
from typing import Any

import pytest
import torch
from torch import Generator, nn
from torch.utils.data import DataLoader

from neuros_neurofm.losses import BehaviorLoss
from neuros_neurofm.training import MultiModalTrainer, NeuroFMXLightningModule

with warnings.catch_warnings():
    # Its own imports warn of each other's deprecations.
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning")

pytestmark = pytest.mark.filterwarnings("ignore")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder = nn.Linear(3, 2)
        self.told: list[float] = []

    def forward_batch(self, batch: Any) -> dict[str, Any]:
        x = batch["lfp"]
        return {
            "decoder": self.decoder(x),
            "encoder": {"lfp": self.decoder(x).repeat(1, 1, 2)[..., :3]},
        }

    def set_progress(self, share: float) -> None:
        self.told.append(share)


def batches() -> list[dict[str, Any]]:
    generator = Generator().manual_seed(1)
    return [
        {
            "lfp": torch.randn(4, 6, 3, generator=generator),
            "behavior": torch.randn(4, 6, 2, generator=generator),
        }
        for _ in range(4)
    ]


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def train(module: Any, **settings: Any) -> Any:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip
    loader = DataLoader(batches(), batch_size=None)
    trainer.fit(module, loader, loader)
    return trainer


def test_lightning_trains_as_the_trainer_of_this_package_does() -> None:
    module = NeuroFMXLightningModule(Model(), loss=BehaviorLoss(), optimizer=sgd, seed=0)
    trainer = train(module, gradient_clip_val=1.0)
    own = MultiModalTrainer(
        Model(),
        batches(),
        batches(),
        sgd,
        loss=BehaviorLoss(),
        seed=0,
        progress=False,
        device="cpu",
    )
    history = own.fit(2)
    for ours, theirs in zip(module.model.parameters(), own.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert float(trainer.callback_metrics["val_behavior"]) == pytest.approx(
        history[-1]["val_behavior"]
    )
    assert module.model.told == own.model.told


def test_the_schedule_follows_the_steps() -> None:
    module = NeuroFMXLightningModule(
        Model(),
        loss=BehaviorLoss(),
        optimizer=sgd,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        seed=0,
    )
    trainer = train(module)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**8)


def test_without_a_loss_it_fills_in_what_is_hidden_the_same_in_every_validation() -> None:
    module = NeuroFMXLightningModule(Model(), seed=0)
    batch = batches()[0]
    assert float(module.validation_step(batch, 1)) == float(module.validation_step(batch, 1))
    assert float(module.training_step(batch, 1)) != float(module.training_step(batch, 1))
    assert isinstance(module.configure_optimizers(), torch.optim.AdamW)


def test_a_model_without_batches_is_refused() -> None:
    with pytest.raises(TypeError, match="model must have a method forward_batch"):
        NeuroFMXLightningModule(nn.Linear(2, 2))
