"""Circuit graph of a model with a residual stream: heads, MLPs and mixers write into one sum."""

from torch import nn

from neuros_mechint.activations import Site
from neuros_mechint.circuits._graph_model import CircuitGraph
from neuros_mechint.circuits._wiring import Affine, Readers, Writers
from neuros_mechint.interventions._structure import (
    Kind,
    blocks,
    input_projections,
    n_heads,
    output_projection,
    parts,
)

__all__ = ["residual_graph"]


def residual_graph(model: nn.Module, *, heads: bool = True) -> CircuitGraph:
    """Graph of what the parts of a residual model write into the stream and read from it.

    Writers are `"embedding"` (what enters the first block), every head's share of its attention's
    output projection, called `"{attention}:{head}"`, and the outputs of MLPs and mixers, called by
    their paths. Readers are the inputs of the norms, called by the paths of the norms, up to the
    final norm; the heads of one attention share the norm before it. Attention without a norm, with
    separate query, key and value maps, is read head by head: `"{map}:{head}"`.

    Args:
        model: Blocks in a `ModuleList` or `Sequential`, which add to the stream.
        heads: Whether every head is a node; needs the number of heads in the model's configuration
            or as an attribute.

    Returns:
        The graph. Its `verify` tells whether the model is built as assumed.

    Raises:
        ValueError: When blocks, attention or MLP are not found, the number of heads is not known,
            or norms and parts of a block cannot be paired.

    Examples:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.norm, self.mlp = nn.LayerNorm(2), nn.Sequential(nn.Linear(2, 2))
        ...
        ...     def forward(self, x):
        ...         return x + self.mlp(self.norm(x))
        >>> graph = residual_graph(nn.Sequential(Block(), Block()))
        >>> graph.nodes
        ('embedding', '0.norm', '0.mlp', '1.norm', '1.mlp', '1')
        >>> graph.edges[-3:]
        (('embedding', '1'), ('0.mlp', '1'), ('1.mlp', '1'))
    """
    return _Assembly(model, heads=heads).build()


class _Assembly:
    """Collects writers and readers in the order in which the stream meets them."""

    def __init__(self, model: nn.Module, *, heads: bool) -> None:
        self.model = model
        self.roots = blocks(model)
        self.attention, self.mlp = self._parts("attention"), self._parts("mlp")
        if not self.attention and not self.mlp:
            raise ValueError(
                f"no attention, mixer or MLP in the blocks of {type(model).__name__}, which begin "
                f"with '{self.roots[0]}'; state the structure with site_graph"
            )
        self.norms = self._parts("norm")
        self.n_heads = n_heads(model) if heads and self.attention else None
        if heads and self.attention and self.n_heads is None:
            raise ValueError(
                f"the number of heads of {type(model).__name__} is not known from its config or "
                "attributes; take residual_graph(model, heads=False)"
            )
        self.writers: list[Writers] = []
        self.readers: list[Readers] = []
        self.stream: dict[int, Affine | None] = {}

    def build(self) -> CircuitGraph:
        self._write(Site(self.roots[0], io="input"), ("embedding",), ((),), None)
        for root in self.roots:
            self._add_block(root)
        self._add_end()
        return CircuitGraph(self.writers, self.readers, model=self.model)

    def _parts(self, kind: Kind) -> list[str]:
        try:
            return parts(self.model, kind)
        except ValueError:
            return []

    def _add_block(self, root: str) -> None:
        inside = [_join(root, name) for name, _ in self.model.get_submodule(root).named_modules()]
        found = [name for name in inside if name in self.attention or name in self.mlp]
        norms = [name for name in inside if name in self.norms]
        if len(norms) not in {0, 1, len(found)}:
            raise ValueError(
                f"block '{root}' has the norms {norms} and the parts {found}, which cannot be "
                "paired; state the structure with site_graph"
            )
        # One norm before several parts: these run side by side, and their writers come after it.
        if len(norms) == 1:
            self._read(Site(norms[0], io="input"), (norms[0],))
        for k, name in enumerate(found):
            if len(norms) > 1:
                self._read(Site(norms[k], io="input"), (norms[k],))
            reads = norms[min(k, len(norms) - 1)] if norms else None
            if name in self.attention and self.n_heads is not None:
                self._add_heads(name, reads, self.n_heads)
            else:
                self._add_whole(name, reads)

    def _add_whole(self, name: str, reads: str | None) -> None:
        if reads is None:
            reads = f"{name}:in"
            self._read(Site(name, io="input"), (reads,))
        self._write(Site(name), (name,), ((reads,),), None)

    def _add_heads(self, name: str, reads: str | None, count: int) -> None:
        projection = output_projection(self.model, name)
        share = Affine(self.model.get_submodule(projection))
        of_head: tuple[tuple[str, ...], ...]
        if reads is not None:
            of_head = ((reads,),) * count
        else:
            of_head = self._read_heads(name, count, share.matrix().shape[1] // count)
        nodes = tuple(f"{name}:{h}" for h in range(count))
        self._write(Site(projection, io="input"), nodes, of_head, share)

    def _read_heads(self, name: str, count: int, width: int) -> tuple[tuple[str, ...], ...]:
        """Readers of an attention without a norm; what each head reads."""
        maps = input_projections(self.model, name)
        if len(maps) != 3:
            # How one map of queries, keys and values is divided cannot be told from outside.
            self._read(Site(name, io="input"), (f"{name}:in",))
            return ((f"{name}:in",),) * count
        of_head: list[list[str]] = [[] for _ in range(count)]
        for path in maps:
            step = Affine(self.model.get_submodule(path))
            nodes = tuple(f"{path}:{j}" for j in range(step.matrix().shape[0] // width))
            self._read(Site(path), nodes, step)
            for h, names in enumerate(of_head):
                # With fewer keys than queries, neighbouring heads share one.
                names.append(nodes[h * len(nodes) // count])
        return tuple(map(tuple, of_head))

    def _add_end(self) -> None:
        final, unembedding = self._parts("final_norm"), self._parts("unembedding")
        if final or unembedding:
            end = (final or unembedding)[0]
            self._read(Site(end, io="input"), (end,))
        else:
            self._read(Site(self.roots[-1]), (self.roots[-1],))

    def _write(
        self,
        site: Site,
        nodes: tuple[str, ...],
        reads: tuple[tuple[str, ...], ...],
        share: Affine | None,
    ) -> None:
        self.stream[len(self.writers)] = share
        self.writers.append(Writers(site, nodes, reads))

    def _read(self, site: Site, nodes: tuple[str, ...], step: Affine | None = None) -> None:
        self.readers.append(Readers(site, nodes, dict(self.stream), step))


def _join(root: str, name: str) -> str:
    return f"{root}.{name}" if root and name else root or name
