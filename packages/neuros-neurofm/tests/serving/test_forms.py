"""Bodies in both forms, the description of them all, and decoders with a linear part."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")
import msgpack
from fastapi import WebSocketDisconnect
from fastapi.testclient import TestClient

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.models import LinearPart
from neuros_neurofm.models._linear_file import write_linear_parts
from neuros_neurofm.serving import ServingLimits, create_app
from neuros_neurofm.serving._codec import answer_form, encode
from neuros_neurofm.serving._problem import TITLES, ProblemError
from neuros_neurofm.serving._server import load_app
from neuros_neurofm.streaming import StreamingSession

JSON, MSGPACK = "application/json", "application/msgpack"
LIMITS = ServingLimits(max_body=50_000, max_steps=500)


@pytest.fixture(scope="module")
def model() -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX(
        16, 1, 10, 16, modalities=("spike", "lfp"), sampling_rates={"spike": 50.0, "lfp": 50.0},
        window=1.0, popt_depth=1, perceiver_depth=1,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def client(model: MultiModalNeuroFMX) -> Iterator[TestClient]:
    with TestClient(create_app(model, LIMITS)) as client:
        yield client


def part(scale: float = 1.0) -> LinearPart:
    g = torch.Generator().manual_seed(1)
    return LinearPart(
        {"spike": 6}, 50.0, torch.rand(6, generator=g), torch.ones(6),
        scale * torch.randn(3, 6, 2, generator=g), torch.randn(2, generator=g),
    )  # fmt: skip


def counts(batch: int = 2, n: int = 60) -> torch.Tensor:
    return torch.poisson(torch.ones(batch, n, 6), generator=torch.Generator().manual_seed(2))


def described(x: Any) -> dict[str, Any]:
    x = np.ascontiguousarray(x)
    return {"dtype": x.dtype.str, "shape": list(x.shape), "data": x.tobytes()}


def read(node: Any) -> Any:
    if isinstance(node, dict) and set(node) == {"dtype", "shape", "data"}:
        return torch.from_numpy(
            np.frombuffer(node["data"], node["dtype"]).reshape(node["shape"]).copy()
        )
    return node


def pack(client: TestClient, content: Any, path: str = "/v1/embed", **headers: str) -> Any:
    body = content if isinstance(content, bytes) else msgpack.packb(content)
    return client.post(path, content=body, headers={"content-type": MSGPACK, **headers})


def unpack(answer: Any) -> dict[str, Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (200, MSGPACK)
    return {name: read(node) for name, node in msgpack.unpackb(answer.content).items()}


def problem(response: Any, status: int, code: str) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert (response.status_code, content["status"], content["code"]) == (status, status, code)
    return str(content["detail"])


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "|u1", "<i2", "<u2", "<i4", "<i8"])
def test_arrays_arrive_and_leave_as_their_bytes(
    client: TestClient, model: MultiModalNeuroFMX, dtype: str
) -> None:
    x = counts()
    with torch.no_grad():
        expected = model({"spike": x})
    answer = unpack(pack(client, {"inputs": {"spike": described(x.numpy().astype(dtype))}}))
    assert torch.equal(answer["latents"], expected.latents)
    assert torch.equal(answer["pooled"], expected.pooled)
    torch.testing.assert_close(answer["times"], expected.times)
    assert (answer["latents"].dtype, answer["times"].dtype) == (torch.float32, torch.float64)


def test_both_forms_say_the_same(client: TestClient) -> None:
    x = counts(1)[0]
    body = {"inputs": {"spike": x.tolist()}, "query_times": [0.3, 0.75]}
    text = client.post("/v1/decode", json=body).json()
    lists = unpack(pack(client, body, "/v1/decode"))
    arrays = {
        "inputs": {"spike": described(x.numpy())},
        "query_times": described(np.array([0.3, 0.75])),
    }
    binary = unpack(pack(client, arrays, "/v1/decode"))
    for name in ("decoder", "times"):
        assert torch.equal(lists[name], binary[name])
        assert text[name] == binary[name].tolist()


def test_nan_of_an_array_is_a_missing_sample(client: TestClient) -> None:
    x = counts(1)[0].numpy().copy()
    x[5:20, 2] = np.nan
    rows = [[None if np.isnan(v) else float(v) for v in row] for row in x]
    text = client.post("/v1/embed", json={"inputs": {"spike": rows}}).json()["latents"]
    binary = unpack(pack(client, {"inputs": {"spike": described(x)}}))["latents"]
    assert torch.equal(torch.tensor(text), binary)


@pytest.mark.parametrize(
    ("accept", "body", "expected"),
    [
        ("", JSON, JSON),
        ("", MSGPACK, MSGPACK),
        ("*/*", MSGPACK, MSGPACK),
        ("application/*;q=0.5", JSON, JSON),
        ("application/msgpack", JSON, MSGPACK),
        ("application/x-msgpack", JSON, MSGPACK),
        ("application/json, */*;q=0.1", MSGPACK, JSON),
        ("application/json;q=0.2, application/msgpack;q=0.9", JSON, MSGPACK),
        ("application/json;q=high, */*", JSON, MSGPACK),
        ("text/html, application/json;level=1", MSGPACK, JSON),
    ],
)
def test_accept_chooses_the_form_of_the_answer(accept: str, body: str, expected: str) -> None:
    assert answer_form(accept, body) == expected


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0, application/msgpack;q=0"])
def test_an_answer_that_nobody_accepts_is_refused(client: TestClient, accept: str) -> None:
    with pytest.raises(ProblemError, match="Accept must hold application/json or"):
        answer_form(accept, JSON)
    answer = client.post("/v1/embed", json={}, headers={"accept": accept})
    assert "Accept must hold" in problem(answer, 406, "not_acceptable")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ({"dtype": "<c8", "shape": [1], "data": bytes(8)}, "dtype of an array must be one of <f4"),
        ({"dtype": ["<f4"], "shape": [1], "data": bytes(4)}, "dtype of an array must be one of"),
        ({"dtype": "<f4", "shape": 1, "data": bytes(4)}, "up to 8 whole numbers >= 0"),
        ({"dtype": "<f4", "shape": [-1], "data": bytes(4)}, "up to 8 whole numbers >= 0"),
        ({"dtype": "<f4", "shape": [1] * 9, "data": bytes(4)}, "up to 8 whole numbers >= 0"),
        ({"dtype": "<f4", "shape": [2], "data": bytes(4)}, "as many bytes as its shape"),
    ],
)
def test_arrays_that_are_none_are_malformed(
    client: TestClient, array: dict[str, Any], message: str
) -> None:
    answer = pack(client, {"inputs": {"spike": array}})
    assert message in problem(answer, 400, "malformed")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x81\xa1a",
        b"\x01\x01",
        b"\x81\x01\x01",
        b"\x91" * 5000 + b"\x01",
        b"\xdd\xff\xff\xff\xff",
    ],
)
def test_what_is_no_messagepack_is_malformed(client: TestClient, body: bytes) -> None:
    assert "must be MessagePack" in problem(pack(client, body), 400, "malformed")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must be a JSON object"),
        ({"inputs": {"spike": described(np.ones(3, np.float32))}}, "got shape (3,)"),
        ({"inputs": {"spike": described(np.ones((0, 3), np.float32))}}, "got shape (0, 3)"),
        ({"inputs": {"spike": described(np.full((1, 1), np.inf))}}, "finite in float32"),
        ({"inputs": {"spike": described(np.full((1, 1), 1e300))}}, "finite in float32"),
        ({"inputs": {"spike": described(np.full((1, 1), -1, np.int32))}}, "counts must be >= 0"),
        ({"inputs": {"spike": b"1"}}, "must be numbers or null"),
        ({"inputs": {"spike": [described(np.ones(3))]}}, "must be numbers or null"),
        ({"inputs": {"spike": [[1]]}, "units": {"spike": [b"a"]}}, "lists of strings"),
        ({"inputs": {"spike": [[1]]}, "session": "a"}, "unknown keys ['session']"),
    ],
)
def test_messagepack_that_the_model_cannot_take_is_invalid(
    client: TestClient, content: Any, message: str
) -> None:
    assert message in problem(pack(client, content), 422, "invalid")


def test_what_is_neither_plain_nor_an_array_is_not_packed() -> None:
    with pytest.raises(TypeError, match="needs plain values or arrays, got Tensor"):
        encode({"x": torch.ones(1)}, MSGPACK)


def test_limits_hold_for_both_forms(client: TestClient) -> None:
    long = described(np.zeros((2501, 1), np.uint8))
    assert "at most 50 s" in problem(pack(client, {"inputs": {"spike": long}}), 422, "invalid")
    assert "50000 bytes" in problem(pack(client, b"\x00" * 50_001), 413, "too_large")
    answer = pack(client, b"\x80", **{"content-encoding": "gzip"})
    assert "compressed" in problem(answer, 415, "unsupported_media_type")


def test_an_answer_that_is_not_finite_is_refused_in_both_forms(model: MultiModalNeuroFMX) -> None:
    broken = part(float("nan"))
    with TestClient(create_app(model, linear={"a": broken})) as client:
        answer = pack(client, {"inputs": {"spike": [[1] * 6] * 9}}, "/v1/decode")
        assert "holds NaN" in problem(answer, 422, "invalid")


def test_a_stream_answers_in_the_form_of_each_message(
    client: TestClient, model: MultiModalNeuroFMX
) -> None:
    x = counts(1)
    local = StreamingSession(model)
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(msgpack.packb({"outputs": ["decoder", "encoder"]}))
        assert msgpack.unpackb(socket.receive_bytes())["opened"]["step"] == local.step
        socket.send_bytes(msgpack.packb({"inputs": {"spike": described(x[0, :12].numpy())}}))
        served = msgpack.unpackb(socket.receive_bytes())["steps"]
        expected = local.push({"spike": x[:, :12]})
        assert len(served) == len(expected) == 2
        for ours, theirs in zip(served, expected, strict=True):
            assert torch.equal(read(ours["decoder"]), theirs.decoder)
            assert torch.equal(read(ours["encoder"]["spike"]), theirs.encoder["spike"])
        socket.send_bytes(b"\xc1")
        assert msgpack.unpackb(socket.receive_bytes())["problem"]["code"] == "malformed"
        socket.send_text(json.dumps({"inputs": {"spike": x[0, 12:17].tolist()}}))
        (step,) = socket.receive_json()["steps"]
        assert torch.equal(
            torch.tensor(step["decoder"]), local.push({"spike": x[:, 12:17]})[0].decoder
        )


def resolve(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return found


TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "null": type(None),
}


def fits(value: Any, schema: dict[str, Any], document: dict[str, Any]) -> bool:
    """Whether a value fits, for the keywords that the description uses."""
    schema = resolve(schema, document)
    if "anyOf" in schema:
        return any(fits(value, option, document) for option in schema["anyOf"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not isinstance(value, tuple(TYPES[kind] for kind in kinds)):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, list):
        return all(fits(item, schema["items"], document) for item in value)
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties", {})
        missing = set(schema.get("required", ())) - set(value)
        return not missing and all(
            fits(item, known[name], document)
            if name in known
            else other is not False and fits(item, other, document)
            for name, item in value.items()
        )
    return True


def test_the_description_names_every_route_and_every_refusal(client: TestClient) -> None:
    answer = client.get("/openapi.json")
    assert answer.headers["x-request-id"]
    document = answer.json()
    app: Any = client.app
    routes = {route.path: route for route in app.routes}
    assert set(document["paths"]) == set(routes) - {"/openapi.json"}
    assert document == app.openapi()
    refused = {"400", "406", "408", "413", "415", "422", "500", "503", "504"}
    for path in ("/v1/embed", "/v1/decode"):
        (method,) = document["paths"][path]
        operation = document["paths"][path][method]
        assert method == "post"
        assert set(operation["responses"]) == {"200"} | refused
        assert set(operation["requestBody"]["content"]) == {JSON, MSGPACK}
        assert set(operation["responses"]["200"]["content"]) == {JSON, MSGPACK}
        for status in refused:
            ((media, content),) = operation["responses"][status]["content"].items()
            assert (media, content["schema"]["$ref"]) == (
                "application/problem+json", "#/components/schemas/Problem",
            )  # fmt: skip
    assert "Retry-After" in document["paths"]["/readyz"]["get"]["responses"]["503"]["headers"]
    codes = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    assert set(codes) == set(TITLES)
    referred = set(str(answer.content).split("#/components/schemas/")[1:])
    assert {name.split('"')[0] for name in referred} <= set(document["components"]["schemas"])


@pytest.mark.parametrize(
    ("path", "body", "answered"),
    [
        ("/v1/embed", {"inputs": {"spike": [[1, None], [0, 2]]}, "units": None}, True),
        ("/v1/embed", {"inputs": {"spike": [[[1, 1]], [[0, 2]]]}}, True),
        ("/v1/decode", {"inputs": {"spike": [[1]], "lfp": [[0.5]]}, "query_times": [0.1]}, True),
        ("/v1/decode", {"inputs": {"spike": [[1]]}, "units": {"spike": ["a"]}}, True),
        ("/v1/embed", {"inputs": {"spike": [1]}}, False),
        ("/v1/embed", {"inputs": {"spike": [["1"]]}}, False),
        ("/v1/embed", {"inputs": {"spike": [[1]]}, "query_times": [1]}, False),
        ("/v1/decode", {"query_times": [1]}, False),
        ("/v1/decode", {"inputs": {"spike": [[1]]}, "session": 3}, False),
        ("/v1/decode", {"inputs": {"spike": [[1]]}, "units": {"spike": [1]}}, False),
    ],
)
def test_what_is_asked_and_answered_fits_the_description(
    client: TestClient, path: str, body: dict[str, Any], *, answered: bool
) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"][path]["post"]
    asked = operation["requestBody"]["content"][JSON]["schema"]
    assert fits(body, asked, document) is answered
    answer = client.post(path, json=body)
    assert answer.status_code == (200 if answered else 422)
    ((_, content),) = (
        item for item in operation["responses"][str(answer.status_code)]["content"].items()
        if item[0] != MSGPACK
    )  # fmt: skip
    assert fits(answer.json(), content["schema"], document)


def test_a_linear_part_is_added_to_what_is_decoded(model: MultiModalNeuroFMX) -> None:
    x, linear = counts(), part()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 30:33, 1] = False
    with torch.no_grad():
        out = model({"spike": x}, masks={"spike": mask})
    assert out.decoder is not None
    expected = out.decoder + linear.at({"spike": x}, out.times, {"spike": mask})
    rows = x.masked_fill(~mask, torch.nan).numpy()
    body = {"inputs": {"spike": described(rows)}}
    with TestClient(create_app(model, linear={"monday": linear})) as client:
        for named in ({}, {"session": "monday"}):
            served = unpack(pack(client, body | named, "/v1/decode"))["decoder"]
            torch.testing.assert_close(served, expected.float(), atol=1e-6, rtol=1e-6)
        assert torch.equal(unpack(pack(client, body))["latents"], out.latents)
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_text(json.dumps({"session": "monday"}))
            assert "opened" in socket.receive_json()
            socket.send_bytes(msgpack.packb({"inputs": {"spike": described(rows[:1])}}))
            steps = msgpack.unpackb(socket.receive_bytes())["steps"]
    # One row: rows may differ in rounding from those of a batch.
    streamed = torch.cat([read(step["decoder"]) for step in steps], 1)
    torch.testing.assert_close(streamed, expected[:1].float(), atol=2e-6, rtol=1e-6)


def test_one_of_several_linear_parts_has_to_be_named(model: MultiModalNeuroFMX) -> None:
    app = create_app(model, linear={"a": part(), "b": part(2.0)})
    rows = [[1] * 6] * 5
    with TestClient(app) as client:
        answer = client.post("/v1/decode", json={"inputs": {"spike": rows}})
        assert "among ['a', 'b'], got None" in problem(answer, 422, "invalid")
        body = {"inputs": {"spike": rows}, "session": "c"}
        assert "got 'c'" in problem(client.post("/v1/decode", json=body), 422, "invalid")
        narrow = {"inputs": {"spike": [[1]]}, "session": "a"}
        answer = client.post("/v1/decode", json=narrow)
        assert "channels {'spike': 6} of its fit" in problem(answer, 422, "invalid")
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_text("{}")
            assert "among ['a', 'b']" in socket.receive_json()["problem"]["detail"]
            with pytest.raises(WebSocketDisconnect):
                socket.receive_text()


def test_a_linear_part_of_another_model_is_refused(model: MultiModalNeuroFMX) -> None:
    other = LinearPart(
        {"spike": 1}, 50.0, torch.zeros(1), torch.ones(1), torch.ones(1, 1, 3), torch.zeros(3)
    )
    with pytest.raises(ValueError, match="decodes 3 variables, the model 2"):
        create_app(model, linear={"a": other})


def test_a_served_folder_brings_its_linear_parts(model: MultiModalNeuroFMX, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    write_linear_parts(tmp_path, {"a": part()})
    x = counts(1)
    with TestClient(load_app(str(tmp_path), "cpu", LIMITS)) as client:
        served = client.post("/v1/decode", json={"inputs": {"spike": x[0].tolist()}}).json()
    with torch.no_grad():
        out = model({"spike": x})
    assert out.decoder is not None
    expected = (out.decoder + part().at({"spike": x}, out.times))[0].float()
    torch.testing.assert_close(torch.tensor(served["decoder"]), expected, atol=1e-6, rtol=1e-6)
