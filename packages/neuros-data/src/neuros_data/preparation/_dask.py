"""The cluster executor: Dask, on this machine or wherever its scheduler is."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from neuros_data._extras import need
from neuros_data.preparation._task import Outcome, Task, run_task

# Below about 0.1 s a task the scheduler costs more than the work: small sessions go together.
_BATCH_BYTES = 16 << 20


def run_on_dask(tasks: Sequence[Task], jobs: int, address: str) -> Iterator[Outcome]:
    """Give each outcome as it comes.

    Args:
        tasks: The sessions; the store's folder must be the same on every worker.
        jobs: Workers of a cluster on this machine; one that is joined has its own.
        address: Empty starts a cluster on this machine; else the scheduler's address, or the path
            of its scheduler file.

    Raises:
        ImportError: When Dask is not installed.
    """
    distributed = need("distributed", "dask", "the executor dask")
    with ExitStack() as stack:
        client = stack.enter_context(_client(distributed, min(jobs, len(tasks)), address, stack))
        workers = max(1, len(client.scheduler_info()["workers"]))
        batches = _batches(tasks, workers)
        futures = {client.submit(_run_batch, batch, pure=False): batch for batch in batches}
        for future in distributed.as_completed(futures):
            # Results stay with the worker until they are asked for: one that dies after its answer
            # was announced takes it along. This waits for the work to be done again.
            error = future.exception()
            if error is None:
                yield from future.result()
            else:
                for task in futures[future]:
                    yield Outcome.of_error(task.info.id, task.source.name, error)


def _client(distributed: Any, jobs: int, address: str, stack: ExitStack) -> Any:
    if address.endswith(".json"):
        return distributed.Client(scheduler_file=address)
    if address:
        return distributed.Client(address)
    cluster = distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
    return distributed.Client(stack.enter_context(cluster))


def _run_batch(tasks: Sequence[Task]) -> list[Outcome]:
    return [run_task(task) for task in tasks]


def _batches(tasks: Sequence[Task], workers: int) -> list[list[Task]]:
    """Small sessions together, but four batches a worker as long as there are enough."""
    most = max(1, math.ceil(len(tasks) / (4 * workers)))
    batches: list[list[Task]] = []
    room = 0
    for task in tasks:
        size = sum(file.size for file in task.files)
        if not batches or len(batches[-1]) == most or size > room:
            batches.append([])
            room = _BATCH_BYTES
        batches[-1].append(task)
        room -= size
    return batches
