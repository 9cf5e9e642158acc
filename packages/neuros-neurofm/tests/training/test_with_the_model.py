from pathlib import Path

import pytest
import torch
from torch import Generator

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.losses import BehaviorLoss, CombinedLoss, MaskedModelingLoss, NeuralMasker
from neuros_neurofm.training import MultiModalTrainer


def make_model() -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        32,
        1,
        8,
        16,
        modalities=("spike", "lfp"),
        behavior_dim=1,
        sampling_rates={"spike": 100.0, "lfp": 200.0},
        perceiver_depth=1,
        popt_depth=1,
    )


def make_batch(seed: int) -> dict[str, object]:
    generator = Generator().manual_seed(seed)
    phase = torch.rand(4, 1, 1, generator=generator)
    slow = torch.sin(6.28 * (torch.arange(40) / 40)[None, :, None] + 6.28 * phase)
    return {
        "spike": torch.poisson((1 + slow).expand(4, 40, 5) * 2, generator=generator),
        "lfp": slow.repeat_interleave(2, dim=1).expand(4, 80, 2).clone(),
        "units": {"spike": [f"u{k}" for k in range(5)]},
        "behavior": slow,
        "behavior_times": ((torch.arange(40) + 1) / 100).expand(4, 40),
    }


@pytest.mark.slow  # The model itself, for thirty steps.
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_model_learns_and_is_resumed_to_the_bit(tmp_path: Path, precision: str) -> None:
    def build() -> MultiModalTrainer:
        model = make_model()
        return MultiModalTrainer(
            model,
            [make_batch(seed) for seed in range(10)],
            optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
            loss=CombinedLoss([MaskedModelingLoss(), BehaviorLoss()]),
            masker=NeuralMasker("random", 0.25),
            precision=precision,
            checkpoint_dir=tmp_path,
            device="cpu",
            seed=0,
            progress=False,
        )

    trainer = build()
    trainer.fit(1)
    resumed = build()
    resumed.load_checkpoint(tmp_path / "last.ckpt")
    history = resumed.fit(3)
    assert history[-1]["behavior"] < 0.8 * history[0]["behavior"]
    assert history[-1]["masked_modeling"] < history[0]["masked_modeling"]
    assert resumed.skipped_steps == 0
    trainer.load_checkpoint(tmp_path / "last.ckpt")
    for name, value in trainer.model.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, resumed.model.state_dict()[name])
    fresh = build()
    fresh.fit(3)
    for (name, a), b in zip(
        fresh.model.named_parameters(), resumed.model.parameters(), strict=True
    ):
        assert torch.equal(a, b), name
