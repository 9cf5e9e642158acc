"""Spike-timing-dependent plasticity of whole trains, beside a loop over steps."""

import math
import warnings
from importlib.metadata import version

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.biophysical import STDP

N_TIMES, N_UNITS, TAU = 1000, 100, 20.0
N_CALLS = 20


# The peer loads six, whose import hook makes every later import warn.
@pytest.mark.filterwarnings("ignore:_SixMetaPathImporter:ImportWarning")
def test_changes_of_a_hundred_by_a_hundred_weights(shortest, report) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learning = pytest.importorskip("spikingjelly.activation_based.learning")
    generator = torch.Generator().manual_seed(0)
    pre, post = (
        (torch.rand(N_TIMES, N_UNITS, generator=generator) < 0.05).float() for _ in range(2)
    )
    synapse = nn.Linear(N_UNITS, N_UNITS, bias=False)
    settings = {"f_pre": lambda _: 0.01, "f_post": lambda _: 0.01}

    def theirs() -> Tensor:
        learner = learning.STDPLearner("m", synapse, nn.Identity(), TAU, TAU, **settings)
        learner.in_spike_monitor.records.append(pre[:, None])
        learner.out_spike_monitor.records.append(post[:, None])
        return learner.step(on_grad=False)

    # It decays by 1 - 1 / tau a step, and its two sides cancel for pairs of one step.
    tau = -1 / math.log(1 - 1 / TAU)
    rule = STDP(A_plus=0.01, A_minus=0.01, tau_plus=tau, tau_minus=tau)

    def ours() -> Tensor:
        return rule.compute(pre, post)

    torch.testing.assert_close(ours(), theirs(), rtol=1e-4, atol=1e-4)

    def in_a_row() -> None:
        for _ in range(N_CALLS):
            ours()

    alone_s, row_s, theirs_s = shortest(ours, in_a_row, theirs, rounds=15)
    what = f"STDP of {N_UNITS} x {N_UNITS} weights over {N_TIMES} steps"
    peer = f"spikingjelly {version('spikingjelly')}"
    missed = "right after the peer's 60 ms a call of 1 ms finds its memory out of the caches"
    report(f"{what}, one call", peer, theirs_s / alone_s, 50, missed=missed)
    report(f"{what}, calls in a row", peer, N_CALLS * theirs_s / row_s, 50)
