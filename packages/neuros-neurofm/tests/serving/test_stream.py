import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi")
from fastapi import WebSocketDisconnect
from fastapi.testclient import TestClient

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.serving import ServingLimits, create_app
from neuros_neurofm.streaming import StreamingSession

UNITS = {"spike": [f"u{k}" for k in range(6)]}


def build(**options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    given = {"sampling_rates": {"spike": 50.0}, "window": 1.0, "popt_depth": 1}
    model = MultiModalNeuroFMX(
        16, 1, 10, 16, modalities=("spike", "lfp"), perceiver_depth=1, **{**given, **options}
    )
    model.add_units("spike", UNITS["spike"])
    return model.eval()


@pytest.fixture(scope="module")
def model() -> MultiModalNeuroFMX:
    return build()


@pytest.fixture
def client(model: MultiModalNeuroFMX) -> Iterator[TestClient]:
    with TestClient(create_app(model, ServingLimits(streams=1, max_body=5000))) as client:
        yield client


def say(socket: Any, **content: Any) -> Any:
    socket.send_text(json.dumps(content))
    return socket.receive_json()


def test_a_served_stream_is_that_of_a_session_bit_for_bit(
    client: TestClient, model: MultiModalNeuroFMX
) -> None:
    g = torch.Generator().manual_seed(1)
    spikes, lfp = torch.poisson(torch.ones(1, 60, 6), generator=g), torch.randn(1, 40, 2)
    names = ["decoder", "latents", "pooled", "contrastive", "encoder"]
    local = StreamingSession(model, {"lfp": 100.0})
    expected, served = [], []
    with client.websocket_connect("/v1/stream") as socket:
        opened = say(socket, units=UNITS, sampling_rates={"lfp": 100.0}, outputs=names)["opened"]
        assert opened["step"] == local.step
        assert opened["sampling_rates"] == {"spike": 50.0, "lfp": 100.0}
        for k in range(4):
            chunk = {"spike": spikes[:, 7 * k : 7 * k + 7], "lfp": lfp[:, 10 * k : 10 * k + 10]}
            expected += local.push(chunk, units=UNITS)
            served += say(socket, inputs={m: x[0].tolist() for m, x in chunk.items()})["steps"]
        expected += local.leave("lfp")
        served += say(socket, leave=["lfp"])["steps"]
        expected += local.push({"spike": spikes[:, 28:]}, 0.8, units=UNITS)
        served += say(socket, inputs={"spike": spikes[0, 28:].tolist()}, t=0.8)["steps"]
        expected += local.finish()
        served += say(socket, finish=True)["steps"]
        with pytest.raises(WebSocketDisconnect) as end:
            socket.receive_text()
    assert end.value.code == 1000
    assert len(served) == len(expected) > 10
    for ours, theirs in zip(served, expected, strict=True):
        assert ours["t"] == float(theirs.times)
        assert tuple(ours["modalities"]) == theirs.modalities
        for name in names[:-1]:
            assert torch.equal(torch.tensor(ours[name]), getattr(theirs, name))
        for m, x in theirs.encoder.items():
            assert torch.equal(torch.tensor(ours["encoder"][m]), x)
    assert f"neurofm_serve_stream_steps_total {len(served)}\n" in client.get("/metrics").text


def test_a_chunk_that_is_refused_leaves_the_session_as_it_was(
    client: TestClient, model: MultiModalNeuroFMX
) -> None:
    local = StreamingSession(model)
    rows = torch.ones(1, 12, 6)
    with client.websocket_connect("/v1/stream") as socket:
        say(socket)
        for content, message in [
            ({"inputs": {"spike": [[1, -1, 1, 1, 1, 1]]}}, "spike counts must be >= 0"),
            ({"inputs": {"lfp": [[1.0]]}}, "samples per second"),
            ({"inputs": {"spike": [[1]]}, "t": "soon"}, "t must be a finite number"),
            ({"inputs": {"spike": [[1]]}, "t": 10**400}, "t must be a finite number"),
            ({"inputs": {"spike": [[1]]}, "t": 1e9}, "send shorter pieces"),
            ({"inputs": {"spike": [[1]]}, "leave": ["spike"]}, "exclude each other"),
            ({"leave": ["spike"]}, "are not in the stream"),
            ({"leave": "spike"}, "leave must be a list of strings"),
            ({"finish": False}, "inputs must be an object"),
            ({"chunk": 1}, "unknown keys ['chunk']"),
        ]:
            answer = say(socket, **content)["problem"]
            assert (answer["status"], answer["code"]) == (422, "invalid")
            assert message in answer["detail"]
        socket.send_text("{")
        assert socket.receive_json()["problem"]["code"] == "malformed"
        (step, *_) = say(socket, inputs={"spike": rows[0].tolist()})["steps"]
    assert torch.equal(torch.tensor(step["decoder"]), local.push({"spike": rows})[0].decoder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"outputs": ["loss"]}, "got ['loss']"),
        ({"sampling_rates": [1]}, "must be an object of numbers"),
        ({"sampling_rates": {"spike": 20}}, "resample the stream"),
        ({"sampling_rates": {"lfp": "fast"}}, "sampling_rates.lfp must be a finite number"),
        ({"max_lag": -1}, "max_lag must be > 0"),
        ({"units": ["a"]}, "units must be an object"),
    ],
)
def test_a_stream_that_cannot_open_is_closed(
    client: TestClient, content: dict[str, Any], message: str
) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        assert message in say(socket, **content)["problem"]["detail"]
        with pytest.raises(WebSocketDisconnect) as end:
            socket.receive_text()
    assert end.value.code == 1008


def test_a_model_that_cannot_stream_says_why() -> None:
    with (
        TestClient(create_app(build(window=None))) as client,
        client.websocket_connect("/v1/stream") as socket,
    ):
        assert "build it with window=" in say(socket)["problem"]["detail"]


def test_one_stream_too_many_is_refused_until_one_ends(client: TestClient) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        say(socket)
        with (
            pytest.raises(WebSocketDisconnect) as refusal,
            client.websocket_connect("/v1/stream"),
        ):
            pass
        answer: Any = refusal.value
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["detail"] == "1 streams are open already"
    with client.websocket_connect("/v1/stream") as socket:
        assert "opened" in say(socket)


@pytest.mark.parametrize("binary", [False, True])
def test_a_message_that_is_too_long_closes_the_stream(client: TestClient, *, binary: bool) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        if binary:
            socket.send_bytes(b" " * 5001)
        else:
            socket.send_text(" " * 5001)
        with pytest.raises(WebSocketDisconnect) as end:
            socket.receive_text()
    assert end.value.code == 1009


def test_a_silent_stream_is_closed(model: MultiModalNeuroFMX) -> None:
    with (
        TestClient(create_app(model, ServingLimits(idle=0.05))) as client,
        client.websocket_connect("/v1/stream") as socket,
        pytest.raises(WebSocketDisconnect) as end,
    ):
        socket.receive_text()
    assert end.value.code == 1008


def test_steps_that_are_not_finite_are_a_problem() -> None:
    model = build()
    with torch.no_grad():
        for parameter in model.heads["decoder"].parameters():
            parameter.fill_(torch.nan)
    with (
        TestClient(create_app(model)) as client,
        client.websocket_connect("/v1/stream") as socket,
    ):
        say(socket)
        answer = say(socket, inputs={"spike": [[1, 1, 1, 1, 1, 1]] * 12})
        assert "holds NaN" in answer["problem"]["detail"]
