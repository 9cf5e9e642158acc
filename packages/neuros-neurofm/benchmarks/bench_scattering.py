"""Time of wavelet scattering beside kymatio: one thread, both sides in the same run."""

import importlib
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import scipy.special
import torch

from neuros_neurofm.tokenizers.scale_encodings import WaveletScattering

BATCH, LENGTH, J, Q = 64, 4096, 6, 8
REPEATS = 7


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not hasattr(scipy.special, "sph_harm"):
        # The peer imports a name that SciPy 1.17 took away, for its 3-D transform.
        monkeypatch.setattr(
            scipy.special,
            "sph_harm",
            lambda m, n, theta, phi: scipy.special.sph_harm_y(n, m, phi, theta),
            raising=False,
        )
    pytest.importorskip("kymatio")
    return importlib.import_module("kymatio.torch").Scattering1D(J=J, shape=LENGTH, Q=Q)


def fastest(sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """CPU seconds of each side, minimum over interleaved repeats after one warm-up."""
    best = dict.fromkeys(sides, float("inf"))
    for repeat in range(REPEATS + 1):
        for name, run in sides.items():
            start = time.process_time()
            run()
            elapsed = time.process_time() - start
            if repeat:
                best[name] = min(best[name], elapsed)
    return best


def test_scattering_against_kymatio(peer: Any) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours = WaveletScattering(J, Q=Q)
    x = torch.randn(BATCH, LENGTH, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            seconds = fastest({"ours": lambda: ours(x), "peer": lambda: peer(x)})
    finally:
        torch.set_num_threads(threads)
    ratio, bar = seconds["ours"] / seconds["peer"], 0.7
    what = f"wavelet scattering, ({BATCH}, {LENGTH}), J={J}, Q={Q}"
    print(f"BENCH | {what} | kymatio {version('kymatio')} | ratio {ratio:.2f} | bar {bar}")
    assert ratio <= bar
