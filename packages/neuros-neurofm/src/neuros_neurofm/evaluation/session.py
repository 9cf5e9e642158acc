"""One recording with its targets and the blocks of time that it is trained and scored on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neuros_core import Modality

__all__ = ["Blocks", "Session", "SessionPart", "contiguous_blocks"]

_PARTS = ("train", "validation", "test")
_RATIOS = (0.6, 0.1, 0.3)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Contiguous stretches of time for training, validation and test.

    What lies in no block is a gap: it is neither trained on nor scored.

    Args:
        train: Blocks to fit on, as slices of samples.
        validation: Blocks that choose hyper-parameters and end a training.
        test: Blocks that are scored and nothing else.

    Raises:
        TypeError: A block that is no slice of two integers.
        ValueError: An empty or stepped block, no training block, or blocks that overlap.

    Examples:
        >>> blocks = Blocks((slice(0, 60),), (slice(65, 75),), (slice(80, 100),))
        >>> blocks.gap, blocks.stop
        (5, 100)
    """

    train: tuple[slice, ...]
    validation: tuple[slice, ...] = ()
    test: tuple[slice, ...] = ()

    def __post_init__(self) -> None:
        """Check the blocks."""
        for part in _PARTS:
            blocks = tuple(getattr(self, part))
            for block in blocks:
                _check_block(part, block)
            object.__setattr__(self, part, blocks)
        if not self.train:
            raise ValueError("train must hold at least one block, got none")
        ordered = self._ordered()
        for (_, before), (_, after) in pairwise(ordered):
            if after.start < before.stop:
                raise ValueError(
                    f"blocks must not overlap, got [{before.start}, {before.stop}) and "
                    f"[{after.start}, {after.stop})"
                )

    def __iter__(self) -> Iterator[tuple[str, tuple[slice, ...]]]:
        """Pairs of the name of a part and its blocks."""
        return ((part, getattr(self, part)) for part in _PARTS)

    @property
    def gap(self) -> int:
        """Least number of samples between two blocks of different parts; 0 with one part only."""
        ordered = self._ordered()
        between = [
            after.start - before.stop
            for (part, before), (other, after) in pairwise(ordered)
            if part != other
        ]
        return min(between, default=0)

    @property
    def stop(self) -> int:
        """End of the last block, in samples."""
        return int(self._ordered()[-1][1].stop)

    def _ordered(self) -> list[tuple[str, slice]]:
        named = [(part, block) for part, blocks in self for block in blocks]
        return sorted(named, key=lambda pair: int(pair[1].start))


class SessionPart(NamedTuple):
    """One block of a session.

    Attributes:
        inputs: Modality -> samples (time, channel) of the block.
        targets: Targets of the block, (time, dim) or (time,), or None.
        block: Where the block lies in the session.
    """

    inputs: dict[str, NDArray[Any]]
    targets: NDArray[Any] | None
    block: slice


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """One continuous stretch of recording at one rate, with targets and blocks.

    Args:
        inputs: Modality -> samples (time, channel), finite, all of one length.
        targets: What is decoded: (time, dim) or (time,) numbers, or (time,) integer labels >= 0. A
            row with a NaN, or a negative label, is not scored. None: nothing to decode.
        rate: Samples per second of inputs and targets.
        blocks: Which samples train, validate and test.
        name: Name of the session in tables.
        units: Modality -> ids of the channels; a modality without ids has unnamed channels.

    Raises:
        TypeError: Something else than arrays of numbers.
        ValueError: An unknown modality, shapes or lengths that do not belong together, values that
            are not finite, units that are not one per channel, blocks beyond the end, or a rate
            that is not positive.

    Examples:
        >>> import numpy as np
        >>> session = Session(
        ...     {"spike": np.ones((100, 4))}, np.arange(100.0), 50.0,
        ...     contiguous_blocks(100, gap=5), units={"spike": ["a", "b", "c", "d"]})
        >>> part, = session.part("test")
        >>> part.inputs["spike"].shape, part.targets.shape, part.block
        ((27, 4), (27, 1), slice(73, 100, None))
    """

    inputs: Mapping[str, NDArray[Any]]
    targets: NDArray[Any] | None
    rate: float
    blocks: Blocks
    name: str = ""
    units: Mapping[str, Sequence[str]] | None = None

    def __post_init__(self) -> None:
        """Check that the arrays belong together."""
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"rate must be a finite number > 0 of Hz, got {self.rate}")
        inputs = _checked_inputs(self.inputs)
        n_times = len(next(iter(inputs.values())))
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "targets", _checked_targets(self.targets, n_times))
        object.__setattr__(self, "units", _checked_units(self.units, inputs))
        if self.blocks.stop > n_times:
            raise ValueError(
                f"blocks end at sample {self.blocks.stop}, the session has {n_times} samples"
            )

    @property
    def n_times(self) -> int:
        """Number of samples."""
        return len(next(iter(self.inputs.values())))

    @property
    def n_targets(self) -> int:
        """Number of target variables; 0 without targets, 1 for labels."""
        if self.targets is None:
            return 0
        return 1 if self.targets.ndim == 1 else int(self.targets.shape[1])

    @property
    def labelled(self) -> bool:
        """Whether the targets are integer labels."""
        return self.targets is not None and self.targets.ndim == 1

    def scored(self) -> NDArray[np.bool_]:
        """Which samples have a target, (time,); none without targets."""
        if self.targets is None:
            return np.zeros(self.n_times, dtype=np.bool_)
        if self.targets.ndim == 1:
            return np.asarray(self.targets >= 0)
        return np.asarray(~np.isnan(self.targets).any(axis=1))

    def part(self, part: str) -> list[SessionPart]:
        """Cut the blocks of one part out of inputs and targets.

        Args:
            part: `train`, `validation` or `test`.

        Returns:
            One `SessionPart` (inputs, targets, block) per block.

        Raises:
            ValueError: An unknown part.
        """
        if part not in _PARTS:
            raise ValueError(f"part must be one of {', '.join(_PARTS)}, got {part!r}")
        return [
            SessionPart(
                {name: x[block] for name, x in self.inputs.items()},
                None if self.targets is None else self.targets[block],
                block,
            )
            for block in dict(self.blocks)[part]
        ]


def contiguous_blocks(n_times: int, *, ratios: Sequence[float] = _RATIOS, gap: int) -> Blocks:
    """One block each for training, validation and test, in this order, with gaps between them.

    The gap keeps what a filter or a window of the model reads on one side of a border from reaching
    the other: make it at least as long as the longest receptive field.

    Args:
        n_times: Samples of the session.
        ratios: Shares of training, validation and test, each > 0, of what the gaps leave.
        gap: Samples between two blocks, >= 0.

    Returns:
        The blocks.

    Raises:
        ValueError: Ratios that are not positive or do not add up to 1, a negative gap, or a session
            too short for one sample per block.

    Examples:
        >>> blocks = contiguous_blocks(120, gap=10)
        >>> blocks.train, blocks.validation, blocks.test
        ((slice(0, 60, None),), (slice(70, 80, None),), (slice(90, 120, None),))

    References:
        Roberts, D. R. et al. (2017). Cross-validation strategies for data with temporal, spatial,
        hierarchical, or phylogenetic structure. Ecography 40. https://doi.org/10.1111/ecog.02881
    """
    if len(ratios) != 3 or min(ratios) <= 0 or not math.isclose(sum(ratios), 1.0, abs_tol=1e-6):
        raise ValueError(f"ratios must be three numbers > 0 that add up to 1, got {ratios}")
    if gap < 0:
        raise ValueError(f"gap must be >= 0, got {gap}")
    free = n_times - 2 * gap
    first = round(ratios[0] * free)
    second = round((ratios[0] + ratios[1]) * free)
    if not 0 < first < second < free:
        raise ValueError(
            f"n_times = {n_times} leaves {max(free, 0)} samples beside two gaps of {gap}, too few "
            f"for the ratios {ratios}; lower gap or pass a longer session"
        )
    return Blocks(
        (slice(0, first),),
        (slice(first + gap, second + gap),),
        (slice(second + 2 * gap, n_times),),
    )


def _check_block(part: str, block: Any) -> None:
    if not isinstance(block, slice) or not all(
        isinstance(edge, int | np.integer) for edge in (block.start, block.stop)
    ):
        raise TypeError(f"{part} must hold slices of two integers, got {block!r}")
    if block.step not in (None, 1) or not 0 <= block.start < block.stop:
        raise ValueError(f"a block of {part} needs 0 <= start < stop and no step, got {block!r}")


def _numbers(name: str, x: Any) -> NDArray[Any]:
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be an array of real numbers, got dtype {array.dtype}")
    return array


def _checked_inputs(inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    unknown = [name for name in inputs if name not in list(Modality)]
    if unknown or not inputs:
        raise ValueError(
            f"inputs must hold at least one of {[m.value for m in Modality]}, got {list(inputs)}"
        )
    arrays = {str(name): _numbers(str(name), x) for name, x in inputs.items()}
    shapes = {name: x.shape for name, x in arrays.items()}
    if any(len(shape) != 2 or 0 in shape for shape in shapes.values()):
        raise ValueError(f"inputs must be (time, channel) and not empty, got shapes {shapes}")
    if len({shape[0] for shape in shapes.values()}) > 1:
        raise ValueError(f"inputs must have one length in time, got shapes {shapes}")
    for name, x in arrays.items():
        n_bad = int(x.size - np.isfinite(x).sum())
        if n_bad:
            raise ValueError(f"{name} must be finite, got {n_bad} NaN or infinite values")
    return arrays


def _checked_targets(targets: Any, n_times: int) -> NDArray[Any] | None:
    if targets is None:
        return None
    array = _numbers("targets", targets)
    if array.ndim not in (1, 2) or len(array) != n_times or 0 in array.shape:
        raise ValueError(
            f"targets must be (time, dim) or (time,) with time = {n_times}, got {array.shape}"
        )
    if array.ndim == 1 and array.dtype.kind in "biu":
        return array.astype(np.int64)
    array = array.reshape(n_times, -1).astype(np.float64)
    if np.isinf(array).any():
        raise ValueError(
            f"targets must be finite, or NaN where missing; got {int(np.isinf(array).sum())} "
            "infinite values"
        )
    return array


def _checked_units(
    units: Mapping[str, Sequence[str]] | None, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, tuple[str, ...]]:
    given = {name: tuple(ids) for name, ids in (units or {}).items()}
    for name, ids in given.items():
        if name not in inputs:
            raise ValueError(f"units names {name!r}, inputs holds {list(inputs)}")
        if len(ids) != inputs[name].shape[1] or len(set(ids)) < len(ids):
            raise ValueError(
                f"units of {name} must be {inputs[name].shape[1]} different ids, one per channel, "
                f"got {len(ids)} ids, {len(set(ids))} different"
            )
    return given
