"""Read every window of a store of 1.2 GB in random order; print by how many MB the process grew.

Usage: python epoch_memory.py FOLDER
"""

import os
import sys
from pathlib import Path

import numpy as np

from neuros_core import Recording, Signal, Species
from neuros_data import Store, open_store

CHANNELS, RATE, SECONDS = 64, 256.0, 1200


def peak_mb() -> float:
    """Largest resident size so far; `ru_maxrss` would count the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def build(folder: Path) -> Store:
    """Sixteen recordings of 75 MB, written by a child so that this process stays small."""
    store = Store.create(folder)
    data = np.empty((int(RATE) * SECONDS, CHANNELS), np.float32)
    for k in range(16):
        data[:] = k
        signal = Signal(data, rate=RATE, unit="V")
        store.add(Recording(f"r{k:02d}", f"s{k}", "1", Species.HUMAN, {"eeg": signal}))
    return store


def main() -> int:
    """Build the store in a child, read it here."""
    folder = Path(sys.argv[1])
    child = os.fork()
    if child == 0:
        build(folder)
        os._exit(0)
    os.waitpid(child, 0)
    before = peak_mb()
    view = open_store(folder).windows(window=1.0)
    order = np.random.default_rng(0).permutation(len(view))
    for i in range(0, len(view), 64):
        batch = view.read_batch(order[i : i + 64])
        assert batch["eeg"].shape[0]
    sys.stdout.write(f"{peak_mb() - before:.1f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
