from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neuros_core import Callback
from neuros_neurofm.losses import BehaviorLoss
from neuros_neurofm.training import EarlyStopping, MultiModalTrainer


class Frozen(nn.Module):
    """Never improves: the gradient of its parameter is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()))

    def forward_batch(self, batch: Any) -> dict[str, Any]:
        return {"decoder": torch.zeros_like(batch["behavior"]) + 0 * self.level}


def trainer(callback: EarlyStopping, **settings: Any) -> MultiModalTrainer:
    batches = [{"behavior": torch.ones(1, 2, 1)}]
    return MultiModalTrainer(
        Frozen(), batches, batches, loss=BehaviorLoss(), callbacks=[callback], seed=0,
        progress=False, device="cpu", **settings,
    )  # fmt: skip


def test_a_training_that_does_not_improve_ends() -> None:
    run = trainer(EarlyStopping(patience=3))
    # The first epoch is the best so far, three more are not better.
    assert len(run.fit(100)) == 4
    assert run.should_stop
    assert isinstance(EarlyStopping(), Callback)


def test_what_was_seen_is_resumed(tmp_path: Path) -> None:
    trainer(EarlyStopping(patience=3), checkpoint_dir=tmp_path).fit(2)
    again = trainer(EarlyStopping(patience=3))
    again.load_checkpoint(tmp_path / "last.ckpt")
    assert len(again.fit(100)) == 4
    stopped = trainer(EarlyStopping(patience=3))
    again.save_checkpoint(tmp_path / "stopped.ckpt")
    stopped.load_checkpoint(tmp_path / "stopped.ckpt")
    assert len(stopped.fit(100)) == 4


def test_a_fall_below_the_least_change_is_no_improvement() -> None:
    stopping, run = EarlyStopping(patience=2, min_delta=0.1), trainer(EarlyStopping())
    for epoch, loss in enumerate([1.0, 0.95, 0.91]):
        stopping.on_epoch_end(run, epoch, {"val_loss": loss})
    assert run.should_stop


def test_the_checkpoint_needs_the_same_callbacks(tmp_path: Path) -> None:
    run = trainer(EarlyStopping())
    run.save_checkpoint(tmp_path / "run.ckpt")
    other = trainer(EarlyStopping())
    other.callbacks = ()
    with pytest.raises(ValueError, match="has the state of 1 callbacks, this trainer has 0"):
        other.load_checkpoint(tmp_path / "run.ckpt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"patience": 0}, "patience must be at least 1"), ({"min_delta": -1.0}, "min_delta must be")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**settings)


def test_a_metric_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="reads 'val_loss', epoch 3 has \\['loss'\\]; give"):
        EarlyStopping().on_epoch_end(None, 3, {"loss": 1.0})
