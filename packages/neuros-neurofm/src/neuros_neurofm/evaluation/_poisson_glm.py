"""Poisson regression: the baseline of everything that predicts counts."""

from collections.abc import Sequence

import numpy as np

from neuros_neurofm.evaluation._arrays import Array

# A log rate per bin beyond these is no rate of a neuron, and its exponential ends a line search.
_MAX_LOG_RATE = 15.0


class PoissonGLM:
    r"""Generalised linear model of counts, $n_t \sim \mathrm{Poisson}(e^{b + W x_t})$.

    The penalised likelihood $\sum_t (\lambda_t - n_t \ln \lambda_t) / T + \alpha \|W\|^2 / 2$
    of all units is minimised together by L-BFGS; inputs are z-scored. It is convex: the start does
    not matter.

    Args:
        alpha: Penalty, >= 0.

    References:
        Truccolo, W. et al. (2005). A point process framework for relating neural spiking activity
        to spiking history, neural ensemble, and extrinsic covariate effects. Journal of
        Neurophysiology 93, 1074-1089. https://doi.org/10.1152/jn.00697.2004
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def fit(self, x: Sequence[Array], y: Sequence[Array]) -> "PoissonGLM":
        """Fit on segments of inputs (time, channel) and counts (time, unit)."""
        # scipy.optimize is not free to import.
        from scipy.optimize import minimize

        stacked, counts = np.concatenate(x), np.concatenate(y)
        deviation = stacked.std(axis=0)
        self._center = stacked.mean(axis=0)
        self._scale = np.where(deviation > 0, deviation, 1.0)
        design = np.column_stack([np.ones(len(stacked)), (stacked - self._center) / self._scale])
        penalty = np.full((design.shape[1], 1), self.alpha)
        penalty[0] = 0.0
        # Without input the best rate is the mean; a unit without spikes has a rate, too.
        start = np.zeros((design.shape[1], counts.shape[1]))
        start[0] = np.log(np.maximum(counts.mean(axis=0), 1e-9))

        def objective(flat: Array) -> tuple[float, Array]:
            weights = flat.reshape(start.shape)
            log_rates = np.minimum(design @ weights, _MAX_LOG_RATE)
            rates = np.exp(log_rates)
            loss = (rates - counts * log_rates).sum() / len(counts)
            gradient = design.T @ (rates - counts) / len(counts) + penalty * weights
            return float(loss + 0.5 * (penalty * weights**2).sum()), gradient.ravel()

        found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B")
        self._weights: Array = found.x.reshape(start.shape)
        return self

    def predict(self, x: Array) -> Array:
        """Return expected counts per bin, (time, unit)."""
        design = np.column_stack([np.ones(len(x)), (x - self._center) / self._scale])
        return np.asarray(np.exp(np.minimum(design @ self._weights, _MAX_LOG_RATE)))
