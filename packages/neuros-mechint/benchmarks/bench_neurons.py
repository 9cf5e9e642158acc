"""Time of nearest-neighbour mutual information beside scikit-learn, one thread."""

import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import pytest
import torch

from neuros_mechint.neurons import NeuronActivationAnalyzer

N_UNITS, N_ROWS = 256, 1000


def shortest(*sides: Callable[[], object], rounds: int = 7) -> list[float]:
    """CPU seconds of each side, the minimum of interleaved rounds."""
    best = [float("inf")] * len(sides)
    for _ in range(rounds):
        for k, side in enumerate(sides):
            start = time.process_time()
            side()
            best[k] = min(best[k], time.process_time() - start)
    return best


@pytest.mark.parametrize("continuous", [True, False], ids=["continuous", "classes"])
def test_information_of_a_population(continuous: bool) -> None:
    peer = pytest.importorskip("sklearn.feature_selection")
    rng = np.random.default_rng(0)
    y = rng.normal(size=N_ROWS)
    x = rng.normal(size=(N_ROWS, N_UNITS)) + np.linspace(0, 1, N_UNITS) * y[:, None]
    target = y if continuous else np.digitize(y, [-1.0, 0.0, 1.0])
    analyzer = NeuronActivationAnalyzer(torch.nn.Identity())
    data = {"x": torch.from_numpy(x), "y": target}
    estimate = peer.mutual_info_regression if continuous else peer.mutual_info_classif
    ours, theirs = shortest(
        lambda: analyzer.behavior_information(data, "y"),
        lambda: estimate(x, target, random_state=0),
    )
    ratio, bar = theirs / ours, 1.5
    what = f"mutual information, {N_UNITS} neurons x {N_ROWS} rows, "
    what += "continuous" if continuous else "classes"
    name = f"scikit-learn {version('scikit-learn')}"
    print(f"BENCH | {what}, speed | {name} | ratio {ratio:.2f} | bar {bar}")
    assert ratio >= bar
