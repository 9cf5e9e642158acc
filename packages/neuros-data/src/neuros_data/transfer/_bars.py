"""Progress on a terminal: one bar per file in flight and one for all of them."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from neuros_data.transfer._remote import RemoteFile

if TYPE_CHECKING:
    from tqdm import tqdm


class Bar(Protocol):
    """What a download tells of itself."""

    def begin(self, name: str, done: int, total: int | None) -> None:
        """A file goes on from `done` bytes; a smaller number than before means anew."""
        ...

    def advance(self, n_bytes: int) -> None:
        """Bytes came in."""
        ...


class Bars(Protocol):
    """The bars of one `fetch_files`."""

    def slot(self, index: int, /) -> Bar:
        """The bar of one worker."""
        ...

    def finish(self, index: int) -> None:
        """The file of a worker is done, well or not."""
        ...

    def close(self) -> None:
        """Take the bars off the screen."""
        ...


class NoBars:
    """Nobody asked to see."""

    def slot(self, _index: int, /) -> Bar:
        return self

    def begin(self, name: str, done: int, total: int | None) -> None:
        pass

    def advance(self, n_bytes: int) -> None:
        pass

    def finish(self, index: int) -> None:
        pass

    def close(self) -> None:
        pass


class TerminalBars:
    """tqdm bars on the standard error stream; the first line is the total."""

    def __init__(self, files: Sequence[RemoteFile]) -> None:
        sizes = [file.size for file in files]
        known = sum(size for size in sizes if size is not None)
        self.lock = threading.Lock()
        self.n_files = len(files)
        self.n_done = 0
        self.total = new_bar(0, self._title(), None if None in sizes else known)
        self._slots: dict[int, _WorkerBar] = {}

    def _title(self) -> str:
        return f"{self.n_done}/{self.n_files} files"

    def slot(self, index: int) -> Bar:
        with self.lock:
            if index not in self._slots:
                self._slots[index] = _WorkerBar(self, index + 1)
            return self._slots[index]

    def finish(self, index: int) -> None:
        with self.lock:
            self.n_done += 1
            self.total.set_description(self._title())
            if index in self._slots:
                self._slots[index].close()

    def close(self) -> None:
        with self.lock:
            for bar in self._slots.values():
                bar.close()
            self.total.close()


class _WorkerBar:
    def __init__(self, bars: TerminalBars, position: int) -> None:
        self._bars = bars
        self._position = position
        self._bar: tqdm[Any] | None = None
        self._counted = 0

    def begin(self, name: str, done: int, total: int | None) -> None:
        with self._bars.lock:
            if self._bar is None:
                self._bar = new_bar(self._position, name, total)
            self._bar.total = total
            self._move(done - self._counted)
            self._bar.refresh()

    def advance(self, n_bytes: int) -> None:
        with self._bars.lock:
            self._move(n_bytes)

    def _move(self, n_bytes: int) -> None:
        """The total goes along, back too when a file begins anew."""
        self._counted += n_bytes
        for bar in (self._bar, self._bars.total):
            if bar is not None:
                bar.update(n_bytes)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._counted = None, 0


def new_bar(position: int, name: str, total: int | None) -> "tqdm[Any]":
    """One line; only that of the total stays when it is done."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=name,
        position=position,
        leave=position == 0,
        unit="B",
        unit_scale=True,
        unit_divisor=1000,
        dynamic_ncols=True,
    )
