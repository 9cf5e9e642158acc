"""The server as a process: limits, signals, workers and their metrics."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra [service] is not installed")
pytest.importorskip("httpx", reason="the extra [client] is not installed")

import httpx

from neuros_sourceweigher._wire import pack

pytestmark = [
    # A fresh interpreter imports NumPy, SciPy and FastAPI before it listens.
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to end a process in order"),
]
MIB = 2**20


def peak_kib(pid):
    """Largest resident memory of a process so far."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def send_raw(port, head, chunk, count):
    """Send a head and `count` times a chunk; return what came back."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head)
        try:
            for _ in range(count):
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            count = 0
        return connection.recv(65536)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")
def test_refused_bodies_of_100_mb_take_no_memory(serve):
    served = serve(max_body_bytes=str(MIB)).ready()
    assert httpx.post(f"{served.url}/v1/project", json={"v": [1.0]}).status_code == 200
    before = peak_kib(served.process.pid)
    head = b"POST /v1/project HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    part = b" " * MIB
    declared = send_raw(served.port, head + b"Content-Length: %d\r\n\r\n" % (100 * MIB), part, 100)
    assert declared.startswith(b"HTTP/1.1 413 ")
    chunk = b"%x\r\n%s\r\n" % (MIB, part)
    chunked = send_raw(served.port, head + b"Transfer-Encoding: chunked\r\n\r\n", chunk, 100)
    assert chunked.startswith(b"HTTP/1.1 413 ")
    grown = (peak_kib(served.process.pid) - before) / 1024
    assert grown <= 1 + 8, f"{grown} MiB"
    assert httpx.get(f"{served.url}/healthz").status_code == 200


def test_a_body_that_stops_is_answered_and_closed(serve):
    served = serve(body_timeout_s="0.2").ready()
    head = b"POST /v1/project HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(head + b'Content-Length: 100\r\n\r\n{"v":')
        received = b""
        while part := connection.recv(65536):
            received += part
    assert received.startswith(b"HTTP/1.1 408 ")
    assert json.loads(received.split(b"\r\n\r\n")[1])["code"] == "slow_body"


def body_of(K, d, targets=None):
    rng = np.random.default_rng(0)
    count = K + (targets or 1)
    domains = [{"name": f"s{i}", "n": 9, "mean": rng.normal(size=d)} for i in range(count)]
    asked = {"target": domains[K]} if targets is None else {"targets": domains[K:]}
    return pack({"sources": domains[:K], "options": {"metric": "identity"}} | asked)


def test_no_request_is_lost_when_the_process_is_told_to_stop(serve):
    count = 220
    served = serve(queue_size="500", max_concurrency="1").ready()
    # The first request keeps the only thread for seconds, while the others come in behind it.
    slow, quick = body_of(60, 300, 400), body_of(40, 100)

    async def post(path, body):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/msgpack\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        status = await reader.readline()
        writer.close()
        return status.split()[1:2]

    async def in_flight(client):
        text = (await client.get(f"{served.url}/metrics")).text
        # The request for the metrics is one of them.
        return float(re.search(r"^sourceweigher_in_flight (.+)$", text, re.MULTILINE)[1]) - 1

    async def all_of_them():
        async with httpx.AsyncClient(timeout=60) as client:
            tasks = [asyncio.create_task(post("/v1/weights/batch", slow))]
            while await in_flight(client) < 1:
                await asyncio.sleep(0)
            tasks += [asyncio.create_task(post("/v1/weights", quick)) for _ in range(count)]
            while (waiting := await in_flight(client)) < count + 1 and not tasks[0].done():
                await asyncio.sleep(0)
            served.process.send_signal(signal.SIGTERM)
            return waiting, await asyncio.gather(*tasks)

    waiting, statuses = asyncio.run(all_of_them())
    assert waiting >= 200
    assert statuses == [[b"200"]] * (count + 1)
    lines = served.rest()
    assert served.process.returncode == 0
    answered = [line for line in [*served.lines, *lines] if line.get("route", "").startswith("/v1")]
    assert len(answered) == count + 1


def test_a_draining_process_is_not_ready_and_still_answers(serve):
    served = serve(drain_s="0.7").ready()
    with httpx.Client(base_url=served.url) as client:
        assert client.get("/readyz").status_code == 200
        served.process.send_signal(signal.SIGTERM)
        served.read_until("draining")
        refused = client.get("/readyz")
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert refused.headers["connection"] == "close"
        answer = client.post("/v1/project", json={"v": [1.0, 1.0]})
        assert answer.json() == {"w": [0.5, 0.5]}
    served.rest()
    assert served.process.returncode == 0


def test_a_solve_that_nobody_waits_for_does_not_hold_up_the_end(serve):
    served = serve(request_timeout_s="0.5", max_concurrency="1", queue_size="1").ready()
    headers = {"Content-Type": "application/msgpack"}
    # Half a minute of work: a thousand and a half targets, each solved by itself.
    reply = httpx.post(
        f"{served.url}/v1/weights/batch",
        content=body_of(100, 400, 1500),
        headers=headers,
        timeout=60,
    )
    assert reply.status_code == 504
    begin = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    served.rest()
    assert served.process.returncode == 0
    assert time.monotonic() - begin < 0.5 + 5


def total(text):
    found = re.findall(r'requests_total\{.*route="/v1/project".*\} ([0-9.]+)', text)
    return sum(map(float, found))


def test_two_workers_count_together_and_a_killed_one_is_replaced(serve, tmp_path, monkeypatch):
    left_over = tmp_path / "counter_1.db"
    left_over.write_bytes(b"of an earlier run")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    served = serve("--workers", "2").ready(2)
    assert not left_over.exists()

    def project(times):
        # Every request opens a connection, so both workers get some.
        with httpx.Client(headers={"Connection": "close"}, timeout=30) as client:
            for _ in range(times):
                reply = client.post(f"{served.url}/v1/project", json={"v": [1.0, 1.0]})
                assert reply.status_code == 200

    project(40)
    assert total(httpx.get(f"{served.url}/metrics").text) == 40
    started = [re.search(r"\[(\d+)\]", line["message"]) for line in served.lines]
    pids = [int(match[1]) for match in started if match]
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGKILL)
    died = served.read_until("a worker died and is replaced")
    assert (died["pid"], died["exit"]) == (pids[0], -signal.SIGKILL)
    project(20)
    served.ready()
    project(20)
    text = httpx.get(f"{served.url}/metrics").text
    assert total(text) == 80
    assert "sourceweigher_in_flight 1.0" in text
    served.process.send_signal(signal.SIGTERM)
    served.rest()
    assert served.process.returncode == 0


def test_workers_stop_when_their_supervisor_is_killed(serve):
    served = serve("--workers", "2").ready(2)
    served.process.kill()
    # The log ends only when the last holder of its pipe is gone.
    lines = served.rest()
    assert sum(line["message"].startswith("Finished server") for line in lines) == 2


def test_the_token_file_is_read_and_in_no_log(serve, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret")
    served = serve("--token-file", str(token)).ready()
    assert httpx.get(f"{served.url}/version").status_code == 401
    headers = {"Authorization": "Bearer s3cret"}
    assert httpx.get(f"{served.url}/version", headers=headers).status_code == 200
    served.process.send_signal(signal.SIGINT)
    lines = served.rest()
    assert served.process.returncode == 0
    assert "s3cret" not in json.dumps(served.lines + lines)
