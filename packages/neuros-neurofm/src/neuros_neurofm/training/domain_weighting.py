"""Train on a mixture of domains other than the one that the data happen to be."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Generator, Tensor
from torch.utils.data import Sampler

from neuros_neurofm.training._domain_weights import (
    Indices,
    Names,
    Shares,
    Weights,
    cells_of,
    check_same,
    names_of,
    places,
    read_simplex,
)

__all__ = ["DomainWeightedLoss", "DomainWeightedSampler", "domain_weighted_loss"]


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

    With `class_ids` the weights are those of (domain, class), and it draws uniformly inside those.
    The epoch is drawn at once and dealt to the processes in turn: for the same generator the
    processes together see what one process would see alone, and no position twice.

    Args:
        domain_ids: Domain of every sample, (sample,): integers that index `weights`, or names
            where `weights` has names.
        weights: `SourceWeights`, or (domain,) numbers on the simplex; with `class_ids`
            `ClassSourceWeights`, or the (domain, class) joint.
        num_samples: Draws per epoch over all processes; a multiple of `world_size`.
        generator: Where the randomness comes from; equal in every process.
        replacement: False draws every sample of a domain once before any of them again.
        rank: This process.
        world_size: Number of processes.
        class_ids: Class of every sample, (sample,): indices or names of the classes.

    Attributes:
        weights: Those that the running epoch is drawn with, (domain,) or (domain, class).

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
        class_ids: ArrayLike | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size = {world_size}), got {rank}")
        if num_samples < 1 or num_samples % world_size:
            raise ValueError(
                f"num_samples must be a positive multiple of world_size = {world_size}, "
                f"got {num_samples}"
            )
        self.weights = read_simplex("weights", weights)
        self.names = names_of(weights)
        cells = cells_of(domain_ids, class_ids, weights, self.weights.shape)
        self._members = [
            torch.from_numpy(np.flatnonzero(cells == k)) for k in range(self.weights.size)
        ]
        self._next_weights = self._drawable(self.weights)
        self.num_samples = num_samples
        self.generator = generator
        self.replacement = replacement
        self.rank = rank
        self.world_size = world_size
        self._seed = generator.initial_seed()
        self._epoch: int | None = None
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
        else:
            self.weights = self._next_weights
            self._begin_epoch()
        self._start = self.generator.get_state()
        mine = self._draw()[self.rank :: self.world_size].tolist()
        for position in range(begin, len(mine)):
            self._position = position + 1
            yield mine[position]
        self._position = 0

    def set_weights(self, weights: Weights) -> None:
        """Draw with other weights from the next epoch on, such as those of a curriculum.

        Args:
            weights: For the same domains, and classes, in the same order.

        Raises:
            ValueError: Weights off the simplex or of other domains, or a domain with a positive
                weight and no sample.
        """
        w = read_simplex("weights", weights)
        check_same("weights", w, names_of(weights), self.weights, self.names)
        self._next_weights = self._drawable(w)

    def set_epoch(self, epoch: int) -> None:
        """Draw the next epoch from the generator's first seed and this number alone.

        A trainer that calls it resumes at the end of an epoch without a state of the sampler.

        Args:
            epoch: Counted from 0.
        """
        self._epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch, its weights and the random state it began with."""
        running = self._position > 0
        return {
            "position": self._position,
            "generator": self._start if running else self.generator.get_state(),
            "weights": (self.weights if running else self._next_weights).tolist(),
            "next_weights": self._next_weights.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; the next iteration yields the rest of that epoch.

        Args:
            state: What `state_dict` returned, in this or another process.

        Raises:
            ValueError: The state has weights for other domains.
        """
        weights, following = (np.array(state[key]) for key in ("weights", "next_weights"))
        check_same("the state", weights, (None, None), self.weights, self.names)
        self.weights, self._next_weights = weights, following
        self._position = self._begin = state["position"]
        self._start = state["generator"]
        self.generator.set_state(self._start)

    def _begin_epoch(self) -> None:
        if self._epoch is None:
            return
        mixed = np.random.SeedSequence([self._seed, self._epoch]).generate_state(1, np.uint64)
        self.generator.manual_seed(int(mixed[0]) >> 1)
        # An epoch that nobody announces draws on from here.
        self._epoch = None

    def _drawable(self, w: Shares) -> Shares:
        """Refuse weights on domains without a sample."""
        empty = [
            np.unravel_index(k, w.shape)
            for k, share in enumerate(w.ravel())
            if share > 0 and not len(self._members[k])
        ]
        if empty:
            raise ValueError(
                f"{places(empty, w)} have a positive weight but no sample; "
                "give them weight 0 or data"
            )
        return w

    def _draw(self) -> Tensor:
        shares = torch.from_numpy(self.weights.ravel())
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
    weights: Weights,
    *,
    sampling: Weights | None = None,
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
    w = read_simplex("weights", weights)
    cells = cells_of(domain_ids, class_ids, weights, w.shape)
    if len(cells) != len(per_sample_loss):
        raise ValueError(f"got {len(per_sample_loss)} losses and {len(cells)} domain ids")
    q = _sampling_share(w, names_of(weights), cells, sampling, sampler)
    factor = _importance(w, q)
    device = per_sample_loss.device
    ratios = torch.from_numpy(factor[cells]).to(device, per_sample_loss.dtype)
    per_domain = _domain_means(
        per_sample_loss.detach(),
        torch.from_numpy(cells // (w.size // w.shape[0])).to(device),
        w.shape[0],
    )
    return DomainWeightedLoss((ratios * per_sample_loss).mean(), per_domain)


def _sampling_share(
    w: Shares,
    names: Names,
    cells: Indices,
    sampling: Weights | None,
    sampler: DomainWeightedSampler | None,
) -> Shares:
    q = None if sampling is None else read_simplex("sampling", sampling)
    if q is not None:
        check_same("sampling", q, names_of(sampling), w, names)
    if sampler is not None:
        check_same("the sampler", sampler.weights, sampler.names, w, names)
        if q is not None and not np.allclose(q, sampler.weights):
            raise ValueError(
                f"the batch was drawn with the sampler's weights {sampler.weights.tolist()}, "
                f"sampling={q.tolist()} would count the weights twice; leave sampling out"
            )
        q = sampler.weights
    if q is None:
        return np.bincount(cells, minlength=w.size).reshape(w.shape) / len(cells)
    return q


def _importance(w: Shares, q: Shares) -> Shares:
    """Ratios w / q of all cells in one row, (cell,)."""
    never = np.argwhere((w > 0) & (q == 0))
    if len(never):
        raise ValueError(
            f"{places(never, w)} have a positive weight but were never drawn; pass the "
            "probabilities of the sampling, or a batch that has them"
        )
    factor = np.zeros_like(w)
    np.divide(w, q, out=factor, where=q > 0)
    return factor.ravel()


def _domain_means(
    losses: Float[Tensor, " sample"], domains: Int[Tensor, " sample"], n_domains: int
) -> Float[Tensor, " domain"]:
    sums = losses.new_zeros(n_domains).index_add_(0, domains, losses)
    counts = losses.new_zeros(n_domains).index_add_(0, domains, torch.ones_like(losses))
    return sums / counts
