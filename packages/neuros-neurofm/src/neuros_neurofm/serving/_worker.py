"""The one thread that computes, with a bounded queue before it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from neuros_neurofm.serving._problem import ProblemError
from neuros_neurofm.serving.limits import ServingLimits

__all__: list[str] = []

Result = TypeVar("Result")


class Worker:
    """Computes one thing at a time off the event loop: torch has the cores for each.

    Args:
        limits: Length of the queue and the time limit.
    """

    def __init__(self, limits: ServingLimits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="neurofm-serve")
        self._jobs: set[Future[Any]] = set()

    @property
    def pending(self) -> int:
        """Jobs that wait or run."""
        self._jobs = {job for job in self._jobs if not job.done()}
        return len(self._jobs)

    def check_room(self) -> None:
        """Refuse what would have to wait behind a full queue.

        Raises:
            ProblemError: 503.
        """
        if self.pending > self._limits.queue:
            raise ProblemError(
                503, "overloaded", f"{self._limits.queue} requests wait already; come back later"
            )

    async def run(self, work: Callable[[], Result]) -> Result:
        """The result of `work`.

        Raises:
            ProblemError: 504 after the time limit; what has not begun by then is dropped.
        """
        job = self._pool.submit(work)
        self._jobs.add(job)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job), self._limits.timeout)
        except TimeoutError as error:
            raise ProblemError(
                504, "time_limit", f"the answer was not there within {self._limits.timeout:g} s"
            ) from error

    def close(self) -> None:
        """Take no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
