"""The service gives what the library gives, to the last bit, in both formats."""

import asyncio
import json
from importlib.metadata import version

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra [service] is not installed")

from neuros_core.domains import DomainStatistics, SourceWeights
from neuros_sourceweigher import ClassConditionalWeigher, SourceWeigher, project_simplex
from neuros_sourceweigher._service.options import METHODS, TABLES
from neuros_sourceweigher._wire import pack, unpack
from neuros_sourceweigher.service import ServiceSettings, create_app

MSGPACK = "application/msgpack"


@pytest.fixture
def app():
    return create_app(ServiceSettings())


def as_arrays(statistics):
    given = statistics.to_dict() | {"mean": statistics.mean, "cov": statistics.cov}
    return given | {"classes": {k: as_arrays(c) for k, c in statistics.classes.items()}}


@pytest.mark.parametrize(("K", "d"), [(1, 1), (4, 16), (16, 128), (40, 200)])
def test_json_answers_are_the_bytes_of_the_library(app, ask, problem, document, K, d):
    sources, target = problem(K, d)
    reply = ask(app, "/v1/weights", json.dumps(document(sources, target)).encode())
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.body == SourceWeigher(metric="identity").fit(sources, target).to_json().encode()


def test_binary_answers_are_the_bits_of_the_library(app, ask, problem):
    sources, target = problem(8, 40)
    tree = {"sources": [as_arrays(s) for s in sources], "target": as_arrays(target)}
    tree["options"] = {"metric": "identity"}
    reply = ask(app, "/v1/weights", pack(tree), kind=MSGPACK)
    assert reply.headers["content-type"] == MSGPACK
    got = SourceWeights.from_dict(unpack(reply.body))
    local = SourceWeigher(metric="identity").fit(sources, target)
    assert got.weights.tobytes() == local.weights.tobytes()
    assert got.to_json() == local.to_json()


def test_options_reach_the_library(app, ask, problem, document):
    sources, target = problem(5, 3)
    options = {"method": "moment-matching", "ridge": 0.5, "prior": [0.2] * 5, "metric": "identity"}
    body = document(sources, target) | {"options": options}
    local = SourceWeigher(metric="identity", ridge=0.5, prior=[0.2] * 5).fit(sources, target)
    assert ask(app, "/v1/weights", json.dumps(body).encode()).body == local.to_json().encode()


def test_every_option_of_the_library_is_offered(app, ask):
    offered = ask(app, "/v1/methods", method="GET", kind=None).json
    assert offered["methods"].keys() == METHODS.keys()
    known = {"moments", "metric", "shrinkage", "ridge", "prior", "n_bootstrap", "level", "seed"}
    assert offered["methods"]["moment-matching"].keys() == known
    assert offered["class_methods"]["class-conditional"].keys() == {"metric", "ridge", "min_count"}
    schema = app.openapi()["components"]["schemas"]["Options"]["properties"]
    assert schema.keys() == {"method", *TABLES["moment-matching"]}


def make_sampled():
    rng = np.random.default_rng(1)
    labels = ["a", "b"] * 20
    sources = [
        DomainStatistics.from_samples(rng.normal(size=(40, 3)) + i, name=f"s{i}", y=labels)
        for i in range(3)
    ]
    return sources, DomainStatistics.from_samples(rng.normal(size=(30, 3)) + 0.5, name="t")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metric": "diagonal", "shrinkage": 0.5},
        {"moments": "mean+cov", "ridge": "auto", "seed": 3},
        {"n_bootstrap": 20, "level": 0.9, "seed": 1},
    ],
)
def test_every_method_gives_the_bits_of_the_library(app, ask, options):
    sources, target = make_sampled()
    local = SourceWeigher(**options).fit(sources, target).to_json()
    plain = {"sources": [s.to_dict() for s in sources], "target": target.to_dict()}
    reply = ask(app, "/v1/weights", json.dumps(plain | {"options": options}).encode())
    assert reply.body.decode() == local
    tree = {"sources": [as_arrays(s) for s in sources], "target": as_arrays(target)}
    reply = ask(app, "/v1/weights", pack(tree | {"options": options}), kind=MSGPACK)
    assert SourceWeights.from_dict(unpack(reply.body)).to_json() == local


def test_a_target_that_no_mixture_explains_is_counted(app, ask):
    sources, _ = make_sampled()
    far = DomainStatistics.from_samples(
        np.random.default_rng(0).normal(size=(500, 3)) + np.array([0, 9, 0]), name="t"
    )
    body = {"sources": [s.to_dict() for s in sources], "target": far.to_dict()}
    reply = ask(app, "/v1/weights", json.dumps(body).encode())
    assert reply.json["diagnosis"]["in_hull"] is False
    text = ask(app, "/metrics", method="GET").body.decode()
    assert "sourceweigher_out_of_hull_total 1.0" in text


@pytest.mark.parametrize("labelled", [False, True])
def test_class_weights_are_the_bits_of_the_library(app, ask, labelled):
    sources, target = make_sampled()
    if labelled:
        target = DomainStatistics("t", 60, target.mean, None, "", sources[0].classes)
    priors = {"a": 0.75, "b": 0.25}
    local = ClassConditionalWeigher(ridge=0.1).fit(sources, target, target_priors=priors)
    ask_for = {"options": {"ridge": 0.1}, "target_priors": priors}
    plain = {"sources": [s.to_dict() for s in sources], "target": target.to_dict()}
    reply = ask(app, "/v1/class-weights", json.dumps(plain | ask_for).encode())
    assert (reply.json["names"], reply.json["classes"]) == (["s0", "s1", "s2"], ["a", "b"])
    assert np.array(reply.json["joint"]).tobytes() == local.joint.tobytes()
    tree = {"sources": [as_arrays(s) for s in sources], "target": as_arrays(target)}
    reply = ask(app, "/v1/class-weights", pack(tree | ask_for), kind=MSGPACK)
    assert unpack(reply.body)["joint"].tobytes() == local.joint.tobytes()
    assert ask(app, "/v1/class-weights", json.dumps(plain).encode()).status == 200


@pytest.mark.parametrize("path", ["/v1/weights", "/v1/weights/batch"])
def test_the_quality_of_sources_counts_as_in_the_library(app, ask, path):
    sources, target = make_sampled()
    quality = {sources[0].name: 0.25}
    local = SourceWeigher(ridge=0.5).fit(sources, target, quality=quality)
    assert local.weights[0] < SourceWeigher(ridge=0.5).fit(sources, target).weights[0]
    body = {"sources": [s.to_dict() for s in sources], "quality": quality}
    body["options"] = {"ridge": 0.5}
    one = path == "/v1/weights"
    body |= {"target": target.to_dict()} if one else {"targets": [target.to_dict()]}
    reply = ask(app, path, json.dumps(body).encode()).json
    assert (reply if one else reply["results"][0])["weights"] == local.weights.tolist()


def test_answers_may_have_another_format_than_the_body(app, ask):
    sources, target = make_sampled()
    local = SourceWeigher().fit(sources, target).to_json().encode()
    tree = {"sources": [as_arrays(s) for s in sources], "target": as_arrays(target)}
    headers = {"Accept": "application/json"}
    assert ask(app, "/v1/weights", pack(tree), kind=MSGPACK, headers=headers).body == local


def test_a_batch_holds_the_single_answers(app, ask, problem):
    sources, first = problem(6, 10)
    targets = [first, problem(1, 10, seed=3)[1]]
    body = {"sources": [s.to_dict() for s in sources], "targets": [t.to_dict() for t in targets]}
    body["options"] = {"metric": "identity"}
    weights = [
        SourceWeigher(metric="identity").fit(sources, target).to_json() for target in targets
    ]
    reply = ask(app, "/v1/weights/batch", json.dumps(body).encode())
    assert reply.body == f'{{"results": [{weights[0]}, {weights[1]}]}}'.encode()
    binary = ask(app, "/v1/weights/batch", json.dumps(body).encode(), headers={"Accept": MSGPACK})
    found = [SourceWeights.from_dict(entry).to_json() for entry in unpack(binary.body)["results"]]
    assert found == weights


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5)])
def test_projections_are_the_bits_of_the_library(app, ask, shape):
    v = np.random.default_rng(0).normal(size=shape)
    local = project_simplex(v, radius=2.5)
    reply = ask(app, "/v1/project", json.dumps({"v": v.tolist(), "radius": 2.5}).encode())
    assert np.array(reply.json["w"]).tobytes() == local.tobytes()
    binary = ask(app, "/v1/project", pack({"v": v, "radius": 2.5}), kind=MSGPACK)
    assert unpack(binary.body)["w"].tobytes() == local.tobytes()


@pytest.mark.parametrize("dtype", ["<f4", "<i8", "<i4", ">f8"])
def test_arrays_of_other_types_are_read_exactly(app, ask, dtype):
    v = np.array([3, 1, 2], dtype=dtype)
    reply = ask(app, "/v1/project", pack({"v": v}), kind=MSGPACK)
    assert unpack(reply.body)["w"].tolist() == project_simplex(v).tolist()


def test_large_problems_are_solved_beside_the_loop(app, ask_in_loop, problem, document):
    sources, target = problem(40, 200)
    body = json.dumps(document(sources, target)).encode()
    longer = json.dumps(document(*problem(30, 60))).encode()

    async def both():
        large, medium = await asyncio.gather(
            ask_in_loop(app, "/v1/weights", body), ask_in_loop(app, "/v1/weights", longer)
        )
        return large, medium, app.state.service.pool.running

    large, medium, running = asyncio.run(both())
    assert (large.status, medium.status) == (200, 200)
    assert running == 0


@pytest.mark.parametrize(
    ("accept", "body", "answer"),
    [
        ("", "application/json", "application/json"),
        ("*/*", MSGPACK, MSGPACK),
        ("application/*;q=0.5, application/json;q=0.4", MSGPACK, MSGPACK),
        ("application/x-msgpack", "application/json", MSGPACK),
        ("text/html, application/json;q=0.9, */*;q=0.1", MSGPACK, "application/json"),
        ("application/msgpack;q=0, */*", MSGPACK, "application/json"),
        ("application/json;q=x, application/msgpack;q=0.1", "application/json", MSGPACK),
    ],
)
def test_answers_follow_accept(app, ask, accept, body, answer):
    content = {"v": [1.0, 2.0]}
    sent = pack(content) if body == MSGPACK else json.dumps(content).encode()
    headers = {"Accept": accept} if accept else {}
    reply = ask(app, "/v1/project", sent, kind=body, headers=headers)
    assert reply.headers["content-type"] == answer


def test_another_accept_is_refused(app, ask):
    reply = ask(app, "/v1/project", b'{"v":[1]}', headers={"Accept": "text/html"})
    assert (reply.status, reply.json["code"]) == (406, "not_acceptable")


def test_a_charset_of_utf_8_may_be_named(app, ask):
    for kind in ("application/json; charset=UTF-8", 'Application/JSON;charset="utf-8"'):
        assert ask(app, "/v1/project", b'{"v":[1]}', kind=kind).status == 200


def test_request_ids_are_taken_over_or_made(app, ask):
    kept = ask(app, "/healthz", method="GET", headers={"X-Request-ID": "Az_09-"})
    assert kept.headers["x-request-id"] == "Az_09-"
    for bad in ("", "a b", "x" * 65, "é", "a\n"):
        made = ask(app, "/healthz", method="GET", headers={"X-Request-ID": bad})
        assert made.headers["x-request-id"] != bad
        assert len(made.headers["x-request-id"]) == 32


def test_the_service_is_ready_once_it_is_warm(ask_in_loop):
    app = create_app(ServiceSettings(queue_size=1, max_concurrency=1))

    async def life():
        cold = await ask_in_loop(app, "/readyz", method="GET")
        async with app.router.lifespan_context(app):
            warm = await ask_in_loop(app, "/readyz", method="GET")
        after = await ask_in_loop(app, "/readyz", method="GET")
        return cold, warm, after, await ask_in_loop(app, "/healthz", method="GET")

    cold, warm, after, health = asyncio.run(life())
    assert (cold.status, cold.json["code"]) == (503, "starting")
    assert (warm.status, warm.json) == (200, {"status": "ready"})
    assert (after.status, after.json["code"]) == (503, "draining")
    assert after.headers["retry-after"] == "1"
    assert after.headers["connection"] == "close"
    assert (health.status, health.json) == (200, {"status": "ok"})


def test_versions_name_what_decides_the_bits(app, ask):
    versions = ask(app, "/version", method="GET").json
    assert versions["numpy"] == np.__version__
    assert versions["neuros-sourceweigher"] == version("neuros-sourceweigher")


def test_the_description_covers_every_route(app, ask):
    described = ask(app, "/openapi.json", method="GET").json
    served = {r.path for r in app.routes} - {"/docs", "/openapi.json"}
    assert described["paths"].keys() == served
    body = described["paths"]["/v1/weights"]["post"]["requestBody"]["content"]
    assert body.keys() == {"application/json", MSGPACK}
    named = json.dumps(described).split('"#/components/schemas/')[1:]
    assert {part.split('"')[0] for part in named} <= described["components"]["schemas"].keys()
    assert b"/openapi.json" in ask(app, "/docs", method="GET").body


def test_metrics_count_requests_solves_and_refusals(app, ask, problem, document):
    ask(app, "/v1/weights", json.dumps(document(*problem(4, 16))).encode())
    ask(app, "/v1/weights", b"{")
    ask(app, "/nowhere", method="BREW")
    text = ask(app, "/metrics", method="GET").body.decode()
    wanted = [
        'sourceweigher_requests_total{method="POST",route="/v1/weights",status="200"} 1.0',
        'sourceweigher_requests_total{method="POST",route="/v1/weights",status="400"} 1.0',
        'sourceweigher_requests_total{method="other",route="other",status="404"} 1.0',
        'sourceweigher_request_duration_seconds_count{route="/v1/weights"} 2.0',
        "sourceweigher_in_flight 1.0",
        "sourceweigher_queue_depth 0.0",
        'sourceweigher_solve_seconds_count{method="moment-matching"} 1.0',
        'sourceweigher_problem_size_sum{dim="sources"} 4.0',
        'sourceweigher_problem_size_sum{dim="features"} 16.0',
        "sourceweigher_certified_gap_count 1.0",
        "sourceweigher_out_of_hull_total 0.0",
        'sourceweigher_rejected_total{reason="malformed"} 1.0',
    ]
    missing = [line for line in wanted if line not in text]
    assert not missing, text
