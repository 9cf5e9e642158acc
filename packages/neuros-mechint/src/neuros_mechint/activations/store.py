"""Activations on disk: several sites from one forward, resumable, read in shuffled batches."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuros_core import RunManifest
from neuros_mechint.activations._collect import Collector
from neuros_mechint.activations._moments import Moments, merge
from neuros_mechint.activations._reading import in_order, shuffled
from neuros_mechint.activations._store_index import StoreIndex
from neuros_mechint.activations.site import Site, SiteLike, as_site

__all__ = ["ActivationStore"]


class ActivationStore:
    r"""Activations of one or more sites in a folder of memory-mapped shards.

    An activation of shape (..., width) is stored as rows of that width, in the order of the data:
    all axes but the last are rows ("tokens"). All sites have the same number of rows; row i of each
    comes from the same place of the same forward.

    Every shard is a safetensors file with a checksum. A file that was cut or changed is an error
    with its name: its length is checked when the store is opened, its content once, when it is
    first read.

    Args:
        path: Folder of a complete store.

    Raises:
        FileNotFoundError: When there is no store in the folder.
        ValueError: When the store is not complete, a newer version wrote it, or a shard is missing
            or of another length.

    Examples:
        >>> import tempfile
        >>> net = nn.Sequential(nn.Identity(), nn.ReLU())
        >>> data = [torch.tensor([[-1.0, 2.0]]), torch.tensor([[3.0, 6.0]])]
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = ActivationStore.collect(net, data, ["0", "1"], folder.name, shard_size=100)
        >>> len(store), store.shape("1")
        (2, (2, 2))
        >>> store.mean("0"), store.std("0", correction=0)
        (tensor([1., 4.], dtype=torch.float64), tensor([2., 2.], dtype=torch.float64))
        >>> next(store.batches(2, sites=["1"]))
        {'1': tensor([[0., 2.],
                [3., 6.]])}
        >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        index = StoreIndex.read(self.path)
        if not index.complete:
            raise ValueError(
                f"the store at {path} has {index.n_rows} rows and is not complete: call "
                "ActivationStore.collect with the same arguments to finish it"
            )
        self._index = index
        self._shards = index.open_shards(self.path)
        for site in self._shards:
            for shard in self._shards[site]:
                shard.check_size()
        self._moments: dict[str, Moments] = {}

    def __repr__(self) -> str:
        return f"ActivationStore({str(self.path)!r}, {len(self)} rows, sites={list(self.sites)})"

    def __len__(self) -> int:
        return self._index.n_rows

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "ActivationStore":
        """Open a complete store; the same as calling the class.

        Args:
            path: Its folder.

        Returns:
            The store. Nothing but the index has been read.

        Raises:
            FileNotFoundError: When there is no store in the folder.
            ValueError: As the class.

        Examples:
            >>> ActivationStore.open("missing")
            Traceback (most recent call last):
            FileNotFoundError: no activation store at missing
        """
        return cls(path)

    @classmethod
    def collect(
        cls,
        model: nn.Module,
        dataloader: Iterable[Any],
        sites: SiteLike | Sequence[SiteLike],
        path: str | os.PathLike[str],
        *,
        shard_size: int = 65_536,
        dtype: torch.dtype | None = None,
        resume: bool = True,
    ) -> "ActivationStore":
        """Run a model over data and write the activations of all sites from one forward per batch.

        The model runs without gradient, in evaluation mode, up to the last of the sites; its mode
        and its buffers are as before afterwards. Rows go to disk as they come, so that the memory
        needed is that of one batch.

        A run that was killed goes on when it is called again with the same arguments: finished
        shards stay, batches that are already in them are read but not computed, and the files end
        up with the same bytes as without the interruption. Shards that were damaged meanwhile are
        written again.

        Args:
            model: Any module.
            dataloader: Batches in an order that is the same at every run. A tuple or list holds the
                positional arguments of the forward; a mapping whose keys are parameters of the
                forward holds its keyword arguments; anything else is the one argument.
            sites: Sites to store.
            path: Folder of the store; it is made when it does not exist.
            shard_size: Rows of each site in one file.
            dtype: Data type of floating-point activations on disk; None keeps theirs.
            resume: Go on with what the folder holds. With False the folder must not hold a store.

        Returns:
            The complete store.

        Raises:
            KeyError: When a path names no module.
            RuntimeError: When a site is not reached in the forward.
            ValueError: When the folder holds a store of another model, other sites, other settings
                or other data; when an activation has no width, is not finite (also: after it was
                converted to `dtype`) or of another number of rows than the other sites; when a
                module is called more than once and its site has no `@call`.

        Examples:
            >>> import tempfile
            >>> data = torch.utils.data.DataLoader(torch.arange(6.0).reshape(2, 3, 1))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     store = ActivationStore.collect(nn.Linear(1, 4), data, "", folder)
            ...     store.shape("")
            (6, 4)
        """
        names = [as_site(model, site) for site in _listed(sites)]
        Collector(model, names, Path(path), shard_size, dtype).run(dataloader, resume=resume)
        return cls(path)

    @property
    def sites(self) -> tuple[str, ...]:
        """Text of every stored site, in the order of collection."""
        return self._index.sites

    @property
    def manifest(self) -> RunManifest:
        """What made the store: versions, code state, settings, hashes of model and data."""
        return StoreIndex.read_manifest(self.path)

    def shape(self, site: SiteLike | None = None) -> tuple[int, int]:
        """Rows and width of a site.

        Args:
            site: A stored site; None when the store holds one only.

        Returns:
            (rows, width).

        Raises:
            KeyError: When the site is not stored.
            ValueError: When `site` is None and the store holds several.

        Examples:
            >>> import tempfile
            >>> rows = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
            >>> folder = tempfile.TemporaryDirectory()
            >>> store = ActivationStore.collect(nn.Identity(), [rows], "", folder.name)
            >>> store.shape()
            (2, 2)
            >>> folder.cleanup()
        """
        return len(self), self._index.widths[self.sites.index(self._name(site))]

    def mean(self, site: SiteLike | None = None) -> Tensor:
        r"""Mean over all rows, $\bar x_j = \frac{1}{n} \sum_i x_{ij}$, exact in float64.

        Args:
            site: A stored site; None when the store holds one only.

        Returns:
            Shape (width,), float64.

        Raises:
            KeyError: When the site is not stored.
            ValueError: When `site` is None and the store holds several, or a shard is corrupt.

        Examples:
            >>> import tempfile
            >>> rows = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
            >>> folder = tempfile.TemporaryDirectory()
            >>> store = ActivationStore.collect(nn.Identity(), [rows], "", folder.name)
            >>> store.mean()
            tensor([2., 5.], dtype=torch.float64)
            >>> folder.cleanup()

        References:
            Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance: analysis and
            recommendations, doi:10.1080/00031305.1983.10483115.
        """
        return self._moments_of(site).mean.clone()

    def std(self, site: SiteLike | None = None, *, correction: int = 1) -> Tensor:
        r"""Standard deviation over all rows, $\sqrt{\sum_i (x_{ij} - \bar x_j)^2 / (n - c)}$.

        Args:
            site: A stored site; None when the store holds one only.
            correction: $c$; 1 is the unbiased variance, as in `torch.std`, 0 that of the rows.

        Returns:
            Shape (width,), float64.

        Raises:
            KeyError: When the site is not stored.
            ValueError: When there are not more rows than `correction`; else as `mean`.

        Examples:
            >>> import tempfile
            >>> rows = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
            >>> folder = tempfile.TemporaryDirectory()
            >>> store = ActivationStore.collect(nn.Identity(), [rows], "", folder.name)
            >>> store.std(correction=0)
            tensor([1., 0.], dtype=torch.float64)
            >>> folder.cleanup()
        """
        moments = self._moments_of(site)
        if moments.n_rows <= correction:
            raise ValueError(
                f"std needs more than correction = {correction} rows, the store has "
                f"{moments.n_rows}"
            )
        return (moments.m2 / (moments.n_rows - correction)).sqrt()

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
        sites: SiteLike | Sequence[SiteLike] | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Read all rows once, in batches.

        Shuffled reading draws short runs of neighbouring rows from the whole store into a pool of
        `shard_size` rows and shuffles the pool: exactly uniform for a store of one shard, and
        for larger ones without more memory than two shards and without reading single rows from
        disk.

        Args:
            batch_size: Rows of a batch; the last one may have fewer.
            shuffle: Another order of the rows, the same for all sites.
            generator: Source of that order, on the CPU; needed when `shuffle` is set.
            sites: Which to read; None reads all.

        Returns:
            An iterator of dicts: text of the site -> rows, shape (batch, width). The tensors are
            copies.

        Raises:
            KeyError: When a site is not stored.
            ValueError: When `batch_size` is less than 1 or a generator is missing; while reading,
                when a shard is corrupt.

        Examples:
            >>> import tempfile
            >>> rows = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
            >>> folder = tempfile.TemporaryDirectory()
            >>> store = ActivationStore.collect(nn.Identity(), [rows], "", folder.name)
            >>> generator = torch.Generator().manual_seed(0)
            >>> [b[""].shape for b in store.batches(1, shuffle=True, generator=generator)]
            [torch.Size([1, 2]), torch.Size([1, 2])]
            >>> folder.cleanup()
        """
        if batch_size < 1:
            raise ValueError(f"batch_size needs at least 1, got {batch_size}")
        if shuffle and generator is None:
            raise ValueError("shuffle=True needs generator=torch.Generator().manual_seed(...)")
        names = [self._name(site) for site in _listed(self.sites if sites is None else sites)]
        shards = {name: self._shards[name] for name in names}
        if generator is None or not shuffle:
            return in_order(shards, batch_size)
        return shuffled(shards, batch_size, self._index.shard_size, generator)

    def verify(self) -> None:
        """Read every shard and compare it with its checksum.

        Raises:
            ValueError: With the name of the first shard that is not as it was written.

        Examples:
            >>> import tempfile
            >>> rows = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
            >>> folder = tempfile.TemporaryDirectory()
            >>> store = ActivationStore.collect(nn.Identity(), [rows], "", folder.name)
            >>> store.verify()
            >>> folder.cleanup()
        """
        for shards in self._shards.values():
            for shard in shards:
                shard.check()

    def _name(self, site: SiteLike | None) -> str:
        if site is None and len(self.sites) == 1:
            return self.sites[0]
        if site is None:
            raise ValueError(f"the store holds several sites, name one of {list(self.sites)}")
        if isinstance(site, nn.Module):
            raise TypeError("a store knows sites by name, not by module; pass the path")
        name = str(Site.parse(site) if isinstance(site, str) else site)
        if name not in self.sites:
            raise KeyError(f"site '{name}' is not stored; stored: {list(self.sites)}")
        return name

    def _moments_of(self, site: SiteLike | None) -> Moments:
        name = self._name(site)
        if name not in self._moments:
            first, *others = (shard.moments() for shard in self._shards[name])
            for other in others:
                first = merge(first, other)
            self._moments[name] = first
        return self._moments[name]


def _listed(sites: SiteLike | Sequence[SiteLike]) -> list[SiteLike]:
    # A Sequential is a module that has a length and items.
    return [sites] if isinstance(sites, (str, Site, nn.Module)) else list(sites)
