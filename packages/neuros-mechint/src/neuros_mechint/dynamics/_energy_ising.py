"""Pairwise maximum entropy models of binary units."""

import numpy as np
from jaxtyping import Float, Int

__all__ = ["all_states", "fit_exact", "fit_pseudo", "ising_energy"]

_STEPS = 200


def all_states(n: int) -> Int[np.ndarray, "state unit"]:
    """Every pattern of n units, -1 or 1."""
    return np.asarray(2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) - 1)


def ising_energy(
    states: Int[np.ndarray, "state unit"],
    fields: Float[np.ndarray, "unit"],
    couplings: Float[np.ndarray, "unit unit"],
) -> Float[np.ndarray, "state"]:
    """Energy $-h s - s J s / 2$."""
    s = states.astype(np.float64)
    return np.asarray(-s @ fields - 0.5 * ((s @ couplings) * s).sum(1))


def fit_exact(
    states: Int[np.ndarray, "state unit"], ridge: float
) -> tuple[Float[np.ndarray, "unit"], Float[np.ndarray, "unit unit"]]:
    """Newton's method on the exact likelihood, summed over every pattern."""
    n = states.shape[1]
    pairs = np.triu_indices(n, 1)

    def features(s: Int[np.ndarray, "state unit"]) -> Float[np.ndarray, "state feature"]:
        values = s.astype(np.float64)
        return np.concatenate([values, values[:, pairs[0]] * values[:, pairs[1]]], 1)

    phi, wanted = features(all_states(n)), features(states).mean(0)
    theta = np.zeros(phi.shape[1])

    def loss(at: Float[np.ndarray, "feature"]) -> float:
        return float(np.logaddexp.reduce(phi @ at) - at @ wanted + 0.5 * ridge * at @ at)

    now = loss(theta)
    for _ in range(_STEPS):
        log_weight = phi @ theta
        weight = np.exp(log_weight - np.logaddexp.reduce(log_weight))
        mean = weight @ phi
        gradient = mean - wanted + ridge * theta
        if np.abs(gradient).max() < 1e-9:
            break
        fisher = (phi * weight[:, None]).T @ phi - np.outer(mean, mean)
        fisher.flat[:: len(fisher) + 1] += ridge + 1e-10
        step = np.linalg.solve(fisher, gradient)
        size = 1.0
        while loss(theta - size * step) > now and size > 1e-6:
            size /= 2
        theta = theta - size * step
        now = loss(theta)
    couplings = np.zeros((n, n))
    couplings[pairs] = theta[n:]
    return theta[:n], couplings + couplings.T


def fit_pseudo(
    states: Int[np.ndarray, "state unit"], ridge: float
) -> tuple[Float[np.ndarray, "unit"], Float[np.ndarray, "unit unit"]]:
    """One logistic regression per unit on all others; the two values of a coupling averaged."""
    s = states.astype(np.float64)
    n = s.shape[1]
    fields, couplings = np.zeros(n), np.zeros((n, n))
    for unit in range(n):
        design = s.copy()
        design[:, unit] = 1.0
        weights = np.zeros(n)
        for _ in range(_STEPS):
            # p(s_i | rest) = 1 / (1 + exp(-2 s_i (h_i + sum_j J_ij s_j))).
            mean = np.tanh(design @ weights)
            gradient = design.T @ (s[:, unit] - mean) / len(s) - ridge * weights
            if np.abs(gradient).max() < 1e-9:
                break
            curve = (design * (1 - mean**2)[:, None]).T @ design / len(s)
            curve.flat[:: n + 1] += ridge + 1e-10
            step = np.linalg.solve(curve, gradient)
            weights = weights + step / max(1.0, float(np.abs(step).max()))
        fields[unit] = weights[unit]
        weights[unit] = 0.0
        couplings[unit] = weights
    return fields, (couplings + couplings.T) / 2
