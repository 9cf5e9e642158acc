"""The nearest input with another outcome; mediation and structural models under one roof."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from neuros_mechint.activations._container import first_tensor
from neuros_mechint.activations._state import preserved
from neuros_mechint.interventions._projection import project
from neuros_mechint.interventions.mediation import CausalMediation, Effects
from neuros_mechint.interventions.structural import StructuralCausalModel

__all__ = [
    "CausalMediation",
    "Counterfactual",
    "CounterfactualSearch",
    "Effects",
    "StructuralCausalModel",
]

Bound = float | Tensor


class Counterfactual(NamedTuple):
    """Inputs with another outcome.

    Attributes:
        x: The changed inputs, shape (batch, ...).
        delta: Change of each input, same shape.
        valid: Whether the model gives each the target, shape (batch,).
    """

    x: Tensor
    delta: Tensor
    valid: Tensor


class CounterfactualSearch:
    r"""Smallest change of an input that makes a classifier say something else.

    Minimises $\frac{1}{2} \lVert \delta \rVert_2^2 + \lambda \lVert \delta \rVert_1$ subject to
    $z_{target}(x + \delta) > z_c(x + \delta)$ for every other class c, and to the box. Each step
    replaces the logits by their tangent at the current point and solves that problem by its dual,
    so a linear classifier is done in one; the result is then drawn back along its line to the
    boundary.

    Args:
        model: Gives logits, shape (batch, class), or one logit, shape (batch,) or (batch, 1), whose
            positive side is class 1. Used in the mode it is in.
        n_rivals: How many of the strongest other classes each step looks at.

    Raises:
        ValueError: When `n_rivals` is not positive.

    Examples:
        >>> net = nn.Linear(2, 1)
        >>> with torch.no_grad():
        ...     _ = net.weight.copy_(torch.tensor([[3.0, 4.0]])), net.bias.fill_(-5.0)
        >>> found = CounterfactualSearch(net).find(torch.zeros(1, 2), 1)
        >>> found.valid, round(float(found.delta.norm()), 3)
        (tensor([True]), 1.0)

    References:
        Wachter, S., Mittelstadt, B. & Russell, C. (2018). Counterfactual explanations without
        opening the black box. Harvard Journal of Law & Technology 31, 841-887.
        doi:10.48550/arXiv.1711.00399

        Moosavi-Dezfooli, S.-M., Fawzi, A. & Frossard, P. (2016). DeepFool. CVPR, 2574-2582.
        doi:10.1109/CVPR.2016.282
    """

    def __init__(self, model: nn.Module, *, n_rivals: int = 10) -> None:
        if n_rivals < 1:
            raise ValueError(f"n_rivals needs at least 1 class, got {n_rivals}")
        self.model = model
        self.n_rivals = n_rivals

    def __repr__(self) -> str:
        return f"CounterfactualSearch({type(self.model).__name__}, n_rivals={self.n_rivals})"

    def find(
        self,
        x: Tensor,
        target: int | Tensor,
        *,
        max_steps: int = 50,
        l1: float = 0.0,
        box: tuple[Bound, Bound] | None = None,
    ) -> Counterfactual:
        r"""Search from every row of a batch.

        Args:
            x: Inputs, shape (batch, ...), floating point.
            target: Class wanted, one for all rows or shape (batch,).
            max_steps: Most linearisations.
            l1: Weight $\lambda$ of the sum of absolute changes; larger values change fewer entries.
            box: Lowest and highest value of an entry: numbers, or tensors that broadcast to x.

        Returns:
            For rows that already have the target: no change. For rows where the search did not
            arrive: the last point, with `valid` False.

        Raises:
            TypeError: When x is not floating point.
            ValueError: When x lies outside the box, `target` is no class, `l1` is negative,
                `max_steps` is not positive, or the model gives no logits.

        Examples:
            >>> net = nn.Linear(2, 2, bias=False)
            >>> _ = nn.init.eye_(net.weight)
            >>> x = torch.tensor([[0.0, 2.0]])
            >>> found = CounterfactualSearch(net).find(x, 0, box=(0.0, 2.0))
            >>> [round(v, 2) for v in found.x[0].tolist()]
            [1.0, 1.0]
        """
        if not x.is_floating_point() or x.ndim < 1:
            raise TypeError(f"x needs floating-point inputs (batch, ...), got {x.dtype}")
        if max_steps < 1 or not 0 <= l1 < math.inf:
            raise ValueError(f"max_steps >= 1 and l1 >= 0 are needed, got {max_steps} and {l1}")
        start = x.detach()
        low, high = _bounds(start, box)
        with preserved(self.model):
            wanted = self._wanted(start, target)
            best = self._descend(start, wanted, low, high, max_steps=max_steps, l1=l1)
            valid = self._margin(best, wanted) > 0
            best = self._draw_back(start, best, wanted, valid)
        return Counterfactual(best, best - start, valid)

    def _descend(
        self, start: Tensor, wanted: Tensor, low: Tensor, high: Tensor, *, max_steps: int, l1: float
    ) -> Tensor:
        """Repeat the tangent problem; keep the cheapest valid point of each row."""
        best = current = start
        done = self._margin(start, wanted) > 0
        price = torch.where(done, 0.0, math.inf).to(start)
        share = torch.ones_like(price)
        for _ in range(max_steps):
            margins, slopes = self._tangent(current, wanted)
            # What the tangent at `current` says about a step from `start`.
            moved = (current - start).flatten(1)
            needed = _overshoot(margins) - margins + (slopes @ moved[..., None])[..., 0]
            box = ((bound - start).flatten(1) for bound in (low, high))
            aim = start + project(slopes, needed, l1, *box).view_as(start)
            point = torch.lerp(current, aim, _rows(share, start))
            margin, cost = self._margin(point, wanted), _price(point - start, l1)
            better = (margin > 0) & (cost < price)
            best = torch.where(_rows(better, start), point, best)
            price = torch.where(better, cost, price)
            # A step that comes no nearer is too long for its tangent: half of it is tried.
            here = margins.amin(-1)
            stuck = (here <= 0) & (margin <= here)
            gap = (aim - current).flatten(1).norm(dim=-1)
            settled = gap <= 2e-4 * (aim - start).flatten(1).norm(dim=-1)
            share = torch.where(stuck, share / 2, (2 * share).clamp(max=1.0))
            current = torch.where(_rows(stuck, start), current, point)
            if bool((done | settled | (share < 1e-3)).all()):
                break
        return torch.where(_rows(price == math.inf, start), current, best)

    def _draw_back(self, start: Tensor, point: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
        """Bisect between the start and the point; the far end stays valid all the time."""
        near = torch.zeros(valid.shape, dtype=start.dtype, device=start.device)
        far = torch.where(self._margin(start, wanted) > 0, near, torch.ones_like(near))
        for _ in range(30):
            middle = (near + far) / 2
            inside = self._margin(torch.lerp(start, point, _rows(middle, start)), wanted) > 0
            near, far = torch.where(inside, near, middle), torch.where(inside, middle, far)
        drawn = torch.lerp(start, point, _rows(far, start))
        keep = valid & (self._margin(drawn, wanted) > 0)
        return torch.where(_rows(keep, start), drawn, point)

    def _logits(self, x: Tensor) -> Tensor:
        logits = first_tensor(self.model(x))
        if logits.ndim == 2 and logits.shape[1] == 1:
            logits = logits[:, 0]
        if logits.ndim == 1:
            logits = torch.stack([torch.zeros_like(logits), logits], dim=-1)
        if logits.ndim != 2 or len(logits) != len(x):
            raise ValueError(
                f"the model needs to return logits (batch, class), got {tuple(logits.shape)} for "
                f"{len(x)} rows"
            )
        return logits

    def _wanted(self, x: Tensor, target: int | Tensor) -> Tensor:
        with torch.no_grad():
            n_classes = self._logits(x).shape[1]
        wanted = torch.as_tensor(target, device=x.device)
        if wanted.is_floating_point() or wanted.shape not in {(), x.shape[:1]}:
            raise ValueError(
                f"target needs a class or one per row, got {wanted.dtype} {tuple(wanted.shape)}"
            )
        if bool(((wanted < 0) | (wanted >= n_classes)).any()):
            raise ValueError(f"target needs classes from 0 to {n_classes - 1}, got {target}")
        return wanted.expand(x.shape[:1])

    def _margin(self, x: Tensor, wanted: Tensor) -> Tensor:
        """Lead of the target over the strongest other class; a tie is none."""
        with torch.no_grad():
            own, others = _split(self._logits(x), wanted)
            return own - others.amax(-1)

    def _tangent(self, x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Margins to the strongest rivals, shape (batch, rival), and their gradients."""
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            own, others = _split(self._logits(leaf), wanted)
            margins = own[:, None] - others.topk(min(self.n_rivals, others.shape[1] - 1)).values
            slopes = [
                torch.autograd.grad(margin.sum(), leaf, retain_graph=True)[0].flatten(1)
                for margin in margins.unbind(1)
            ]
        return margins.detach(), torch.stack(slopes, dim=1)


def _split(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Logit of the target, and all logits with that one out of the race."""
    own = logits.gather(1, wanted[:, None])[:, 0]
    return own, logits.scatter(1, wanted[:, None], -math.inf)


def _overshoot(margins: Tensor) -> Tensor:
    # A point on the boundary is a tie: the tangent problem aims a little beyond it.
    return 1e-4 * margins.abs().amax(-1, keepdim=True)


def _price(delta: Tensor, l1: float) -> Tensor:
    flat = delta.flatten(1)
    return flat.square().sum(-1) / 2 + l1 * flat.abs().sum(-1)


def _rows(per_row: Tensor, like: Tensor) -> Tensor:
    return per_row.reshape(-1, *[1] * (like.ndim - 1))


def _bounds(x: Tensor, box: tuple[Bound, Bound] | None) -> tuple[Tensor, Tensor]:
    low, high = (torch.as_tensor(b).to(x).expand_as(x) for b in box or (-math.inf, math.inf))
    if not bool(((low <= x) & (x <= high)).all()):
        raise ValueError("x needs to lie inside the box; clamp it first or widen the box")
    return low, high
