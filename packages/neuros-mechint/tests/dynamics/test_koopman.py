import math

import pytest
import torch
from torch import Tensor

from neuros_mechint.dynamics.koopman import KoopmanAnalyzer


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orbit(A: Tensor, n: int, x0: Tensor) -> Tensor:
    rows = [x0]
    for _ in range(n - 1):
        rows.append(A @ rows[-1])
    return torch.stack(rows)


A = torch.tensor([[0.9, 0.2], [-0.2, 0.9]]).double()
START = torch.tensor([1.0, 0.3]).double()


@pytest.mark.parametrize("method", ["dmd", "exact", "fbdmd", "tls"])
def test_a_linear_system_has_its_eigenvalues(method: str) -> None:
    x = orbit(A, 40, START) @ draw(2, 7)
    analyzer = KoopmanAnalyzer(rank=2, method=method, dt=0.5)
    found = analyzer.compute(x)
    values = found.eigenvalues[found.eigenvalues.imag.argsort()]
    torch.testing.assert_close(
        values, torch.complex(*torch.tensor([[0.9, 0.9], [-0.2, 0.2]]).double()), rtol=0, atol=1e-8
    )
    assert float(found.residuals.max()) < 1e-8
    assert float(found.reconstruction_r2) == pytest.approx(1)
    assert found.frequencies.abs().tolist() == pytest.approx([math.atan2(0.2, 0.9) / math.pi] * 2)
    assert found.growth_rates.tolist() == pytest.approx([math.log(0.85)] * 2)
    torch.testing.assert_close(analyzer.predict(x[5], 4), x[6:10])
    assert found.to_dict()["rank"] == 2


def test_delays_find_a_rotation_in_one_channel() -> None:
    x = orbit(A, 40, START)[:, :1]
    analyzer = KoopmanAnalyzer(rank=2, method="hankel", n_delays=3)
    found = analyzer.compute(x)
    assert sorted(found.eigenvalues.imag.tolist()) == pytest.approx([-0.2, 0.2], abs=1e-8)
    torch.testing.assert_close(analyzer.predict(x[4:7], 3), x[7:10])


def test_a_dictionary_makes_a_nonlinear_map_linear() -> None:
    mu, rate = 0.9, 0.5
    z = draw(200, 2).tanh()
    after = torch.stack([mu * z[:, 0], rate * z[:, 1] + (mu**2 - rate) * z[:, 0] ** 2], -1)
    analyzer = KoopmanAnalyzer(
        method="edmd", dictionary=lambda s: torch.cat([s, s[..., :1] ** 2], -1)
    )
    found = analyzer.compute(torch.stack([z, after], 1), trials=True)
    assert sorted(found.eigenvalues.real.tolist()) == pytest.approx([rate, mu**2, mu], abs=1e-8)
    torch.testing.assert_close(analyzer.predict(z[0], 1)[0], after[0])


def test_a_kernel_finds_the_eigenvalues_and_flags_the_spurious_ones() -> None:
    x = torch.stack([orbit(A, 12, start) for start in draw(10, 2)])
    found = KoopmanAnalyzer(method="kernel", rank=20).compute(x, trials=True)
    best = found.eigenvalues[found.residuals.argsort()[:6]]
    assert (
        float((best.unsqueeze(0) - torch.linalg.eigvals(A).unsqueeze(1)).abs().amin(1).max()) < 0.05
    )


def test_no_pair_crosses_the_border_of_a_trial() -> None:
    trials = torch.stack([orbit(A, 6, START), orbit(A, 6, 5 * draw(2))])
    found = KoopmanAnalyzer(rank=2).compute(trials, trials=True)
    assert float(found.residuals.max()) < 1e-10
    joined = KoopmanAnalyzer(rank=2).compute(trials.flatten(0, 1))
    assert float(joined.residuals.max()) > 1e-2


@pytest.mark.parametrize("method", ["fbdmd", "tls"])
def test_noise_shrinks_plain_eigenvalues_twice_as_much(method: str) -> None:
    turn = torch.tensor([[math.cos(0.3), math.sin(0.3)], [-math.sin(0.3), math.cos(0.3)]]).double()
    clean = orbit(turn, 200, torch.tensor([1.0, 0.0]).double())
    noisy = clean + 0.2 * draw(50, 200, 2)

    def bias(name: str) -> float:
        found = KoopmanAnalyzer(rank=2, method=name).compute(noisy)
        return abs(float(found.eigenvalues.abs().mean()) - 1)

    assert bias(method) < bias("dmd") / 2


def test_a_batch_equals_its_items_and_the_threshold_finds_the_rank() -> None:
    x = torch.stack([orbit(A, 50, START), orbit(0.9 * A, 50, START)]) @ draw(2, 20)
    x = x + 1e-6 * draw(2, 50, 20, seed=1)
    found = KoopmanAnalyzer().compute(x)
    assert found.rank == 2
    for k in range(2):
        one = KoopmanAnalyzer(rank=2).compute(x[k].numpy())
        torch.testing.assert_close(
            found.eigenvalues[k].imag.sort().values, one.eigenvalues.imag.sort().values
        )


def test_a_ridge_shrinks() -> None:
    x = orbit(A, 40, START)
    found = KoopmanAnalyzer(rank=2, ridge=0.5).compute(x)
    assert float(found.eigenvalues.abs().max()) < 0.9


def test_a_short_rank_is_fitted_where_a_direction_is_empty() -> None:
    x = torch.stack([orbit(A, 40, START), orbit(A, 40, START) * torch.tensor([1.0, 0.0])])
    flat = x[1:] @ torch.tensor([[1.0, 1.0], [0.0, 0.0]]).double()
    found = KoopmanAnalyzer(rank=2, method="dmd").compute(flat)
    assert bool(torch.isfinite(found.residuals).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "pod"}, "method must be one of|Type-check"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"method": "hankel"}, "n_delays must be at least 2"),
        ({"method": "edmd"}, "needs a dictionary"),
        ({"dictionary": torch.sin}, "needs a dictionary"),
        ({"dt": 0.0}, "dt must be above 0"),
        ({"method": "bopdmd"}, "needs a rank"),
        ({"method": "edmd", "dictionary": torch.sin, "rank": 2}, "keeps every observable"),
    ],
)
def test_bad_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        KoopmanAnalyzer(**arguments)


def test_bad_series_are_refused() -> None:
    x = draw(20, 3)
    with pytest.raises(ValueError, match="rank must be at most 3"):
        KoopmanAnalyzer(rank=4).compute(x)
    with pytest.raises(ValueError, match="that of the kernel matrix"):
        KoopmanAnalyzer(rank=40, method="kernel").compute(x)
    with pytest.raises(ValueError, match="dictionary must take states"):
        KoopmanAnalyzer(method="edmd", dictionary=lambda s: s.sum(-2)).compute(x)
    with pytest.raises(ValueError, match="holds no modes yet"):
        KoopmanAnalyzer().predict(x[0], 3)
    analyzer = KoopmanAnalyzer(rank=2)
    analyzer.compute(x)
    with pytest.raises(ValueError, match="n must be at least 1"):
        analyzer.predict(x[0], 0)
    with pytest.raises(ValueError, match="x0 must hold 3 values"):
        analyzer.predict(x[0, :2], 2)


def test_the_leading_directions_of_a_wide_recording_are_those_of_all() -> None:
    x = orbit(torch.block_diag(A, 1.05 * A.mT), 90, draw(4)) @ draw(4, 150)
    x = x + 1e-3 * draw(90, 150, seed=1)
    found = KoopmanAnalyzer(rank=4).compute(x)
    basis = torch.linalg.svd(x[:-1], full_matrices=False).Vh[:4].mT
    K = torch.linalg.lstsq(x[:-1] @ basis, x[1:] @ basis).solution
    gap = (found.eigenvalues.unsqueeze(1) - torch.linalg.eigvals(K)).abs().amin(1)
    assert float(gap.max()) < 1e-10
    # Without a gap below the rank the iteration does not settle, and all are computed.
    noise = draw(90, 150)
    basis = torch.linalg.svd(noise[:-1], full_matrices=False).Vh[:4].mT
    K = torch.linalg.lstsq(noise[:-1] @ basis, noise[1:] @ basis).solution
    gap = KoopmanAnalyzer(rank=4).compute(noise).eigenvalues.unsqueeze(1) - torch.linalg.eigvals(K)
    assert float(gap.abs().amin(1).max()) < 1e-10


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2],
)
def test_results_have_the_dtype_of_the_series(given: torch.dtype, wanted: torch.dtype) -> None:
    found = KoopmanAnalyzer(rank=2).compute(orbit(A, 40, START).to(given))
    assert found.growth_rates.dtype == found.residuals.dtype == wanted
    assert found.modes.real.dtype == found.eigenvalues.real.dtype == wanted
