"""The phases of a curriculum: what each one aims for and how it ends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

from neuros_core import Modality
from neuros_core.domains import SourceWeights
from neuros_neurofm.training._trust import Number

__all__: list[str] = []

_RAMPS = ("linear", "cosine")


@dataclass(frozen=True, slots=True)
class Plateau:
    """Ends a phase when the observed loss has stopped to fall.

    Args:
        patience: Observations in a row without an improvement, at least 1.
        min_delta: An improvement is a fall by more than this below the best so far, >= 0.

    Raises:
        ValueError: A setting out of its range.

    Examples:
        >>> Plateau(patience=3)
        Plateau(patience=3, min_delta=0.0)
    """

    patience: int
    min_delta: Number = 0.0

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"min_delta must be finite and >= 0, got {self.min_delta}")


Duration: TypeAlias = int | Plateau | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainPhase:
    r"""All sources, in proportion to $n_k^\alpha$.

    Args:
        duration: Steps, or the `Plateau` that ends the phase; None where no phase follows.
        alpha: 0 gives equal shares, 1 the shares of the data; between them small sources are
            seen more often than they would be.
        counts: $n_k$, the samples of every source; needed unless `alpha` is 0.
        freeze: Parts of the model that are not trained, for `model.freeze(*phase.freeze)`.
        modalities: Those that have joined, for `ThreePhaseCurriculum.visible`; None: all.

    Raises:
        TypeError: A setting of another type.
        ValueError: A setting out of its range.

    Examples:
        >>> PretrainPhase(duration=1000).name
        'pretrain'

    References:
        Conneau & Lample 2019, Cross-lingual Language Model Pretraining, arXiv:1901.07291
        (sampling in proportion to a power of the counts).
    """

    name: ClassVar[str] = "pretrain"
    ramp_steps: ClassVar[int] = 0
    duration: Duration = None
    alpha: Number = 0.0
    counts: Mapping[str, int] | None = None
    freeze: tuple[str, ...] = ()
    modalities: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check_duration(self.duration, 1)
        object.__setattr__(self, "freeze", _parts(self.freeze))
        if self.modalities is not None:
            object.__setattr__(self, "modalities", check_modalities(self.modalities))
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {self.alpha}")
        if self.alpha > 0 and self.counts is None:
            raise ValueError(f"alpha = {self.alpha} needs the counts of the sources, got none")
        if self.counts is not None:
            if not all(n >= 1 for n in self.counts.values()):
                raise ValueError(f"counts must be at least 1, got {dict(self.counts)}")
            object.__setattr__(self, "counts", MappingProxyType(dict(self.counts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedPhase:
    """The estimated mixture of sources, reached over a ramp.

    Args:
        weights: Of the sources, as a weigher returns them.
        ramp_steps: Steps from the weights of the phase before (equal shares of the sources where
            there is none) to these, at least 1.
        duration: Steps, at least `ramp_steps`, or the `Plateau` that ends the phase; None where
            no phase follows.
        ramp: `linear`, or `cosine`, which starts and ends with slope 0.
        trust: See `guard_weights`; None lets the weights' own diagnosis decide.
        freeze: Parts of the model that are not trained, for `model.freeze(*phase.freeze)`.

    Raises:
        TypeError: A setting of another type.
        ValueError: A setting out of its range.

    Examples:
        >>> from neuros_core.domains import SourceWeights
        >>> WeightedPhase(weights=SourceWeights.uniform(["a", "b"]), ramp_steps=10).name
        'weighted'
    """

    name: ClassVar[str] = "weighted"
    weights: SourceWeights
    ramp_steps: int
    duration: Duration = None
    ramp: str = "linear"
    trust: Number | None = None
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_ramp(self.ramp, self.ramp_steps)
        _check_duration(self.duration, self.ramp_steps)
        object.__setattr__(self, "freeze", _parts(self.freeze))


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetunePhase:
    """The target alone, with a share of the sources against forgetting; it has no end.

    Args:
        target: Name of the target, which no earlier phase draws from.
        ramp_steps: Steps from the weights of the phase before to these, at least 1.
        ramp: `linear` or `cosine`.
        replay: Share in [0, 1) of the sources, in the proportions of the phase before.
        freeze: Parts of the model that are not trained, for `model.freeze(*phase.freeze)`.

    Raises:
        TypeError: A setting of another type.
        ValueError: A setting out of its range.

    Examples:
        >>> FinetunePhase(target="new", ramp_steps=10, replay=0.1, freeze=("backbone",)).freeze
        ('backbone',)
    """

    name: ClassVar[str] = "finetune"
    duration: ClassVar[Duration] = None
    target: str
    ramp_steps: int
    ramp: str = "linear"
    replay: Number = 0.0
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_ramp(self.ramp, self.ramp_steps)
        object.__setattr__(self, "freeze", _parts(self.freeze))
        if not 0 <= self.replay < 1:
            raise ValueError(f"replay must lie in [0, 1), got {self.replay}")


Phase: TypeAlias = PretrainPhase | WeightedPhase | FinetunePhase
ORDER: tuple[type[Any], ...] = (PretrainPhase, WeightedPhase, FinetunePhase)


def _check_duration(duration: Duration, shortest: int) -> None:
    if duration is not None and not isinstance(duration, int | Plateau):
        raise TypeError(
            f"duration must be an int, a Plateau or None, got {type(duration).__name__}"
        )
    if isinstance(duration, int) and duration < shortest:
        raise ValueError(
            f"duration must be at least {shortest} (1 step, and the ramp), got {duration}"
        )


def _check_ramp(ramp: str, ramp_steps: int) -> None:
    if ramp not in _RAMPS:
        raise ValueError(f"ramp must be one of {_RAMPS}, got {ramp!r}")
    if ramp_steps < 1:
        raise ValueError(f"ramp_steps must be at least 1, got {ramp_steps}")


def _parts(freeze: Sequence[str]) -> tuple[str, ...]:
    if isinstance(freeze, str):
        # tuple("backbone") would freeze the parts "b", "a", ...
        raise TypeError(f"freeze must be a sequence of parts, got the text {freeze!r}")
    return tuple(freeze)


def check_modalities(modalities: Sequence[str]) -> tuple[str, ...]:
    """The modalities as plain texts.

    Raises:
        TypeError: A text instead of a sequence.
        ValueError: None at all, an unknown one, or one twice.
    """
    if isinstance(modalities, str):
        raise TypeError(f"modalities must be a sequence of names, got the text {modalities!r}")
    names = tuple(str(m) for m in modalities)
    if not names or len(set(names)) < len(names) or not set(names) <= {str(m) for m in Modality}:
        raise ValueError(
            f"modalities must be at least one of {', '.join(Modality)}, each once, "
            f"got {list(names)}"
        )
    return names
