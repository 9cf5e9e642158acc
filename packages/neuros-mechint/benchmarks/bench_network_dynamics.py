"""What a recorder adds to a training, one thread, sides interleaved."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from neuros_mechint.dynamics import TrajectoryRecorder

EVERY = 10


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    layers = [nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    net = nn.Sequential(*layers)
    return net, torch.optim.Adam(net.parameters())


@pytest.mark.parametrize("every", [EVERY, 10**9])
def test_a_recorder_adds_at_most_a_twentieth_to_a_step(
    every: int, report: Callable[..., None]
) -> None:
    x, target = torch.randn(256, 256), torch.randint(10, (256,))
    alone, watched = network(), network()
    recorder = TrajectoryRecorder(watched[0], ["0", "2"], every, x[:64], max_checkpoints=20)

    def seconds(net: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        start = time.process_time()
        for _ in range(EVERY):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), target).backward()
            optimizer.step()
        return time.process_time() - start

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with recorder:
        pairs = [(seconds(*alone), seconds(*watched)) for _ in range(41)]
    torch.set_num_threads(n_threads)
    # Both minima are over rounds of the same number of steps, one checkpoint in each.
    plain, recorded = (min(side) for side in zip(*pairs, strict=True))
    what = (
        f"TrajectoryRecorder, 64 of 256 samples every {every} steps, share of the speed that stays"
    )
    # At most 5 % more time is at least 1 / 1.05 of the speed.
    report(what, "the same training alone", plain / recorded, 0.952)
