"""The balloon beside that of The Virtual Brain."""

import logging

import numpy as np
import pytest
import torch

from neuros_mechint.multiscale import BalloonWindkessel

PEER = "tvb-library"

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

logging.disable(logging.WARNING)
fmri_balloon = pytest.importorskip("tvb.analyzers.fmri_balloon")
time_series = pytest.importorskip("tvb.datatypes.time_series")
logging.disable(logging.NOTSET)


def test_the_signal_is_that_of_tvb() -> None:
    rate, n = 200.0, 3000
    z = 0.5 * (np.arange(n) < rate) + 0.1 * np.sin(np.arange(n) / 300) ** 2
    series = time_series.TimeSeries(
        data=z.reshape(n, 1, 1, 1),
        time=1000 / rate * np.arange(n),
        sample_period=1000 / rate,
        sample_period_unit="ms",
    )
    peer = fmri_balloon.BalloonModel(time_series=series, normalize_neural_input=False)
    theirs = peer.evaluate().data.squeeze()
    # Its first state is rest, and sample k drives the step that ends there.
    ours = BalloonWindkessel.tvb()(torch.from_numpy(z[1:]), rate).numpy()
    peak = np.abs(theirs).max()
    assert peak > 1
    assert np.abs(ours - theirs[1:]).max() < 1e-4 * peak
