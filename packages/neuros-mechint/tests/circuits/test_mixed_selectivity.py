"""Variance among conditions: designs solved by hand, planted effects, and their null."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from neuros_mechint.circuits import MixedSelectivityAnalyzer
from neuros_mechint.circuits._dpca import demix, marginalize

GROUPS = {"task": ["a"], "motor": ["b"], "cognitive": ["c"]}


def balanced(repeats: int) -> dict[str, Tensor]:
    """The 2 x 2 x 2 design, so many trials of every combination."""
    cells = torch.tensor(list(itertools.product([0, 1], repeat=3)) * repeats)
    return dict(zip("abc", cells.T, strict=True))


def anova(**settings: object) -> MixedSelectivityAnalyzer:
    return MixedSelectivityAnalyzer(method="anova", groups=GROUPS, **settings)


def test_a_two_by_two_by_two_design_is_the_one_solved_by_hand() -> None:
    conditions = balanced(2)
    sign = {k: 2.0 * v - 1 for k, v in conditions.items()}
    noise = torch.tensor([1.0] * 8 + [-1.0] * 8, dtype=torch.float64)
    # Orthogonal contrasts of 16 trials: squares 16 * (3, 2, 1, 0.5, 1)^2.
    one = 3 * sign["a"] + 2 * sign["b"] + sign["c"] + 0.5 * sign["a"] * sign["b"] + noise
    found = anova().decompose(one[:, None].double(), conditions)
    total = 9 + 4 + 1 + 0.25 + 1
    shares = {"task_component": 9, "motor_component": 4, "cognitive_component": 1,
              "interaction_terms": 0.25, "residual": 1, "shared": 0}  # fmt: skip
    for name, share in shares.items():
        assert found[name].total.item() == pytest.approx(share / total, abs=1e-12)
    assert found.by_term["a:b"].per_neuron.item() == pytest.approx(0.25 / total)
    assert found.selectivity_index.item() == pytest.approx(1 - 9 / 14.25)


def test_a_balanced_design_adds_up_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(24, 7, 5, generator=generator, dtype=torch.float64)
    found = anova().decompose(y, balanced(3))
    names = ("task_component", "motor_component", "cognitive_component", "interaction_terms",
             "time_component", "residual")  # fmt: skip
    whole = sum(found[name].per_neuron for name in names)
    torch.testing.assert_close(whole, torch.ones(5).double(), atol=1e-10, rtol=0)
    assert (found.shared.per_neuron == 0).all()


def test_an_unbalanced_design_says_what_is_shared() -> None:
    conditions = {k: v[:-3] for k, v in balanced(3).items()}
    y = torch.randn(21, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = anova().decompose(y, conditions)
    assert (found.shared.per_neuron != 0).all()
    parts = [found[n].per_neuron for n in found if n.endswith(("component", "terms", "residual"))]
    whole = sum(parts) + found.shared.per_neuron
    torch.testing.assert_close(whole, torch.ones(2).double())
    # Type II by its definition, for the effect a: what a adds to b, c and b:c.
    coded = {k: 2.0 * v.double() - 1 for k, v in conditions.items()}
    rest = [torch.ones(21).double(), coded["b"], coded["c"], coded["b"] * coded["c"]]

    def left(columns: list[Tensor]) -> Tensor:
        design = torch.stack(columns, 1)
        return (y - design @ torch.linalg.lstsq(design, y).solution).square().sum(0)

    added = left(rest) - left([*rest, coded["a"]])
    total = (y - y.mean(0)).square().sum(0)
    torch.testing.assert_close(found.by_term["a"].per_neuron, added / total)


def test_regression_coefficients_are_those_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    speed, choice = torch.randn(60, generator=generator), torch.arange(60) % 2
    y = torch.randn(60, 3, generator=generator) + 2 * speed[:, None]
    found = MixedSelectivityAnalyzer(method="regression").decompose(
        y, {"motor_speed": speed, "cognitive_choice": choice}
    )
    z = ((speed - speed.mean()) / speed.std()).double()
    s = 1.0 - 2 * choice.double()
    design = torch.stack([torch.ones(60).double(), z, s, z * s], 1)
    solved = torch.linalg.lstsq(design, y.double()).solution
    torch.testing.assert_close(found.encoders["motor_speed"][0], solved[1].float())
    crossed = found.encoders["motor_speed:cognitive_choice"][0]
    torch.testing.assert_close(crossed, solved[3].float())
    assert found.motor_component.total > 0.5
    assert found.decoders == {}


def test_a_condition_may_change_within_a_trial() -> None:
    generator = torch.Generator().manual_seed(0)
    speed = torch.randn(10, 8, generator=generator)
    y = torch.stack([speed, torch.randn(10, 8, generator=generator)], -1)
    found = MixedSelectivityAnalyzer(method="regression").decompose(y, {"motor": speed})
    assert found.motor_component.per_neuron[0].item() == pytest.approx(1.0)
    assert found.motor_component.per_neuron[1] < 0.2


def test_chance_is_taken_away_where_asked() -> None:
    conditions = balanced(5)
    raw, corrected, held_out = [], [], []
    for seed in range(20):
        y = torch.randn(40, 30, generator=torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        raw.append(anova().decompose(y, conditions).task_component.total)
        corrected.append(anova().decompose(y, conditions, unbiased=True).task_component.total)
        crossed = anova(generator=generator).decompose(y, conditions, cv=5)
        held_out.append(crossed.task_component.total)
    # Of 39 degrees of freedom noise gives one to the effect; 600 draws hold the mean within .003.
    assert torch.stack(raw).mean().item() == pytest.approx(1 / 39, abs=0.006)
    assert torch.stack(corrected).mean().abs() < 0.006
    assert torch.stack(held_out).mean() < 0.006


def test_demixed_components_of_planted_axes_are_those_axes() -> None:
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(12, 3, generator=generator, dtype=torch.float64)).Q
    conditions = balanced(6)
    sign = torch.stack([2.0 * v.double() - 1 for v in conditions.values()], 1)
    course = torch.sin(torch.linspace(0, 3, 10).double())
    y = (sign * torch.tensor([3.0, 2.0, 1.0]))[:, None] * course[:, None] @ axes.T
    y = y + 0.05 * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    for regularizer in ("auto", 1e-9):
        found = MixedSelectivityAnalyzer(
            groups=GROUPS, n_components=1, regularizer=regularizer, generator=generator
        ).decompose(y, conditions)
        for i, name in enumerate(("task", "motor", "cognitive")):
            assert abs(found.encoders[name][:, 0] @ axes[:, i]) > 0.999
            assert (found.decoders[name][:, 0] @ axes).abs().argmax() == i
        assert found.explained["task"] > found.explained["motor"] > found.explained["cognitive"]
        assert "time" in found.encoders


def test_marginal_parts_are_orthogonal_and_add_up() -> None:
    means = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    parts = marginalize(means)
    grand = means.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(sum(parts.values()) + grand, means)
    for one, other in itertools.combinations(parts.values(), 2):
        assert (one * other).sum().abs() < 1e-10


def test_components_without_a_ridge_reconstruct_a_part_of_full_rank() -> None:
    means = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    parts = {"all": means - means.mean((1, 2), keepdim=True)}
    found = demix(means, parts, n_components=3, regularizer=0.0)["all"]
    made = found.encoder @ found.decoder.T @ parts["all"].flatten(1)
    torch.testing.assert_close(made, parts["all"].flatten(1))
    assert found.explained.sum().item() == pytest.approx(1.0)


def test_a_result_reads_like_a_mapping_and_a_batch_of_labels_like_words() -> None:
    y = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    conditions = balanced(1)
    words = {"a": np.array(["no", "yes"])[conditions["a"].numpy()]}
    one = MixedSelectivityAnalyzer(method="anova", groups={"task": ["a"]})
    found = one.decompose(y, words)
    same = one.decompose(y.numpy(), {"a": conditions["a"]})
    assert torch.equal(found["task_component"].total, same.task_component.total)
    assert set(found.to_dict()) == set(found)
    assert len(found) == 12
    with pytest.raises(KeyError, match="nothing"):
        found["nothing"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "pca"}, "method must be one of 'dpca'"),
        ({"regularizer": "cv"}, "regularizer must be one of 'auto'"),
        ({"regularizer": -1.0}, "regularizer must be at least 0 or 'auto', got -1"),
        ({"n_components": 0}, "n_components must be at least 1"),
        ({"groups": {"taste": ["a"]}}, "groups must be one of 'task', 'motor', 'cognitive'"),
    ],
)
def test_wrong_settings_are_refused_in_words(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixedSelectivityAnalyzer(**settings)


def test_wrong_data_is_refused_in_words() -> None:
    y, conditions = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), balanced(1)
    one = MixedSelectivityAnalyzer(method="anova", groups={**GROUPS, "task": ["a", "d"]})
    with pytest.raises(ValueError, match="the effects of a, d, a:d cannot be told apart"):
        one.decompose(y, {"a": conditions["a"], "d": conditions["a"]})
    with pytest.raises(ValueError, match="conditions 'x' are in no group; start their names"):
        MixedSelectivityAnalyzer(method="anova").decompose(y, {"x": conditions["a"]})
    with pytest.raises(ValueError, match="takes one label per trial, but condition 'a' has values"):
        anova().decompose(y, {"a": torch.randn(8)})
    with pytest.raises(ValueError, match="condition 'a' must have 8 trials like responses"):
        anova().decompose(y, {"a": conditions["a"][:-1]})
    with pytest.raises(ValueError, match="has one level"):
        anova().decompose(y, {"a": torch.zeros(8, dtype=torch.long)})
    with pytest.raises(ValueError, match="holds NaN or inf"):
        anova().decompose(y, {"a": torch.full((8,), torch.nan)})
    with pytest.raises(ValueError, match=r"must be \(trials,\) or \(trials, time\)"):
        anova().decompose(y, {"a": torch.zeros(8, 1, 1)})
    with pytest.raises(ValueError, match="at least one condition"):
        anova().decompose(y, {})
    with pytest.raises(ValueError, match=r"responses must be \(trials, neurons\) or"):
        anova().decompose(y[None, None], conditions)
    with pytest.raises(ValueError, match="cv must be 2 to 8 folds"):
        anova().decompose(y, conditions, cv=9)
    with pytest.raises(ValueError, match="unbiased=True needs more than 8 samples"):
        anova().decompose(y, conditions, unbiased=True)
    with pytest.raises(ValueError, match="needs two of each; pass a number"):
        MixedSelectivityAnalyzer(groups=GROUPS).decompose(y, conditions)
