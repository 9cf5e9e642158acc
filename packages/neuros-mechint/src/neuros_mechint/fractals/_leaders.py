"""Wavelet leaders: the largest coefficient near each place at a scale and all finer ones."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint.fractals._octaves import _TAPS, _filters, octave_counts

__all__ = ["leader_counts", "leader_octaves", "leader_weights", "shortest_for"]

# An octave with fewer leaders tells nothing of their distribution.
_FEWEST = 4


def leader_counts(n: int) -> tuple[int, ...]:
    """Return the number of leaders of each octave that no edge touches.

    Args:
        n: samples of a signal.

    Returns:
        One count per octave, finest first; octaves of fewer than four are left out.

    Examples:
        >>> leader_counts(64)
        (28, 11)
    """
    counts = (count - 2 for count in octave_counts(n))
    return tuple(count for count in counts if count >= _FEWEST)


def shortest_for(octave: int) -> int:
    """Return the fewest samples that give an octave its leaders.

    Args:
        octave: counted from 1.

    Returns:
        Samples.

    Examples:
        >>> shortest_for(2), len(leader_counts(36)), len(leader_counts(35))
        (36, 2, 1)
    """
    n = _FEWEST + 2
    for _ in range(octave):
        n = 2 * (n - 1) + _TAPS
    return n


def leader_octaves(
    path: Float[Tensor, "batch time"], last: int
) -> list[Float[Tensor, "batch window"]]:
    r"""Wavelet leaders of each octave.

    $$L_X(j, k) = \sup_{\lambda' \subset 3 \lambda_{j,k}} 2^{-j'/2} |d_X(\lambda')|$$

    over the three neighbouring dyadic intervals and all intervals within them, with Daubechies'
    wavelet of three vanishing moments and coefficients that no edge touches.

    Args:
        path: signals, float64.
        last: the coarsest octave.

    Returns:
        Leaders of the octaves 1 to `last`.

    Examples:
        >>> parabola = torch.arange(64, dtype=torch.float64)[None] ** 2
        >>> [bool((leaders < 1e-9).all()) for leaders in leader_octaves(parabola, 2)]
        [True, True]
    """
    filters, leaders, largest = _filters().to(path.device), [], None
    for octave in range(1, last + 1):
        both = nn.functional.conv1d(path[:, None], filters, stride=2)
        path = both[:, 0]
        here = both[:, 1].abs() * 2 ** (-octave / 2)
        if largest is not None:
            # A coefficient's centre lies five half-steps after its first sample, so that its two
            # halves are the coefficients 2 k + 2 and 2 k + 3 of the finer octave.
            stop = 2 + 2 * here.shape[-1]
            halves = torch.maximum(largest[:, 2:stop:2], largest[:, 3:stop:2])
            here = torch.maximum(here, halves)
        largest = here
        leaders.append(here.unfold(-1, 3, 1).amax(-1))
    return leaders


def leader_weights(octaves: tuple[int, ...], counts: tuple[int, ...]) -> Float[Tensor, " scale"]:
    """Return the vector whose product with logarithms is their slope by ln of the scale.

    Args:
        octaves: which enter the line.
        counts: their numbers of leaders, as which they weigh.

    Returns:
        Weights of sum 0, float64.

    Examples:
        >>> weights = leader_weights((1, 2), (20, 10))
        >>> round((weights[1] * math.log(2)).item(), 12)
        1.0
    """
    x = math.log(2) * torch.tensor(octaves, dtype=torch.float64)
    weight = torch.tensor(counts, dtype=torch.float64)
    offset = x - (weight * x).sum() / weight.sum()
    return weight * offset / (weight * offset.square()).sum()
