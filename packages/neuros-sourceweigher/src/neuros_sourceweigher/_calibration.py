"""Calibration of a classifier's probabilities on samples that it was not trained on."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

__all__: list[str] = []

Array = NDArray[np.float64]

# Probabilities below this carry no digits: a tree says zero where it has seen no sample.
_SMALLEST = 1e-12


def logits_of(probabilities: Array) -> Array:
    """Logarithms (n, K), finite also for probabilities of zero."""
    return np.asarray(np.log(np.maximum(probabilities, _SMALLEST)))


def fit_calibration(logits: Array, y: NDArray[np.intp], method: str) -> tuple[float, Array]:
    r"""Find temperature T and biases b (K,) of $\mathrm{softmax}(z / T + b)$.

    They maximise the likelihood of the labels: one temperature (Guo et al. 2017), or with a bias
    per class too (Alexandari et al. 2020); `"none"` leaves the logits.

    Args:
        logits: (n, K) out of fold.
        y: (n,) labels 0..K-1.
        method: `"none"`, `"temperature"` or `"bias-corrected"`.
    """
    n, K = logits.shape
    if method == "none":
        return 1.0, np.zeros(K)
    onehot = np.zeros((n, K))
    onehot[np.arange(n), y] = 1.0

    def loss(parameters: Array) -> tuple[float, Array]:
        scale, bias = float(np.exp(parameters[0])), parameters[1:] if len(parameters) > 1 else 0.0
        log = log_softmax(scale * logits + bias, axis=1)
        error = np.exp(log) - onehot
        slope = scale * float(np.vdot(error, logits)) / n
        bend = error.mean(axis=0) if len(parameters) > 1 else np.empty(0)
        return -float(np.vdot(onehot, log)) / n, np.append(slope, bend)

    start = np.zeros(1 + K if method == "bias-corrected" else 1)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-5.0, 5.0)] * len(start))
    bias = found.x[1:] - found.x[1:].mean() if len(found.x) > 1 else np.zeros(K)
    return float(np.exp(-found.x[0])), np.asarray(bias)


def calibrated(logits: Array, temperature: float, bias: Array) -> Array:
    """Probabilities (n, K)."""
    return np.asarray(softmax(logits / temperature + bias, axis=1))
