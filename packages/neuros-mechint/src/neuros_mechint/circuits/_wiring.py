"""What a circuit graph is made of: sites that write, sites that read, affine maps between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from neuros_mechint.activations import Site

__all__ = ["Affine", "Edge", "Readers", "Term", "Writers"]

Edge: TypeAlias = tuple[str, str]
"""Name of the node that writes, name of the node that reads."""

Term: TypeAlias = tuple[int, "Affine | None", "Affine | None"]
"""Position of a group of writers, and the maps that lead from it to a reader."""


@dataclass(frozen=True, eq=False)
class Affine:
    """Affine map of the last dimension, with the numbers that its module holds at the moment."""

    source: nn.Module | Tensor

    def matrix(self) -> Float[Tensor, "out in"]:
        """Return the linear part."""
        if isinstance(self.source, Tensor):
            return self.source
        weight = cast("Tensor", self.source.weight).detach()
        # GPT-2's Conv1D keeps its weight as (in, out).
        return weight.mT if type(self.source).__name__ == "Conv1D" else weight

    def offset(self) -> Tensor | None:
        """Return the constant part."""
        bias = None if isinstance(self.source, Tensor) else self.source.bias
        return None if bias is None else cast("Tensor", bias).detach()


@dataclass(frozen=True, eq=False)
class Writers:
    """Nodes whose values stand side by side, in equal shares, in the last dimension of a site.

    Attributes:
        site: Where the values are.
        nodes: Names in the order of their shares.
        reads: Per node, the reader nodes that it is computed from; none for an input.
    """

    site: Site
    nodes: tuple[str, ...]
    reads: tuple[tuple[str, ...], ...]

    @property
    def are_inputs(self) -> bool:
        """Whether nothing in the graph leads to these nodes."""
        return not any(self.reads)


@dataclass(frozen=True, eq=False)
class Readers:
    r"""Nodes that share, in equal parts, a site with the value $R(\sum_g C_g a_g + c_g) + r$.

    Attributes:
        site: Where the value is.
        nodes: Names in the order of their shares.
        sources: Position of a group of writers -> $C_g$, None for the identity.
        map: $R$, None for the identity.
    """

    site: Site
    nodes: tuple[str, ...]
    sources: Mapping[int, Affine | None] = field(default_factory=dict)
    map: Affine | None = None

    def matrix(self, source: int) -> Tensor | None:
        """Linear map from the values of a group of writers to this site; None is the identity."""
        chain = [step.matrix() for step in (self.map, self.sources[source]) if step is not None]
        return torch.linalg.multi_dot(chain) if len(chain) > 1 else (chain[0] if chain else None)

    def terms(self, written: Mapping[int, Tensor], known: dict[Term, Tensor]) -> list[Tensor]:
        """Summands of the value at the site; the constant of `map` is the last one.

        Args:
            written: Position of a group of writers -> its values.
            known: Summands that another reader has computed, which is added to.

        Returns:
            One tensor per source, and the constant where there is one.
        """
        found = []
        for source, step in self.sources.items():
            term = source, step, self.map
            if term not in known:
                known[term] = _apply_step(self.map, _affine(step, written[source]))
            found.append(known[term])
        offset = None if self.map is None else self.map.offset()
        return found if offset is None else [*found, offset]

    def shift(self, changes: Mapping[int, Tensor], masks: Mapping[int, Tensor]) -> Tensor:
        """Change of the value at the site when the chosen edges carry changed values.

        Args:
            changes: Position of a group of writers -> change of its values, shape (..., n).
            masks: Position of a group of writers -> chosen edges, (readers, writers), boolean.

        Returns:
            Shape (..., m).
        """
        if len(self.nodes) > 1:
            parts = [
                _apply(_masked(self._dense(g, changes[g]), masks[g]), changes[g]) for g in masks
            ]
            return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        total: Tensor | None = None
        for g, mask in masks.items():
            term = _apply_step(self.sources[g], _chosen(changes[g], mask[0]))
            total = term if total is None else total + term
        return _apply_step(self.map, cast("Tensor", total))

    def edge_products(
        self, source: int, n_writers: int, change: Tensor, gradient: Tensor
    ) -> Float[Tensor, "readers writers"]:
        r"""First-order effect of every edge, $\nabla_v M \cdot C_{uv} \Delta_u$ over the rows."""
        width = change.shape[-1]
        flat = change.expand(*gradient.shape[:-1], width).reshape(-1, width)
        slope = gradient.reshape(-1, gradient.shape[-1])
        n_readers = len(self.nodes)
        if n_readers == 1:
            matrix = self.matrix(source)
            pulled = slope if matrix is None else slope @ matrix.to(slope)
            return (pulled * flat).sum(0).reshape(1, n_writers, -1).sum(-1)
        products = self._dense(source, slope) * (slope.mT @ flat)
        return products.reshape(n_readers, -1, n_writers, width // n_writers).sum((1, 3))

    def shares(self, source: int, n_writers: int, change: Tensor) -> Float[Tensor, "writers ..."]:
        """Change of the value at the site that the change of each writer of a group makes."""
        if n_writers == 1:
            return _apply_step(self.map, _apply_step(self.sources[source], change))[None]
        matrix = self._dense(source, change)
        return _by_writer(matrix.reshape(len(matrix), n_writers, -1), change)

    def _dense(self, source: int, like: Tensor) -> Tensor:
        matrix = self.matrix(source)
        return torch.eye(like.shape[-1]).to(like) if matrix is None else matrix.to(like)


def _by_writer(
    matrix: Float[Tensor, "m writers n"], change: Float[Tensor, "*batch writers*n"]
) -> Float[Tensor, "writers *batch m"]:
    parts = change.reshape(*change.shape[:-1], *matrix.shape[1:])
    return torch.stack([parts[..., k, :] @ matrix[:, k].mT for k in range(matrix.shape[1])])


def _apply(matrix: Float[Tensor, "m n"], value: Float[Tensor, "*batch n"]) -> Tensor:
    return value @ matrix.to(value).mT


def _apply_step(step: Affine | None, value: Tensor) -> Tensor:
    return value if step is None else _apply(step.matrix(), value)


def _affine(step: Affine | None, value: Tensor) -> Tensor:
    offset = None if step is None else step.offset()
    changed = _apply_step(step, value)
    return changed if offset is None else changed + offset


def _chosen(
    value: Float[Tensor, "*batch n"], mask: Bool[Tensor, "writers"]
) -> Float[Tensor, "*batch n"]:
    """Values of the chosen writers, zeros for the others."""
    if bool(mask.all()):
        return value
    shares = value.reshape(*value.shape[:-1], len(mask), -1) * mask.to(value)[:, None]
    return shares.reshape(value.shape)


def _masked(
    matrix: Float[Tensor, "m n"], mask: Bool[Tensor, "readers writers"]
) -> Float[Tensor, "m n"]:
    """Map with the blocks of all other edges at zero."""
    m, n = matrix.shape
    blocks = matrix.reshape(mask.shape[0], m // mask.shape[0], mask.shape[1], n // mask.shape[1])
    return (blocks * mask.to(matrix)[:, None, :, None]).reshape(m, n)
