"""Writing a store: one forward per batch, cut into shards, resumed where a run was killed."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations._digest import chain, model_digest
from neuros_mechint.activations._forwards import batch_arguments
from neuros_mechint.activations._shard import DTYPES, Shard, ShardWriter
from neuros_mechint.activations._state import evaluating
from neuros_mechint.activations._store_index import ShardEntry, StoreIndex, shard_path
from neuros_mechint.activations.cache import convert
from neuros_mechint.activations.intervene import run
from neuros_mechint.activations.site import Site, find_module

__all__ = ["Collector"]


class Collector:
    """Fills one folder with the activations of some sites."""

    def __init__(
        self,
        model: nn.Module,
        sites: list[Site],
        folder: Path,
        shard_size: int,
        dtype: torch.dtype | None,
    ) -> None:
        if not sites:
            raise ValueError("collect needs at least one site, got none")
        if shard_size < 1:
            raise ValueError(f"shard_size needs at least 1 row, got {shard_size}")
        if dtype is not None and not (dtype.is_floating_point and dtype in DTYPES.values()):
            known = [str(d) for d in DTYPES.values() if d.is_floating_point]
            raise ValueError(f"dtype needs None or one of {known}, got {dtype}")
        for site in sites:
            find_module(model, site)
        self._model, self._folder, self._dtype = model, folder, dtype
        self._sites = list(dict.fromkeys(sites))
        self._index = StoreIndex(
            sites=tuple(map(str, self._sites)),
            shard_size=shard_size,
            dtype=None if dtype is None else str(dtype).removeprefix("torch."),
            model_hash=model_digest(model),
        )
        self._writers: list[ShardWriter] = []
        # The first forward runs to its end: only then is it known that no site repeats.
        self._once = False
        self._pending = 0  # rows in the shard that is being written

    def run(self, dataloader: Iterable[Any], *, resume: bool) -> None:
        """Write what the folder does not hold yet."""
        self._take_over(resume=resume)
        if self._index.complete:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._index.write(self._folder)
        try:
            with evaluating(self._model):
                self._write_all(dataloader)
        finally:
            for writer in self._writers:
                writer.abandon()
        self._index.write_manifest(self._folder)

    def _take_over(self, *, resume: bool) -> None:
        """Go on with the index in the folder, up to its first damaged shard."""
        try:
            found = StoreIndex.read(self._folder)
        except FileNotFoundError:
            return
        if not resume:
            raise ValueError(
                f"{self._folder} holds a store; take resume=True to go on with it, or another path"
            )
        difference = found.difference(self._index)
        if difference:
            raise ValueError(
                f"the store at {self._folder} was made with {difference}; resume with the same "
                "model and settings, or take another path"
            )
        shards = zip(*found.open_shards(self._folder).values(), strict=True)
        whole = 0
        for number, parts in enumerate(shards):
            if not all(map(_is_whole, parts)):
                break
            whole = number + 1
        if whole < len(found.shards):
            found = replace(found, shards=found.shards[:whole], complete=False, data_hash=None)
        self._index = found

    def _write_all(self, dataloader: Iterable[Any]) -> None:
        last = self._index.shards[-1] if self._index.shards else ShardEntry(0, (), 0, 0, "")
        digest, number = "", 0
        for batch in dataloader:
            self._check_data(last, number, digest)
            before, digest = digest, chain(digest, batch)
            if number >= last.batch:
                rows = self._activations(number, batch)
                self._append(rows, last.skip if number == last.batch else 0, number, before, digest)
            number += 1
        self._check_data(last, max(number, last.batch), digest)
        if self._pending:
            self._close_shard(number, 0, digest)
        if not self._index.n_rows:
            raise ValueError("the dataloader gave no rows, so there is nothing to store")
        self._index = replace(self._index, complete=True, data_hash=digest)
        self._index.write(self._folder)

    def _check_data(self, last: ShardEntry, number: int, digest: str) -> None:
        if number == last.batch and digest != last.digest:
            raise ValueError(
                f"the store at {self._folder} was begun with other data: the first {number} "
                "batches are not those that its shards were made of; give the same batches in the "
                "same order, or take another path"
            )

    def _activations(self, number: int, batch: Any) -> list[Tensor]:
        """Rows of every site, (rows, width)."""
        args, kwargs = batch_arguments(self._model, batch)
        with torch.no_grad():
            cache = run(
                self._model, *args, capture=self._sites, stop=self._once, **kwargs
            ).cache  # fmt: skip
        found = []
        for site in self._sites:
            value = cache[site]
            if value.ndim < 2 or value.dtype not in DTYPES.values():
                raise ValueError(
                    f"site '{site}' gave {value.dtype} of shape {tuple(value.shape)}; a store "
                    "needs real numbers of shape (..., width) with at least two axes"
                )
            found.append(convert(value, "cpu", self._dtype).reshape(-1, value.shape[-1]))
        counts = {str(s): rows.shape[0] for s, rows in zip(self._sites, found, strict=True)}
        if len(set(counts.values())) > 1:
            raise ValueError(
                f"all sites of a store need the same number of rows, batch {number} gave {counts}; "
                "give them stores of their own"
            )
        self._check_layout(number, found)
        self._once = True
        return found

    def _check_layout(self, number: int, found: list[Tensor]) -> None:
        widths = tuple(rows.shape[1] for rows in found)
        codes = {dtype: code for code, dtype in DTYPES.items()}
        dtypes = tuple(codes[rows.dtype] for rows in found)
        if not self._index.widths:
            self._index = replace(self._index, widths=widths, dtypes=dtypes)
        if (widths, dtypes) != (self._index.widths, self._index.dtypes):
            raise ValueError(
                f"batch {number} gave widths {widths} and dtypes {dtypes}, the batches before it "
                f"{self._index.widths} and {self._index.dtypes}"
            )

    def _append(self, rows: list[Tensor], start: int, number: int, before: str, after: str) -> None:
        """Write the rows of a batch from `start` on, over as many shards as they take."""
        n_rows = rows[0].shape[0]
        while start < n_rows:
            if not self._writers:
                self._open_shard()
            stop = min(start + self._index.shard_size - self._pending, n_rows)
            for site, writer, values in zip(self._sites, self._writers, rows, strict=True):
                try:
                    writer.append(values[start:stop])
                except ValueError as error:
                    given = "" if self._dtype is None else f" after conversion to {self._dtype}"
                    raise ValueError(f"site '{site}', batch {number}{given}: {error}") from None
            self._pending += stop - start
            start = stop
            if self._pending == self._index.shard_size:
                ended = start == n_rows
                self._close_shard(number + ended, 0 if ended else start, after if ended else before)

    def _open_shard(self) -> None:
        number = len(self._index.shards)
        for k, code in enumerate(self._index.dtypes):
            path = shard_path(self._folder, number, k)
            self._writers.append(ShardWriter(path, self._index.widths[k], DTYPES[code]))

    def _close_shard(self, batch: int, skip: int, digest: str) -> None:
        checksums = tuple(writer.finish() for writer in self._writers)
        self._writers = []
        entry = ShardEntry(self._pending, checksums, batch, skip, digest)
        self._pending = 0
        self._index = replace(self._index, shards=(*self._index.shards, entry))
        self._index.write(self._folder)


def _is_whole(shard: Shard) -> bool:
    try:
        shard.check()
    except ValueError:
        return False
    return True
