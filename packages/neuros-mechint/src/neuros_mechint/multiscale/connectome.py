"""Connectomes: weights and lengths of the tracts between the regions of a brain."""

import bz2
import importlib.util
import io
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from neuros_mechint._arrays import Array, as_real, one_of

__all__ = ["Connectome", "load_connectome"]

_FILES = {
    "desikan": "connectivity_68.zip",
    "tvb76": "connectivity_76.zip",
    "hagmann66": "connectivity_66.zip",
}
# A head's extent in mm, and the length over which connections of random brains thin out.
_EXTENT, _REACH, _DENSITY = (140.0, 170.0, 120.0), 40.0, 0.3


class Connectome(NamedTuple):
    """Connections between regions.

    Attributes:
        weights: Strength (to, from), at least 0, float64.
        tract_lengths: Length (to, from) in mm, float64.
        labels: Name of each region.
        centres: Position (region, 3) in mm, or None where it is not known.
    """

    weights: Tensor
    tract_lengths: Tensor
    labels: tuple[str, ...]
    centres: Tensor | None


def load_connectome(
    connectome: str | Path | tuple[Array, Array] = "desikan",
    *,
    normalize: str | None = None,
    region_labels: Sequence[str] | None = None,
    n_regions: int | None = None,
    generator: torch.Generator | None = None,
) -> Connectome:
    r"""A connectome by name, from a file, from matrices, or drawn at random.

    A random one has regions at uniform places in a box of 140 x 170 x 120 mm, straight tracts in
    both directions between 30 % of the pairs, and weights $e^{z - d / 40\,\mathrm{mm}}$ with
    normal z, scaled to a maximum of 1.

    Args:
        connectome: `"desikan"` (68 regions), `"tvb76"` or `"hagmann66"`, which the package
            tvb-data holds; the path of a zip of The Virtual Brain (weights, tract_lengths and, if
            it has them, centres; .txt or .txt.bz2); matrices (weights, tract_lengths), both
            (to, from), lengths in mm; or `"random"`.
        normalize: `"max"` divides the weights by the largest, `"rows"` those that a region
            receives by their sum; None leaves them.
        region_labels: Names of the regions; None takes those of the file, or numbers.
        n_regions: How many regions to draw; only for `"random"`.
        generator: Source of a random connectome; only for `"random"`.

    Returns:
        Weights, lengths, labels and centres.

    Raises:
        TypeError: When a matrix is neither a tensor nor a real array.
        ValueError: When a name is unknown, a matrix is not square, of another size or negative, a
            file lacks a matrix, labels repeat or do not fit, or `n_regions` is missing, below 2,
            or given for another connectome.
        ImportError: When a name needs tvb-data and it is not installed.

    Examples:
        >>> w = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
        >>> load_connectome((w, 10 * w), normalize="max", region_labels=["V1", "V2"])
        Connectome(weights=tensor([[0.0000, 1.0000],
                [0.5000, 0.0000]], dtype=torch.float64), tract_lengths=tensor([[ 0., 20.],
                [10.,  0.]], dtype=torch.float64), labels=('V1', 'V2'), centres=None)

    References:
        Sanz Leon et al. (2013). The Virtual Brain: a simulator of primate brain network dynamics.
        Frontiers in Neuroinformatics 7, 10. doi:10.3389/fninf.2013.00010
    """
    if connectome != "random" and (n_regions is not None or generator is not None):
        raise ValueError("n_regions and generator belong to connectome='random'; leave them out")
    if isinstance(connectome, tuple):
        found = _of_matrices(connectome)
    elif connectome == "random":
        found = _random(n_regions, generator)
    else:
        found = _read(_file_of(connectome))
    labels = found.labels if region_labels is None else tuple(region_labels)
    return _checked(found._replace(labels=labels, weights=_normalised(found.weights, normalize)))


def _of_matrices(pair: tuple[Array, ...]) -> Connectome:
    weights, lengths = (
        as_real(name, x, axes=("to", "from"), at_least=(1, 1)).double()
        for name, x in zip(("weights", "tract_lengths"), pair, strict=True)
    )
    return Connectome(weights, lengths, _numbered(weights.shape[0]), None)


def _numbered(n: int) -> tuple[str, ...]:
    return tuple(f"region_{k}" for k in range(n))


def _random(n_regions: int | None, generator: torch.Generator | None) -> Connectome:
    if n_regions is None or n_regions < 2:
        raise ValueError(f"connectome='random' needs n_regions >= 2, got {n_regions}")
    source = torch.Generator().manual_seed(0) if generator is None else generator
    uniform = partial(torch.rand, generator=source, dtype=torch.float64, device=source.device)
    normal = partial(torch.randn, generator=source, dtype=torch.float64, device=source.device)
    extent = torch.tensor(_EXTENT, dtype=torch.float64, device=source.device)
    centres = (uniform(n_regions, 3) - 0.5) * extent
    lengths = torch.cdist(centres, centres)
    drawn = normal(n_regions, n_regions).triu(1)
    kept = (uniform(n_regions, n_regions) < _DENSITY).triu(1)
    # A ring holds the brain together where chance would leave a region alone.
    ring = torch.arange(n_regions - 1, device=source.device)
    kept[ring, ring + 1] = True
    kept = kept | kept.mT
    weights = torch.where(kept, torch.exp(drawn + drawn.mT - lengths / _REACH), 0.0)
    lengths = lengths.fill_diagonal_(0.0)
    return Connectome(weights / weights.max(), lengths, _numbered(n_regions), centres)


def _file_of(connectome: str | Path) -> Path:
    path = Path(connectome)
    if connectome not in _FILES:
        if not path.is_file():
            names = ", ".join(map(repr, _FILES))
            raise ValueError(
                f"connectome must be {names}, 'random', a zip file, or (weights, tract_lengths), "
                f"got {str(connectome)!r}"
            )
        return path
    spec = importlib.util.find_spec("tvb_data")
    if spec is None or spec.origin is None:
        raise ImportError(
            f"connectome {connectome!r} needs tvb-data: pip install 'neuros-mechint[tvb]', "
            "or pass matrices"
        )
    return Path(spec.origin).parent / "connectivity" / _FILES[str(connectome)]


def _read(path: Path) -> Connectome:
    with zipfile.ZipFile(path) as archive:
        members = {Path(name).name.split(".")[0]: name for name in archive.namelist()}
        missing = sorted({"weights", "tract_lengths"} - set(members))
        if missing:
            raise ValueError(f"{path.name} holds no {' and no '.join(missing)}")
        weights, lengths = (
            _matrix(_text(archive, members[name])) for name in ("weights", "tract_lengths")
        )
        rows = _text(archive, members["centres"]).split("\n") if "centres" in members else []
    words = [row.split() for row in rows if row.strip()]
    if not words:
        return Connectome(weights, lengths, _numbered(weights.shape[0]), None)
    centres = torch.tensor([[float(x) for x in row[1:4]] for row in words], dtype=torch.float64)
    return Connectome(weights, lengths, tuple(row[0] for row in words), centres)


def _text(archive: zipfile.ZipFile, member: str) -> str:
    raw = archive.read(member)
    return (bz2.decompress(raw) if member.endswith(".bz2") else raw).decode()


def _matrix(text: str) -> Tensor:
    rows = [[float(x) for x in row.split()] for row in io.StringIO(text) if row.strip()]
    return torch.tensor(rows, dtype=torch.float64)


def _normalised(weights: Tensor, normalize: str | None) -> Tensor:
    if normalize is None:
        return weights
    one_of("normalize", normalize, ("max", "rows"))
    scale = weights.max() if normalize == "max" else weights.sum(1, keepdim=True)
    return torch.where(scale > 0, weights / scale, weights)


def _checked(found: Connectome) -> Connectome:
    n = len(found.weights)
    for name, x in (("weights", found.weights), ("tract_lengths", found.tract_lengths)):
        if x.shape != (n, n):
            raise ValueError(f"{name} must be square, ({n}, {n}), got shape {tuple(x.shape)}")
        if bool((x < 0).any()):
            raise ValueError(f"{name} must be at least 0, got {float(x.min()):g}")
    if len(found.labels) != n:
        raise ValueError(f"region_labels must name {n} regions, got {len(found.labels)}")
    repeated = sorted({x for x in found.labels if found.labels.count(x) > 1})
    if repeated:
        raise ValueError(f"region_labels repeat {', '.join(map(repr, repeated))}")
    return found
