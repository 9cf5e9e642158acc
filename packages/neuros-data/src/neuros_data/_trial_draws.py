"""One window of every trial, classes equally often."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Trial = NDArray[np.int64]


def classes_apart(inside: Sequence[Trial], classes: Sequence[str]) -> list[list[Trial]]:
    """The trials that hold a window, class by class."""
    held: dict[str, list[Trial]] = {}
    for numbers, name in zip(inside, classes, strict=True):
        if numbers.size:
            held.setdefault(name, []).append(numbers)
    return [held[name] for name in sorted(held)]


def draw_one_each(held: Sequence[Sequence[Trial]], rng: np.random.Generator) -> NDArray[np.int64]:
    """One window of every trial; of rarer classes trials come again, each as often within one."""
    most = max(map(len, held), default=0)
    drawn = []
    for trials in held:
        rounds = -(-most // len(trials))
        order = np.concatenate([rng.permutation(len(trials)) for _ in range(rounds)])[:most]
        drawn += [int(rng.choice(trials[i])) for i in order.tolist()]
    return rng.permutation(np.asarray(drawn, np.int64))
