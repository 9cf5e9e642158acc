"""Train on a mixture of domains other than the one that the data happen to be."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Generator, Tensor
from torch.utils.data import Sampler

__all__ = ["DomainWeightedLoss", "DomainWeightedSampler", "domain_weighted_loss"]


@runtime_checkable
class NamedWeights(Protocol):
    """What `neuros_core.domains.SourceWeights` has: names and weights on the simplex."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def weights(self) -> ArrayLike: ...


@runtime_checkable
class JointWeights(Protocol):
    """What `neuros_core.domains.ClassSourceWeights` has: a joint of (domain, class)."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def joint(self) -> ArrayLike: ...


Weights: TypeAlias = NamedWeights | ArrayLike


class DomainWeightedLoss(NamedTuple):
    """The weighted loss and what it was made of.

    Attributes:
        loss: Estimate of the risk of the weighted mixture, shape (), with its gradient.
        per_domain: Detached mean loss of every domain, shape (domain,); NaN for a domain that the
            batch does not have.
    """

    loss: Tensor
    per_domain: Tensor


class DomainWeightedSampler(Sampler[int]):
    """Draw domain k with probability w_k, and uniformly inside it.

    The epoch is drawn at once and dealt to the processes in turn: for the same generator the
    processes together see what one process would see alone, and no position twice.

    Args:
        domain_ids: Domain of every sample, (sample,): integers that index `weights`, or names
            where `weights` has names.
        weights: `SourceWeights`, or (domain,) numbers on the simplex.
        num_samples: Draws per epoch over all processes; a multiple of `world_size`.
        generator: Where the randomness comes from; equal in every process.
        replacement: False draws every sample of a domain once before any of them again.
        rank: This process.
        world_size: Number of processes.

    Raises:
        ValueError: Weights off the simplex, a domain with a positive weight and no sample, a domain
            id without a weight, or counts that do not fit.

    Examples:
        >>> import torch
        >>> sampler = DomainWeightedSampler(
        ...     [0, 0, 0, 1], [0.0, 1.0], num_samples=4, generator=torch.Generator())
        >>> list(sampler)
        [3, 3, 3, 3]
    """

    def __init__(
        self,
        domain_ids: ArrayLike,
        weights: Weights,
        *,
        num_samples: int,
        generator: Generator,
        replacement: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size = {world_size}), got {rank}")
        if num_samples < 1 or num_samples % world_size:
            raise ValueError(
                f"num_samples must be a positive multiple of world_size = {world_size}, "
                f"got {num_samples}"
            )
        self.weights = _simplex("weights", weights)
        ids = _domain_index(domain_ids, weights, len(self.weights))
        self._members = [
            torch.from_numpy(np.flatnonzero(ids == k)) for k in range(len(self.weights))
        ]
        empty = [k for k, w in enumerate(self.weights) if w > 0 and not len(self._members[k])]
        if empty:
            raise ValueError(
                f"domains {empty} have a positive weight but no sample; give them weight 0 or data"
            )
        self.num_samples = num_samples
        self.generator = generator
        self.replacement = replacement
        self.rank = rank
        self.world_size = world_size
        self._start = generator.get_state()
        self._position = 0
        self._begin = 0

    def __len__(self) -> int:
        return self.num_samples // self.world_size

    def __iter__(self) -> Iterator[int]:
        begin, self._begin = self._begin, 0
        if begin:
            # The same epoch again, to go on in it.
            self.generator.set_state(self._start)
        self._start = self.generator.get_state()
        mine = self._draw()[self.rank :: self.world_size].tolist()
        for position in range(begin, len(mine)):
            self._position = position + 1
            yield mine[position]
        self._position = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch and the random state that it began with."""
        start = self._start if self._position else self.generator.get_state()
        return {"position": self._position, "generator": start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; the next iteration yields the rest of that epoch.

        Args:
            state: What `state_dict` returned, in this or another process.
        """
        self._position = self._begin = state["position"]
        self._start = state["generator"]
        self.generator.set_state(self._start)

    def _draw(self) -> Tensor:
        shares = torch.from_numpy(self.weights)
        domains = torch.multinomial(
            shares, self.num_samples, replacement=True, generator=self.generator
        )
        chosen = torch.empty(self.num_samples, dtype=torch.int64)
        for k, members in enumerate(self._members):
            where = (domains == k).nonzero().squeeze(1)
            chosen[where] = members[self._draw_inside(len(members), len(where))]
        return chosen

    def _draw_inside(self, n_members: int, n: int) -> Tensor:
        if n == 0:
            return torch.empty(0, dtype=torch.int64)
        if self.replacement:
            return torch.randint(n_members, (n,), generator=self.generator)
        passes = -(-n // n_members)
        shuffled = [torch.randperm(n_members, generator=self.generator) for _ in range(passes)]
        return torch.cat(shuffled)[:n]


def domain_weighted_loss(
    per_sample_loss: Tensor,
    domain_ids: ArrayLike,
    weights: Weights | JointWeights,
    *,
    sampling: Weights | JointWeights | None = None,
    sampler: DomainWeightedSampler | None = None,
    class_ids: ArrayLike | None = None,
) -> DomainWeightedLoss:
    r"""Estimate the risk of the w-mixture without bias, $\frac1n\sum_i (w_{k_i}/q_{k_i}) \ell_i$.

    q_k is the probability with which the samples were drawn from domain k. With `sampling` None
    it is the share of the domain in `domain_ids`: the estimate is $\sum_k w_k \bar\ell_k$, and
    every domain with a positive weight must occur. With a `sampler` that already draws by weight
    q is the sampler's weights: correcting for the data's shares a second time would count the
    weights twice, and is refused.

    Args:
        per_sample_loss: One loss per sample, (sample,).
        domain_ids: Domain of every sample, (sample,): indices of `weights`, or names.
        weights: `SourceWeights` or (domain,) numbers on the simplex; with `class_ids`
            `ClassSourceWeights`, or the (domain, class) joint.
        sampling: The probabilities that the samples were drawn with, in the same form.
        sampler: The `DomainWeightedSampler` that drew the batch, if one did.
        class_ids: Class of every sample, (sample,): indices or names of the classes.

    Returns:
        The loss, and the mean loss of every domain.

    Raises:
        ValueError: Weights off the simplex, shapes that do not match, an id without a weight, a
            domain with a positive weight that cannot be drawn or is not there, or a `sampling`
            other than the sampler's weights.

    Examples:
        >>> import torch
        >>> result = domain_weighted_loss(torch.tensor([1.0, 1.0, 4.0]), [0, 0, 1], [0.5, 0.5])
        >>> float(result.loss), result.per_domain.tolist()
        (2.5, [1.0, 4.0])
    """
    if per_sample_loss.ndim != 1 or not len(per_sample_loss):
        raise ValueError(
            f"per_sample_loss must be (sample,) with at least one sample, got shape "
            f"{tuple(per_sample_loss.shape)}; do not reduce the loss before"
        )
    w = _simplex("weights", weights)
    if (w.ndim == 2) != (class_ids is not None):
        raise ValueError(
            f"weights with {w.ndim} axes {'need' if w.ndim == 2 else 'have no use for'} class_ids"
        )
    domains = _domain_index(domain_ids, weights, w.shape[0])
    cells = domains
    if class_ids is not None:
        classes = _index("class_ids", class_ids, getattr(weights, "classes", None), w.shape[1])
        cells = domains * w.shape[1] + classes
    if len(cells) != len(per_sample_loss):
        raise ValueError(f"got {len(per_sample_loss)} losses and {len(cells)} domain ids")
    q = _sampling_share(w, cells, sampling, sampler)
    factor = _importance(w.ravel(), q.ravel())
    device = per_sample_loss.device
    ratios = torch.from_numpy(factor[cells]).to(device, per_sample_loss.dtype)
    per_domain = _domain_means(
        per_sample_loss.detach(), torch.from_numpy(domains).to(device), w.shape[0]
    )
    return DomainWeightedLoss((ratios * per_sample_loss).mean(), per_domain)


def _sampling_share(
    w: np.ndarray[Any, np.dtype[np.float64]],
    cells: np.ndarray[Any, np.dtype[np.int64]],
    sampling: Weights | JointWeights | None,
    sampler: DomainWeightedSampler | None,
) -> np.ndarray[Any, np.dtype[np.float64]]:
    q = None if sampling is None else _simplex("sampling", sampling)
    if sampler is not None:
        if q is not None and (
            q.shape != sampler.weights.shape or not np.allclose(q, sampler.weights)
        ):
            raise ValueError(
                f"the batch was drawn with the sampler's weights {sampler.weights.tolist()}, "
                f"sampling={q.tolist()} would count the weights twice; leave sampling out"
            )
        q = sampler.weights
    if q is None:
        return np.bincount(cells, minlength=w.size).reshape(w.shape) / len(cells)
    if q.shape != w.shape:
        raise ValueError(
            f"sampling has shape {q.shape}, weights have {w.shape}; they must be equal"
        )
    return q


def _importance(
    w: np.ndarray[Any, np.dtype[np.float64]], q: np.ndarray[Any, np.dtype[np.float64]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    never = np.flatnonzero((w > 0) & (q == 0))
    if len(never):
        raise ValueError(
            f"domains {never.tolist()} have a positive weight but were never drawn; pass the "
            "probabilities of the sampling, or a batch that has them"
        )
    factor = np.zeros_like(w)
    np.divide(w, q, out=factor, where=q > 0)
    return factor


def _domain_means(
    losses: Float[Tensor, " sample"], domains: Int[Tensor, " sample"], n_domains: int
) -> Float[Tensor, " domain"]:
    sums = losses.new_zeros(n_domains).index_add_(0, domains, losses)
    counts = losses.new_zeros(n_domains).index_add_(0, domains, torch.ones_like(losses))
    return sums / counts


def _simplex(name: str, weights: Weights | JointWeights) -> np.ndarray[Any, np.dtype[np.float64]]:
    values = weights
    if isinstance(weights, JointWeights):
        values = weights.joint
    elif isinstance(weights, NamedWeights):
        values = weights.weights
    w = np.array(values, dtype=np.float64)
    if w.ndim not in (1, 2) or not w.size:
        raise ValueError(f"{name} must be (domain,) or (domain, class), got shape {w.shape}")
    if not (np.isfinite(w).all() and (w >= 0).all() and abs(w.sum() - 1.0) <= 1e-6):
        raise ValueError(
            f"{name} must be finite, >= 0 and sum to 1 within 1e-6, got {w.tolist()} "
            f"with sum {w.sum()}"
        )
    return w


def _domain_index(
    ids: ArrayLike, weights: Weights | JointWeights, n: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    return _index("domain_ids", ids, getattr(weights, "names", None), n)


def _index(
    name: str, ids: ArrayLike, names: Sequence[str] | None, n: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"{name} must be (sample,), got shape {array.shape}")
    if array.dtype.kind in "US" and names is not None:
        place = {str(key): k for k, key in enumerate(names)}
        unknown = sorted({str(key) for key in array} - place.keys())
        if unknown:
            raise ValueError(f"{name} {unknown} have no weight; known are {list(place)}")
        return np.array([place[str(key)] for key in array], dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, or names where the weights have names")
    if array.size and not 0 <= array.min() <= array.max() < n:
        raise ValueError(
            f"{name} must lie in [0, {n}), got [{array.min()}, {array.max()}]; "
            "give every domain a weight"
        )
    return array.astype(np.int64)
