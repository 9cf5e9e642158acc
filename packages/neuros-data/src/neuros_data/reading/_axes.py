"""Named axes of an array of samples, brought into the order (time, channel)."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CHOICES = (
    "time",
    "time channel",
    "channel time",
    "trial time",
    "time trial",
    "trial time channel",
    "trial channel time",
    "time channel trial",
    "channel time trial",
)


class Laid(NamedTuple):
    """Samples (time, channel), and how many trials stand one after another in time."""

    data: NDArray[Any]
    n_trials: int | None


def settle_axes(
    name: str, shape: tuple[int, ...], axes: str | None, clock: int | None, path: str
) -> str:
    """Names of the axes: those given, or time first where nothing speaks against it.

    Args:
        name: What the array is called.
        shape: Its shape.
        axes: What the caller says.
        clock: How many time stamps there are, None without.
        path: The file, for messages.

    Raises:
        ValueError: When the axes given do not fit, or none are given and time may be any.
    """
    if axes is not None:
        plain = " ".join(axes.split())
        if plain not in CHOICES or len(plain.split()) != len(shape):
            fitting = [c for c in CHOICES if len(c.split()) == len(shape)]
            raise ValueError(
                f"axes needs one of {', '.join(map(repr, fitting))} for {name} of shape {shape}, "
                f"got {axes!r}"
            )
        return plain
    if len(shape) == 1:
        return "time"
    if len(shape) == 2 and _time_is_first(shape, clock):
        return "time channel"
    raise ValueError(
        f"{path}: {name} has shape {shape} and does not say which axis is time; pass axes= one of "
        f"{', '.join(repr(c) for c in CHOICES if len(c.split()) == len(shape))}"
    )


def _time_is_first(shape: tuple[int, ...], clock: int | None) -> bool:
    if clock is None:
        return shape[0] >= shape[1]
    # As many channels as time stamps would leave the choice open.
    return shape[0] == clock != shape[1]


def lay_out(values: NDArray[Any], axes: str) -> Laid:
    """Bring the axes in order; trials are put one after another.

    Examples:
        >>> lay_out(np.arange(6).reshape(2, 3), "trial time").data.ravel().tolist()
        [0, 1, 2, 3, 4, 5]
    """
    names = axes.split()
    if "channel" not in names:
        names, values = [*names, "channel"], values[..., None]
    if "trial" not in names:
        return Laid(np.transpose(values, [names.index(n) for n in ("time", "channel")]), None)
    ordered = np.transpose(values, [names.index(n) for n in ("trial", "time", "channel")])
    return Laid(ordered.reshape(-1, ordered.shape[2]), ordered.shape[0])
