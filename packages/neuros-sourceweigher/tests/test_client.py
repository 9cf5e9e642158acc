"""The clients give what the library gives, and come back only when that makes sense."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

pytest.importorskip("httpx", reason="the extra [client] is not installed")

from neuros_core.domains import DomainStatistics
from neuros_sourceweigher import SourceWeigher, project_simplex
from neuros_sourceweigher._requests import (
    Retries,
    _domain,
    batch_call,
    class_weights_call,
    read_answer,
    weights_call,
)
from neuros_sourceweigher._wire import pack, unpack
from neuros_sourceweigher.client import (
    AsyncSourceWeigherClient,
    SourceWeigherClient,
    SourceWeigherError,
)

WORD = "right"
RNG = np.random.default_rng(0)
SOURCES = [
    DomainStatistics.from_samples(RNG.normal(size=(40, 5)) + i, name=f"s{i}", y=[0, 1] * 20)
    for i in range(4)
]
TARGET = DomainStatistics.from_samples(RNG.normal(size=(30, 5)) + 1.3, name="t")


@pytest.fixture(scope="module")
def url():
    """A service in a thread of this process."""
    uvicorn = pytest.importorskip("uvicorn", reason="the extra [service] is not installed")
    from neuros_sourceweigher.service import ServiceSettings, create_app

    app = create_app(ServiceSettings(token=WORD))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the service did not start"
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join(20)


@pytest.mark.parametrize("binary", [True, False])
def test_results_are_those_of_the_library(url, binary):
    local = SourceWeigher(ridge=0.1).fit(SOURCES, TARGET)
    v = RNG.normal(size=(3, 4))
    with SourceWeigherClient(url, token=WORD, binary=binary) as client:
        remote = client.weights(SOURCES, TARGET, ridge=0.1)
        both = client.weights_batch(SOURCES, [TARGET, SOURCES[0]], ridge=0.1)
        projected = client.project(v, radius=2.0)
        assert client.ready()
    assert remote.to_json() == local.to_json()
    assert remote.weights.tobytes() == local.weights.tobytes()
    assert both[0].to_json() == local.to_json()
    assert both[1].to_json() == SourceWeigher(ridge=0.1).fit(SOURCES, SOURCES[0]).to_json()
    assert projected.tobytes() == project_simplex(v, radius=2.0).tobytes()


def test_asynchronous_results_are_those_of_the_library(url):
    async def ask():
        async with AsyncSourceWeigherClient(url, token=WORD) as client:
            return await asyncio.gather(
                client.weights(SOURCES, TARGET),
                client.weights_batch(SOURCES, [TARGET]),
                client.project([1.0, 1.0]),
                client.ready(),
            )

    one, (many,), projected, ready = asyncio.run(ask())
    local = SourceWeigher().fit(SOURCES, TARGET).to_json()
    assert one.to_json() == many.to_json() == local
    assert projected.tolist() == [0.5, 0.5]
    assert ready


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_refusal_names_status_code_and_request(url, token):
    with (
        SourceWeigherClient(url, token=token) as client,
        pytest.raises(SourceWeigherError, match=r"^40[13] \w+: .* \(request \w+\)$") as refused,
    ):
        client.weights(SOURCES, TARGET)
    assert refused.value.status == (401 if token is None else 403)
    assert refused.value.code == ("unauthorized" if token is None else "forbidden")


def test_an_invalid_problem_is_not_sent_twice(url):
    with (
        SourceWeigherClient(url, token=WORD) as client,
        pytest.raises(
            SourceWeigherError, match="422 invalid: options/ridge: needs number"
        ) as error,
    ):
        client.weights(SOURCES, TARGET, ridge=None)
    assert error.value.detail.startswith("options/ridge")


class Flaky(BaseHTTPRequestHandler):
    """Refuses as often as it is told, then answers."""

    answers: list
    seen: list

    def do_POST(self):
        self.seen.append(self.rfile.read(int(self.headers["Content-Length"])))
        status, headers, body = self.answers.pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


PROBLEM = json.dumps({"code": "overloaded", "detail": "come back later"}).encode()
GOOD = (200, {"Content-Type": "application/msgpack"}, pack({"w": np.array([1.0])}))


@pytest.fixture
def flaky():
    def start(*answers):
        handler = type("Handler", (Flaky,), {"answers": list(answers), "seen": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", handler

    servers = []
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_429_and_503_are_tried_again(flaky):
    url, handler = flaky((503, {}, PROBLEM), (429, {"Retry-After": "0"}, PROBLEM), GOOD)
    with SourceWeigherClient(url, retries=2) as client:
        assert client.project([3.0]).tolist() == [1.0]
    assert len(handler.seen) == 3
    assert len(set(handler.seen)) == 1


def test_asynchronous_requests_are_tried_again(flaky):
    url, handler = flaky((503, {}, PROBLEM), GOOD)

    async def ask():
        async with AsyncSourceWeigherClient(url, retries=1) as client:
            return await client.project([3.0])

    assert asyncio.run(ask()).tolist() == [1.0]
    assert len(handler.seen) == 2


def test_the_last_refusal_is_raised(flaky):
    url, handler = flaky(*[(503, {"X-Request-ID": "r9"}, PROBLEM)] * 2)
    with (
        SourceWeigherClient(url, retries=1) as client,
        pytest.raises(SourceWeigherError, match=r"503 overloaded: come back later \(request r9\)"),
    ):
        client.project([3.0])
    assert not handler.answers


@pytest.mark.parametrize("status", [400, 408, 413, 422, 500, 502, 504])
def test_no_other_status_is_tried_again(flaky, status):
    url, handler = flaky((status, {}, PROBLEM), GOOD)
    with SourceWeigherClient(url) as client, pytest.raises(SourceWeigherError, match=str(status)):
        client.project([3.0])
    assert len(handler.answers) == 1


@pytest.mark.parametrize(
    "answer",
    [
        (502, {"Content-Type": "text/html"}, b"<html>"),
        (200, {"Content-Type": "text/html"}, b"<html>"),
        (200, {"Content-Type": "application/msgpack"}, b"\xc1"),
        (200, {"Content-Type": "application/json"}, b"[]"),
        (422, {}, b"{}"),
    ],
)
def test_answers_of_something_else_are_named_so(flaky, answer):
    url, _ = flaky(answer)
    with (
        SourceWeigherClient(url) as client,
        pytest.raises(
            SourceWeigherError, match=r"unreadable: the answer of type .* is not of this"
        ),
    ):
        client.project([3.0])


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_nobody_listening_is_an_error_after_the_retries():
    url = f"http://127.0.0.1:{closed_port()}"
    with SourceWeigherClient(url, retries=1) as client:
        assert not client.ready()
        with pytest.raises(SourceWeigherError, match="0 unreachable: ConnectError"):
            client.weights(SOURCES, TARGET)

    async def ask():
        async with AsyncSourceWeigherClient(url, retries=0) as client:
            assert not await client.ready()
            await client.weights(SOURCES, TARGET)

    with pytest.raises(SourceWeigherError, match="0 unreachable: ConnectError"):
        asyncio.run(ask())


def test_a_connection_that_breaks_is_not_tried_again():
    accepted = []

    def break_connections(listener):
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            accepted.append(connection.recv(65536))
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=break_connections, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            SourceWeigherClient(url) as client,
            pytest.raises(SourceWeigherError, match="0 unreachable: R"),
        ):
            client.project([3.0])
        listener.shutdown(socket.SHUT_RDWR)
    assert len(accepted) == 1


def test_pauses_grow_and_obey_the_service():
    retries = Retries(3, 30.0)
    pauses = [retries.pause(attempt, 503, {}) for attempt in (1, 2, 3)]
    for attempt, pause in enumerate(pauses):
        assert 0.05 * 2**attempt <= pause <= 0.15 * 2**attempt
    assert retries.pause(4, 503, {}) is None
    assert retries.pause(1, 503, {"retry-after": "7"}) == 7.0
    dated = retries.pause(1, 429, {"retry-after": formatdate(1e9, usegmt=True)})
    assert dated < 1
    assert retries.pause(1, 503, {"retry-after": "soon"}) < 1
    assert retries.pause(1, 503, {"retry-after": "31"}) is None
    assert len({retries.pause(1, 0, {}) for _ in range(20)}) > 10


def test_a_negative_number_of_retries_is_refused():
    for client in (SourceWeigherClient, AsyncSourceWeigherClient):
        with pytest.raises(ValueError, match="retries needs a whole number >= 0, got -1"):
            client("http://127.0.0.1", retries=-1)


def test_statistics_travel_with_their_classes():
    sent = unpack(pack(_domain(SOURCES[0])))
    assert sent["classes"].keys() == {"0", "1"}
    assert sent["cov"].tobytes() == SOURCES[0].cov.tobytes()


def test_quality_is_sent_only_when_it_is_given():
    quality = {"a": 0.5}
    assert weights_call(SOURCES, TARGET, quality, {}).tree["quality"] == quality
    assert batch_call(SOURCES, [TARGET], quality, {}).tree["quality"] == quality
    assert "quality" not in weights_call(SOURCES, TARGET, None, {}).tree


def test_joint_weights_are_read_in_both_formats():
    call = class_weights_call(SOURCES, TARGET, {"0": 0.5, "1": 0.5}, {"ridge": 0.1})
    assert call.tree["target_priors"] == {"0": 0.5, "1": 0.5}
    answer = {"schema": 1, "names": ["a", "b"], "classes": ["0"], "joint": [[0.25], [0.75]]}
    found = read_answer(
        call, 200, {"content-type": "application/json"}, json.dumps(answer).encode()
    )
    binary = pack(answer | {"joint": np.array(answer["joint"])})
    again = read_answer(call, 200, {"content-type": "application/msgpack"}, binary)
    assert found.joint.tolist() == again.joint.tolist() == answer["joint"]


def test_only_arrays_and_plain_values_are_packed():
    with pytest.raises(TypeError, match="needs plain values or arrays, got set"):
        pack({1})


# A fresh interpreter has to import NumPy.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("client", "httpx", "client"),
        ("client", "msgpack", "client"),
        ("service", "fastapi", "service"),
    ],
)
def test_without_its_extra_a_module_names_it(module, missing, extra):
    code = f"import sys; sys.modules[{missing!r}] = None; import neuros_sourceweigher.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'neuros-sourceweigher[{extra}]'" in done.stderr.splitlines()[-1]
