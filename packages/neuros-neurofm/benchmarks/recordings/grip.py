"""Grip from the cortex and the subthalamic nucleus: 19 s with three grips."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from linear_start import better, on_linear, pooled_row
from ours import Setting
from ours import ours as alone
from protocol import Array, Row, Task, neural, ridge, wiener

from neuros_neurofm.evaluation import Blocks, Session

__all__ = ["GRIP"]

_BIN = 50
_BANDS = ((4, 8), (8, 12), (13, 20), (20, 35), (60, 90), (90, 200))
# One grip in each; between two, 0.5 s.
_PARTS = (slice(0, 130), slice(140, 250), slice(260, 380))
_LAGS = (1, 2, 4, 8)
_SETTINGS = (Setting(10, learning_rate=1e-3, steps=100, unit_dropout=0.3, width=32),)


def band_powers(x: Array, rate: float, bands: Sequence[tuple[float, float]]) -> Array:
    """Causal log-power of every channel and band, one value per bin of 50 samples."""
    from scipy.signal import butter, lfilter, sosfilt

    keep = float(np.exp(-1.0 / (0.1 * rate)))
    powers = []
    for band in bands:
        filtered = sosfilt(butter(3, band, "bandpass", fs=rate, output="sos"), x, axis=0)
        smooth = lfilter([1.0 - keep], [1.0, -keep], filtered**2, axis=0)
        powers.append(np.log(smooth[_BIN - 1 :: _BIN] + 1e-6))
    return np.concatenate(powers, axis=1)


def grip_sessions(folder: Path) -> list[Session]:
    """Three splits: one grip trains, one validates, one is tested."""
    import mne

    (header,) = (folder / "ecog_lfp_grip").glob("*.vhdr")
    raw = mne.io.read_raw_brainvision(header, verbose="ERROR")
    data, rate = np.asarray(raw.get_data()).T, float(raw.info["sfreq"])
    inputs, units = {}, {}
    for modality, prefix in (("lfp", "LFP"), ("ecog", "ECOG")):
        columns = [k for k, name in enumerate(raw.ch_names) if name.startswith(prefix)]
        inputs[modality] = band_powers(data[:, columns], rate, _BANDS)
        units[modality] = [
            f"{raw.ch_names[k]}/{low}-{high} Hz" for low, high in _BANDS for k in columns
        ]
    n = len(inputs["ecog"])
    grip = data[: n * _BIN, raw.ch_names.index("MOV_RIGHT")].reshape(n, _BIN).mean(axis=1)
    return [
        Session(
            inputs,
            grip[:, None],
            rate / _BIN,
            Blocks((_PARTS[(k + 2) % 3],), (_PARTS[(k + 1) % 3],), (_PARTS[k],)),
            name=f"grip {k + 1} tested",
            units=units,
        )
        for k in range(3)
    ]


def grip(folder: Path, seed: int) -> list[Row]:
    """Every decoder on the three splits."""
    if find_spec("mne") is None:
        note = "mne is not installed; pip install 'neuros-data[eeg]' reads BrainVision"
        return [Row("ecog_lfp_grip", "", "neurofm", "R2", *[float("nan")] * 5, 0, 0.0, seed, note)]
    sessions = grip_sessions(folder)
    ours = [
        better(
            alone([session], _SETTINGS, seed=seed)[0],
            on_linear(session, _SETTINGS, lags=_LAGS, seed=seed),
            session,
        )
        for session in sessions
    ]
    few = "one grip of 0.6 to 1 s is all that trains, and one all that validates: "
    ours[0] = ours[0]._replace(note=few + ours[0].note)
    sized = {"n_parameters": ours[0].n_parameters, "windows": (10,), "steps": 100, "seed": seed}
    fits = [
        ours,
        [ridge(session, (0.0, 0.2, 0.5)) for session in sessions],
        [wiener(session, _LAGS) for session in sessions],
        [neural("gru", session, **sized) for session in sessions],
        [neural("transformer", session, **sized) for session in sessions],
    ]
    split = "each of 3 grips tested, one trains, one validates; gaps of 0.5 s"
    return [
        pooled_row("ecog_lfp_grip", split, fit, sessions, seed=seed, block_s=2.0) for fit in fits
    ]


GRIP = Task(
    "ecog_lfp_grip", "grip movement from log-power of ECoG and LFP, 50 ms bins, causal", grip
)
