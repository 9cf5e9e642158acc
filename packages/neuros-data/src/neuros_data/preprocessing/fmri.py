"""BOLD without drift, motion and physiology: the usual cleaning of resting-state studies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from neuros_core import Signal
from neuros_data.preprocessing._marks import regular_rate, remarked, unmarked
from neuros_data.preprocessing._response import design_butterworth, run_iir
from neuros_data.preprocessing.step import check_positive

__all__ = ["CleanBold", "framewise_displacement"]

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
_ORDER = 5
Samples = NDArray[np.float64]


@dataclass(frozen=True)
class CleanBold:
    r"""Detrend, band-pass, take out confounds, leave out volumes with motion.

    In this order: volumes whose framewise displacement exceeds `fd` are replaced by a cubic spline
    through the others; signals and confounds are detrended and pass the same filter (Butterworth
    of order 5, forwards and backwards), so that the regression brings back nothing that was
    filtered out; the confounds are regressed out over the volumes that remain; the volumes left
    out become NaN and `valid=False`.

    Nothing is standardised here: mean and variance come from the training part alone, by
    `Normalizer.fit` after the split. Trend and regression are fitted to the whole recording, so a
    sample depends on all others of it, `support` is infinite, and recordings cleaned like this are
    split by subject, session or source and not by time.

    Args:
        low: Lower corner in Hz; None filters nothing there.
        high: Upper corner in Hz; None filters nothing there.
        detrend: Subtract a straight line from every channel.
        motion: Confounds of head motion: 0, the 6 parameters, or 24 with their differences and the
            squares of both.
        white_matter: Take out the mean of the white matter.
        csf: Take out the mean of the cerebrospinal fluid.
        fd: Framewise displacement in mm above which a volume is left out; None keeps all.

    Raises:
        ValueError: When a corner or `fd` is not positive, or the corners are in the wrong order.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> bold = Signal(rng.normal(size=(200, 3)) + np.arange(200)[:, None], rate=0.5)
        >>> plain = CleanBold(motion=0, white_matter=False, csf=False, fd=None)
        >>> bool(np.abs(plain.apply(bold, {}).data.mean(axis=0)).max() < 0.1)
        True

    References:
        Friston et al. (1996), Movement-related effects in fMRI time-series,
        doi:10.1002/mrm.1910350312.
        Lindquist et al. (2019), Modular preprocessing pipelines can reintroduce artifacts into fMRI
        data, doi:10.1002/hbm.24528.
        Power et al. (2012), Spurious but systematic correlations in functional connectivity MRI
        networks arise from subject motion, doi:10.1016/j.neuroimage.2011.10.018.
    """

    low: float | None = 0.008
    high: float | None = 0.1
    detrend: bool = True
    motion: Literal[0, 6, 24] = 24
    white_matter: bool = True
    csf: bool = True
    fd: float | None = 0.5

    def __post_init__(self) -> None:
        if self.motion not in get_args(Literal[0, 6, 24]):
            raise ValueError(f"motion needs 0, 6 or 24, got {self.motion}")
        for name in ("low", "high", "fd"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"a band needs low < high, got {self.low} and {self.high} Hz")

    def apply(self, signal: Signal, confounds: Mapping[str, NDArray[Any]]) -> Signal:
        """Clean every channel.

        Args:
            signal: BOLD on a regular clock. A channel with any sample missing, such as a parcel
                without voxels, stays invalid as a whole.
            confounds: Columns with one value per volume, under the names of fMRIPrep: `trans_x`
                ... `rot_z`, `framewise_displacement`, `white_matter`, `csf`. Translations are in
                mm, rotations in rad. Without `framewise_displacement` it is computed from them.

        Returns:
            The same shape in float64.

        Raises:
            ValueError: When the clock is irregular, a confound is absent or of another length, a
                corner is too high, or too few volumes remain.
        """
        rate = regular_rate(signal, "cleaning BOLD")
        data = unmarked(signal)
        table = self._table(confounds, len(data))
        kept = self._kept(confounds, len(data))
        if kept.sum() <= table.shape[1] + 2:
            raise ValueError(
                f"cleaning needs more volumes than confounds, got {int(kept.sum())} volumes with a "
                f"framewise displacement up to {self.fd} mm, and {table.shape[1]} confounds"
            )
        whole = ~np.isnan(data).any(axis=0)
        clean = self._temporal(data[:, whole], kept, rate)
        out = np.full(data.shape, np.nan)
        clean = _without(clean[kept], self._temporal(table, kept, rate)[kept])
        out[np.ix_(kept, whole)] = clean
        return remarked(signal, out)

    def _table(self, confounds: Mapping[str, NDArray[Any]], n: int) -> Samples:
        names = [*(MOTION if self.motion else ())]
        names += ["white_matter"] * self.white_matter + ["csf"] * self.csf
        columns = [_column(confounds, name, n) for name in names]
        if self.motion == 24:
            moved = np.stack(columns[:6], axis=1)
            change = np.diff(moved, axis=0, prepend=moved[:1])
            columns += [*change.T, *(moved**2).T, *(change**2).T]
        return np.stack(columns, axis=1) if columns else np.zeros((n, 0))

    def _kept(self, confounds: Mapping[str, NDArray[Any]], n: int) -> NDArray[np.bool_]:
        if self.fd is None:
            return np.ones(n, bool)
        if "framewise_displacement" in confounds:
            moved = _column(confounds, "framewise_displacement", n)
        else:
            moved = framewise_displacement(
                np.stack([_column(confounds, name, n) for name in MOTION], axis=1)
            )
        kept: NDArray[np.bool_] = moved <= self.fd
        return kept

    def _temporal(self, data: Samples, kept: NDArray[np.bool_], rate: float) -> Samples:
        from scipy.interpolate import CubicSpline
        from scipy.signal import detrend

        if not data.shape[1]:
            return data
        if not kept.all():
            # Beyond the outermost volumes a cubic runs away; there the nearest volume is held.
            inner = np.arange(len(data)).clip(*np.flatnonzero(kept)[[0, -1]])
            spline = CubicSpline(np.flatnonzero(kept), data[kept])
            data = np.where(kept[:, None], data, spline(inner))
        if self.detrend:
            data = detrend(data, axis=0)
        corners = [corner for corner in (self.low, self.high) if corner is not None]
        if not corners:
            return data
        if max(corners) >= rate / 2:
            raise ValueError(
                f"a band needs corners below the Nyquist frequency {rate / 2} Hz, got "
                f"{max(corners)} Hz"
            )
        sos = design_butterworth(self.low, self.high, _ORDER, rate)
        return run_iir(sos, data, causal=False)

    def support(self, rate: float) -> float:
        """The whole recording, however long.

        Args:
            rate: Rate in Hz, which does not matter.

        Returns:
            Infinity: trend and confounds are fitted to all volumes.
        """
        del rate  # a fit to the whole recording reaches as far as it is long
        return math.inf

    def output_rate(self, rate: float) -> float:
        """The rate is not changed.

        Args:
            rate: Rate in Hz.

        Returns:
            The same.
        """
        return rate


def framewise_displacement(motion: NDArray[Any]) -> Samples:
    r"""Head motion from volume to volume in mm, on a sphere of 50 mm.

    $\mathrm{FD}_t = \sum_i |\Delta d_{i,t}| + 50 \sum_i |\Delta \alpha_{i,t}|$ (Power et al. 2012);
    the first volume has 0.

    Args:
        motion: Translations in mm and rotations in rad, shape (volume, 6).

    Returns:
        Displacement, shape (volume,).

    Raises:
        ValueError: When there are not six columns.

    Examples:
        >>> framewise_displacement(np.array([[0, 0, 0, 0, 0, 0], [0.1, 0, 0, 0.01, 0, 0]])).tolist()
        [0.0, 0.6]
    """
    if motion.ndim != 2 or motion.shape[1] != 6:
        raise ValueError(f"motion needs shape (volume, 6), got {motion.shape}")
    change = np.abs(np.diff(motion.astype(np.float64), axis=0, prepend=motion[:1]))
    displacement: Samples = change @ np.array([1.0, 1.0, 1.0, 50.0, 50.0, 50.0])
    return displacement


def _column(confounds: Mapping[str, NDArray[Any]], name: str, n: int) -> Samples:
    if name not in confounds:
        raise ValueError(
            f"cleaning needs the confound {name!r}, got {', '.join(sorted(confounds)) or 'none'}; "
            "set its option to leave it out"
        )
    column = np.array(confounds[name], dtype=np.float64)
    if column.shape != (n,):
        raise ValueError(f"confound {name!r} needs {n} values, one a volume, got {column.shape}")
    # The first volume has no difference to one before: fMRIPrep writes n/a there.
    if n and np.isnan(column[0]):
        column[0] = 0.0
    if np.isnan(column).any():
        raise ValueError(
            f"confound {name!r} has no value at volume {int(np.isnan(column).argmax())}"
        )
    return column


def _without(data: Samples, confounds: Samples) -> Samples:
    """What the confounds do not explain, by an orthonormal basis of their span."""
    if not confounds.shape[1]:
        return data
    from scipy.linalg import qr

    largest = np.abs(confounds).max(axis=0)
    scaled = confounds / np.where(largest == 0, 1.0, largest)
    q, r, _ = qr(scaled, mode="economic", pivoting=True)
    basis = q[:, np.abs(np.diag(r)) > np.finfo(np.float64).eps * 100]
    left: Samples = data - basis @ (basis.T @ data)
    return left
