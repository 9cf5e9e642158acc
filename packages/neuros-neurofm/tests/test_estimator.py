import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Generator

from neuros_neurofm.datasets import synthetic_population
from neuros_neurofm.estimator import NeuroFMEstimator
from neuros_neurofm.evaluation import RidgeDecoder, r2_score

RNG = np.random.default_rng
TINY: dict[str, Any] = {
    "d_model": 16,
    "n_mamba_blocks": 1,
    "latent_dim": 16,
    "perceiver_depth": 1,
    "dropout": 0.0,
}
X, Y = RNG(0).poisson(1.0, (60, 5)), RNG(1).normal(size=(60, 2))
LABELS = np.where(RNG(2).random(60) > 0.5, "left", "right")


def tiny(**settings: Any) -> NeuroFMEstimator:
    own: dict[str, Any] = {"window": 10, "max_steps": 3, "batch_size": 4, "device": "cpu"}
    own |= {"size": TINY, "random_state": 0, "progress": False}
    return NeuroFMEstimator(**(own | settings))


class Lorenz(NamedTuple):
    counts: list[NDArray[np.float32]]
    rates: list[NDArray[np.float32]]
    states: list[NDArray[np.float32]]
    folder: Path


N_TRAIN = 7000


@pytest.fixture(scope="module")
def lorenz(tmp_path_factory: pytest.TempPathFactory) -> Lorenz:
    """Two sessions without a common unit, and an estimator fitted to the first of them."""
    sessions = synthetic_population(
        2,
        40,
        generator=Generator().manual_seed(0),
        n_trials=1,
        n_times=8000,
        modulation=1.5,
        mean_rate_hz=20.0,
    )
    folder = tmp_path_factory.mktemp("fitted")
    counts, rates, states = (
        [getattr(session, name)[0].numpy() for session in sessions]
        for name in ("counts", "rates", "latents")
    )
    estimator = NeuroFMEstimator(
        size={**TINY, "d_model": 32, "latent_dim": 32},
        sampling_rate=50.0,
        window=0.6,
        max_steps=100,
        learning_rate=1e-2,
        device="cpu",
        random_state=0,
        progress=False,
    )
    estimator.fit(counts[0][:N_TRAIN], states[0][:N_TRAIN]).save(folder)
    return Lorenz(counts, rates, states, folder)


# Trains a model for a hundred steps, in the fixture.
@pytest.mark.slow
def test_states_are_decoded_at_four_fifths_of_what_the_true_rates_give(lorenz: Lorenz) -> None:
    ridge = RidgeDecoder().fit([lorenz.rates[0][:N_TRAIN]], [lorenz.states[0][:N_TRAIN]])
    truth = lorenz.states[0][N_TRAIN:]
    best = float(r2_score(truth, ridge.predict(lorenz.rates[0][N_TRAIN:])))
    score = NeuroFMEstimator.load(lorenz.folder).score(lorenz.counts[0][N_TRAIN:], truth)
    assert score >= 0.8 * best


# Identifies forty units twice.
@pytest.mark.slow
def test_a_tenth_of_a_new_session_gives_four_fifths_of_the_whole(lorenz: Lorenz) -> None:
    scores = []
    for share in (0.1, 1.0):
        n = int(share * N_TRAIN)
        estimator = NeuroFMEstimator.load(lorenz.folder)
        estimator.adapt(lorenz.counts[1][:n, :33], lorenz.states[1][:n])
        scores.append(estimator.score(lorenz.counts[1][N_TRAIN:, :33], lorenz.states[1][N_TRAIN:]))
    assert scores[1] > 0.8
    assert scores[0] >= 0.8 * scores[1], scores


def test_predictions_do_not_change_with_later_samples(lorenz: Lorenz) -> None:
    estimator = NeuroFMEstimator.load(lorenz.folder)
    x = lorenz.counts[0][:300].copy()
    before, latents = estimator.predict(x), estimator.transform(x)
    x[200:] += 3
    np.testing.assert_allclose(estimator.predict(x)[:200], before[:200], atol=1e-5)
    np.testing.assert_allclose(estimator.transform(x)[:200], latents[:200], atol=1e-5)
    assert abs(estimator.predict(x)[200:] - before[200:]).max() > 0.01
    np.testing.assert_allclose(estimator.predict(x[:150]), before[:150], atol=1e-4)


def test_adapting_leaves_the_sessions_before_as_they_were(lorenz: Lorenz) -> None:
    estimator = NeuroFMEstimator.load(lorenz.folder)
    x = lorenz.counts[0][:100]
    before, bias = estimator.transform(x), estimator.model_.heads["decoder"].out.bias.clone()
    estimator.adapt(lorenz.counts[1][:200], lorenz.states[1][:200], max_steps=2)
    assert estimator.sessions_ == {"0": 40, "1": 40}
    np.testing.assert_array_equal(estimator.transform(x, sessions="0"), before)
    assert not torch.equal(estimator.model_.heads["decoder"].out.bias, bias)


@pytest.mark.parametrize("y", [None, Y, Y[:, 0], LABELS])
def test_equal_seeds_give_equal_bits(y: Any) -> None:
    first, second, other = (tiny(random_state=seed).fit(X, y) for seed in (3, np.int64(3), 4))
    assert first.loss_curve_ == second.loss_curve_ != other.loss_curve_
    np.testing.assert_array_equal(first.transform(X), second.transform(X))


@pytest.mark.parametrize(
    "make",
    [lambda seed: Generator().manual_seed(seed), RNG, np.random.RandomState],
    ids=["torch", "numpy", "legacy"],
)
def test_generators_are_seeds_that_move_on(make: Callable[[int], Any]) -> None:
    first, second = (tiny(random_state=make(5)).fit(X) for _ in range(2))
    assert first.loss_curve_ == second.loss_curve_
    assert first.fit(X).loss_curve_ != second.loss_curve_


def test_without_a_seed_no_two_fits_are_alike() -> None:
    estimator = tiny(random_state=None)
    assert estimator.fit(X).loss_curve_ != estimator.fit(X).loss_curve_


def test_fitting_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    tiny().fit(X, Y).adapt(X[:, :3], Y, max_steps=1).partial_fit(X, Y)
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_without_targets_it_embeds_and_has_nothing_to_decode() -> None:
    estimator = tiny(mask_ratio=0.5).fit(X)
    assert estimator.transform(X).shape == (60, 16)
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 3
    with pytest.raises(AttributeError, match=r"the decoder of .* fitted without y, is not fitted"):
        estimator.predict(X)
    with pytest.raises(ValueError, match="the first fit had none; fit anew to decode"):
        estimator.partial_fit(X, Y)


def test_self_supervision_beats_the_mean_rate() -> None:
    # Half of the units fire at 8, half at 0.2 spikes per bin: the Poisson loss of the true rates
    # lies far below the 4.1 - 4.1 ln(4.1) + E ln n! of one rate for all.
    counts = RNG(0).poisson(np.repeat([8.0, 0.2], 4), (400, 8))
    losses = tiny(max_steps=30, learning_rate=2e-2).fit(counts).loss_curve_
    # The median: a tenth of the steps takes the units for unknown.
    assert np.median(losses[-9:]) < 2.0 < losses[0]


def test_labels_are_predicted_as_they_were_given() -> None:
    labels = np.repeat(["rest", "go", "rest", "go"], 60)
    counts = RNG(0).poisson(np.where(labels == "go", 6.0, 0.5)[:, None], (240, 6))
    estimator = tiny(max_steps=25, learning_rate=1e-2, sampling_rate=50.0, window=0.2)
    estimator.fit(counts, labels)
    assert estimator.classes_ is not None
    assert estimator.classes_.tolist() == ["go", "rest"]
    assert set(estimator.predict(counts)) == {"go", "rest"}
    assert estimator.score(counts, labels) > 0.9


def test_shapes_of_predictions_are_those_of_the_targets() -> None:
    assert tiny().fit(X, Y).predict(X).shape == (60, 2)
    assert tiny().fit(X, Y[:, 0]).predict(X).shape == (60,)
    assert tiny().fit(X, Y[:, :1]).predict(X).shape == (60, 1)
    assert tiny().fit(X, LABELS == "left").predict(X).dtype == bool
    assert tiny().fit(X, LABELS.astype(object)).predict(X).dtype.kind == "U"


def test_sessions_of_different_units_are_learned_together() -> None:
    xs, ys = [X, X[:50, :3], X[:8]], [Y, None, Y[:8]]
    estimator = tiny().fit(xs, ys, sessions=["a", "b", "a"])
    assert estimator.sessions_ == {"a": 5, "b": 3}
    assert [p.shape for p in estimator.predict(xs)] == [(60, 2), (50, 2), (8, 2)]
    assert [z.shape for z in estimator.fit_transform(xs, ys)] == [(60, 16), (50, 16), (8, 16)]
    assert not hasattr(estimator, "n_features_in_")
    assert np.isfinite(estimator.score(xs, ys))
    one = estimator.predict(xs[1], sessions="1")
    np.testing.assert_allclose(one, estimator.predict(xs)[1], atol=1e-6)


def test_a_list_of_trials_of_one_session_shares_its_units() -> None:
    estimator = tiny().fit([X[:30], X[30:]], [Y[:30], Y[30:]], sessions="monkey")
    assert estimator.model_.tokenizers["spike"].units.ids[0] == "monkey/u0"
    assert len(estimator.model_.tokenizers["spike"].units.ids) == 5
    assert len(estimator.predict([X[:9], X[:7], X[:5]])) == 3


def test_units_can_be_inferred_without_adapting() -> None:
    estimator = tiny().fit(X, Y)
    assert estimator.predict(X[:, :2], infer_units=True).shape == (60, 2)
    lfp = tiny(modality="lfp").fit(Y)
    with pytest.raises(ValueError, match=r"infer_units needs spike counts: the scale of .* lfp"):
        lfp.transform(Y, infer_units=True)


@pytest.mark.parametrize("modality", ["lfp", "calcium", "eeg", "fmri", "ecog", "emg"])
def test_the_unit_of_a_signal_changes_nothing(modality: str) -> None:
    volts = RNG(0).normal(size=(120, 3))
    first = tiny(modality=modality, max_steps=2).fit(volts)
    second = tiny(modality=modality, max_steps=2).fit(1e-6 * volts + 1e-5)
    np.testing.assert_allclose(
        first.transform(volts), second.transform(1e-6 * volts + 1e-5), atol=1e-3
    )


def test_a_channel_that_stands_still_is_no_error() -> None:
    still = np.c_[Y, np.ones(60)]
    assert np.isfinite(tiny(modality="lfp").fit(still).transform(still)).all()


def test_missing_samples_and_targets_are_left_out() -> None:
    x, y = X.astype(float), Y.copy()
    x[5:9, 1], y[20:40] = np.nan, np.nan
    estimator = tiny().fit(x, y)
    assert np.isfinite(estimator.loss_curve_).all()
    assert np.isfinite(estimator.predict(x)).all()
    other = np.where(np.isnan(y), 1e6, y)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(tiny().fit(x, other).predict(x), estimator.predict(x))


def test_a_token_of_several_samples_is_held_until_the_next() -> None:
    estimator = tiny(sampling_rate=200.0, window=0.1, modality="lfp").fit(Y)
    latents = estimator.transform(Y)
    assert estimator.model_.n_latents == 2  # 0.1 s of 50 ms
    assert not latents[:9].any()
    for start in range(9, 59, 10):
        np.testing.assert_array_equal(
            latents[start : start + 10], latents[start][None].repeat(min(10, 60 - start), 0)
        )
    loose = tiny(size={**TINY, "causal": False}).fit(X)
    assert loose.transform(X)[0].any()


def test_partial_fit_goes_on_where_it_was() -> None:
    estimator = tiny().partial_fit(X, Y)
    assert estimator.n_iter_ == 2  # 60 rows in windows of 10, four at a time
    estimator.partial_fit(X, Y).partial_fit(X[:40, :2], Y[:40], sessions="new")
    assert estimator.n_iter_ == 5
    assert estimator.sessions_ == {"0": 5, "new": 2}
    again = tiny().partial_fit(X, Y).partial_fit(X, Y)
    assert again.loss_curve_ == estimator.loss_curve_[:4]


def test_classes_that_are_yet_to_come_are_named_first() -> None:
    estimator = tiny().partial_fit(X, np.zeros(60, int), classes=[0, 1, 2])
    assert estimator.partial_fit(X, np.full(60, 2)).score(X, np.full(60, 2)) >= 0
    assert estimator.classes_ is not None
    assert estimator.classes_.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"labels \[0, 1, 2\] of the first fit, got \[7\]"):
        estimator.partial_fit(X, np.full(60, 7))


def test_adapt_learns_units_without_targets() -> None:
    estimator = tiny().fit(X, Y)
    before = estimator.model_.to_latent[1].weight.clone()
    estimator.adapt([X[:, :3], X[:, :4]], max_steps=2)
    assert estimator.sessions_ == {"0": 5, "1": 3, "2": 4}
    torch.testing.assert_close(estimator.model_.to_latent[1].weight, before, rtol=0, atol=0)
    inferred = tiny().fit(X, Y).transform(X[:, :3], infer_units=True)
    assert not np.allclose(estimator.transform(X[:, :3], sessions="1"), inferred, atol=1e-6)
    assert [p.shape for p in estimator.predict([X[:, :3], X[:, :4]])] == [(60, 2), (60, 2)]


def interrupt_after(n: int, monkeypatch: pytest.MonkeyPatch, optimizer: Any) -> None:
    steps = iter(range(10_000))
    forward = optimizer.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(steps) == n:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(optimizer, "step", step)


def test_an_interrupted_fit_keeps_what_it_has_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(2, monkeypatch, torch.optim.AdamW)
    with pytest.warns(UserWarning, match="interrupted after 2 of 3 steps; the estimator keeps"):
        estimator = tiny().fit(X, Y)
    assert estimator.n_iter_ == 2
    assert not estimator.model_.training
    assert estimator.predict(X).shape == (60, 2)
    assert estimator.partial_fit(X, Y).n_iter_ == 4


def test_a_fit_interrupted_at_once_is_no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(0, monkeypatch, torch.optim.AdamW)
    estimator = tiny()
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X, Y)
    assert not hasattr(estimator, "model_")


def test_an_interrupted_adaptation_keeps_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = tiny().fit(X, Y)
    interrupt_after(1, monkeypatch, torch.optim.Adam)
    with pytest.warns(UserWarning, match="interrupted after 1 of 5 steps"):
        estimator.adapt(X[:, :2], Y, max_steps=5)
    assert estimator.predict(X[:, :2]).shape == (60, 2)
    interrupt_after(0, monkeypatch, torch.optim.Adam)
    with pytest.raises(KeyboardInterrupt):
        estimator.adapt(X[:, :2], Y, max_steps=5)


@pytest.mark.parametrize("y", [None, Y, LABELS])
def test_a_saved_estimator_is_the_same_and_goes_on_alike(tmp_path: Path, y: Any) -> None:
    modality = "lfp" if y is None else "spike"
    x = Y if y is None else X
    estimator = tiny(modality=modality, random_state=RNG(0)).fit(x, y)
    estimator.save(tmp_path / "a")
    estimator.save(tmp_path / "a")
    assert not [p for p in (tmp_path / "a").rglob("*") if p.suffix in {".pkl", ".pt", ".bin"}]
    loaded = NeuroFMEstimator.load(tmp_path / "a")
    assert loaded.get_params() == {**estimator.get_params(), "random_state": None}
    np.testing.assert_array_equal(loaded.transform(x), estimator.transform(x))
    assert loaded.n_iter_ == 3
    assert loaded.n_features_in_ == x.shape[1]
    if y is not None:
        np.testing.assert_array_equal(loaded.predict(x), estimator.predict(x))
    assert loaded.partial_fit(x, y).loss_curve_ == estimator.partial_fit(x, y).loss_curve_


def test_folders_that_are_no_estimator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="save\\(folder\\) writes it"):
        NeuroFMEstimator.load(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds files that are no saved estimator"):
        tiny().fit(X).save(tmp_path)
    (tmp_path / "estimator.json").write_text('{"format": 9}')
    with pytest.raises(ValueError, match="is of format 9, this version reads 1"):
        NeuroFMEstimator.load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sampling_rate": np.inf}, ValueError, "sampling_rate must be > 0 Hz, got inf"),
        ({"modality": "meg"}, ValueError, "modality must be one of"),
        ({"size": "tiny"}, ValueError, "size must be one of"),
        ({"size": 3}, TypeError, "size must be a name or a dict of model options, got int"),
        ({"size": {"window": 2.0}}, ValueError, r"size may not set \['window'\]"),
        ({"sampling_rate": 0.0}, ValueError, "sampling_rate must be > 0 Hz, got 0.0"),
        ({"window": 0.1}, ValueError, "window must hold at least one token of 1, got 0.1"),
        ({"max_steps": 0}, ValueError, "max_steps must be >= 1, got 0"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer, got float"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be > 0, got 0.0"),
        ({"mask_ratio": 1.0}, ValueError, r"mask_ratio must be in \[0, 1\), got 1.0"),
        ({"contrastive_weight": -1}, ValueError, "contrastive_weight must be >= 0, got -1"),
        ({"mask_ratio": 0.0}, ValueError, "without y there is nothing to learn"),
        ({"random_state": "x"}, TypeError, "random_state must be an int, a generator .*got str"),
    ],
)
def test_wrong_settings_are_named_by_fit(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tiny().set_params(**settings).fit(X)


@pytest.mark.parametrize(
    ("x", "y", "sessions", "message"),
    [
        (X[:, 0], None, None, "Expected 2D array .* got 1D array instead.*Reshape your data"),
        (X[None], None, None, r"pass trials as list\(X\)"),
        (X[:, :0], None, None, r"60 sample\(s\) and 0 feature\(s\)"),
        (-X, None, None, "Negative values in data .* counts; choose the modality"),
        (X + 1j, None, None, "Complex data not supported"),
        (np.full((4, 2), np.inf), None, None, "X holds infinity; mark samples"),
        (np.array([["a"]]), None, None, "X must hold numbers"),
        (X, Y[:9], None, "y must be .* with time = 60 as in X, got shape"),
        (X, np.full(60, np.inf), None, "y holds infinity or nothing but NaN"),
        ([X, X], [Y], None, "X holds 2 recordings, y holds 1"),
        ([X, X], [Y, Y[:, 0]], None, "all y must be of one kind and width"),
        ([X, X], None, ["a"], "sessions must name each of the 2 recordings"),
        ([X, X[:, :2]], None, "a", "session 'a' have 5 and 2 channels"),
    ],
)
def test_data_that_does_not_fit_is_refused(x: Any, y: Any, sessions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny().fit(x, y, sessions=sessions)


def test_calls_that_do_not_fit_what_was_learned_are_refused() -> None:
    estimator = tiny()
    with pytest.raises(ValueError, match="is not fitted yet; call fit"):
        estimator.transform(X)
    estimator.fit([X, X], [Y, Y])
    with pytest.raises(ValueError, match=r"X holds 1 recordings, the last fit .* say which"):
        estimator.predict(X)
    with pytest.raises(ValueError, match=r"session 'z' is unknown, known are \['0', '1'\]"):
        estimator.predict(X, sessions="z")
    with pytest.raises(ValueError, match=r"X has 2 features, .* expecting 5 features as input"):
        estimator.predict(X[:, :2], sessions="0")
    with pytest.raises(ValueError, match="y must be 2 continuous variables as in the first fit"):
        estimator.partial_fit([X, X], [Y[:, 0], Y[:, 0]])
    with pytest.raises(ValueError, match="score needs y, got None"):
        estimator.score([X, X], None)
    with pytest.raises(ValueError, match="max_steps must be >= 1, got 0"):
        estimator.adapt(X, max_steps=0)
    with pytest.raises(ValueError, match="adapt needs y, or a mask_ratio > 0"):
        estimator.set_params(mask_ratio=0.0).adapt(X)
    with pytest.raises(ValueError, match="Invalid parameter 'depth' for estimator NeuroFM"):
        estimator.set_params(depth=3)


def test_sparse_data_is_refused() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="X is sparse"):
        tiny().fit(sparse.csr_array(X))


def test_parameters_are_read_set_and_shown() -> None:
    estimator = tiny(modality="eeg")
    assert estimator.set_params(batch_size=8).get_params()["batch_size"] == 8
    assert repr(NeuroFMEstimator("lfp", window=3)) == "NeuroFMEstimator(modality='lfp', window=3)"
    assert (
        estimator.get_params(deep=False) == NeuroFMEstimator(**estimator.get_params()).get_params()
    )


def test_a_named_size_is_that_of_the_model() -> None:
    estimator = NeuroFMEstimator(
        max_steps=1, batch_size=1, window=2, device="cpu", random_state=0, progress=False
    )
    assert estimator.fit(X[:8]).model_.config["d_model"] == 256


def test_a_window_is_a_hundred_tokens_unless_it_is_given() -> None:
    assert tiny(window=None, max_steps=1).fit(X).model_.n_latents == 100


# Imports scikit-learn and fits some fifty small models.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_conventions_of_scikit_learn_hold() -> None:
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    estimator = tiny(modality="calcium", window=2, max_steps=1, batch_size=1)
    known = {
        "check_methods_sample_order_invariance": "rows are consecutive in time",
        "check_methods_subset_invariance": "a row's state rests on the rows before it",
        # This one passes where the run-time type checker of the tests is off.
        "check_do_not_raise_errors_in_init_or_set_params": "the checker refuses wrong types",
    }
    results = checks.check_estimator(
        estimator, expected_failed_checks=known, on_fail=None, on_skip=None
    )
    states = {r["check_name"]: r["status"] for r in results if r["status"] != "passed"}
    assert set(states) <= {*known, "check_array_api_input"}
    assert "failed" not in states.values()
    assert len(results) > 40


def test_scikit_learn_clones_and_cross_validates() -> None:
    base, selection = (
        pytest.importorskip("sklearn.base"),
        pytest.importorskip("sklearn.model_selection"),
    )
    estimator = tiny().fit(X, Y)
    clone = base.clone(estimator)
    assert not hasattr(clone, "model_")
    assert clone.get_params() == estimator.get_params()
    scores = selection.cross_val_score(clone, X, Y, cv=selection.TimeSeriesSplit(2))
    assert np.isfinite(scores).all()
    with pytest.raises(pytest.importorskip("sklearn.exceptions").NotFittedError):
        clone.predict(X)


# Starts an interpreter that imports torch.
@pytest.mark.slow
def test_importing_loads_neither_scikit_learn_nor_matplotlib() -> None:
    code = (
        "import sys, numpy as np\n"
        "from neuros_neurofm.estimator import NeuroFMEstimator\n"
        "e = NeuroFMEstimator()\n"
        "try: e.predict(np.ones((3, 2)))\n"
        "except (ValueError, AttributeError) as error: assert 'not fitted' in str(error)\n"
        "print({'sklearn', 'matplotlib'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.fixture
def axes() -> Iterator[Any]:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    yield plt.subplots()[1]
    plt.close("all")


def test_pictures_show_what_was_learned(axes: Any) -> None:
    estimator = tiny(sampling_rate=50.0, window=0.2).fit(X, Y)
    assert estimator.plot_loss(ax=axes) is axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), estimator.loss_curve_)
    own = estimator.plot_decoding(X, Y, dim=1)
    np.testing.assert_allclose(own.lines[0].get_ydata(), Y[:, 1])
    np.testing.assert_allclose(own.lines[1].get_ydata(), estimator.predict(X)[:, 1])
    assert own.lines[0].get_xdata()[-1] == pytest.approx(1.2)
    assert own.get_title() == f"R² {estimator.score(X, Y):.2f}"


def test_the_embedding_is_the_plane_of_most_variance(axes: Any) -> None:
    estimator = tiny().fit([X, X[:30]], [LABELS, LABELS[:30]])
    estimator.plot_embedding([X, X[:30]], ax=axes)
    points = axes.collections[0].get_offsets()
    latents = np.concatenate(estimator.transform([X, X[:30]])).astype(float)
    spectrum = np.sort(np.linalg.eigvalsh(np.cov(latents.T)))[::-1]
    np.testing.assert_allclose(points.var(axis=0, ddof=1), spectrum[:2], rtol=1e-3)
    colored = estimator.plot_embedding(X, LABELS, sessions="0")
    assert [t.get_text() for t in colored.get_legend().get_texts()] == ["left", "right"]
    continuous = estimator.plot_embedding(X, Y, sessions="0")
    np.testing.assert_allclose(continuous.collections[0].get_array(), Y[:, 0])


def test_pictures_without_matplotlib_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = tiny().fit(X)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"neuros-neurofm\[plot\]"):
        estimator.plot_loss()
