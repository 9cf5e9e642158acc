"""Optional peers of persistent homology, the points it runs on, its critical edges."""

import importlib
from types import ModuleType

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["critical_lengths", "landmarks", "topology"]


def topology(name: str) -> ModuleType:
    """Import a peer of the extra `topology`.

    Raises:
        ImportError: When it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"this needs {name}: pip install neuros-mechint[topology]") from error


def landmarks(gap: Float[Tensor, "sample sample"], n: int) -> tuple[Int[Tensor, "landmark"], float]:
    """Points chosen one after the other, each the farthest from those before, and what they cover.

    The first is the point nearest to all others on average, so the choice has no draw in it.
    """
    chosen = [int(gap.mean(1).argmin())]
    far = gap[chosen[0]].clone()
    for _ in range(n - 1):
        chosen.append(int(far.argmax()))
        far = torch.minimum(far, gap[chosen[-1]])
    return torch.tensor(chosen, device=gap.device), float(far.max())


def critical_lengths(
    gap: Float[Tensor, "sample sample"], values: Float[Tensor, "value"]
) -> Float[Tensor, "value"]:
    """The pairwise distances that values of a diagram are, with their gradient.

    Every birth and death of a Vietoris-Rips filtration is the length of one edge, given back in
    single precision; the edge of the nearest length is that edge.
    """
    rows, columns = torch.triu_indices(len(gap), len(gap), 1, device=gap.device)
    lengths = gap[rows, columns]
    ordered, order = lengths.detach().sort()
    place = torch.searchsorted(ordered, values.to(ordered).contiguous()).clamp(1, len(ordered) - 1)
    below = values - ordered[place - 1] < ordered[place] - values
    return lengths[order[place - below.long()]]
