"""The benchmark suite: signals that are what they say, and estimators measured on them."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from neuros_mechint.fractals import (
    DetrendedFluctuationAnalysis,
    EvaluationTable,
    FractalTimeSeries,
    HiguchiFractalDimension,
    HurstExponent,
    MultifractalSpectrum,
    MultiplicativeCascade,
    SpectralSlope,
)

SUITE = FractalTimeSeries()


@pytest.fixture(scope="module")
def signals():
    return {benchmark.name: benchmark for benchmark in SUITE.suite()}


def test_the_suite_has_the_promised_signals(signals):
    assert len(signals) == len(SUITE.suite()) == 27
    for kind, count in {"fGn H=": 8, "fBm": 5, "1/f^": 5, "Weier": 3, "cascade": 2}.items():
        assert sum(kind in name for name in signals) == count
    assert {"white noise", "sine", "constant", "Lorenz x"} <= set(signals)
    for name, signal, truth in signals.values():
        assert signal.shape == (4096,), name
        assert signal.dtype == torch.float64
        assert bool(signal.isfinite().all()), name
        assert all(math.isfinite(value) for value in truth.values())


# A second process has to load torch.
@pytest.mark.slow
def test_a_seed_gives_the_same_bits_in_another_process(signals):
    code = (
        "import hashlib, neuros_mechint.fractals as f\n"
        "for b in f.FractalTimeSeries().suite():\n"
        "    print(hashlib.sha256(b.signal.numpy().tobytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    import hashlib

    here = [hashlib.sha256(b.signal.numpy().tobytes()).hexdigest() for b in signals.values()]
    assert run.stdout.split() == here


def test_another_seed_gives_other_signals(signals):
    fixed = {"binomial cascade"}
    for benchmark in FractalTimeSeries(seed=1).suite():
        same = torch.equal(benchmark.signal, signals[benchmark.name].signal)
        assert same == (benchmark.name in fixed)


def test_truths_agree_with_each_other(signals):
    for name, _, truth in signals.values():
        if "alpha" in truth and "beta" in truth:
            assert math.isclose(truth["beta"], 2 * truth["alpha"] - 1, abs_tol=1e-12), name
        if "path_hurst" in truth:
            assert truth["dimension"] == 2 - truth["path_hurst"]
    # The width of a binomial spectrum between two moments, from its closed form.
    p = np.array([0.7, 0.3])
    ends = [-(p**q * np.log2(p)).sum() / (p**q).sum() for q in (-5.0, 5.0)]
    assert math.isclose(signals["binomial cascade"].truth["mf_width"], ends[0] - ends[1])
    second = MultiplicativeCascade(kind="lognormal", sigma=0.2).tau(torch.tensor(2.0))
    assert math.isclose(signals["lognormal cascade"].truth["beta"], second)


# Six draws of all signals of a quantity for each estimator, the Lorenz system by a loop over time.
@pytest.mark.slow
# Rows whose truth holds in the limit only: a drift, artefacts, or exponents of low frequencies.
@pytest.mark.parametrize(
    ("estimator", "bar", "apart"),
    [
        (HurstExponent(), 0.03, ("trend", "artefacts")),
        (HurstExponent(method="wavelet"), 0.04, ("artefacts",)),
        (HurstExponent(kind="path"), 0.03, ()),
        (DetrendedFluctuationAnalysis(), 0.08, ("trend", "artefacts", "1/f^3")),
        (HiguchiFractalDimension(), 0.10, ()),
        (MultifractalSpectrum(kind="noise"), 0.20, ("fBm", "gaps", "artefacts")),
    ],
)
def test_estimators_find_the_truths(estimator, bar, apart):
    table = SUITE.evaluate(estimator, n_draws=6)
    assert len(table) >= 5
    for row in table:
        if not any(word in row.name for word in apart):
            assert abs(row.bias) <= bar, row


def test_the_slope_is_that_of_the_power_laws():
    table = FractalTimeSeries(n_samples=2048).evaluate(SpectralSlope(method="auto"), n_draws=4)
    for row in table:
        if row.name.startswith("1/f"):
            assert abs(row.bias) <= 0.04, row


def test_a_wavelet_estimate_does_not_see_the_trend():
    series = FractalTimeSeries(n_samples=2048)
    errors = {
        method: series.evaluate(HurstExponent(method=method))["fGn H=0.7 with trend"].rmse
        for method in ("whittle", "wavelet")
    }
    assert errors["wavelet"] < 0.05 < 0.1 < errors["whittle"]


def test_gaps_and_artefacts_are_five_percent(signals):
    # A line from one side to the other: no second difference inside a gap.
    bent = signals["fGn H=0.7 with gaps"].signal.diff(n=2).abs() > 1e-9
    assert 4094 - int(bent.sum()) == 5 * 40
    spikes = signals["fGn H=0.7 with artefacts"].signal.abs() > 5
    # 204 samples of standard deviation 10 of which 62 % are beyond 5: six standard errors.
    assert abs(int(spikes.sum()) - 0.617 * 204) < 6 * math.sqrt(204 * 0.617 * 0.383)


def test_the_lorenz_system_stays_on_its_attractor(signals):
    x = signals["Lorenz x"].signal
    assert 15 < x.abs().max() < 20.5
    # It visits both wings, and moves by little from sample to sample.
    assert x.min() < -5 < 5 < x.max()
    assert x.diff().abs().max() < 2.5


def test_the_constant_has_no_truth_and_the_sine_is_a_smooth_curve(signals):
    assert signals["constant"].truth == {}
    assert signals["constant"].signal.unique().numel() == 1
    assert signals["sine"].truth == {"dimension": 1.0}


def test_an_evaluation_is_bias_rmse_and_time():
    # An estimator whose errors are known: half too large, and one off by the number of the row.
    def known(x):
        return 0.5 + torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)[: len(x)]

    table = FractalTimeSeries(n_samples=256).evaluate(known, quantity="hurst", n_draws=3)
    row = table["fGn H=0.5"]
    assert (row.truth, row.estimate, row.bias) == (0.5, 1.5, 1.0)
    assert math.isclose(row.rmse, math.sqrt(5 / 3))
    assert row.ms >= 0
    assert [r.name for r in table] == [b.name for b in SUITE.suite() if "hurst" in b.truth]


def test_the_first_draw_is_the_suite():
    series = FractalTimeSeries(n_samples=200)
    seen = []

    def watch(x):
        seen.append(x)
        return x[:, 0]

    series.evaluate(watch, quantity="path_hurst", n_draws=2)
    drawn = {b.name: b.signal for b in series.suite()}
    assert torch.equal(seen[1][0], drawn["fBm H=0.1"])
    assert seen[1].shape == (2, 200)


def test_kinds_of_hurst_exponent_meet_their_signals():
    series = FractalTimeSeries(n_samples=512)
    tables = {
        kind: series.evaluate(HurstExponent(kind=kind), n_draws=2)
        for kind in ("noise", "path", "auto")
    }
    assert len(tables["auto"]) == len(tables["noise"]) + len(tables["path"])
    assert tables["auto"].quantity == "hurst/path_hurst"


# pandas takes a second to load.
@pytest.mark.slow
def test_a_table_prints_aligned_columns_and_makes_a_frame():
    table = FractalTimeSeries(n_samples=256).evaluate(HiguchiFractalDimension(), n_draws=2)
    lines = str(table).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len(lines) == 1 + len(table)
    pytest.importorskip("pandas")
    frame = table.to_frame()
    assert list(frame.columns) == ["name", "truth", "estimate", "bias", "rmse", "ms"]
    assert frame["bias"].tolist() == [row.bias for row in table]


def test_other_lengths_are_drawn_whole():
    for benchmark in FractalTimeSeries(n_samples=1000).suite():
        assert benchmark.signal.shape == (1000,)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FractalTimeSeries(n_samples=100), ValueError, "at least 128, got 100"),
        (lambda: FractalTimeSeries(seed=-1), ValueError, "seed must be at least 0, got -1"),
        (
            lambda: SUITE.evaluate(HiguchiFractalDimension(), n_draws=0),
            ValueError,
            "n_draws must be at least 1",
        ),
        (
            lambda: SUITE.evaluate(lambda x: x[:, 0]),
            ValueError,
            "quantity must be given for function",
        ),
        (
            lambda: SUITE.evaluate(SpectralSlope(), quantity="slope"),
            ValueError,
            r"quantity must be one of \['alpha', 'beta'.*got 'slope'",
        ),
        (
            lambda: FractalTimeSeries(n_samples=128).evaluate(lambda x: x, quantity="hurst"),
            ValueError,
            r"one number per signal, 8, got an array of shape \(8, 128\)",
        ),
        (lambda: SUITE.evaluate(3), TypeError, r"must have compute\(x\) or be a function, got int"),
    ],
)
def test_unfit_settings_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_unknown_signal_is_named():
    with pytest.raises(KeyError, match="no signal 'pink'"):
        EvaluationTable("beta", ())["pink"]
