"""How far estimated source weights can be trusted, and what is done when they cannot."""

import warnings
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from neuros_core.domains import SourceWeights

__all__: list[str] = []

# A whole number is a float to readers and to mypy, but not to a checker at run time.
Number: TypeAlias = int | float

# Weights that no mixture supports go half of the way: without a model of what else the target is,
# neither the estimate nor equal shares is preferred.
_TRUST_OUT_OF_HULL = 0.5
# Shrinking by less than this changes the squared error by less than a hundredth.
_NARROW = 0.9
# Half of a 95 % interval of a normal estimate, in standard errors.
_HALF_WIDTH = 1.96


def guard_weights(weights: SourceWeights, *, trust: Number | None = None) -> SourceWeights:
    r"""Shrink weights towards uniform as far as their own diagnosis asks for it.

    Returns $(1 - \tau) / K + \tau w$. Without `trust`, $\tau$ is the smaller of two:

    - 1/2 where `diagnosis.in_hull` is False: no mixture of the sources explains the target;
    - $\max(0, 1 - \sum_k s_k^2 / \|w - 1/K\|^2)$ with the standard errors $s_k$ (or a quarter of
      the 95 % interval), the shrinkage of least squared error, where it is below 0.9: what the
      weights say beyond "equal shares" is not far above their noise.

    One warning names what was found. It guards against negative transfer: training on weights that
    the data do not support can be worse than training on equal shares.

    Args:
        weights: Estimated weights, with what their weigher knows about them.
        trust: $\tau$ in [0, 1] to decide yourself, without a warning; 1 leaves the weights alone.

    Returns:
        The same object where nothing is to be done; otherwise weights with the trust in `meta`,
        and without the diagnosis, which is not theirs.

    Raises:
        TypeError: `weights` are no `SourceWeights`.
        ValueError: `trust` is outside [0, 1].

    Examples:
        >>> from neuros_core.domains import SourceWeights
        >>> sure = SourceWeights(("a", "b"), [1.0, 0.0], "example", stderr=[0.01, 0.01])
        >>> guard_weights(sure) is sure
        True
        >>> guard_weights(sure, trust=0.5).as_dict()
        {'a': 0.75, 'b': 0.25}

    References:
        Efron & Morris 1973, Journal of the American Statistical Association,
        doi:10.1080/01621459.1973.10481350 (shrinkage towards a common value).
    """
    return guard(weights, trust, stacklevel=3)


def guard(weights: SourceWeights, trust: Number | None, *, stacklevel: int) -> SourceWeights:
    """Guard weights; `stacklevel` places the warning at the caller of a public name."""
    if not isinstance(weights, SourceWeights):
        raise TypeError(
            f"weights must be neuros_core.domains.SourceWeights, got {type(weights).__name__}; "
            'wrap numbers as SourceWeights(names, numbers, "by hand")'
        )
    if trust is None:
        trust, reasons = _assess(weights)
        if reasons:
            warnings.warn(
                f"source weights are shrunk towards uniform with trust {trust:.2f}: "
                f"{'; '.join(reasons)}. Pass trust=1 to use them as they are",
                UserWarning,
                stacklevel=stacklevel,
            )
    if not 0 <= trust <= 1:
        raise ValueError(f"trust must lie in [0, 1], got {trust}")
    if trust == 1:
        return weights
    mixed = SourceWeights.uniform(weights.names).mix(weights, trust)
    return replace(mixed, meta={"trust": float(trust)})


def _assess(weights: SourceWeights) -> tuple[float, list[str]]:
    """Trust in [0, 1], and why it is below 1."""
    trust, reasons = 1.0, []
    diagnosis = weights.diagnosis
    if diagnosis is not None and diagnosis.in_hull is False:
        trust = _TRUST_OUT_OF_HULL
        p = "" if diagnosis.p_value is None else f" (p = {diagnosis.p_value:.2g})"
        reasons.append(f"in_hull is False, no mixture of the sources explains the target{p}")
    supported = _supported_share(weights)
    if supported < _NARROW:
        trust = min(trust, supported)
        reasons.append(
            "the intervals are wide, noise accounts for "
            f"{min(1 - supported, 1):.0%} of the distance from equal shares"
        )
    return trust, reasons


def _supported_share(weights: SourceWeights) -> float:
    """Share of the squared distance from uniform that the noise does not explain."""
    if weights.stderr is not None:
        noise = float(np.square(weights.stderr).sum())
    elif weights.interval is not None:
        widths = weights.interval[:, 1] - weights.interval[:, 0]
        noise = float(np.square(widths / (2 * _HALF_WIDTH)).sum())
    else:
        return 1.0
    distance = float(np.square(weights.weights - 1 / len(weights.names)).sum())
    # Equal shares stay equal however much they are shrunk.
    return max(0.0, 1 - noise / distance) if distance > 0 else 1.0
