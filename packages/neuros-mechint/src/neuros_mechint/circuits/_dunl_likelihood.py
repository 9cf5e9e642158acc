r"""What a drive says about the activity: three distributions with their natural links.

With $\eta$ the drive and $\mu$ the mean, the negative log-likelihood up to a constant is
$\ell(\eta; y) = A(\eta) - y \eta$, so its slope is $\mu(\eta) - y$ and its curvature $\mu'(\eta)$.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as nnf

from neuros_mechint._arrays import one_of

__all__ = ["Likelihood", "best_baseline", "likelihood_named"]

_NEWTON_STEPS = 12


@dataclass(frozen=True)
class Likelihood:
    r"""A distribution of the activity given the drive.

    Attributes:
        name: gaussian, binomial or poisson.
        mean: The mean $\mu(\eta)$.
        curvature: $\mu'(\eta)$.
        partition: $A(\eta)$.
        steepest: Largest curvature, or None where there is none.
        highest: Largest value the activity may have.
    """

    name: str
    mean: Callable[[Tensor], Tensor]
    curvature: Callable[[Tensor], Tensor]
    partition: Callable[[Tensor], Tensor]
    steepest: float | None
    lowest: float
    highest: float

    def loss(self, drive: Tensor, activity: Tensor) -> Tensor:
        r"""$A(\eta) - y\eta$ of every sample; the gaussian gets its square back.

        Examples:
            >>> likelihood_named("gaussian").loss(torch.tensor(1.0), torch.tensor(3.0))
            tensor(2.)
        """
        found = self.partition(drive) - activity * drive
        return found + activity.square() / 2 if self.name == "gaussian" else found

    def check(self, activity: Tensor) -> None:
        """Refuse activity that the distribution cannot have.

        Raises:
            ValueError: When a value is out of range.
        """
        if bool(((activity < self.lowest) | (activity > self.highest)).any()):
            raise ValueError(
                f"activity of distribution='{self.name}' must lie in "
                f"[{self.lowest:g}, {self.highest:g}], got values from {float(activity.min()):g} "
                f"to {float(activity.max()):g}; distribution='gaussian' takes any"
            )


def _same(drive: Tensor) -> Tensor:
    return drive


def _gaussian_partition(drive: Tensor) -> Tensor:
    return drive.square() / 2


def _binomial_curvature(drive: Tensor) -> Tensor:
    p = drive.sigmoid()
    return p * (1 - p)


_ALL: Mapping[str, Likelihood] = MappingProxyType({
    "gaussian": Likelihood(
        "gaussian", _same, torch.ones_like, _gaussian_partition, 1.0,
        -float("inf"), float("inf"),
    ),
    "binomial": Likelihood(
        "binomial", torch.sigmoid, _binomial_curvature, nnf.softplus, 0.25, 0.0, 1.0
    ),
    "poisson": Likelihood(
        "poisson", torch.exp, torch.exp, torch.exp, None, 0.0, float("inf")
    ),
})  # fmt: skip


def likelihood_named(name: str) -> Likelihood:
    """The distribution of that name.

    Raises:
        ValueError: When there is none.

    Examples:
        >>> likelihood_named("poisson").mean(torch.tensor(0.0))
        tensor(1.)
    """
    one_of("distribution", name, tuple(_ALL))
    return _ALL[name]


def best_baseline(
    likelihood: Likelihood,
    activity: Float[Tensor, "batch group time"],
    drive: Float[Tensor, "batch group time"],
    start: Float[Tensor, "batch group"] | None = None,
) -> tuple[Float[Tensor, "batch group"], Float[Tensor, "batch group"]]:
    r"""The baseline a that makes the activity likeliest, given the rest of the drive.

    It solves $\sum_t \mu(a + \eta_t) = \sum_t y_t$. A trial without a spike (or with one in every
    bin) would put it at infinity; such a sum is taken half a count inside its range. Differentiable
    in activity and drive.

    Args:
        likelihood: Distribution.
        activity: The activity.
        drive: The drive without a baseline.
        start: Where Newton's method starts (binomial only).

    Returns:
        The baseline, and what the sum of activity was raised by: zero but for such trials.

    Examples:
        >>> y = torch.tensor([[[0.0, 1.0, 2.0]]])
        >>> best_baseline(likelihood_named("poisson"), y, torch.zeros_like(y))[0]
        tensor([[0.]])
    """
    n, total = activity.shape[-1], activity.sum(-1)
    if likelihood.name == "gaussian":
        return (total - drive.sum(-1)) / n, torch.zeros_like(total)
    inside = total.clamp(min=0.5, max=n - 0.5 if likelihood.highest == 1 else None)
    if likelihood.name == "poisson":
        return inside.log() - drive.logsumexp(-1), inside - total
    a = _newton_baseline(likelihood, inside.detach(), drive.detach(), start)
    # One more step with a graph gives the value and the derivative of the solution.
    eta = drive + a[..., None]
    slope = likelihood.curvature(eta.detach()).sum(-1).clamp(min=torch.finfo(a.dtype).tiny)
    return a - (likelihood.mean(eta).sum(-1) - inside) / slope, inside - total


def _newton_baseline(
    likelihood: Likelihood, total: Tensor, drive: Tensor, start: Tensor | None
) -> Tensor:
    share = total / drive.shape[-1]
    # The solution lies where all samples would have the drive of the largest or the smallest.
    low, high = (share.logit() - end for end in (drive.amax(-1), drive.amin(-1)))
    a = (low + high) / 2 if start is None else start.detach().clamp(low, high)
    for _ in range(_NEWTON_STEPS):
        eta = drive + a[..., None]
        miss = likelihood.mean(eta).sum(-1) - total
        low, high = torch.where(miss < 0, a, low), torch.where(miss < 0, high, a)
        step = a - miss / likelihood.curvature(eta).sum(-1).clamp(min=1e-12)
        # A step out of the bracket would diverge on the flat ends of the sigmoid.
        a = torch.where((step > low) & (step < high), step, (low + high) / 2)
    return a
