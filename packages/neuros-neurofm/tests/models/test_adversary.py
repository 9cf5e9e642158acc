import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_neurofm.models import DomainDiscriminator, GradientReversal, reversal_schedule


def test_the_schedule_starts_at_nothing_and_ends_near_one() -> None:
    assert reversal_schedule(0.0) == 0.0
    # tanh(5 p) is the same function.
    for progress in (0.1, 0.37, 0.5, 1.0):
        assert reversal_schedule(progress) == pytest.approx(math.tanh(5 * progress), abs=1e-15)
    with pytest.raises(ValueError, match=r"progress must lie in \[0, 1\], got 1.5"):
        reversal_schedule(1.5)
    with pytest.raises(ValueError, match="got nan"):
        reversal_schedule(math.nan)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.floats(0.0, 0.99), st.floats(0.001, 0.01))
def test_the_schedule_rises(progress: float, later: float) -> None:
    assert reversal_schedule(progress) < reversal_schedule(progress + later) < 1.0


@pytest.mark.parametrize("lambd", [0.0, 0.3, 2.0])
def test_values_pass_and_gradients_return_reversed(lambd: float) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 3, dtype=torch.float64)
    y = GradientReversal(lambd=lambd)(x)
    assert torch.equal(y, x)
    y.backward(upstream)
    torch.testing.assert_close(x.grad, -lambd * upstream, rtol=1e-7, atol=0)


def test_the_strength_of_a_call_wins_for_that_call_alone() -> None:
    reversal = GradientReversal(lambd=0.5)
    x = torch.ones(2, requires_grad=True)
    reversal(x, 3.0).sum().backward()
    assert x.grad.tolist() == [-3.0, -3.0]
    assert float(reversal.lambd) == 0.5


def test_a_strength_that_changes_before_the_backward_pass_does_not_reach_it() -> None:
    reversal = GradientReversal(lambd=1.0)
    x = torch.ones(2, requires_grad=True)
    y = reversal(x)
    reversal.set_lambda(0.25)
    y.sum().backward()
    assert x.grad.tolist() == [-1.0, -1.0]
    assert float(reversal.lambd) == 0.25


def test_the_strength_is_saved_and_shown() -> None:
    reversal, other = GradientReversal(lambd=0.5), GradientReversal()
    other.load_state_dict(reversal.state_dict())
    assert float(other.lambd) == 0.5
    assert repr(other) == "GradientReversal(lambd=0.5)"


@pytest.mark.parametrize("lambd", [-0.1, math.inf, math.nan])
def test_a_strength_that_is_no_strength_is_refused(lambd: float) -> None:
    with pytest.raises(ValueError, match="lambd must be finite and >= 0"):
        GradientReversal(lambd=lambd)
    with pytest.raises(ValueError, match="lambd must be finite and >= 0"):
        GradientReversal().set_lambda(lambd)
    with pytest.raises(ValueError, match="lambd must be finite and >= 0"):
        GradientReversal()(torch.ones(1), lambd)


def test_half_precision_gradients_stay_half() -> None:
    x = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    GradientReversal(lambd=0.5)(x).sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_the_discriminator_tells_shifted_domains_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    x = torch.randn(300, 4, generator=generator) + 3 * torch.eye(4)[labels]
    discriminator = DomainDiscriminator(4, 3, hidden=16)
    optimiser = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(discriminator(x), labels).backward()
        optimiser.step()
    # The Bayes rate of these three normals is near 0.95.
    assert (discriminator(x).argmax(-1) == labels).float().mean() > 0.9
    with pytest.raises(ValueError, match="n_domains must be >= 2 to be told apart, got 1"):
        DomainDiscriminator(4, 1)
