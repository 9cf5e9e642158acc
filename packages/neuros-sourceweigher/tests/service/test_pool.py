"""The bounded pool: what is admitted, refused, given up and let go."""

import asyncio
import gc
import json
import threading
import weakref

import pytest

pytest.importorskip("fastapi", reason="the extra [service] is not installed")

from neuros_sourceweigher._service.pool import Pool
from neuros_sourceweigher._service.problem import ClientGoneError, ProblemError
from neuros_sourceweigher.service import ServiceSettings, create_app


async def never():
    await asyncio.Event().wait()


@pytest.fixture
def hold():
    """An event that is set at the end of the test at the latest: threads wait for it."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def depths():
    return []


@pytest.fixture
def pool(depths):
    pool = Pool(1, 1, depths.append)
    yield pool
    pool.close()


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def test_the_queue_is_bounded_and_counted(pool, depths, hold):

    async def scenario():
        first = asyncio.create_task(pool.run(hold.wait, seconds=20, receive=never))
        second = asyncio.create_task(pool.run(lambda: 2, seconds=20, receive=never))
        await until(lambda: pool.full)
        assert (pool.running, pool.waiting) == (1, 1)
        with pytest.raises(ProblemError, match="2 problems are being solved or wait") as refused:
            await pool.run(lambda: 3, seconds=20, receive=never)
        hold.set()
        assert (await first, await second) == (True, 2)
        await until(lambda: not pool.running)
        return refused.value

    refused = asyncio.run(scenario())
    assert (refused.status, refused.code) == (503, "overloaded")
    assert refused.headers == ((b"retry-after", b"1"),)
    assert depths == [0, 1, 0, 0]


def test_work_given_up_in_the_queue_never_runs_and_holds_nothing(pool, hold):
    ran = []

    class Payload:
        def __call__(self):
            ran.append(1)

    async def leave():
        await asyncio.sleep(0)

    async def scenario():
        first = asyncio.create_task(pool.run(hold.wait, seconds=20, receive=never))
        await until(lambda: pool.running)
        payload = Payload()
        kept = weakref.ref(payload)
        with pytest.raises(ClientGoneError):
            await pool.run(payload, seconds=20, receive=leave)
        with pytest.raises(ProblemError, match="not solved in time") as late:
            await pool.run(Payload(), seconds=0, receive=never)
        del payload
        gc.collect()
        # The first call still holds the only thread, so the queue still has both.
        assert kept() is None
        await until(lambda: not pool.waiting)
        hold.set()
        await first
        return late.value

    late = asyncio.run(scenario())
    assert (late.status, late.code) == (504, "time_limit")
    assert not ran


def test_the_error_of_a_call_reaches_its_caller(pool):
    def fail():
        raise ProblemError(422, "invalid", "not today")

    with pytest.raises(ProblemError, match="not today"):
        asyncio.run(pool.run(fail, seconds=20, receive=never))


def test_work_that_ends_after_the_loop_counts_nowhere(pool, depths, hold):
    with pytest.raises(ProblemError, match="not solved in time"):
        asyncio.run(pool.run(hold.wait, seconds=0.01, receive=never))
    assert pool.running == 1
    hold.set()
    pool.close()
    assert depths == [0]


def test_a_full_queue_refuses_before_the_body_and_shows_in_readiness(ask_in_loop, hold):
    app = create_app(ServiceSettings(max_concurrency=1, queue_size=1))

    async def unread():
        raise AssertionError("the body was read")

    async def scenario():
        async with app.router.lifespan_context(app):
            pool = app.state.service.pool
            tasks = [
                asyncio.create_task(pool.run(hold.wait, seconds=20, receive=never))
                for _ in range(2)
            ]
            await until(lambda: pool.full)
            refused = await ask_in_loop(app, "/v1/project", receive=unread)
            ready = await ask_in_loop(app, "/readyz", method="GET")
            health = await ask_in_loop(app, "/healthz", method="GET")
            hold.set()
            await asyncio.gather(*tasks)
            return refused, ready, health

    refused, ready, health = asyncio.run(scenario())
    for reply in (refused, ready):
        assert (reply.status, reply.json["code"]) == (503, "overloaded")
        assert reply.headers["retry-after"] == "1"
    assert health.status == 200


def test_a_problem_above_the_time_limit_is_given_up(ask_in_loop, hold, problem, document):
    app = create_app(ServiceSettings(request_timeout_s=0.5, max_concurrency=1))
    body = json.dumps(document(*problem(60, 300))).encode()

    async def scenario():
        async with app.router.lifespan_context(app):
            # The only thread is taken: however fast the machine, the problem is not solved in time.
            pool = app.state.service.pool
            taken = asyncio.create_task(pool.run(hold.wait, seconds=20, receive=never))
            await until(lambda: pool.running)
            reply = await ask_in_loop(app, "/v1/weights", body)
            hold.set()
            await taken
            return reply

    reply = asyncio.run(scenario())
    assert (reply.status, reply.json["code"]) == (504, "time_limit")
