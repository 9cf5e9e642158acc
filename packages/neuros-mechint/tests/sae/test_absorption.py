"""Absorption of a planted concept, found at the rate at which it was planted."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuros_mechint.sae import SAEMetrics, evaluate_sae
from neuros_mechint.sae._absorption import Missed, MissedRows, mean_rate

N = 1000
N_SPECIAL = 10
MAIN, OTHER = 0, N_SPECIAL + 1
ROOT = 0.5**0.5


class Absorbing(nn.Module):
    """A dictionary in which special features have taken the place of a concept's own.

    Feature 0 stands for the concept and is silent where one of the special kinds 1 to 10 is there:
    those rows, 2 e0 + 2 ej, are coded by (e0 + ej) / sqrt 2 alone. Feature 11 is the other class.
    """

    def __init__(self, *, honest: bool = False) -> None:
        super().__init__()
        self.honest = honest
        special = ROOT * (torch.eye(12)[:1] + torch.eye(12)[1:11])
        apart = torch.eye(12)[1:11]
        self.dictionary = torch.cat(
            [torch.eye(12)[:1], apart if honest else special, torch.eye(12)[11:]]
        )

    def encode(self, x: Tensor) -> Tensor:
        f = torch.where(x > 1, x, 0.0)
        if not self.honest:
            special = f[..., 1:11]
            f = f.clone()
            f[..., 1:11] = special / ROOT
            f[..., 0] = torch.where((special > 0).any(-1), 0.0, f[..., 0])
        return f

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.dictionary


def planted(share: float) -> tuple[Tensor, Tensor]:
    """Half of the rows have the concept; `share` of these are special, equally of each kind."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(N) % 2
    x = 0.01 * torch.randn(N, 12, generator=generator)
    concept = (labels == 1).nonzero().flatten()
    x[concept, MAIN] += 2
    x[labels == 0, OTHER] += 2
    special = concept[: round(share * len(concept))]
    x[special, 1 + torch.arange(len(special)) % N_SPECIAL] += 2
    return x, labels


def held_out_share(x: Tensor, labels: Tensor, seed: int) -> float:
    """Share of special rows among the held-out rows of the concept: three in ten are held out."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(seed))
    held = order[: 3 * N // 10]
    concept = held[labels[held] == 1]
    return float((x[concept, 1:11] > 1).any(1).double().mean())


def scored(coder: nn.Module, x: Tensor, labels: Tensor, seed: int = 0, **options) -> SAEMetrics:
    generator = torch.Generator().manual_seed(seed)
    return evaluate_sae(coder, x, labels=labels, generator=generator, **options)


# Each special kind has so few rows that it adds less than 0.03 to F1: at most 2 in 100.
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_absorption_is_found_at_its_rate(share: float, seed: int) -> None:
    x, labels = planted(share)
    expected = held_out_share(x, labels, seed)
    assert abs(expected - share) < 0.06
    # The other class is coded by its feature alone, and the mean is over both.
    assert scored(Absorbing(), x, labels, seed).absorption == pytest.approx(expected / 2, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_without_absorption_the_rate_is_zero(share: float) -> None:
    # The same rows, coded by a dictionary in which the concept's own feature always fires.
    x, labels = planted(share)
    assert scored(Absorbing(honest=True), x, labels).absorption == 0
    assert scored(Absorbing(), *planted(0.0)).absorption == 0


def test_a_concept_that_is_split_over_features_is_not_absorbed() -> None:
    # Half of the rows fire one other feature: it raises F1 and so belongs to the concept.
    x, labels = planted(0.0)
    x[1::4, 1] += 2
    assert scored(Absorbing(), x, labels).absorption == 0


def test_rows_that_nobody_codes_are_missed_but_not_absorbed() -> None:
    class Blind(Absorbing):
        def encode(self, x: Tensor) -> Tensor:
            f = super().encode(x)
            f[..., 1:11] = 0
            return f

    assert scored(Blind(), *planted(0.2)).absorption == 0


def test_a_feature_at_right_angles_to_the_probe_does_not_absorb() -> None:
    class Aside(Absorbing):
        """Fires the special features, whose directions hold nothing of the concept."""

        def __init__(self) -> None:
            super().__init__()
            self.dictionary = Absorbing(honest=True).dictionary

    assert scored(Aside(), *planted(0.2)).absorption == 0


@settings(max_examples=5, derandomize=True, deadline=None)
@given(scale=st.sampled_from([1e-3, 1.0, 1e3]), batch_size=st.integers(7, 400))
def test_the_rate_ignores_the_unit_and_the_batches(scale: float, batch_size: int) -> None:
    class Scaled(Absorbing):
        def encode(self, x: Tensor) -> Tensor:
            return scale * super().encode(x / scale)

    x, labels = planted(0.2)
    found = scored(Scaled(), scale * x, labels, batch_size=batch_size).absorption
    assert found == pytest.approx(scored(Absorbing(), x, labels).absorption, abs=1e-12)


def test_a_class_that_the_probe_never_finds_has_no_rate() -> None:
    def missed(n_found: int, n_missed: int) -> Missed:
        return Missed(torch.arange(n_missed), n_found, torch.ones(1, dtype=torch.float64))

    directions = torch.ones(1, 1, dtype=torch.float64)
    yes = torch.tensor([True, False])
    both = MissedRows([missed(0, 0), missed(4, 2)], directions)
    assert mean_rate(both, [yes[:0], yes]) == 0.25
    assert math.isnan(mean_rate(MissedRows([missed(0, 0)], directions), [yes[:0]]))


# By ablation --------------------------------------------------------------------------------------


def reader(weight: float, column: int = MAIN) -> nn.Module:
    """Model whose one output says how much of the concept there is."""
    model = nn.Sequential(nn.Identity(), nn.Linear(12, 1, bias=False))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[0, column] = weight
    return model


def harm(output: Tensor) -> Tensor:
    return -output[..., 0]


def ablated(model: nn.Module, x: Tensor, labels: Tensor, **options) -> SAEMetrics:
    options = {"absorption_margin": 1.0, "metric": harm, **options}
    return scored(Absorbing(), x, labels, model=model, site="0", **options)


def test_the_paper_asks_what_the_model_depends_on() -> None:
    x, labels = planted(0.2)
    expected = held_out_share(x, labels, 0) / 2
    reads = ablated(reader(3.0), x, labels)
    assert reads.absorption_ablation == pytest.approx(expected, abs=1e-12)
    # Ablating (e0 + ej) / sqrt 2 takes 2 from e0: with weight 0.4 the lead is 0.8, below 1.
    assert ablated(reader(0.4), x, labels).absorption_ablation == 0
    shy = ablated(reader(0.4), x, labels, absorption_margin=0.7)
    assert shy.absorption_ablation == pytest.approx(expected, abs=1e-12)
    # A model that reads something else does not care, although the projection is there.
    deaf = ablated(reader(3.0, OTHER), x, labels)
    assert deaf.absorption_ablation == 0
    assert deaf.absorption == pytest.approx(expected, abs=1e-12)


def test_a_feature_that_helps_the_metric_when_it_goes_does_not_absorb() -> None:
    assert ablated(reader(-3.0), *planted(0.2)).absorption_ablation == 0


def test_without_a_margin_nothing_is_ablated() -> None:
    x, labels = planted(0.2)
    assert ablated(reader(3.0), x, labels, absorption_margin=None).absorption_ablation is None


@pytest.mark.parametrize("batch_size", [17, 64])
@pytest.mark.parametrize("mean", [False, True])
def test_rows_of_one_sequence_are_changed_one_at_a_time(mean: bool, batch_size: int) -> None:
    x, labels = planted(0.2)

    class Sequence(nn.Module):
        """Multiplies all positions: a change of two at once would not be the sum of both."""

        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return (1 + self.hidden(x)[..., MAIN]).prod(1)

    def loss(output: Tensor) -> Tensor:
        return -output.mean() if mean else -output

    sequences = x.reshape(200, 5, 12)
    scores = evaluate_sae(
        Absorbing(),
        sequences,
        Sequence(),
        "hidden",
        loss,
        labels=labels,
        generator=torch.Generator().manual_seed(0),
        absorption_margin=1.0,
        batch_size=batch_size,
    )
    expected = held_out_share(x, labels, 0) / 2
    assert scores.absorption_ablation == pytest.approx(expected, abs=1e-12)


def test_margins_that_do_not_fit_are_refused() -> None:
    x, labels = planted(0.2)
    with pytest.raises(ValueError, match="absorption_margin= needs labels= and metric="):
        scored(Absorbing(), x, labels, absorption_margin=1.0)
    with pytest.raises(ValueError, match="absorption_margin needs a number of at least 0, got -1"):
        ablated(reader(3.0), x, labels, absorption_margin=-1.0)
    with pytest.raises(ValueError, match="needs a metric with a gradient at the site"):
        ablated(reader(3.0), x, labels, metric=lambda out: -(out[..., 0] > 1).float())
