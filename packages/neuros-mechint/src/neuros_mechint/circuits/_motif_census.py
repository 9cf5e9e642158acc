"""Counts of the kinds of three and four nodes in directed graphs, by dense products."""

import itertools
from functools import cache

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

__all__ = ["NAMES", "canonical_codes", "sampled_census", "signed_census", "triad_census"]

NAMES = (
    "003", "012", "102", "021D", "021U", "021C", "111D", "111U",
    "030T", "030C", "201", "120D", "120U", "120C", "210", "300",
)  # fmt: skip
# Order of the rows that the counts below are written in.
_ASYMMETRIC_DYADS = (0, 1, 0, 2, 2, 2, 1, 1, 3, 3, 0, 2, 2, 2, 1, 0)
_MUTUAL_DYADS = (0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 2, 1, 1, 1, 2, 3)


def triad_census(adjacency: Bool[Tensor, "graph node node"]) -> Float64[Tensor, "graph 16"]:
    r"""Number of triads of each kind, in the order of `NAMES`.

    With $M$ the mutual and $A$ the asymmetric edges, the triads that are closed follow from four
    products, such as $\sum A \circ (A A)$ for 030T; the open ones from the degrees of their centre.
    """
    back = adjacency.mT
    # Entries of the products are at most n, so single precision holds them exactly.
    mutual = (adjacency & back).float()
    single = (adjacency & ~back).float()
    n = adjacency.shape[-1]
    pairs = torch.cat([single, mutual], dim=-2) @ torch.cat([single, mutual], dim=-1)
    chains, single_mutual = pairs[..., :n, :n], pairs[..., :n, n:]
    mutual_single, mutual_mutual = pairs[..., n:, :n], pairs[..., n:, n:]

    def total(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(dim=(-2, -1), dtype=torch.float64)

    c: dict[str, Tensor] = {
        "030T": total(single, chains),
        "030C": total(single.mT, chains) / 3,
        "120D": total(single, single_mutual) / 2,
        "120U": total(single, mutual_single) / 2,
        "120C": total(mutual, chains),
        "210": total(single, mutual_mutual),
        "300": total(mutual, mutual_mutual) / 6,
    }
    leaves, comes = single.double().sum(-1), single.double().sum(-2)
    both = mutual.double().sum(-1)
    c["021D"] = (leaves * (leaves - 1) / 2).sum(-1) - c["030T"] - c["120D"]
    c["021U"] = (comes * (comes - 1) / 2).sum(-1) - c["030T"] - c["120U"]
    c["021C"] = (leaves * comes).sum(-1) - c["030T"] - 3 * c["030C"] - c["120C"]
    c["201"] = (both * (both - 1) / 2).sum(-1) - c["210"] - 3 * c["300"]
    c["111D"] = (both * comes).sum(-1) - c["210"] - 2 * c["120D"] - c["120C"]
    c["111U"] = (both * leaves).sum(-1) - c["210"] - 2 * c["120U"] - c["120C"]
    zero = torch.zeros_like(c["300"])
    c["003"] = c["012"] = c["102"] = zero
    closed = torch.stack([c[name] for name in NAMES], dim=-1)
    # Every dyad stands in n - 2 triads; what the other kinds leave of them is 012 and 102.
    c["012"] = leaves.sum(-1) * (n - 2) - closed @ closed.new_tensor(_ASYMMETRIC_DYADS)
    c["102"] = both.sum(-1) / 2 * (n - 2) - closed @ closed.new_tensor(_MUTUAL_DYADS)
    c["003"] = n * (n - 1) * (n - 2) / 6 - closed.sum(-1) - c["012"] - c["102"]
    return torch.stack([c[name] for name in NAMES], dim=-1)


def signed_census(
    adjacency: Bool[Tensor, "graph node node"], negative: Bool[Tensor, "graph node node"]
) -> Float64[Tensor, "graph 3 16"]:
    """Triads whose edges are all positive, all negative, and the others."""
    linked = adjacency | adjacency.mT
    absent = ~linked & ~torch.eye(adjacency.shape[-1], dtype=torch.bool, device=adjacency.device)
    every = triad_census(adjacency)
    parts = [
        _pure_census(adjacency & ~negative, adjacency, absent),
        _pure_census(adjacency & negative, adjacency, absent),
    ]
    return torch.stack([*parts, every - parts[0] - parts[1]], dim=-2)


def _pure_census(
    kept: Bool[Tensor, "graph node node"],
    adjacency: Bool[Tensor, "graph node node"],
    absent: Bool[Tensor, "graph node node"],
) -> Float64[Tensor, "graph 16"]:
    """Triads of the graph all of whose edges are kept ones; 003 has no edge and counts as 0."""
    mutual = (kept & kept.mT).float()
    single = (kept & ~adjacency.mT).float()
    none = absent.float()

    def total(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(dim=(-2, -1), dtype=torch.float64)

    apart = none @ none
    chains, fan_out, fan_in = single @ single, single.mT @ single, single @ single.mT
    double = mutual @ mutual
    counts = {
        "003": torch.zeros(kept.shape[0], dtype=torch.float64, device=kept.device),
        "012": total(single, apart),
        "102": total(mutual, apart) / 2,
        "021D": total(none, fan_out) / 2,
        "021U": total(none, fan_in) / 2,
        "021C": total(none, chains),
        "111D": total(none, single @ mutual),
        "111U": total(none, mutual @ single),
        "030T": total(single, chains),
        "030C": total(single.mT, chains) / 3,
        "201": total(none, double) / 2,
        "120D": total(mutual, fan_out) / 2,
        "120U": total(mutual, fan_in) / 2,
        "120C": total(mutual, chains),
        "210": total(single, double),
        "300": total(mutual, double) / 6,
    }
    return torch.stack([counts[name] for name in NAMES], dim=-1)


@cache
def canonical_codes() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Class of each of the 4096 graphs of four nodes, and the code that names each class.

    The code of a graph is the number whose bits are its off-diagonal entries, row by row; the name
    of a class is the smallest code among its relabelled copies.
    """
    cells = [(i, j) for i in range(4) for j in range(4) if i != j]
    place = {cell: k for k, cell in enumerate(cells)}
    codes = torch.arange(4096)
    smallest = codes.clone()
    for order in itertools.permutations(range(4)):
        moved = torch.zeros_like(codes)
        for k, (i, j) in enumerate(cells):
            moved += (codes >> k & 1) << place[order[i], order[j]]
        smallest = torch.minimum(smallest, moved)
    names = sorted(set(smallest.tolist()))
    classes = {code: k for k, code in enumerate(names)}
    return tuple(classes[code] for code in smallest.tolist()), tuple(names)


def sampled_census(
    adjacency: Bool[Tensor, "graph node node"], subsets: Int64[Tensor, "sample 4"]
) -> Float64[Tensor, "graph kind"]:
    """How often each kind of four nodes stands in the subsets."""
    classes, names = canonical_codes()
    code = torch.zeros(
        adjacency.shape[0], subsets.shape[0], dtype=torch.int64, device=adjacency.device
    )
    cells = [(i, j) for i in range(4) for j in range(4) if i != j]
    for k, (i, j) in enumerate(cells):
        code += adjacency[:, subsets[:, i], subsets[:, j]].long() << k
    kinds = torch.tensor(classes, device=adjacency.device)[code]
    counts = torch.zeros(len(code), len(names), dtype=torch.float64, device=adjacency.device)
    return counts.scatter_add(1, kinds, torch.ones_like(kinds, dtype=torch.float64))
