import random
from pathlib import Path

import numpy as np
import torch
from torch import nn

from neuros_neurofm.training._checkpoint_file import read_checkpoint, write_checkpoint
from neuros_neurofm.training._random_state import random_state, set_random_state, undisturbed


def draws() -> list[float]:
    # gauss keeps a second number back, which is a part of the state.
    ours = [random.gauss(0, 1), random.gauss(0, 1), np.random.mtrand.standard_normal()]
    return [*ours, np.random.mtrand.random_sample(), torch.rand(()).item(), torch.randn(()).item()]


def test_all_three_generators_go_on_from_a_file(tmp_path: Path) -> None:
    draws()
    random.gauss(0, 1)
    write_checkpoint(tmp_path / "state", random_state())
    expected = draws()
    assert draws() != expected
    set_random_state(read_checkpoint(tmp_path / "state"))
    assert draws() == expected


def test_an_undisturbed_block_leaves_randomness_and_mode_as_they_were() -> None:
    model = nn.Dropout()
    before = random_state()
    with undisturbed(model):
        model.eval()
        draws()
    expected = draws()
    assert model.training
    set_random_state(before)
    assert draws() == expected
