"""Transfer between inputs of one recording without a model: canonical correlations, ridge."""

from typing import NamedTuple

import numpy as np

from neuros_neurofm.evaluation._arrays import Array, lag_matrix
from neuros_neurofm.evaluation.linear_decoders import RidgeDecoder
from neuros_neurofm.evaluation.metrics import r2_score
from neuros_neurofm.evaluation.session import Session

# Seconds of input that an aligned sample reads.
_LAGS_S = 0.2
# Part of the mean variance that is added to every variance; validation blocks choose.
_SHRINKAGE = (1e-3, 1e-2, 1e-1, 1.0)


class Alignment(NamedTuple):
    """Canonical variates of two sets of variables.

    Attributes:
        a: Weights of the first set, (feature, variate).
        b: Weights of the second set, (feature, variate).
        correlations: Of each pair of variates, descending, (variate,).
    """

    a: Array
    b: Array
    correlations: Array


def align(x: Array, y: Array, shrinkage: float) -> Alignment:
    r"""Regularised canonical correlation analysis.

    With $W_x = (\Sigma_x + \lambda \bar\sigma_x^2 I)^{-1/2}$ and the singular value decomposition
    $W_x \Sigma_{xy} W_y = U S V^\top$ the weights are $a = W_x U$ and $b = W_y V$.

    Args:
        x: Centred samples, (time, feature).
        y: Centred samples of the same times, (time, feature).
        shrinkage: $\lambda$, > 0, in units of the mean variance.

    Returns:
        As many variates as the narrower set has features.

    References:
        Vinod, H. D. (1976). Canonical ridge and econometrics of joint production. Journal of
        Econometrics 4, 147-166. https://doi.org/10.1016/0304-4076(76)90010-5
    """
    whiten_x, whiten_y = _whitening(x, shrinkage), _whitening(y, shrinkage)
    u, s, vt = np.linalg.svd(whiten_x @ (x.T @ y / len(x)) @ whiten_y, full_matrices=False)
    return Alignment(whiten_x @ u, whiten_y @ vt.T, s)


def canonical_transfer(src: Session, tgt: Session) -> Array:
    """Decode the test blocks of `tgt` by a ridge regression that was fitted on aligned `src`.

    Both inputs are aligned on the training blocks. The regression reads the variates of the source
    there; at the test blocks it reads those that the target predicts, each times its correlation,
    which is what the target says of the source's variate. The validation blocks choose the
    shrinkage.

    Args:
        src: Session with the source's inputs.
        tgt: The same recording with the target's inputs.

    Returns:
        Decoded targets of all samples of the test blocks, (time, dim).
    """
    x, y = _lagged(src), _lagged(tgt)
    train = src.blocks.train
    stacked = [np.concatenate([z[block] for block in train]) for z in (x, y)]
    centre_x, centre_y = (z.mean(axis=0) for z in stacked)
    known = tgt.scored()
    targets = np.asarray(tgt.targets, dtype=np.float64)

    def read(shrinkage: float, blocks: tuple[slice, ...]) -> Array:
        found = align(stacked[0] - centre_x, stacked[1] - centre_y, shrinkage)
        rows = [np.arange(b.start, b.stop)[known[b]] for b in train]
        head = RidgeDecoder().fit(
            [(x[r] - centre_x) @ found.a for r in rows if len(r)],
            [targets[r] for r in rows if len(r)],
        )
        seen = np.concatenate([(y[b] - centre_y) @ found.b for b in blocks])
        return head.predict(seen * found.correlations)

    held = tgt.blocks.validation or train
    kept = np.concatenate([known[block] for block in held])
    truth = np.concatenate([targets[block] for block in held])[kept]
    scores = [r2_score(truth, read(s, held)[kept]) for s in _SHRINKAGE]
    return read(_SHRINKAGE[int(np.argmax(scores))], tgt.blocks.test)


def _lagged(session: Session) -> Array:
    """All inputs with their recent past, z-scored by the training blocks, (time, feature)."""
    x = np.concatenate(list(session.inputs.values()), axis=1).astype(np.float64)
    train = np.concatenate([x[block] for block in session.blocks.train])
    deviation = train.std(axis=0)
    z = (x - train.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    n_lags = max(round(_LAGS_S * session.rate), 1)
    rows = np.zeros((len(x), n_lags * x.shape[1]))
    # Block by block: no lag reaches over a border.
    for _, blocks in session.blocks:
        for block in blocks:
            rows[block] = lag_matrix(z[block], n_lags)
    return rows


def _whitening(x: Array, shrinkage: float) -> Array:
    covariance = x.T @ x / len(x)
    values, vectors = np.linalg.eigh(covariance)
    damped = np.maximum(values, 0.0) + shrinkage * max(float(values.mean()), 1e-12)
    return np.asarray((vectors / np.sqrt(damped)) @ vectors.T)
