"""Step inverse current source density beside elephant, construction included."""

import numpy as np
import pytest

from neuros_mechint.multiscale import CurrentSourceDensity
from neuros_mechint.multiscale import _csd_matrices as matrices

N_CHANNELS, N_TIMES, SPACING = 24, 1000, 1e-4


@pytest.mark.filterwarnings("ignore")
def test_step_inverse(shortest, report) -> None:
    elephant = pytest.importorskip("elephant")
    pq = pytest.importorskip("quantities")
    icsd = pytest.importorskip("elephant.current_source_density_src.icsd")
    lfp = np.random.default_rng(0).standard_normal((N_CHANNELS, N_TIMES))
    depths = SPACING * (1 + np.arange(N_CHANNELS)) * pq.m

    def ours() -> object:
        # Built anew each time, as the peer does; in use the matrix is kept.
        matrices.inverse.cache_clear()
        return CurrentSourceDensity("step").compute_csd(lfp, SPACING)

    def theirs() -> object:
        model = icsd.StepiCSD(
            lfp * pq.V, depths, diam=5e-4 * pq.m, h=SPACING * pq.m, sigma=0.3 * pq.S / pq.m,
            sigma_top=0.3 * pq.S / pq.m,
        )  # fmt: skip
        return model.get_csd()

    best, peer = shortest(ours, theirs, rounds=7)
    what = f"step iCSD, {N_CHANNELS} x {N_TIMES}, construction included"
    report(what, f"elephant {elephant.__version__}", peer / best, 500.0)
