"""Phases whose order is known."""

import math

import torch

from neuros_mechint.dynamics.synchrony import KuramotoOrder


def test_locked_phases_have_order_one_and_their_own_phase():
    phases = torch.linspace(-1, 1, 50)[:, None].expand(50, 7)
    result = KuramotoOrder().compute(phases)
    torch.testing.assert_close(result.order, torch.ones(50))
    torch.testing.assert_close(result.mean_phase, phases[:, 0])
    assert float(result.metastability) < 1e-12


def test_splayed_phases_have_order_zero():
    phases = torch.arange(8.0) * 2 * math.pi / 8
    assert float(KuramotoOrder().compute(phases[None]).synchrony) < 1e-6


def test_two_units_give_the_cosine_of_half_their_distance():
    half = torch.linspace(0, 1.5, 40, dtype=torch.float64)
    result = KuramotoOrder().compute(torch.stack([half, -half], dim=-1).numpy())
    torch.testing.assert_close(result.order, half.cos())
    torch.testing.assert_close(result.metastability, half.cos().var(correction=0))
    assert repr(KuramotoOrder()) == "KuramotoOrder()"
