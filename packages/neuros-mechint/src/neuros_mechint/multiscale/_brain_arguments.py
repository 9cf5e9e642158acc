"""What a caller passes to a simulation, checked and shaped to (state, region, set)."""

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from neuros_mechint._arrays import Number, one_of
from neuros_mechint.multiscale._masses_equations import Equations, Numbers

__all__ = [
    "Clock",
    "Noise",
    "Sweep",
    "check_embedding",
    "check_outputs",
    "clock_of",
    "region_numbers",
    "sweep_of",
]

Noise: TypeAlias = Number | Tensor | Mapping[str, Number | Tensor]


class Clock(NamedTuple):
    """Steps of a run.

    Attributes:
        dt: Step in seconds.
        n_transient: Steps before the first that is kept.
        n_kept: Steps that are kept.
        every: Steps between records.
    """

    dt: float
    n_transient: int
    n_kept: int
    every: int


class Sweep(NamedTuple):
    """Numbers of all parameter sets.

    Attributes:
        parameters: Parameters of the mass, (region or 1, set or 1).
        strength: Coupling strength, (1, 1, set or 1).
        noise: Standard deviation by state, (state, 1, set or 1), or None.
        state: State to begin with, (state, region, set).
        batched: Whether results have an axis of sets.
    """

    parameters: Numbers
    strength: Tensor
    noise: Tensor | None
    state: Tensor
    batched: bool


def clock_of(duration: Number, dt: Number, transient: Number, record_every: int) -> Clock:
    """Times in seconds as numbers of steps.

    Raises:
        ValueError: When a time is not positive, or nothing would be recorded.
    """
    for name, value in (("dt", dt), ("duration", duration)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, in seconds, got {value}")
    if not 0 <= transient < math.inf:
        raise ValueError(f"transient must be at least 0 and finite, in seconds, got {transient}")
    n = round(duration / dt)
    if not 1 <= record_every <= n:
        raise ValueError(
            f"record_every must lie between 1 and the {n} steps of duration / dt, "
            f"got {record_every}"
        )
    return Clock(float(dt), round(transient / dt), n, record_every)


def check_outputs(
    tr: Number, fcd_window: Number, fcd_step: Number, checkpoint_every: int | None
) -> None:
    """Refuse times of the outputs that cannot be.

    Raises:
        ValueError: When one is not positive, or a window holds fewer than two volumes.
    """
    for name, value in (("tr", tr), ("fcd_step", fcd_step)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, in seconds, got {value}")
    if not 2 * tr <= fcd_window < math.inf:
        raise ValueError(f"fcd_window must hold at least two tr = {2 * tr:g} s, got {fcd_window}")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ValueError(f"checkpoint_every must be at least 1 step, got {checkpoint_every}")


def region_numbers(
    equations: Equations, params: Mapping[str, Number | Tensor], n_regions: int
) -> Numbers:
    """Parameters of a model, numbers or one per region.

    Raises:
        TypeError: When a value is neither a number nor a floating tensor.
        ValueError: When a name is unknown or a shape does not fit.
    """
    found = {k: torch.tensor(v, dtype=torch.float64) for k, v in equations.defaults.items()}
    _known(params, equations)
    for name, value in params.items():
        x = _tensor(name, value)
        if x.shape not in {(), (n_regions,)}:
            raise ValueError(
                f"{name} must be a number or one per region, ({n_regions},), got shape "
                f"{tuple(x.shape)}; sweeps go to simulate(params=...)"
            )
        found[name] = x
    return found


def sweep_of(
    equations: Equations,
    held: Numbers,
    n_regions: int,
    *,
    params: Mapping[str, Number | Tensor],
    strength: Number | Tensor,
    noise: Noise,
    state: Tensor | None,
) -> Sweep:
    """Everything of a run as (..., region, set).

    Raises:
        TypeError: When a value is neither a number nor a floating tensor.
        ValueError: When a name is unknown, a shape does not fit, a number is not finite, noise is
            negative, or two values name different numbers of sets.
    """
    like = torch.zeros(()) if state is None else _floating("initial_state", state)
    _known(params, equations)
    numbers = {k: x.to(like).reshape(-1, 1) for k, x in held.items()}
    sizes: dict[str, int] = {}
    for name, value in params.items():
        numbers[name] = _set_number(name, _tensor(name, value), n_regions, sizes).to(like)
    gain = _set_line("coupling_strength", strength, sizes).to(like)[:, None]
    deviation = _noise(equations, noise, sizes)
    shape = (len(equations.states), n_regions)
    if state is None:
        begin = equations.start(like.new_zeros(n_regions))
    else:
        begin = _begin(state, shape, sizes)
    n = _agreed(sizes)
    begin = (
        (begin[..., None] if begin.ndim == 2 else begin.permute(1, 2, 0))
        .expand(*shape, n)
        .contiguous()
    )
    return Sweep(
        numbers, gain, None if deviation is None else deviation.to(like), begin, bool(sizes)
    )


def check_embedding(
    labels: tuple[str, ...], region_mapping: Mapping[str, int], mode: str
) -> list[int]:
    """Indices of the regions of a model, in its order.

    Raises:
        ValueError: When the mode or a region is unknown, or the places are not 0, 1, ...
    """
    one_of("mode", mode, ("derivative", "map"))
    unknown = [name for name in region_mapping if name not in labels]
    if unknown or not region_mapping:
        shown = ", ".join(map(repr, labels[:5]))
        raise ValueError(
            f"region_mapping names {', '.join(map(repr, unknown)) or 'no region'}; "
            f"the regions are {shown}{', ...' if len(labels) > 5 else ''}"
        )
    places = list(region_mapping.values())
    if len(set(places)) < len(places):
        raise ValueError(f"region_mapping gives two regions the same index, got {places}")
    if sorted(places) != list(range(len(places))):
        raise ValueError(
            f"region_mapping must number its regions 0 to {len(places) - 1}, got {places}"
        )
    ordered = sorted(region_mapping, key=lambda name: region_mapping[name])
    return [labels.index(name) for name in ordered]


def _known(params: Mapping[str, Number | Tensor], equations: Equations) -> None:
    unknown = [name for name in params if name not in equations.defaults]
    if unknown:
        raise ValueError(
            f"{', '.join(map(repr, unknown))} is no parameter of {equations.name!r}; "
            f"it has {', '.join(map(repr, equations.defaults))}"
        )


def _floating(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype not in {torch.float32, torch.float64}:
        shown = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a float32 or float64 tensor, got {shown}")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name} holds NaN or inf")
    return value


def _tensor(name: str, value: Number | Tensor) -> Tensor:
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        raise TypeError(f"{name} must be a number or a floating tensor, got {type(value).__name__}")
    if isinstance(value, Tensor):
        return _floating(name, value)
    return _floating(name, torch.tensor(float(value), dtype=torch.float64))


def _set_number(name: str, x: Tensor, n_regions: int, sizes: dict[str, int]) -> Tensor:
    if x.ndim == 0:
        return x.reshape(1, 1)
    if x.ndim > 2 or (x.ndim == 2 and x.shape[1] != n_regions):
        raise ValueError(
            f"params[{name!r}] must be a number, one per set (P,), or (P, {n_regions}), "
            f"got shape {tuple(x.shape)}"
        )
    sizes[f"params[{name!r}]"] = x.shape[0]
    return x[None] if x.ndim == 1 else x.mT


def _set_line(name: str, value: Number | Tensor, sizes: dict[str, int]) -> Tensor:
    """A number or one per set, as (1, set)."""
    x = _tensor(name, value)
    if x.ndim > 1:
        raise ValueError(f"{name} must be a number or one per set (P,), got shape {tuple(x.shape)}")
    if x.ndim == 1:
        sizes[name] = x.shape[0]
    return x.reshape(1, -1)


def _noise(equations: Equations, noise: Noise, sizes: dict[str, int]) -> Tensor | None:
    by_state = dict(noise) if isinstance(noise, Mapping) else dict.fromkeys(equations.states, noise)
    unknown = [name for name in by_state if name not in equations.states]
    if unknown:
        raise ValueError(
            f"noise names {', '.join(map(repr, unknown))}; the states of {equations.name!r} are "
            f"{', '.join(map(repr, equations.states))}"
        )
    lines = [_set_line("noise", by_state.get(name, 0.0), sizes) for name in equations.states]
    n = max(line.shape[1] for line in lines)
    deviation = torch.stack([line.expand(1, n) for line in lines])
    if bool((deviation < 0).any()):
        raise ValueError(f"noise must be at least 0, got {float(deviation.detach().min()):g}")
    # A trained deviation of 0 still has a slope.
    return deviation if deviation.requires_grad or bool((deviation > 0).any()) else None


def _begin(state: Tensor, shape: tuple[int, int], sizes: dict[str, int]) -> Tensor:
    if state.ndim not in {2, 3} or tuple(state.shape[-2:]) != shape:
        raise ValueError(
            f"initial_state must be {shape} or (P, {shape[0]}, {shape[1]}) as (state, region), "
            f"got shape {tuple(state.shape)}"
        )
    if state.ndim == 3:
        sizes["initial_state"] = state.shape[0]
    return state


def _agreed(sizes: dict[str, int]) -> int:
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name} {n}" for name, n in sizes.items())
        raise ValueError(f"all sweeps must hold the same number of sets, got {shown}")
    return next(iter(sizes.values()), 1)
