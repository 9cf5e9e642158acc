"""Modalities that join one after the other."""

from typing import Any

import pytest
import torch

from neuros_core.domains import SourceWeights
from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.training import (
    FinetunePhase,
    Plateau,
    PretrainPhase,
    ThreePhaseCurriculum,
    WeightedPhase,
    modality_stages,
)

NAMES = ("a", "b")


def batch() -> dict[str, Any]:
    return {
        "spike": torch.ones(2, 6, 3),
        "lfp": torch.ones(2, 6, 2),
        "masks": {
            "spike": torch.ones(2, 6, 3, dtype=torch.bool),
            "lfp": torch.ones(2, 6, 2, dtype=torch.bool),
        },
        "rates": {"spike": 50.0, "lfp": 50.0},
        "species": torch.zeros(2, dtype=torch.long),
    }


def staged(*durations: Any) -> ThreePhaseCurriculum:
    stages = modality_stages(["spike", "lfp", "eeg"][: len(durations)], durations)
    return ThreePhaseCurriculum(stages, names=NAMES)


def phase_modalities(curriculum: ThreePhaseCurriculum, step: int) -> Any:
    phase = curriculum.phase_at(step)
    assert isinstance(phase, PretrainPhase)
    return phase.modalities


def test_one_modality_joins_per_stage() -> None:
    curriculum = staged(10, 5, None)
    seen = [phase_modalities(curriculum, step) for step in (0, 9, 10, 14, 15, 10**6)]
    one, two, three = ("spike",), ("spike", "lfp"), ("spike", "lfp", "eeg")
    assert seen == [one, one, two, two, three, three]


def test_what_has_not_joined_is_not_in_the_batch() -> None:
    curriculum, whole = staged(10, None), batch()
    shown = curriculum.visible(whole, 9)
    assert sorted(shown) == ["masks", "rates", "species", "spike"]
    assert list(shown["masks"]) == ["spike"]
    assert shown["rates"] == {"spike": 50.0}
    assert shown["spike"] is whole["spike"]
    assert sorted(whole) == sorted(batch())
    assert sorted(whole["masks"]) == ["lfp", "spike"]
    assert sorted(curriculum.visible(whole, 10)) == sorted(whole)


def test_the_values_of_a_modality_that_has_not_joined_do_not_reach_the_model() -> None:
    torch.manual_seed(0)
    model = MultiModalNeuroFMX(
        16, 1, 4, 16, modalities=("spike", "lfp"), behavior_dim=0, popt_depth=1
    ).eval()
    first, other = batch(), batch()
    del first["rates"], other["rates"]
    other["lfp"] = other["lfp"] * 7 - 3
    curriculum = staged(10, None)

    def latents(of: dict[str, Any], step: int) -> torch.Tensor:
        with torch.no_grad():
            latents: torch.Tensor = model.forward_batch(curriculum.visible(of, step))["latents"]
        return latents

    assert torch.equal(latents(first, 0), latents(other, 0))
    assert not torch.equal(latents(first, 10), latents(other, 10))


def test_stages_end_with_a_plateau_and_the_later_phases_see_everything() -> None:
    estimated = SourceWeights(NAMES, [0.9, 0.1], "example")
    phases = [
        *modality_stages(
            ["spike", "lfp"], [Plateau(patience=1), 5], alpha=1, counts={"a": 1, "b": 3}
        ),
        WeightedPhase(weights=estimated, ramp_steps=2, duration=4),
        FinetunePhase(target="new", ramp_steps=2),
    ]
    curriculum = ThreePhaseCurriculum(phases, names=(*NAMES, "new"))
    assert not curriculum.observe(0, 1.0)
    assert "lfp" not in curriculum.visible(batch(), 7)
    assert curriculum.observe(8, 1.0)
    assert [curriculum.phase_at(s).name for s in (8, 12, 13, 17)] == (
        ["pretrain", "pretrain", "weighted", "finetune"]
    )
    for step in (8, 13, 17):
        assert sorted(curriculum.visible(batch(), step)) == sorted(batch())
    # The shares of the sources do not change where a modality joins.
    for step in (0, 8, 12, 13):
        assert curriculum.weights_at(step).weights.tolist() == [0.25, 0.75, 0.0]


def test_a_batch_of_which_nothing_has_joined_is_refused() -> None:
    alone = {"lfp": torch.ones(2, 6, 2)}
    with pytest.raises(ValueError, match=r"none of the modalities \['spike'\] .* at step 3, only"):
        staged(10, None).visible(alone, 3)
    with pytest.raises(ValueError, match="step must be finite and >= 0"):
        staged(10, None).visible(alone, -1)


def stage(*modalities: str, **options: Any) -> PretrainPhase:
    return PretrainPhase(**{"duration": 5, "modalities": modalities, **options})


@pytest.mark.parametrize(
    "phases",
    [
        [PretrainPhase(duration=5), PretrainPhase()],
        [stage("spike"), PretrainPhase()],
        [PretrainPhase(duration=5), stage("spike", duration=None)],
        [stage("spike"), stage("spike", duration=None)],
        [stage("spike"), stage("lfp", duration=None)],
        [stage("spike"), stage("lfp", "spike", alpha=1, counts={"a": 1, "b": 1}, duration=None)],
        [
            stage("spike"),
            WeightedPhase(weights=SourceWeights.uniform(NAMES), ramp_steps=1, duration=2),
            stage("spike", "lfp", duration=None),
        ],
    ],
)
def test_only_stages_that_add_modalities_may_follow_one_another(phases: Any) -> None:
    with pytest.raises(ValueError, match="each at most once and at least one"):
        ThreePhaseCurriculum(phases, names=NAMES)


def test_a_stage_that_another_follows_needs_an_end() -> None:
    with pytest.raises(ValueError, match="need a duration, because a phase follows"):
        staged(None, None)


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ([], r"must be at least one of .*, each once, got \[\]"),
        (["spike", "spike"], r"each once, got \['spike', 'spike'\]"),
        (["taste"], r"got \['taste'\]"),
    ],
)
def test_modalities_that_do_not_fit_are_refused(modalities: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modality_stages(modalities, [None] * len(modalities))


def test_a_text_is_no_sequence_of_modalities() -> None:
    with pytest.raises(TypeError, match="sequence of names, got the text 'spike'"):
        modality_stages("spike", [None])


def test_every_modality_needs_a_duration() -> None:
    with pytest.raises(ValueError, match="one per modality, got 1 for 2"):
        modality_stages(["spike", "lfp"], [None])
