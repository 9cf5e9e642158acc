import math

import pytest
import torch

from neuros_mechint.biophysical._spike_times import crossing_times


def test_crossings_of_straight_lines_are_exact() -> None:
    # V = 3 t - 2 at t = 0.5, 1, 1.5, ... crosses 1 at t = 1; the second line never does.
    t = torch.arange(1, 9, dtype=torch.float64) * 0.4
    found = crossing_times(torch.stack([3 * t - 2, -t], -1), 0.4, threshold=1.0)
    assert found.counts.tolist() == [1, 0]
    assert found.times.shape == (1, 2)
    assert found.times[0, 0].item() == pytest.approx(1.0, abs=1e-14)
    assert math.isinf(found.times[0, 1].item())


def test_crossings_of_a_sine_are_its_periods() -> None:
    t = torch.arange(1, 4001, dtype=torch.float64) * 0.01
    phases = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    found = crossing_times(torch.sin(t - phases)[..., None], 0.01)
    for k, phase in enumerate((0.5, 2.0)):
        n = int(found.counts[k, 0])
        exact = phase + 2 * math.pi * torch.arange(n, dtype=torch.float64)
        torch.testing.assert_close(found.times[k, :n, 0], exact, rtol=0, atol=1e-6)
        assert bool(torch.isinf(found.times[k, n:, 0]).all())


def test_a_sample_on_the_threshold_is_the_crossing_and_only_once() -> None:
    found = crossing_times(torch.tensor([-1.0, 0.0, 1.0, 0.0, 1.0]), 1.0)
    assert found.times.tolist() == [2.0]
    assert found.counts.item() == 1


def test_times_carry_gradients() -> None:
    v = torch.tensor([-1.0, 3.0, -2.0, 2.0], dtype=torch.float64, requires_grad=True)
    times = crossing_times(v, 0.5).times
    assert torch.autograd.gradcheck(lambda v: crossing_times(v, 0.5).times, (v,))
    assert times.tolist() == [0.625, 1.75]
    quiet = torch.ones(5, 2, requires_grad=True)
    found = crossing_times(torch.cat([quiet, v[:, None].float().expand(4, 2)]), 1.0)
    assert bool(torch.isfinite(torch.autograd.grad(found.times.sum(), quiet)[0]).all())


def test_a_single_sample_crosses_nothing() -> None:
    found = crossing_times(torch.ones(1, 3), 1.0)
    assert found.times.shape == (0, 3)
    assert found.counts.tolist() == [0, 0, 0]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="voltage must be a floating tensor, got torch"):
        crossing_times(torch.zeros(3, dtype=torch.int64), 1.0)
    with pytest.raises(ValueError, match="dt must be positive and finite, in ms, got 0"):
        crossing_times(torch.zeros(3), 0.0)
    for wrong in (torch.zeros(()), torch.zeros(0)):
        with pytest.raises(ValueError, match=r"voltage must be \(..., time >= 1, n\)"):
            crossing_times(wrong, 1.0)
