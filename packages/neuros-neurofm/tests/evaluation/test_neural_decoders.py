from typing import Any

import numpy as np
import pytest
import torch

from neuros_neurofm.evaluation import NeuralDecoder, balanced_accuracy, bits_per_spike, r2_score

KINDS = pytest.mark.parametrize("kind", ["gru", "transformer"])


def signal(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """White noise, and the sum of the present sample and the one two samples before."""
    x = np.random.default_rng(seed).normal(size=(n, 1))
    return x, 50.0 + 10.0 * (x + np.roll(x, 2, axis=0))


def fitted(kind: str, **options: Any) -> NeuralDecoder:
    chosen: dict[str, Any] = {
        "window": 16,
        "n_parameters": 3000,
        "steps": 20,
        "learning_rates": (1e-2,),
    }
    x, y = signal()
    return NeuralDecoder(kind, **(chosen | options)).fit(
        x[2:400], y[2:400], x_validation=x[400:500], y_validation=y[400:500]
    )


@pytest.mark.slow  # 300 steps of training.
@KINDS
def test_a_delayed_sum_is_decoded(kind: str) -> None:
    decoder = fitted(kind, steps=150)
    x, y = signal()
    # Without the memory of two samples no decoder exceeds 0.5.
    assert r2_score(y[500:], decoder.predict(x[500:])) > 0.65


@KINDS
def test_no_prediction_depends_on_a_later_sample(kind: str) -> None:
    decoder, x = fitted(kind), signal()[0][:100]
    changed = x.copy()
    changed[57:] += 5.0
    before, after = decoder.predict(x), decoder.predict(changed)
    np.testing.assert_allclose(before[:57], after[:57], atol=1e-4)
    assert np.abs(before[57:] - after[57:]).max() > 1e-2
    for n in (10, 20, 29):
        np.testing.assert_allclose(decoder.predict(x[:n]), before[:n], atol=1e-4)


@KINDS
@pytest.mark.parametrize("n_parameters", [500, 3000, 40_000])
def test_the_decoder_is_as_large_as_allowed(kind: str, n_parameters: int) -> None:
    decoder = fitted(kind, n_parameters=n_parameters, steps=1, learning_rates=(1e-3,))
    assert decoder._fit is not None
    size = sum(p.numel() for p in decoder._fit.network.parameters())
    # One step of the width w changes a size of about 24 w^2 (transformer, by 2) or 3 w^2 (GRU)
    # by at most 100 w + 200.
    assert n_parameters - 100 * decoder.width - 200 < size <= n_parameters


@KINDS
def test_the_same_seed_gives_the_same_decoder_and_leaves_the_global_generator(kind: str) -> None:
    state = torch.get_rng_state()
    x, _ = signal()
    first, second = (fitted(kind, steps=3).predict(x) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_validation_chooses_the_learning_rate() -> None:
    # A rate of 1e-9 leaves the network as it began.
    assert fitted("gru", learning_rates=(1e-9, 1e-2)).learning_rate == 1e-2
    assert fitted("gru", learning_rates=(1e-2, 1e-9)).learning_rate == 1e-2


def test_validation_alone_chooses_among_the_weights() -> None:
    x, y = signal()
    decoder = NeuralDecoder("gru", window=16, n_parameters=500, steps=10, validate_every=1)
    decoder.fit(x[:400], y[:400], x_validation=x[400:], y_validation=np.full((200, 1), y.mean()))
    # Targets of no variance: what predicts least is best, so the weights are early ones.
    assert r2_score(y[500:], decoder.predict(x[500:])) < 0.5


def test_poisson_decoders_return_rates_that_beat_the_mean() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 1))
    counts = rng.poisson(np.exp(x))
    decoder = NeuralDecoder(
        "gru", window=16, n_parameters=500, steps=60, learning_rates=(3e-2,), likelihood="poisson"
    )
    decoder.fit(x[:400], counts[:400], x_validation=x[400:500], y_validation=counts[400:500])
    rates = decoder.predict(x[500:])
    best = bits_per_spike(np.exp(x[500:]), counts[500:])
    assert 0.5 * best < bits_per_spike(rates, counts[500:])


@KINDS
def test_categorical_decoders_return_shares_of_classes(kind: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 2))
    labels = (x[:, 0] > 0).astype(int)
    y = np.eye(3)[labels]
    decoder = NeuralDecoder(
        kind, window=8, n_parameters=900, steps=80, learning_rates=(1e-2,), likelihood="categorical"
    )
    decoder.fit(x[:600], y[:600], x_validation=x[600:700], y_validation=y[600:700])
    shares = decoder.predict(x[700:])
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    # No sample has the third class.
    assert shares[:, 2].mean() < 0.1
    assert balanced_accuracy(labels[700:], shares.argmax(axis=1)) > 0.85
    with pytest.raises(ValueError, match="y must hold the shares of the classes"):
        decoder.fit(x, x, x_validation=x, y_validation=x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "cnn"}, "architecture must be gru or transformer"),
        ({"likelihood": "gamma"}, "likelihood must be one of gaussian, poisson, categorical"),
        ({"window": 1}, "window must be at least 2"),
        ({"steps": 0}, "must be >= 1, got 0, 16 and 25"),
        ({"learning_rates": ()}, "learning_rates must be finite and > 0"),
    ],
)
def test_settings_out_of_range_are_refused(options: Any, message: str) -> None:
    chosen = {"architecture": "gru", "window": 16} | options
    with pytest.raises(ValueError, match=message):
        NeuralDecoder(chosen.pop("architecture"), **chosen)


def test_what_cannot_be_decoded_is_refused() -> None:
    decoder = NeuralDecoder("gru", window=4, n_parameters=3)
    x = np.ones((20, 2))
    with pytest.raises(RuntimeError, match="call fit first"):
        decoder.predict(x)
    with pytest.raises(ValueError, match="is below the"):
        decoder.fit(x, x, x_validation=x, y_validation=x)
    with pytest.raises(ValueError, match="x_validation and y_validation must have equal lengths"):
        decoder.fit(x, x, x_validation=x, y_validation=x[1:])
    with pytest.raises(ValueError, match="the 1 channels of the fit, got 2"):
        fitted("gru", steps=1).predict(x)
