"""Nearest neighbours in a CEBRA embedding, where that package is installed."""

import numpy as np
import pytest
import torch

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.evaluation import BenchmarkSuite, Session, contiguous_blocks

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.slow,  # Training of another package.
    pytest.mark.filterwarnings("ignore"),  # Those of that package are not ours.
]

RATE = 50.0


def waves(*, labelled: bool) -> Session:
    """Six units that follow one wave; decoded are its height, or which third of it is now."""
    wave = np.sin(np.arange(900) / 11.0)
    signs = np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    counts = np.random.default_rng(0).poisson(np.exp(1.0 + wave[:, None] * signs))
    targets = np.digitize(wave, [-0.5, 0.5]) if labelled else wave
    units = {"spike": [f"u{k}" for k in range(6)]}
    blocks = contiguous_blocks(900, gap=20)
    return Session({"spike": counts}, targets, RATE, blocks, "waves", units)


def model(behavior_dim: int) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        16, 1, 20, 16, modalities=("spike",), behavior_dim=behavior_dim, window=0.4,
        sampling_rates={"spike": RATE}, perceiver_depth=1, popt_depth=1,
    )  # fmt: skip


@pytest.mark.parametrize("labelled", [False, True])
def test_cebra_is_scored_beside_the_others(labelled: bool) -> None:
    pytest.importorskip("cebra")
    suite = BenchmarkSuite(["motor_decoding"], baselines=("cebra",), n_bootstrap=5, steps=60)
    found = suite.run(model(3 if labelled else 1), waves(labelled=labelled))
    assert found.notes == ()
    scores = {s.decoder: s for s in found.scores}
    assert list(scores) == ["model", "chance" if labelled else "mean", "cebra"]
    # Three classes, or the variance of the wave.
    assert scores["cebra"].score > 0.6
    assert scores["cebra"].metric == ("balanced accuracy" if labelled else "R2")


def test_cebra_predicts_counts_of_hidden_units() -> None:
    pytest.importorskip("cebra")
    suite = BenchmarkSuite(["spiking_prediction"], baselines=("cebra",), n_bootstrap=5, steps=60)
    found = suite.run(model(1), waves(labelled=False))
    scores = {s.decoder: s.score for s in found.scores}
    assert scores["cebra"] > scores["mean"]


def test_a_causal_embedding_does_not_look_ahead() -> None:
    pytest.importorskip("cebra")
    from neuros_neurofm.evaluation._cebra import CEBRADecoder

    session = waves(labelled=False)
    x, y = np.asarray(session.inputs["spike"], float), np.asarray(session.targets)
    changed = x.copy()
    changed[300:] += 5
    found = {}
    for causal in (True, False):
        decoder = CEBRADecoder(steps=20, causal=causal).fit([x], [y])
        assert decoder.n_parameters > 0
        before, after = decoder.predict(x), decoder.predict(changed)
        found[causal] = int(np.flatnonzero((before != after).any(axis=1))[0])
    assert found[True] >= 300
    # Ten samples, of which four lie in the future.
    assert 296 <= found[False] < 300
    assert decoder.predict(x[:3]).shape == (3, 1)
