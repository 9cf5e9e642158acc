import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.serving import ServingLimits, create_app

LIMITS = ServingLimits(max_body=200_000, timeout=5.0, queue=1, max_steps=500)


def build(**options: Any) -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    given = {
        "modalities": ("spike", "lfp"),
        "sampling_rates": {"spike": 50.0, "lfp": 100.0},
        "window": 1.0,
        "popt_depth": 1,
        "perceiver_depth": 1,
    }
    return MultiModalNeuroFMX(16, 1, 10, 16, **{**given, **options}).eval()


@pytest.fixture(scope="module")
def model() -> MultiModalNeuroFMX:
    return build()


@pytest.fixture(scope="module")
def client(model: MultiModalNeuroFMX) -> Iterator[TestClient]:
    with TestClient(create_app(model, LIMITS)) as client:
        yield client


def signals(batch: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        "spike": torch.poisson(torch.ones(batch, 50, 6), generator=g),
        "lfp": torch.randn(batch, 100, 3, generator=g),
    }


def problem(response: Any, status: int, code: str) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    content = response.json()
    assert (response.status_code, content["status"], content["code"]) == (status, status, code)
    assert content["request_id"] == response.headers["x-request-id"]
    return str(content["detail"])


def post(client: TestClient, body: str | bytes, path: str = "/v1/embed", **headers: str) -> Any:
    return client.post(path, content=body, headers={"content-type": "application/json", **headers})


def test_served_latents_are_those_of_encode(client: TestClient, model: MultiModalNeuroFMX) -> None:
    x = signals()
    with torch.no_grad():
        expected = model.encode(x)
    answer = client.post("/v1/embed", json={"inputs": {m: v.tolist() for m, v in x.items()}})
    assert answer.status_code == 200
    torch.testing.assert_close(
        torch.tensor(answer.json()["latents"]), expected, atol=1e-6, rtol=0.0
    )
    assert answer.json()["times"] == pytest.approx([0.1 * (k + 1) for k in range(10)])


def test_served_behaviour_is_that_of_the_model_at_the_times_asked_for(
    client: TestClient, model: MultiModalNeuroFMX
) -> None:
    x = {m: v[:1] for m, v in signals().items()}
    units = {"spike": [f"u{k}" for k in range(6)]}
    with torch.no_grad():
        expected = model(x, units=units, query_times=torch.tensor([0.3, 0.75]))
    body = {
        "inputs": {m: v[0].tolist() for m, v in x.items()},
        "units": units,
        "query_times": [0.3, 0.75],
    }
    answer = client.post("/v1/decode", json=body).json()
    assert answer["times"] == pytest.approx([0.3, 0.75])
    torch.testing.assert_close(
        torch.tensor(answer["decoder"]), expected.decoder[0], atol=1e-6, rtol=0.0
    )


def test_a_null_is_a_masked_sample(client: TestClient, model: MultiModalNeuroFMX) -> None:
    x = signals(1)["spike"]
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[0, 5:20, 2] = False
    rows = [
        [v if known else None for v, known in zip(row, there, strict=True)]
        for row, there in zip(x[0].tolist(), mask[0].tolist(), strict=True)
    ]
    with torch.no_grad():
        expected = model.encode({"spike": x}, masks={"spike": mask})
        whole = model.encode({"spike": x})
    served = torch.tensor(
        client.post("/v1/embed", json={"inputs": {"spike": rows}}).json()["latents"]
    )
    torch.testing.assert_close(served, expected[0], atol=1e-6, rtol=0.0)
    assert not torch.allclose(served, whole[0], atol=1e-4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "JSON in UTF-8"),
        ("{", "JSON in UTF-8"),
        (b"\xff\xfe{}", "JSON in UTF-8"),
        ('{"inputs": {"spike": [[NaN]]}}', "write null for a missing sample"),
        ('{"inputs": {"spike": [[Infinity]]}}', "Infinity is no JSON number"),
        ('{"inputs": ' + "9" * 5000 + "}", "JSON in UTF-8"),
        ("[" * 20_000 + "]" * 20_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_is_malformed(client: TestClient, body: str | bytes, message: str) -> None:
    assert message in problem(post(client, body), 400, "malformed")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[]", "must be a JSON object, got list"),
        ("{}", "inputs must be an object of modalities"),
        ('{"inputs": {}}', "inputs must be an object of modalities"),
        ('{"input": {"spike": [[1]]}}', "unknown keys ['input']"),
        ('{"inputs": {"spike": [[1]]}, "query_times": [1]}', "unknown keys ['query_times']"),
        ('{"inputs": {"spike": [1, 2]}}', "got shape (2,)"),
        ('{"inputs": {"spike": 3}}', "got shape ()"),
        ('{"inputs": {"spike": [[[[1]]]]}}', "must be numbers or null"),
        ('{"inputs": {"spike": []}}', "each at least 1 long"),
        ('{"inputs": {"spike": [[]]}}', "each at least 1 long"),
        ('{"inputs": {"spike": [[1, 2], [3]]}}', "rows of equally many numbers"),
        ('{"inputs": {"spike": [[true]]}}', "must be numbers or null"),
        ('{"inputs": {"spike": [["1"]]}}', "must be numbers or null"),
        ('{"inputs": {"spike": [[1e999]]}}', "finite in float32"),
        ('{"inputs": {"spike": [[1e300]]}}', "finite in float32"),
        ('{"inputs": {"spike": [[' + "9" * 400 + "]]}}", "numbers of float32"),
        ('{"inputs": {"spike": [[-1]]}}', "spike counts must be >= 0"),
        ('{"inputs": {"spike": [[1]], "lfp": [[[1]]]}}', "every modality needs the same axes"),
        ('{"inputs": {"eeg": [[1]]}}', "this model was built without ['eeg']"),
        ('{"inputs": {"\\ud800": [[1]]}}', "unknown modality"),
        ('{"inputs": {"spike": [[1]]}, "units": {"spike": [1]}}', "lists of strings"),
        (
            '{"inputs": {"spike": [[1]]}, "units": {"spike": ["a", "b"]}}',
            "must name the 1 channels",
        ),
        ('{"inputs": {"spike": [[1]]}, "units": {"lfp": ["a"]}}', "units names ['lfp']"),
    ],
)
def test_what_the_model_cannot_take_is_invalid(client: TestClient, body: str, message: str) -> None:
    assert message in problem(post(client, body), 422, "invalid")


@pytest.mark.parametrize("queries", ["[]", "[null]", "[[1]]", '["1"]', "true"])
def test_query_times_are_seconds(client: TestClient, queries: str) -> None:
    body = f'{{"inputs": {{"spike": [[1]]}}, "query_times": {queries}}}'
    assert "query_times" in problem(post(client, body, "/v1/decode"), 422, "invalid")


def test_a_request_spans_at_most_the_steps_of_the_limit(client: TestClient) -> None:
    # 500 steps of 0.1 s at 50 Hz are 2 500 samples.
    body = json.dumps({"inputs": {"spike": [[0]] * 2501}})
    assert "at most 50 s (500 steps)" in problem(post(client, body), 422, "invalid")


def test_a_model_without_decoder_says_so() -> None:
    with TestClient(create_app(build(behavior_dim=0))) as client:
        body = '{"inputs": {"spike": [[1]]}}'
        assert "has no decoder" in problem(post(client, body, "/v1/decode"), 422, "invalid")


def test_an_answer_that_is_not_finite_is_refused() -> None:
    model = build()
    with torch.no_grad():
        for parameter in model.heads["decoder"].parameters():
            parameter.fill_(torch.nan)
    with TestClient(create_app(model)) as client:
        body = '{"inputs": {"spike": [[1]]}}'
        assert "holds NaN" in problem(post(client, body, "/v1/decode"), 422, "invalid")


def test_another_media_type_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/embed", content=b"x", headers={"content-type": "application/x-npz"})
    assert "application/json" in problem(answer, 415, "unsupported_media_type")
    answer = post(client, b"x", **{"content-encoding": "gzip"})
    assert "compressed" in problem(answer, 415, "unsupported_media_type")


def test_a_large_body_is_refused_whether_its_length_is_declared_or_not(client: TestClient) -> None:
    assert "200000 bytes" in problem(post(client, b" " * 200_001), 413, "too_large")
    read = []

    def pieces() -> Iterator[bytes]:
        for k in range(3):
            read.append(k)
            yield b" " * 100_000

    answer = client.post(
        "/v1/embed", content=pieces(), headers={"content-type": "application/json"}
    )
    assert "200000 bytes" in problem(answer, 413, "too_large")


def test_other_routes_and_methods_are_problems(client: TestClient) -> None:
    problem(client.get("/v2/embed"), 404, "not_found")
    answer = client.get("/v1/embed")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_a_request_id_is_taken_over_where_it_is_one(client: TestClient) -> None:
    assert (
        client.get("/healthz", headers={"x-request-id": "ab-1"}).headers["x-request-id"] == "ab-1"
    )
    assert client.get("/healthz", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_a_full_queue_is_refused_and_late_answers_are_given_up() -> None:
    app = create_app(build(), ServingLimits(queue=0, timeout=0.2))
    release = threading.Event()
    with TestClient(app) as client:
        job = app.state.service.worker._pool.submit(release.wait)
        app.state.service.worker._jobs.add(job)
        body = '{"inputs": {"spike": [[1]]}}'
        answer = post(client, body)
        assert "0 requests wait already" in problem(answer, 503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        problem(client.get("/readyz"), 503, "overloaded")
        assert client.get("/healthz").json() == {"status": "ok"}
        app.state.service.worker._jobs.clear()
        assert "within 0.2 s" in problem(post(client, body), 504, "time_limit")
        release.set()
        job.result()
        assert post(client, body).status_code == 200
        assert client.get("/readyz").json() == {"status": "ready"}


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    app = create_app(build(), ServingLimits(timeout=0.05))
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/embed", "query_string": b"",
        "headers": [(b"content-type", b"application/json")], "http_version": "1.1",
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["code"] == "slow_body"


def test_a_draining_process_is_not_ready_and_closes_connections() -> None:
    app = create_app(build())
    with TestClient(app) as client:
        app.state.service.draining = True
        answer = client.get("/readyz")
        problem(answer, 503, "draining")
        assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")


def test_a_failure_of_the_service_is_a_problem_too() -> None:
    app = create_app(build())
    app.state.service.worker.close()
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = post(client, '{"inputs": {"spike": [[1]]}}')
        assert "log of the service" in problem(answer, 500, "internal")


def test_answers_are_counted() -> None:
    with TestClient(create_app(build())) as client:
        post(client, '{"inputs": {"spike": [[1]]}}')
        post(client, "{}")
        text = client.get("/metrics").text
    assert 'neurofm_serve_requests_total{route="/v1/embed",status="200"} 1\n' in text
    assert 'neurofm_serve_requests_total{route="/v1/embed",status="422"} 1\n' in text
    assert "neurofm_serve_pending 0\n" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_body", 0), ("timeout", 0.0), ("streams", -1), ("idle", -2.0), ("max_steps", 0)],
)
def test_limits_are_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be > 0, got {value}"):
        ServingLimits(**{name: value})


def test_a_queue_is_not_negative() -> None:
    with pytest.raises(ValueError, match="queue must be >= 0, got -1"):
        ServingLimits(queue=-1)
