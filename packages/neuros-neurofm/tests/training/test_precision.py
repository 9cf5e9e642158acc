import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, nn

from neuros_neurofm.losses import BehaviorLoss
from neuros_neurofm.training import MultiModalTrainer


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder = nn.Linear(3, 2)
        self.seen: list[torch.dtype] = []

    def forward_batch(self, batch: Any) -> dict[str, Any]:
        decoded = self.decoder(batch["lfp"])
        self.seen.append(decoded.dtype)
        return {"decoder": decoded * batch.get("gain", 1.0)}


def make_batches(n: int = 4) -> list[dict[str, Any]]:
    generator = Generator().manual_seed(1)
    return [
        {
            "lfp": torch.randn(4, 6, 3, generator=generator),
            "behavior": torch.randn(4, 6, 2, generator=generator),
        }
        for _ in range(n)
    ]


def make(batches: Any, **settings: Any) -> MultiModalTrainer:
    return MultiModalTrainer(
        Model(), batches, None, lambda p: torch.optim.SGD(p, lr=0.1), loss=BehaviorLoss(),
        seed=0, progress=False, device="cpu", **settings,
    )  # fmt: skip


# float16 keeps 11 bits: a step of length 1 (the bound of the gradient) x 0.1 is off by 1e-4.
def test_scaled_float16_trains_like_float32() -> None:
    half, whole = make(make_batches(), precision="16-mixed"), make(make_batches())
    half.train_epoch()
    whole.train_epoch()
    assert set(half.model.seen) == {torch.float16}
    assert half.skipped_steps == 0
    for a, b in zip(half.model.parameters(), whole.model.parameters(), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=5e-4)


def test_a_step_that_overflows_is_skipped_and_the_scale_backs_off(tmp_path: Path) -> None:
    good, bad = make_batches(2)
    trainer = make([good, bad | {"gain": float("inf")}, good], precision="16-mixed")
    trainer.train_epoch()
    assert (trainer.global_step, trainer.skipped_steps) == (2, 1)
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    scaler: Any = trainer.fabric.strategy.precision
    assert scaler.state_dict()["scale"] == 2.0**15
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    again = make([good], precision="16-mixed")
    again.load_checkpoint(tmp_path / "run.ckpt")
    assert again.fabric.strategy.precision.state_dict() == scaler.state_dict()


def test_mixed_precision_on_the_cpu_is_bfloat16() -> None:
    trainer = make(make_batches(1), mixed_precision=True)
    trainer.train_epoch()
    assert trainer.model.seen == [torch.bfloat16]


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_trains_like_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    # The default backend takes a minute to build its kernels; the graph is captured alike.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled, plain = make(make_batches(), compile=True), make(make_batches())
    compiled.train_epoch()
    plain.train_epoch()
    for a, b in zip(compiled.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "horovod"}, "strategy must be one of auto, ddp, fsdp, got 'horovod'"),
        ({"devices": 0}, "devices must be at least 1 or 'auto', got 0"),
        ({"strategy": "fsdp", "precision": "16-mixed"}, "needs precision 32-true or bf16-mixed"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make([], **settings)
