"""Weights of domains without a target: more of what a model could still learn."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core.domains import SourceWeights
from neuros_core.errors import check_finite

__all__: list[str] = []

Array = NDArray[np.float64]


class DoReMiWeights:
    r"""Exponentiated-gradient weights on excess losses, averaged over steps (DoReMi).

    After each step of a small proxy model, $\ln w_k \mathrel{+}= \eta \max(\ell_k -
    \ell_k^{\mathrm{ref}}, 0)$; the weights are normalised, smoothed with $c / K$, and averaged over
    all steps. A domain that a reference model predicts better than the proxy gains weight.

    Args:
        names: The K domains.
        eta: Step size $\eta > 0$, in 1 / loss.
        smoothing: Share c in [0, 1) of the uniform weights.

    Raises:
        ValueError: For repeated names or a setting out of its range.

    Examples:
        >>> doremi = DoReMiWeights(["easy", "hard"], eta=np.log(2), smoothing=0.0)
        >>> doremi.update([1.0, 3.0], [2.0, 2.0]).weights.round(4)
        array([0.3333, 0.6667])
        >>> doremi.average().method
        'doremi'

    References:
        Xie et al. 2023, DoReMi, arXiv:2305.10429, algorithm 1.
    """

    def __init__(self, names: Sequence[str], *, eta: float = 1.0, smoothing: float = 1e-3) -> None:
        uniform = SourceWeights.uniform(names)
        if not 0 < eta < np.inf:
            raise ValueError(f"eta needs a finite number > 0, got {eta!r}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing needs a share in [0, 1), got {smoothing!r}")
        self.names = uniform.names
        self.eta = float(eta)
        self.smoothing = float(smoothing)
        self.steps = 0
        self._current: Array = uniform.weights
        self._sum: Array = np.zeros(len(self.names))

    def __repr__(self) -> str:
        return (
            f"DoReMiWeights({list(self.names)!r}, eta={self.eta!r}, smoothing={self.smoothing!r})"
        )

    def update(self, losses: ArrayLike, reference_losses: ArrayLike) -> SourceWeights:
        """Take one step and return the weights of the next one.

        Args:
            losses: (K,) mean loss of the proxy model on each domain.
            reference_losses: (K,) that of the reference model on the same samples.

        Raises:
            ValueError: For another shape, NaN or infinity.
        """
        values = []
        for name, given in (("losses", losses), ("reference_losses", reference_losses)):
            value = np.asarray(given, dtype=np.float64)
            if value.shape != (len(self.names),):
                raise ValueError(f"{name} needs shape {(len(self.names),)}, got {value.shape}")
            check_finite(name, value)
            values.append(value)
        excess = np.maximum(values[0] - values[1], 0.0)
        # A weight of zero (no smoothing) stays zero; the maximum keeps the exponential finite.
        with np.errstate(divide="ignore"):
            log = np.log(self._current) + self.eta * excess
        raised = np.exp(log - log.max())
        w = raised / raised.sum()
        self._current = (1 - self.smoothing) * w + self.smoothing / len(self.names)
        self._sum = self._sum + self._current
        self.steps += 1
        return self.current()

    def current(self) -> SourceWeights:
        """Return the weights of the next step."""
        return SourceWeights(self.names, self._current, "doremi-step", meta={"steps": self.steps})

    def average(self) -> SourceWeights:
        """Return the mean over all steps, the result of the method; uniform before the first."""
        mean = self._sum / self.steps if self.steps else self._current
        return SourceWeights(self.names, mean / mean.sum(), "doremi", meta={"steps": self.steps})

    def state_dict(self) -> dict[str, object]:
        """Return what `load_state_dict` needs to go on."""
        return {
            "names": list(self.names),
            "steps": self.steps,
            "current": self._current.tolist(),
            "sum": self._sum.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a state of the same domains; a ValueError for other ones."""
        if state["names"] != list(self.names):
            raise ValueError(f"state needs the domains {list(self.names)}, got {state['names']}")
        self.steps = int(str(state["steps"]))
        self._current = np.array(state["current"], dtype=np.float64)
        self._sum = np.array(state["sum"], dtype=np.float64)
