"""Baselines of the benchmark, whose hyper-parameters only validation blocks choose."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._cebra import CEBRADecoder
from neuros_neurofm.evaluation._poisson_glm import PoissonGLM
from neuros_neurofm.evaluation._tasks import Kind, Pairs, Problem
from neuros_neurofm.evaluation.label_decoder import LabelDecoder
from neuros_neurofm.evaluation.linear_decoders import RidgeDecoder, WienerDecoder
from neuros_neurofm.evaluation.neural_decoders import NeuralDecoder

# Which targets each baseline predicts.
PREDICTS: dict[str, tuple[Kind, ...]] = {
    "ridge": ("numbers", "counts"),
    "wiener": ("numbers", "counts"),
    "glm": ("counts",),
    "lda": ("labels",),
    "logistic": ("labels",),
    "gru": ("numbers", "counts", "labels"),
    "transformer": ("numbers", "counts", "labels"),
    "cebra": ("numbers", "counts", "labels"),
}
_LIKELIHOODS: dict[Kind, str] = {
    "numbers": "gaussian",
    "counts": "poisson",
    "labels": "categorical",
}
# Seconds of a causal exponential filter in front of the ridge regression; 0: none.
_SMOOTHING_S = (0.0, 0.05, 0.1, 0.2, 0.4)
# Penalties of the Poisson regression, in units of the likelihood per sample.
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
# Of the power of a z-scored channel: below it lies a logarithm's infinity.
_LEAST_POWER = 1e-3
# Seconds of input that the Wiener filter reads.
_LAGS_S = (0.1, 0.2, 0.4)
# A Wiener filter with more regressors costs minutes, and so does a logistic regression.
_MAX_REGRESSORS = 2000
_MAX_FEATURES = 500
# A linear rate may fall below zero, where no count is possible: its floor as a share of the mean.
_FLOOR = 0.05


@runtime_checkable
class Decoder(Protocol):
    """Anything that is fitted on segments and predicts one segment."""

    def fit(self, x: list[Array], y: list[Array], /) -> object:
        """Fit on segments (time, channel) and (time, dim)."""

    def predict(self, x: Array, /) -> Array:
        """Predict (time, dim) of one segment."""


class Budget(NamedTuple):
    """What a neural baseline may cost."""

    window: int
    n_parameters: int
    steps: int
    seed: int


def predict_with(decoder: Decoder, problem: Problem) -> Array:
    """Fit a decoder of the user on the training blocks and predict the scored test samples."""
    x, y = _split(problem.train)
    decoder.fit(x, y)
    return _on_test(decoder, problem)


def predict_mean(problem: Problem) -> Array:
    """Predict the mean of the training blocks; of labels, their most frequent class."""
    mean = np.concatenate([y for _, y in problem.train]).mean(axis=0)
    floor = 1e-9 if problem.kind == "counts" else -np.inf
    return np.broadcast_to(np.maximum(mean, floor), problem.truth.shape)


def predict_ridge(problem: Problem, rate: float) -> Array:
    """Ridge regression on the present input behind the causal filter that validation chooses."""
    decoders = [
        _Smoothed(tau_s * rate, RidgeDecoder(gap=round(3 * tau_s * rate))) for tau_s in _SMOOTHING_S
    ]
    return _on_test(_best(decoders, problem), problem)


def predict_glm(problem: Problem, rate: float) -> Array:
    """Poisson regression on smoothed counts; validation chooses the filter and the penalty."""
    decoders = [
        _Smoothed(tau_s * rate, PoissonGLM(alpha)) for tau_s in _SMOOTHING_S for alpha in _PENALTIES
    ]
    return _on_test(_best(decoders, problem), problem)


def predict_wiener(problem: Problem, rate: float) -> Array:
    """Ridge regression on the lags that validation chooses."""
    lags = _lags(problem, rate, _MAX_REGRESSORS)
    return _on_test(_best([WienerDecoder(n) for n in lags], problem), problem)


def predict_lda(problem: Problem, rate: float) -> Array:
    """Discriminants of the present input behind a causal filter, or of its filtered power."""
    behind: list[Decoder] = []
    for tau in [tau_s * rate for tau_s in _SMOOTHING_S]:
        gap = round(3 * tau)
        behind.append(_Smoothed(tau, LabelDecoder("lda", gap=gap)))
        if tau:
            behind.append(_Powered(_Smoothed(tau, LabelDecoder("lda", gap=gap), log=True)))
    return _on_test(_best(behind, problem), problem)


def predict_logistic(problem: Problem, rate: float) -> Array:
    """Logistic regression on the lags of the input, or on its filtered power."""
    behind: list[Decoder] = [
        LabelDecoder("logistic", n_lags=n) for n in _lags(problem, rate, _MAX_FEATURES)
    ]
    for tau in [tau_s * rate for tau_s in _SMOOTHING_S if tau_s]:
        alone = LabelDecoder("logistic", gap=round(3 * tau))
        behind.append(_Powered(_Smoothed(tau, alone, log=True)))
    return _on_test(_best(behind, problem), problem)


def _lags(problem: Problem, rate: float, most: int) -> list[int]:
    n_channels = problem.test[0].shape[1]
    lags = sorted({max(round(seconds * rate), 2) for seconds in _LAGS_S})
    return [n for n in lags if n * n_channels <= most] or lags[:1]


def predict_neural(architecture: str, problem: Problem, budget: Budget) -> Array:
    """A GRU or transformer on windows of the model's length and with its number of parameters."""
    decoder = NeuralDecoder(
        architecture,
        window=budget.window,
        n_parameters=budget.n_parameters,
        steps=budget.steps,
        likelihood=_LIKELIHOODS[problem.kind],
        seed=budget.seed,
    )
    (x, y), (held_x, held_y) = _split(problem.train), _split(problem.validation)
    decoder.fit(x, y, x_validation=held_x, y_validation=held_y)
    # A Poisson decoder has positive rates of its own.
    return np.concatenate([decoder.predict(part) for part in problem.test])[problem.kept]


def predict_cebra(problem: Problem, budget: Budget) -> Array:
    """Nearest neighbours in a CEBRA embedding; validation chooses their number.

    Schneider, S., Lee, J. H. and Mathis, M. W. (2023). Learnable latent embeddings for joint
    behavioural and neural analysis. Nature 617. https://doi.org/10.1038/s41586-023-06031-6
    """
    decoder = CEBRADecoder(steps=budget.steps, labels=problem.kind == "labels")
    decoder.fit(*_split(problem.train))
    scores = {n: _held_out(decoder.with_neighbours(n), problem) for n in decoder.counts()}
    return _on_test(decoder.with_neighbours(max(scores, key=lambda n: scores[n])), problem)


class _Powered:
    """A decoder of the squares of the z-scored input."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.centre, self.scale = np.zeros(0), np.ones(0)

    def fit(self, x: list[Array], y: list[Array]) -> "_Powered":
        stacked = np.concatenate(x)
        deviation = stacked.std(axis=0)
        self.centre, self.scale = stacked.mean(axis=0), np.where(deviation > 0, deviation, 1.0)
        self.decoder.fit([self._squared(part) for part in x], y)
        return self

    def predict(self, x: Array) -> Array:
        return self.decoder.predict(self._squared(x))

    def _squared(self, x: Array) -> Array:
        return np.asarray(((x - self.centre) / self.scale) ** 2)


class _Smoothed:
    """A decoder behind a causal exponential filter of `tau` samples, and a logarithm if `log`."""

    def __init__(self, tau: float, decoder: Decoder, *, log: bool = False) -> None:
        self.tau = tau
        self.decoder = decoder
        self.log = log

    def fit(self, x: list[Array], y: list[Array]) -> "_Smoothed":
        self.decoder.fit([self._smooth(part) for part in x], y)
        return self

    def predict(self, x: Array) -> Array:
        return self.decoder.predict(self._smooth(x))

    def _smooth(self, x: Array) -> Array:
        if self.tau == 0:
            return x
        # scipy.signal costs more than half an import of torch.
        from scipy.signal import lfilter

        keep = float(np.exp(-1.0 / self.tau))
        # The filter starts as if the first sample had lasted for ever.
        smooth, _ = lfilter([1.0 - keep], [1.0, -keep], x, axis=0, zi=keep * x[:1])
        return np.asarray(np.log(smooth + _LEAST_POWER) if self.log else smooth)


def _best(decoders: Sequence[Decoder], problem: Problem) -> Decoder:
    """Fit every decoder on training blocks and take the best one of the validation blocks."""
    x, y = _split(problem.train)
    scores = []
    for decoder in decoders:
        decoder.fit(x, y)
        scores.append(_held_out(decoder, problem))
    return decoders[int(np.argmax(scores))]


def _held_out(decoder: Decoder, problem: Problem) -> float:
    """Score of the validation blocks, the one that the test blocks get."""
    x, y = _split(problem.validation)
    return problem.score(np.concatenate(y), _answers(decoder, x, problem))


def _on_test(decoder: Decoder, problem: Problem) -> Array:
    return _answers(decoder, problem.test, problem)[problem.kept]


def _answers(decoder: Decoder, x: Sequence[Array], problem: Problem) -> Array:
    """Predictions of the segments, one after the other; rates have a floor."""
    predicted = np.concatenate([decoder.predict(part) for part in x])
    if problem.kind == "counts":
        floor = _FLOOR * np.concatenate([y for _, y in problem.train]).mean(axis=0)
        return np.asarray(np.maximum(predicted, np.maximum(floor, 1e-9)))
    return np.asarray(predicted)


def _split(pairs: Pairs) -> tuple[list[Array], list[Array]]:
    return [x for x, _ in pairs], [y for _, y in pairs]
