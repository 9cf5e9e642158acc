"""Analyses by name whose answer is planted in what the model computes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from neuros_mechint import LatentCircuitModel, TrainingHooks


class Reads(nn.Module):
    """Returns one member of a batch."""

    def __init__(self, member: str) -> None:
        super().__init__()
        self.member, self.out = member, nn.Identity()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.out(batch[self.member])


def evaluate(
    folder: Path, net: nn.Module, site: str, name: str, probe: list[Any], **config: Any
) -> dict[str, Any]:
    hooks = TrainingHooks(
        [name], {name: config}, sites=[site], out_dir=folder, probe=probe, forward=lambda m, b: m(b)
    )
    return hooks.evaluate(net, epoch=1)[name][site]


def brain_batches(n: int = 2) -> list[dict[str, Tensor]]:
    generator = Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    batches = []
    for _ in range(n):
        x = torch.randn(4, 25, 5, generator=generator)
        batches.append({"x": x, "turned": 3 * x @ turn, "other": torch.randn(4, 25, 7)})
    return batches


def test_a_rotated_copy_is_aligned_and_noise_is_not(tmp_path: Path) -> None:
    same, other = (
        evaluate(tmp_path, Reads("x"), "out", "alignment", brain_batches(), reference=name)
        for name in ("turned", "other")
    )
    assert same["cka"] == pytest.approx(1.0, abs=1e-5)
    assert abs(other["cka"]) < 0.1
    assert same["procrustes_distance"] < 1e-2 < 1 < other["procrustes_distance"]


def test_alignment_needs_the_same_samples(tmp_path: Path) -> None:
    batches = [{"x": torch.randn(4, 25, 5), "brain": torch.randn(4, 24, 5), "label": 3}]
    with pytest.raises(ValueError, match=r"site 'out' has 100 rows and positions, the reference"):
        evaluate(tmp_path, Reads("x"), "out", "alignment", batches, reference="brain")
    with pytest.raises(TypeError, match="member 'label' of a batch needs to be a tensor, got int"):
        evaluate(tmp_path, Reads("x"), "out", "alignment", batches, reference="label")


def test_a_decaying_rotation_has_its_radius_and_frequency(tmp_path: Path) -> None:
    steps = torch.arange(40.0)
    starts = torch.tensor([1.0, -1.0, 0.5, -0.5])[:, None]  # Of mean zero: so are the states.
    wave = 0.95**steps * torch.polar(torch.ones(40), 2 * math.pi * steps / 10)
    x = torch.stack([starts * wave.real, starts * wave.imag], -1)
    found = evaluate(tmp_path, nn.Sequential(nn.Identity()), "0", "dynamics", [x], rank=2)
    assert found["spectral_radius"] == pytest.approx(0.95, abs=1e-4)
    assert found["leading_frequency"] == pytest.approx(0.1, abs=1e-4)
    step = abs(0.95 * complex(math.cos(math.pi / 5), math.sin(math.pi / 5)) - 1)
    speed = step * 0.75 * float((0.95 ** steps[:-1]).mean())
    assert found["speed"] == pytest.approx(speed, rel=1e-4)
    with pytest.raises(ValueError, match=r"needs activations \(row, time, unit\), got shape"):
        evaluate(tmp_path, nn.Sequential(nn.Identity()), "0", "dynamics", [x[0]])


def test_a_planted_latent_circuit_is_found(tmp_path: Path) -> None:
    planted = LatentCircuitModel(2, 10, generator=Generator().manual_seed(0))
    u = torch.randn(12, 20, 2, generator=Generator().manual_seed(1))
    responses = planted(u).responses.detach()
    batches = [{"u": u[:6], "y": responses[:6]}, {"u": u[6:], "y": responses[6:]}]
    settings = {"n_latent": 2, "inputs": "u", "n_restarts": 4, "n_epochs": 100}
    found = evaluate(tmp_path, Reads("y"), "out", "latent_circuits", batches, **settings)
    assert found["r2"] > 0.9999
    wiring = torch.as_tensor(found["w_rec"])
    assert torch.allclose(wiring, planted.w_rec.detach(), atol=2e-3)
