"""Leaky integrate-and-fire neurons, all steps of a neuron in one kernel.

The kernels are plain functions of arrays (cell, time, unit), written for a compiler: units in the
inner loop, time around it, and all that outlives a step in one local array, which stays in the
first-level cache and is known to overlap with nothing. They do what `_lif_walk` does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Back", "Kernel", "Slope", "Way", "backward_kernel", "forward_kernel"]

Floats: TypeAlias = NDArray[np.floating[Any]]
Kernel: TypeAlias = Callable[..., None]
# Of the distance to threshold, 1, and the three constants of a kind of surrogate.
Slope: TypeAlias = Callable[..., Any]


class Way(NamedTuple):
    """What a kernel forward is made for: branches on these are none in it."""

    soft: bool
    waits: bool


class Back(NamedTuple):
    """What a kernel backward is made for."""

    soft: bool
    waits: bool
    detached: bool
    from_spikes: bool
    from_voltage: bool


def forward_kernel(way: Way) -> Kernel:
    """Make the kernel that fills spikes, potentials and steps to wait."""
    soft, waits = way

    def walk(x: Floats, start: Floats, numbers: Floats, out: tuple[Floats, Floats, Floats]) -> None:
        fired, v, counts = out
        one, zero, half = x.dtype.type(1), x.dtype.type(0), x.dtype.type(0.5)
        for b in range(x.shape[0]):
            # Rows: potential, gain, threshold, v_reset, steps to wait, steps to wait at a spike.
            cell = np.empty((6, x.shape[2]), x.dtype)
            cell[0], cell[1:] = start[b], numbers[b]
            for t in range(x.shape[1]):
                for n in range(x.shape[2]):
                    old, w, level, floor = cell[0, n], cell[1, n], cell[2, n], cell[3, n]
                    rise = x[b, t, n] - old
                    # The two forms of torch.lerp.
                    u = old + w * rise if w < half else x[b, t, n] - rise * (one - w)
                    if waits:
                        u = floor if cell[4, n] > zero else u
                    above = u > level
                    reset = u + (floor - level) if soft else floor
                    new = reset if above else u
                    fired[b, t, n] = one if above else zero
                    v[b, t, n] = new
                    cell[0, n] = new
                    if waits:
                        rest = max(cell[4, n] - one, zero)
                        rest = cell[5, n] if above else rest
                        cell[4, n] = rest
                        counts[b, t, n] = rest

    return walk


def backward_kernel(way: Back, slope_at: Slope) -> Kernel:
    """Make the kernel that fills the gradients, from the last step to the first."""
    soft, waits, detached, from_spikes, from_voltage = way

    def walk(
        over_time: tuple[Floats, Floats, Floats, Floats, Floats, Floats],
        start: Floats,
        numbers: Floats,
        steep: Floats,
        out: tuple[Floats, Floats],
    ) -> None:
        x, fired, v, counts, to_spikes, to_voltage = over_time
        to_x, sums = out
        one, zero, half = x.dtype.type(1), x.dtype.type(0), x.dtype.type(0.5)
        k, p, q = steep[0], steep[1], steep[2]
        # From memory: over a loop that counts down, LLVM's test of overlap (before all steps
        # together) finds no room for vectors, at a third of the speed.
        backwards = np.arange(x.shape[1] - 1, -1, -1)
        for b in range(x.shape[0]):
            # Rows: adjoint, gain, threshold, v_reset, their three gradients, steps to wait.
            cell = np.zeros((8, x.shape[2]), x.dtype)
            cell[1:4] = numbers[b, :3]
            for t in backwards:
                before = v[b, t - 1] if t > 0 else start[b]
                if waits:
                    cell[7] = counts[b, t - 1] if t > 0 else numbers[b, 3]
                for n in range(x.shape[2]):
                    w, level, floor = cell[1, n], cell[2, n], cell[3, n]
                    rise = x[b, t, n] - before[n]
                    u = before[n] + w * rise if w < half else x[b, t, n] - rise * (one - w)
                    s = fired[b, t, n]
                    jump = floor - level if soft else floor - u
                    free = (zero if cell[7, n] > zero else one) if waits else one
                    slope = free * slope_at(u - level, one, k, p, q)
                    after = (one - w) * cell[0, n]
                    after = after + to_voltage[b, t, n] if from_voltage else after
                    through = to_spikes[b, t, n] if from_spikes else zero
                    through = slope * (through if detached else through + jump * after)
                    adjoint = through + free * (after if soft else (one - s) * after)
                    cell[0, n] = adjoint
                    to_x[b, t, n] = w * adjoint
                    cell[4, n] += adjoint * rise
                    cell[5, n] -= through + s * after if soft else through
                    cell[6, n] += (one - free * (one - s)) * after
            sums[b, 0] = (one - cell[1]) * cell[0]
            sums[b, 1:] = cell[4:7]

    return walk
