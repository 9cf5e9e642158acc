"""A curriculum of modalities: one joins per stage."""

from collections.abc import Mapping, Sequence

from neuros_neurofm.training._phases import Duration, PretrainPhase, check_modalities
from neuros_neurofm.training._trust import Number

__all__: list[str] = []


def modality_stages(
    modalities: Sequence[str],
    durations: Sequence[Duration],
    *,
    alpha: Number = 0.0,
    counts: Mapping[str, int] | None = None,
) -> list[PretrainPhase]:
    """Return the stages of a pretraining in which one modality joins after the other.

    They stand in a `ThreePhaseCurriculum` where a `PretrainPhase` would; the phases after them
    see all modalities. `ThreePhaseCurriculum.visible` takes out of a batch what has not joined.

    Args:
        modalities: In the order in which they join.
        durations: Of every stage, as in `PretrainPhase`; the last is None where no phase follows.
        alpha: As in `PretrainPhase`, the same in all stages.
        counts: As in `PretrainPhase`.

    Returns:
        One phase per modality.

    Raises:
        TypeError: A setting of another type.
        ValueError: An unknown modality or one twice, or durations of another number.

    Examples:
        >>> stages = modality_stages(["spike", "lfp"], [100, None])
        >>> [(stage.modalities, stage.duration) for stage in stages]
        [(('spike',), 100), (('spike', 'lfp'), None)]
    """
    names = check_modalities(modalities)
    if len(durations) != len(names):
        raise ValueError(
            f"durations must be one per modality, got {len(durations)} for {len(names)}"
        )
    return [
        PretrainPhase(duration=duration, alpha=alpha, counts=counts, modalities=names[: k + 1])
        for k, duration in enumerate(durations)
    ]
