"""Mediation against the closed forms of linear and bilinear models."""

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.activations import Replace
from neuros_mechint.interventions import CausalMediation
from neuros_mechint.interventions.mediation import Effects

A, B, C = 0.7, -1.3, 0.4


class Mediated(nn.Module):
    """y = c x + b m + interaction x m with m = a x."""

    def __init__(self, interaction: float = 0.0) -> None:
        super().__init__()
        self.mediator = nn.Linear(1, 1, bias=False).double()
        nn.init.constant_(self.mediator.weight, A)
        self.interaction = interaction

    def forward(self, x: Tensor) -> Tensor:
        m = self.mediator(x)
        return C * x + B * m + self.interaction * x * m


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def first(output: Tensor) -> Tensor:
    return output[:, 0]


def test_effects_of_a_linear_model_are_those_of_its_paths() -> None:
    effects = CausalMediation(Mediated()).effects(
        column(0.0, 2.0, -1.0), column(1.0, 3.0, 0.0), ["mediator"], first
    )
    assert float(effects.total) == pytest.approx(C + A * B, abs=1e-10)
    assert float(effects.natural_direct) == pytest.approx(C, abs=1e-10)
    assert float(effects.natural_indirect) == pytest.approx(A * B, abs=1e-10)
    assert float(effects.controlled_direct) == pytest.approx(C, abs=1e-10)


def test_an_interaction_separates_the_four_effects() -> None:
    # Y(x, m) = c x + b m + d x m from x = 1 to x' = 3.
    d, x, x_cf, m = 0.5, 1.0, 3.0, 10.0
    held = {"mediator": Replace(column(m))}
    effects = CausalMediation(Mediated(d)).effects(
        column(x), column(x_cf), "mediator", first, level=held
    )

    def outcome(x: float, m: float) -> float:
        return C * x + B * m + d * x * m

    start = outcome(x, A * x)
    expected = Effects(
        *(
            torch.tensor(value, dtype=torch.float64)
            for value in (
                outcome(x_cf, A * x_cf) - start,
                outcome(x_cf, A * x) - start,
                outcome(x, A * x_cf) - start,
                outcome(x_cf, m) - outcome(x, m),
            )
        )
    )
    torch.testing.assert_close(tuple(effects), tuple(expected), atol=1e-10, rtol=0.0)
    # Pearl 2001, eq. 9: the total is the direct effect minus the indirect one of the way back.
    back = CausalMediation(Mediated(d)).effects(column(x_cf), column(x), "mediator", first)
    torch.testing.assert_close(
        effects.total, effects.natural_direct - back.natural_indirect, atol=1e-10, rtol=0.0
    )


def test_effects_per_row_average_to_the_effects() -> None:
    x, x_cf = column(0.0, 1.0, 2.0), column(1.0, -1.0, 5.0)
    mediation = CausalMediation(Mediated(0.3))
    rows = mediation.effects(x, x_cf, ["mediator"], first, per_row=True)
    means = mediation.effects(x, x_cf, ["mediator"], first)
    for row, mean in zip(rows, means, strict=True):
        assert row.shape == (3,)
        torch.testing.assert_close(row.mean(), mean)


def test_several_mediators_are_held_together() -> None:
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.left(x)) * self.right(x)

    model = Two()
    x, x_cf = torch.zeros(4, 2), torch.randn(4, 2)
    both = CausalMediation(model).effects(x, x_cf, [model.left, "right"], lambda y: y.sum(-1))
    torch.testing.assert_close(both.natural_indirect, both.total)
    assert float(both.natural_direct) == pytest.approx(0.0, abs=1e-6)
    one = CausalMediation(model).effects(x, x_cf, ["left"], lambda y: y.sum(-1))
    assert abs(float(one.natural_direct)) > 1e-3


def test_the_default_level_holds_mediators_at_zero() -> None:
    model = CausalMediation(Mediated(0.5))
    x, x_cf = column(1.0), column(2.0)
    default = model.effects(x, x_cf, "mediator", first).controlled_direct
    zero = model.effects(x, x_cf, "mediator", first, level=lambda m: 0 * m).controlled_direct
    assert float(default) == float(zero) == pytest.approx(C, abs=1e-12)


def test_buffers_and_gradients_of_the_model_stay_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mediation = CausalMediation(model)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    effects = mediation.effects(x, x + 1.0, "0", lambda y: y.square())
    assert not effects.total.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert repr(mediation) == "CausalMediation(Sequential)"


def test_what_can_not_be_mediated_is_refused() -> None:
    mediation = CausalMediation(Mediated())
    x, x_cf = column(0.0), column(1.0)
    with pytest.raises(ValueError, match="mediators needs at least one site, got none"):
        mediation.effects(x, x_cf, [], first)
    with pytest.raises(KeyError, match="no module 'absent'"):
        mediation.effects(x, x_cf, ["absent"], first)
    with pytest.raises(ValueError, match=r"each of the mediators \['mediator'\], got \['other'\]"):
        mediation.effects(x, x_cf, ["mediator"], first, level={"other": lambda m: m})
    with pytest.raises(TypeError, match="metric needs to return a tensor, got float"):
        mediation.effects(x, x_cf, ["mediator"], lambda y: float(y[0, 0]))
