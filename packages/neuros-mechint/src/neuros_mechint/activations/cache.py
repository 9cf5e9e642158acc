"""Captured activations, one tensor per call of each captured site."""

import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from neuros_core import RunManifest
from neuros_mechint.activations.site import Site, SiteLike

__all__ = ["ActivationCache"]

version_of: Callable[[Tensor], int] = attrgetter("_version")
"""Count of the in-place changes of a tensor and of everything that shares its memory."""

Guard: TypeAlias = tuple[Site, Tensor, int]
"""A tensor captured at a site, and its count of in-place changes at that moment."""

Lists: TypeAlias = tuple[list[Tensor], list[Guard]]


class ActivationCache(Mapping[Site, Tensor]):
    """Mapping from sites to captured tensors, in the order in which the sites were asked for.

    `cache[site]` is the tensor of a site that was reached once, `cache[site, k]` that of call `k`,
    `cache.calls(site)` all calls in order. A site may be given as `Site`, text or module. Iteration
    gives one key per tensor: a site that was reached several times appears as `site@0`, `site@1`.

    Args:
        tensors: Site -> its calls in order.

    Examples:
        >>> cache = ActivationCache({"0": [torch.ones(2, 3)], "cell": [torch.zeros(1)] * 2})
        >>> cache["0"].shape
        torch.Size([2, 3])
        >>> [str(site) for site in cache]
        ['0', 'cell@0', 'cell@1']
    """

    def __init__(self, tensors: Mapping[SiteLike, Sequence[Tensor]] | None = None) -> None:
        self._calls: dict[Site, list[Tensor]] = {}
        self._modules: dict[nn.Module, Site] = {}
        self._guards: list[Guard] = []
        for site, calls in (tensors or {}).items():
            self._calls[self._key(site)] = list(calls)

    def __getitem__(self, site: SiteLike | tuple[SiteLike, int]) -> Tensor:
        name, call = site if isinstance(site, tuple) else (site, None)
        key = self._key(name)
        if key not in self._calls and key.call is not None:
            key, call = replace(key, call=None), key.call
        calls = self.calls(key)
        if call is None and len(calls) > 1:
            raise ValueError(
                f"site '{key}' was reached {len(calls)} times; take cache[site, k] or "
                "cache.calls(site)"
            )
        if not -len(calls) <= (call or 0) < len(calls):
            raise KeyError(f"site '{key}' has {len(calls)} calls, got call {call}")
        return calls[call or 0]

    def __iter__(self) -> Iterator[Site]:
        for site, calls in self._calls.items():
            if len(calls) == 1:
                yield site
            else:
                yield from (replace(site, call=k) for k in range(len(calls)))

    def __len__(self) -> int:
        return sum(map(len, self._calls.values()))

    def __contains__(self, site: object) -> bool:
        try:
            key = self._key(site)
        except (KeyError, TypeError):
            return False
        if key.call is not None and key not in self._calls:
            return key.call < len(self._calls.get(replace(key, call=None), ()))
        return bool(self._calls.get(key))

    def __repr__(self) -> str:
        shown = (f"'{site}': {tuple(self[site].shape)}" for site in self)
        return f"{type(self).__name__}({{{', '.join(shown)}}})"

    def calls(self, site: SiteLike) -> tuple[Tensor, ...]:
        """Return every captured call of a site, in order.

        Args:
            site: A captured site.

        Returns:
            One tensor per call.

        Raises:
            KeyError: When the site was not captured.
            RuntimeError: When a later operation overwrote one of the tensors in place.

        Examples:
            >>> ActivationCache({"cell": [torch.zeros(1), torch.ones(1)]}).calls("cell")
            (tensor([0.]), tensor([1.]))
        """
        key = self._key(site)
        self._check_guards()
        if not self._calls.get(key):
            raise KeyError(f"site '{key}' was not captured; captured: {[str(s) for s in self]}")
        return tuple(self._calls[key])

    def stack(self, pattern: str = "*") -> Tensor:
        """Stack the tensors of all sites whose text matches a glob along a new first dimension.

        Args:
            pattern: Glob over the text of the keys, such as `"h.*"`.

        Returns:
            Shape (n_sites, ...), in the order of iteration.

        Raises:
            KeyError: When no site matches.
            ValueError: When the shapes differ.

        Examples:
            >>> ActivationCache({"a.0": [torch.ones(3)], "a.1": [torch.zeros(3)]}).stack("a.*")
            tensor([[1., 1., 1.],
                    [0., 0., 0.]])
        """
        chosen = [site for site in self if fnmatch.fnmatchcase(str(site), pattern)]
        if not chosen:
            raise KeyError(f"no site matches {pattern!r}; captured: {[str(s) for s in self]}")
        shapes = {str(site): tuple(self[site].shape) for site in chosen}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"stack needs equal shapes, got {shapes}; narrow the pattern")
        return torch.stack([self[site] for site in chosen])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "ActivationCache":
        """Copy to another device or data type.

        Args:
            device: Where to; None keeps each tensor where it is.
            dtype: Data type of the floating-point tensors; integers and booleans keep theirs.

        Returns:
            A new cache.

        Examples:
            >>> ActivationCache({"0": [torch.ones(2)]}).to(dtype=torch.float64)["0"].dtype
            torch.float64
        """
        self._check_guards()
        moved = ActivationCache()
        moved._modules = dict(self._modules)
        moved._calls = {
            site: [convert(tensor, device, dtype) for tensor in calls]
            for site, calls in self._calls.items()
        }
        return moved

    @property
    def nbytes(self) -> int:
        """Bytes of all captured tensors together."""
        return sum(tensor.nbytes for calls in self._calls.values() for tensor in calls)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, with the run manifest in its metadata.

        Args:
            path: File to write; an existing one is replaced.

        Examples:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     ActivationCache({"0": [torch.ones(2)]}).save(f"{folder}/cache.safetensors")
            ...     ActivationCache.load(f"{folder}/cache.safetensors")["0"]
            tensor([1., 1.])
        """
        self._check_guards()
        tensors, index = {}, []
        for site, calls in self._calls.items():
            index.append([str(site), len(calls)])
            for k, tensor in enumerate(calls):
                # The format refuses tensors that share memory, such as tied or sliced ones.
                tensors[f"{site}#{k}"] = tensor.detach().cpu().contiguous().clone()
        manifest = RunManifest.collect(kind="activations", config={"sites": index})
        metadata = {"sites": json.dumps(index), "manifest": manifest.to_json()}
        save_file(tensors, path, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> "ActivationCache":
        """Read a file that `save` wrote.

        Args:
            path: The file.

        Returns:
            The cache, on the CPU.

        Raises:
            FileNotFoundError: When there is no such file.
            ValueError: When the file is damaged or was not written by `save`.

        Examples:
            >>> ActivationCache.load("missing.safetensors")
            Traceback (most recent call last):
            FileNotFoundError: no activation cache at missing.safetensors
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no activation cache at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                index = json.loads((file.metadata() or {})["sites"])
                return cls({s: [file.get_tensor(f"{s}#{k}") for k in range(n)] for s, n in index})
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is not a whole activation cache: {error}") from error

    def open_site(self, site: Site, like: SiteLike) -> Lists | None:
        """Make room for a site; the mechanism's way to fill a cache.

        Args:
            site: The site.
            like: How the caller named it; a module can be used as a key afterwards.

        Returns:
            The list that takes the tensor of each call, and the list that takes, with its count of
            in-place changes, a tensor that still belongs to the running forward; None when the site
            has its lists already.

        Examples:
            >>> cache = ActivationCache()
            >>> calls, _ = cache.open_site(Site("0"), "0")
            >>> calls.append(torch.ones(1))
            >>> cache["0"]
            tensor([1.])
        """
        if isinstance(like, nn.Module):
            self._modules[like] = site
        if site in self._calls:
            return None
        calls = self._calls[site] = []
        return calls, self._guards

    def seal(self) -> None:
        """End the watch over in-place changes: from here on the tensors belong to the caller.

        Raises:
            RuntimeError: When one was overwritten since it was captured.

        Examples:
            >>> ActivationCache().seal()
        """
        self._check_guards()
        self._guards.clear()

    def _key(self, site: Any) -> Site:
        if isinstance(site, Site):
            return site
        if isinstance(site, nn.Module):
            if site not in self._modules:
                raise KeyError(f"this {type(site).__name__} was not captured as a module")
            return self._modules[site]
        return Site.parse(site)

    def _check_guards(self) -> None:
        """Refuse tensors that were overwritten since they were captured."""
        for site, tensor, version in self._guards:
            if version_of(tensor) != version:
                raise RuntimeError(
                    f"the tensor captured at '{site}' was overwritten in place later in the "
                    "forward; capture with clone=True"
                )


def convert(tensor: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    """Move a tensor; only floating-point ones change their data type."""
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
