"""A bounded pool of threads with a bounded queue, for problems that would hold up the loop."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from neuros_sourceweigher._service.problem import ClientGoneError, ProblemError, retry_after

__all__: list[str] = []

T = TypeVar("T")


class _Work(Generic[T]):
    """A call that lets go of its arguments when nobody waits for it any more."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Callable[[], T] | None = call

    def __call__(self) -> T | None:
        return None if self._call is None else self._call()

    def drop(self) -> None:
        self._call = None


class Pool:
    """Threads for work and a count of what was admitted to them.

    Args:
        threads: Calls that run at the same time.
        queue: Calls that may wait beside them.
        changed: Told the number of waiting calls whenever it may have changed.
    """

    def __init__(self, threads: int, queue: int, changed: Callable[[int], None]) -> None:
        self._changed = changed
        self._threads = threads
        self._room = threads + queue
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="solve")
        self._admitted = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return max(self._admitted - self._threads, 0)

    @property
    def running(self) -> int:
        """Calls that hold a thread."""
        return min(self._admitted, self._threads)

    @property
    def full(self) -> bool:
        """Whether the next call is refused."""
        return self._admitted >= self._room

    def check_room(self) -> None:
        """Refuse with 503 when the queue is full."""
        if self.full:
            raise ProblemError(
                503,
                "overloaded",
                f"{self._room} problems are being solved or wait; come back later",
                headers=[retry_after(1)],
            )

    async def run(
        self, call: Callable[[], T], *, seconds: float, receive: Callable[[], Awaitable[Any]]
    ) -> T:
        """Run `call` in a thread.

        Args:
            call: What to run.
            seconds: Time limit, waiting included.
            receive: Returns when the caller is gone.

        Raises:
            ProblemError: 503 when the queue is full, 504 at the time limit.
            ClientGoneError: When the caller left; a call that had not begun never runs.
        """
        self.check_room()
        work = _Work(call)
        future: Future[Any] = self._executor.submit(work)
        self._count(1)
        loop = asyncio.get_running_loop()
        future.add_done_callback(functools.partial(self._ended, loop))
        answer = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({answer, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                result: T = answer.result()
                return result
            if gone.done():
                raise ClientGoneError
            detail = "the problem was not solved in time; send a smaller one"
            raise ProblemError(504, "time_limit", detail)
        finally:
            gone.cancel()
            answer.cancel()
            if future.cancel():
                work.drop()

    def _ended(self, loop: asyncio.AbstractEventLoop, future: Future[Any]) -> None:
        if future.cancelled():
            # Cancelled by `run`, on the loop: the place in the queue is free at once.
            self._count(-1)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._count, -1)

    def _count(self, change: int) -> None:
        self._admitted += change
        self._changed(self.waiting)

    def close(self) -> None:
        """Take no more work; a call that runs is not waited for."""
        self._executor.shutdown(wait=False, cancel_futures=True)
