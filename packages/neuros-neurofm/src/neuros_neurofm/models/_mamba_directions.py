"""The second reading of a bidirectional block, and what such a block cannot do."""

from typing import NoReturn

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

__all__: list[str] = []


def read_backwards(
    reverse: nn.Module,
    x: Float[Tensor, "batch time feature"],
    seq_idx: Int[Tensor, "batch time"] | None,
    mask: Bool[Tensor, "batch time"] | None,
) -> Float[Tensor, "batch time feature"]:
    """Outputs of a block that reads from the last step to the first, each at its own step."""
    y: Tensor = reverse(
        x.flip(1),
        seq_idx=None if seq_idx is None else seq_idx.flip(1),
        mask=None if mask is None else mask.flip(1),
    )
    return y.flip(1)


def refuse_state(state: object, *, return_state: bool) -> None:
    """Raise where a state is given or asked for."""
    if state is not None or return_state:
        raise ValueError(
            "a bidirectional block reads the whole sequence and has no state to carry; "
            "build it with bidirectional=False to run in pieces"
        )


def refuse_step() -> NoReturn:
    """Raise because a step cannot know the samples after it."""
    raise ValueError(
        "a bidirectional block cannot step: its output depends on later samples; build it "
        "with bidirectional=False"
    )
