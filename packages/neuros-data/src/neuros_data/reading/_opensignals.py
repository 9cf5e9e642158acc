"""OpenSignals HDF5: ADC counts of PLUX devices, one group a device."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neuros_core import Signal
from neuros_data.reading._draft import Block, Draft, Options
from neuros_data.reading._hdf5 import open_hdf5
from neuros_data.reading._kinds import kind_of_name


def is_opensignals(path: Path) -> bool:
    """Whether an HDF5 file has the layout of OpenSignals."""
    with open_hdf5(path, "HDF5") as file:
        return any(True for _ in _devices(file))


def _devices(file: Any) -> Iterator[tuple[str, Any]]:
    for name, group in file.items():
        if "sampling rate" in group.attrs and "raw" in group:
            yield name, group


def read_opensignals(path: Path, options: Options) -> Draft:
    """Read the raw channels; counts are kept, for a file does not say what a count is worth."""
    del options  # nothing of it changes how a file of this format is read
    draft = Draft(provenance={"format": "OpenSignals"})
    with open_hdf5(path, "OpenSignals") as file:
        devices = list(_devices(file))
        for name, group in devices:
            prefix = f"{name}/" if len(devices) > 1 else ""
            rate = float(group.attrs["sampling rate"])
            raw = sorted(c for c in group["raw"] if c.startswith("channel_"))
            if raw:
                draft.blocks.append(_block(group["raw"], raw, prefix, rate))
            for port in sorted(group.get("digital", ())):
                values = group["digital"][port][()].reshape(-1, 1)
                draft.behaviour[f"{prefix}{port}"] = Signal(
                    values.astype(np.int32), rate=rate, channels=(port,)
                )
            draft.provenance[f"{prefix}resolution_bits"] = [
                int(bits) for bits in np.ravel(group.attrs.get("resolution", ()))
            ]
            draft.provenance[f"{prefix}began"] = (
                f"{group.attrs.get('date', '')} {group.attrs.get('time', '')}".strip()
            )
    return draft


def _block(raw: Any, names: list[str], prefix: str, rate: float) -> Block:
    # Counts are unsigned; a store holds signed integers.
    data = np.stack([raw[name][()].ravel() for name in names], axis=1).astype(np.int32)
    sensors = [_sensor(raw[name].attrs.get("sensor", "")) for name in names]
    return Block(
        data,
        [f"{prefix}{name}" for name in names],
        [kind_of_name(sensor) for sensor in sensors],
        ["a.u."] * len(names),
        rate=rate,
    )


def _sensor(value: Any) -> str:
    text = value.decode() if isinstance(value, bytes) else str(value)
    return text.lower().removesuffix("bit")
