"""What a coder reads and what it gives back, the same for every kind of coder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from neuros_mechint.sae._rows import Coding, check_coder
from neuros_mechint.sae.transcoders import Crosscoder, Transcoder

__all__ = ["Parts", "Plan", "origins", "plan_of"]

Parts: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True)
class Plan:
    """How rows become features and features become reconstructions.

    Attributes:
        coder: The coder, for the mode it runs in.
        n_parts: Tensors that belong to one batch of rows.
        names: Sites of the parts by name; empty when the coder does not name them.
        targets: For each output the part that it reconstructs.
        encode: Features of the parts.
        decode: One reconstruction per output.
        directions: What one unit of each feature adds to each output, (feature, width).
    """

    coder: object
    n_parts: int
    names: tuple[str, ...]
    targets: tuple[int, ...]
    encode: Callable[[Parts], Tensor]
    decode: Callable[[Tensor], Parts]
    directions: Callable[[], Parts]


def plan_of(coder: Coding | Crosscoder) -> Plan:
    """Plan of a coder of any kind.

    Raises:
        TypeError: When an object neither encodes nor decodes.
    """
    if isinstance(coder, Crosscoder):
        return _shared(coder)
    check_coder(coder)
    reads_another = isinstance(coder, Transcoder)
    return Plan(
        coder,
        n_parts=2 if reads_another else 1,
        names=(),
        targets=(1,) if reads_another else (0,),
        encode=lambda parts: coder.encode(parts[0]),
        decode=lambda f: (coder.decode(f),),
        directions=lambda: (coder.dictionary,),
    )


def _shared(coder: Crosscoder) -> Plan:
    names = tuple(coder.dims)

    def directions() -> Parts:
        # The dictionary is in the units of training, of which every site has its own.
        growth = coder.feature_scale / coder.scales[1]
        return tuple(
            rows * scale
            for rows, scale in zip(coder.dictionaries.values(), growth.unbind(), strict=True)
        )

    return Plan(
        coder,
        n_parts=len(names),
        names=names,
        targets=tuple(range(len(names))),
        encode=lambda parts: coder.encode(dict(zip(names, parts, strict=True))),
        decode=lambda f: tuple(coder.decode(f).values()),
        directions=directions,
    )


def origins(plan: Plan, like: Tensor) -> Parts:
    """Reconstructions of rows without any feature, one vector per output."""
    return tuple(part[0] for part in plan.decode(torch.zeros_like(like[:1])))
