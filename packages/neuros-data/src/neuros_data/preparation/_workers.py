"""The local executor: worker processes, each with one BLAS thread, replaced when they die."""

import os
import queue
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import IO

from neuros_data.preparation._task import Outcome, Task
from neuros_data.preparation._worker import load, receive, send

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_SERVE = "from neuros_data.preparation._worker import serve; serve()"
# A session that takes its worker with it this often is at fault itself.
_LIVES = 3


class LocalPool:
    """Worker processes that take tasks one at a time."""

    def __init__(self, tasks: Sequence[Task], jobs: int) -> None:
        self._tasks = tasks
        self._jobs = min(jobs, len(tasks))
        self._waiting = deque(range(len(tasks)))
        self._deaths: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._workers: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._done: queue.Queue[Outcome | BaseException] = queue.Queue()

    def run(self) -> Iterator[Outcome]:
        """Give each outcome as it comes; leaving early ends the workers at once."""
        threads = [
            threading.Thread(target=self._drive, name=f"prepare-{i}", daemon=True)
            for i in range(self._jobs)
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in self._tasks:
                found = self._done.get()
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            self._stop()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._waiting.clear()
            for worker in self._workers:
                worker.kill()

    def _drive(self) -> None:
        """Keep one worker busy; start another in its place when it dies."""
        try:
            while (i := self._next()) is not None:
                self._with_worker(i)
        except OSError as error:
            self._done.put(error)

    def _next(self) -> int | None:
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def _with_worker(self, first: int) -> None:
        i: int | None = first
        worker = self._start()
        if worker is None:
            return
        with worker:
            tasks, answers = _pipes(worker)
            try:
                send(tasks, sys.path)
                while i is not None:
                    send(tasks, self._tasks[i])
                    self._done.put(_named(load(receive(answers)), self._tasks[i]))
                    i = self._next()
            except (EOFError, BrokenPipeError):
                self._bury(i, worker)
            finally:
                with self._lock:
                    self._workers.discard(worker)
                _close(tasks)

    def _start(self) -> "subprocess.Popen[bytes] | None":
        with self._lock:
            if self._stopped:
                return None
            worker = subprocess.Popen(
                [sys.executable, "-c", _SERVE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **dict.fromkeys(_THREADS, "1")},
            )
            self._workers.add(worker)
            return worker

    def _bury(self, i: int | None, worker: "subprocess.Popen[bytes]") -> None:
        """A worker died over a task: try it again, unless it keeps killing workers."""
        code = worker.wait()
        with self._lock:
            if self._stopped or i is None:
                return
            self._deaths[i] += 1
            if self._deaths[i] < _LIVES:
                self._waiting.appendleft(i)
                return
        task = self._tasks[i]
        error = ChildProcessError(
            f"its worker process ended {_LIVES} times, last with exit code {code}; "
            "it may need more memory than there is (run with fewer jobs)"
        )
        self._done.put(Outcome.of_error(task.info.id, task.source.name, error))


def _pipes(worker: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    if worker.stdin is None or worker.stdout is None:
        raise OSError("a worker process was started without pipes")
    return worker.stdin, worker.stdout


def _close(stream: IO[bytes]) -> None:
    """Tell a worker that there is no more; one that is dead has closed its end already."""
    try:
        stream.close()
    except BrokenPipeError:
        return


def _named(outcome: Outcome, task: Task) -> Outcome:
    """An outcome of a task that could not even be unpickled has no name yet."""
    if outcome.id:
        return outcome
    return Outcome(task.info.id, task.source.name, outcome.kind, outcome.error, outcome.trace)
