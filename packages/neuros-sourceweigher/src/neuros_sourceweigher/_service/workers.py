"""Several worker processes: each is replaced when it dies, and all stop together."""

import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from neuros_sourceweigher._service.metrics import DIRECTORY

__all__: list[str] = []

# A worker that lived shorter is replaced only after a pause, so that a fault cannot spin.
_SHORT_LIFE_S = 2.0
_log = logging.getLogger(__name__)


def supervise(
    work: Callable[[], None],
    count: int,
    context: SpawnContext,
    *,
    stopping: Callable[[], None] = lambda: None,
) -> int:
    """Keep `count` processes at `work` until SIGTERM or SIGINT, then stop them.

    Args:
        work: What each process runs; it can be pickled.
        count: Number of processes.
        context: How processes are started.
        stopping: Called once when no further worker will be started.

    Returns:
        0 when every worker stopped in order, 1 otherwise.
    """
    folder, temporary = _metrics_folder()
    stop: list[int] = []
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, _: stop.append(number))
    try:
        workers = _keep(work, count, context, stop)
        stopping()
        return _stop(workers)
    finally:
        if temporary:
            del os.environ[DIRECTORY]
            shutil.rmtree(folder, ignore_errors=True)


def _metrics_folder() -> tuple[Path, bool]:
    """Return an empty directory for the metrics of all workers, and whether it is temporary."""
    given = os.environ.get(DIRECTORY)
    folder = Path(given or tempfile.mkdtemp(prefix="sourceweigher-"))
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob("*.db"):
        left_over.unlink()
    # The workers read it before they make their first metric.
    os.environ[DIRECTORY] = str(folder)
    return folder, given is None


def _keep(
    work: Callable[[], None], count: int, context: SpawnContext, stop: list[int]
) -> list[SpawnProcess]:
    """Start processes and replace those that die, until `stop` holds a signal."""

    def start() -> tuple[SpawnProcess, float]:
        process = context.Process(target=work)
        process.start()
        return process, time.monotonic()

    workers = [start() for _ in range(count)]
    while not stop:
        wait([process.sentinel for process, _ in workers], timeout=0.2)
        for i, (process, born) in enumerate(workers):
            if process.is_alive() or stop:
                continue
            fields = {"pid": process.pid, "exit": process.exitcode}
            _log.error("a worker died and is replaced", extra={"fields": fields})
            _forget(process)
            time.sleep(max(_SHORT_LIFE_S - (time.monotonic() - born), 0.0))
            workers[i] = start()
    return [process for process, _ in workers]


def _stop(workers: list[SpawnProcess]) -> int:
    for process in workers:
        process.terminate()
    for process in workers:
        process.join()
    # A worker that was still starting has no handler yet: -SIGTERM is in order too.
    orderly = (0, -signal.SIGTERM)
    return int(any(process.exitcode not in orderly for process in workers))


def _forget(process: SpawnProcess) -> None:
    if process.pid is not None:
        # Its counts stay; what it was doing at the moment does not.
        forget: Any = mark_process_dead
        forget(process.pid)
