"""Whatever arrives, the answer is a problem document with the right status, and never a 500."""

import asyncio
import json
import logging
import struct

import msgpack
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra [service] is not installed")

from neuros_sourceweigher._service.limits import RateLimit
from neuros_sourceweigher._service.problem import ProblemError
from neuros_sourceweigher._wire import pack
from neuros_sourceweigher.service import ServiceSettings, create_app

PATHS = ("/v1/weights", "/v1/weights/batch", "/v1/project")
FIELDS = {"type", "title", "status", "detail", "code", "errors", "request_id"}


@pytest.fixture(scope="module")
def app():
    return create_app(ServiceSettings(max_sources=8, max_features=6, max_body_bytes=100_000))


def check_problem(reply, status, code):
    assert reply.status == status, reply
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json.keys() == FIELDS
    assert (reply.json["status"], reply.json["code"]) == (status, code)
    assert reply.json["request_id"] == reply.headers["x-request-id"]
    assert reply.json["type"].endswith(code)
    return reply.json


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b"\xff\xfe",
        b'{"v": "\xed\xa0\x80"}',
        b'{"v": "\\ud800"}',
        b'{"v": [NaN]}',
        b'{"v": [Infinity]}',
        b'{"v": [-Infinity]}',
        b'{"v": [1e999]}',
        b'{"v": [' + b"9" * 5000 + b"]}",
        b"[" * 20_000,
        b"[" * 20_000 + b"]" * 20_000,
        b'{"a":' * 20_000,
        b"{} {}",
        b"\x00",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_not_json_is_malformed(app, ask, path, body):
    check_problem(ask(app, path, body), 400, "malformed")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\x01\x01",
        b"\x91" * 20_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xa1\xff",
        b"\xc7\x01\x05a",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\x81\x01\x01",
        msgpack.packb({"v": {"dtype": "|O", "shape": [1], "data": b"12345678"}}),
        msgpack.packb({"v": {"dtype": "<f8", "shape": [2], "data": b"12345678"}}),
        msgpack.packb({"v": {"dtype": "<f8", "shape": [-1], "data": b"12345678"}}),
        msgpack.packb({"v": {"dtype": "<f8", "shape": [True], "data": b"12345678"}}),
        msgpack.packb({"v": {"dtype": "<f8", "shape": [2**63 - 1] * 2, "data": b""}}),
        msgpack.packb({"v": {"dtype": "<f8", "shape": [1] * 40, "data": b"12345678"}}),
        msgpack.packb({"v": {"dtype": "<f8", "shape": 1, "data": b"12345678"}}),
        msgpack.packb({"v": {"dtype": 3, "shape": [1], "data": b"12345678"}}),
        msgpack.packb({"v": {"dtype": ["<f8"], "shape": [1], "data": b"12345678"}}),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_not_messagepack_is_malformed(app, ask, body):
    check_problem(ask(app, "/v1/project", body, kind="application/msgpack"), 400, "malformed")


WORD, SHORT = "open-sesame", "t"
DOMAIN = {"name": "a", "n": 3, "mean": [1.0, 2.0]}
MARK = "zebra-crossing"


@pytest.mark.parametrize("strict", [False, True], ids=["", "with-a-boolean-elsewhere"])
@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"mean": [True, 2.0]}, "sources/0/mean"),
        ({"mean": ["1.0", 2.0]}, "sources/0/mean"),
        ({"mean": [MARK, 2.0]}, "sources/0/mean"),
        ({"mean": [None, 2.0]}, "sources/0/mean"),
        ({"mean": [[1.0], 2.0]}, "sources/0/mean"),
        ({"mean": [{}, 2.0]}, "sources/0/mean"),
        ({"mean": []}, "sources/0/mean"),
        ({"mean": [0.0] * 7}, "sources/0/mean"),
        ({"mean": {"0": 1.0}}, "sources/0/mean"),
        ({"mean": MARK}, "sources/0/mean"),
        ({"mean": 1.0}, "sources/0/mean"),
        ({"mean": [1.0]}, "sources/0/mean"),
        ({"mean": [1e200, 0.0]}, None),
        ({"n": 0}, "sources/0/n"),
        ({"n": True}, "sources/0/n"),
        ({"n": "3"}, "sources/0/n"),
        ({"n": 2.5}, "sources/0/n"),
        ({"n": 1e300}, "sources/0/n"),
        ({"n": None}, "sources/0/n"),
        ({"name": ""}, "sources/0/name"),
        ({"name": 3}, "sources/0/name"),
        ({"name": MARK * 100}, "sources/0/name"),
        ({"space": None}, "sources/0/space"),
        ({"space": MARK}, "sources/0/space"),
        ({"schema": 2}, "sources/0/schema"),
        ({"schema": "1"}, "sources/0/schema"),
        ({"schema": True}, "sources/0/schema"),
        ({MARK: 1}, "sources/0"),
        ({"cov": [[1.0, 0.0]]}, "sources/0/cov"),
        ({"cov": [[1.0, 0.0], [0.0]]}, "sources/0/cov"),
        ({"cov": [[1.0, 0.0], [0.5, 1.0]]}, "sources/0"),
        ({"cov": [[1.0, 0.0], [0.0, -1.0]]}, "sources/0"),
        ({"cov": 3.0}, "sources/0/cov"),
        ({"cov": [[True, 0.0], [0.0, 1.0]]}, "sources/0/cov/0"),
        ({"classes": [DOMAIN]}, "sources/0/classes"),
        ({"classes": {"": DOMAIN}}, "sources/0/classes/0"),
        ({"classes": {MARK: 3}}, "sources/0/classes/0"),
        ({"classes": {"x": DOMAIN | {"classes": {"y": DOMAIN}}}}, "sources/0/classes/0/classes"),
        ({"classes": {"x": DOMAIN | {"mean": [1.0]}}}, "sources/0"),
    ],
    ids=str,
)
def test_an_invalid_domain_is_named_by_its_place(app, ask, change, loc, strict):
    # The word `true` anywhere in a body makes the service look at every number.
    other = {"name": "is true" if strict else "b", "n": 3, "mean": [0.0, 1.0]}
    body = {"sources": [DOMAIN | change, other], "target": DOMAIN}
    reply = ask(app, "/v1/weights", json.dumps(body).encode())
    found = check_problem(reply, 422, "invalid")
    assert found["detail"]
    assert loc is None or found["errors"][0]["loc"] == loc
    assert MARK not in reply.body.decode()


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ([], "body"),
        (3, "body"),
        ({}, "body"),
        ({"sources": [DOMAIN]}, "body"),
        ({"sources": [DOMAIN], "target": DOMAIN, MARK: 1}, "body"),
        ({"sources": [], "target": DOMAIN}, "sources"),
        ({"sources": {}, "target": DOMAIN}, "sources"),
        ({"sources": [DOMAIN] * 9, "target": DOMAIN}, "sources"),
        ({"sources": [DOMAIN, 3], "target": DOMAIN}, "sources/1"),
        ({"sources": [DOMAIN, DOMAIN], "target": DOMAIN}, "sources/1/name"),
        ({"sources": [DOMAIN], "target": [DOMAIN]}, "target"),
        ({"sources": [DOMAIN], "target": {"name": "t"}}, "target"),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": []}, "options"),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"method": MARK}}, "options/method"),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"method": []}}, "options/method"),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {MARK: 1}}, "options"),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"ridge": True}}, "options/ridge"),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"ridge": []}}, "options/ridge"),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"ridge": -1}}, "options"),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"metric": MARK}}, "options"),
        (
            {"sources": [DOMAIN], "target": DOMAIN, "options": {"metric": "x" * 65}},
            "options/metric",
        ),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"prior": ["1"]}}, "options/prior"),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"prior": [1, 2]}}, None),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"ridge": None}}, "options/ridge"),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"seed": 1.5}}, "options/seed"),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"seed": -1}}, "options/seed"),
        (
            {"sources": [DOMAIN], "target": DOMAIN, "options": {"n_bootstrap": 1e9}},
            "options/n_boot",
        ),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"level": 1}}, "options"),
        (
            {
                "sources": [DOMAIN | {"mean": [0] * 3}],
                "target": DOMAIN | {"mean": [0] * 3},
                "options": {"moments": "mean+cov"},
            },
            "options/moments",
        ),
        ({"sources": [DOMAIN], "target": DOMAIN, "options": {"metric": "efficient"}}, None),
    ],
    ids=str,
)
def test_an_invalid_problem_is_named_by_its_place(app, ask, body, loc):
    reply = ask(app, "/v1/weights", json.dumps(body).encode())
    found = check_problem(reply, 422, "invalid")
    assert loc is None or found["errors"][0]["loc"].startswith(loc)
    assert MARK not in reply.body.decode()


@pytest.mark.parametrize("quality", [{}, [1.0], {"a": True}, {"a": "1"}, {"other": 1.0}, {"a": 2}])
def test_an_unfit_quality_is_refused(app, ask, quality):
    body = {"sources": [DOMAIN], "target": DOMAIN, "quality": quality}
    check_problem(ask(app, "/v1/weights", json.dumps(body).encode()), 422, "invalid")


PARTED = DOMAIN | {"classes": {"x": DOMAIN}}


@pytest.mark.parametrize(
    ("change", "loc"),
    [
        ({"sources": [DOMAIN]}, "sources/0/classes"),
        ({"target_priors": []}, "target_priors"),
        ({"target_priors": {}}, "target_priors"),
        ({"target_priors": {"x": True}}, "target_priors/0"),
        ({"target_priors": {"x": "1"}}, "target_priors/0"),
        ({"target_priors": {"y": 1.0}}, None),
        ({"target_priors": {"x": 0.5}}, None),
        ({"options": {"method": "moment-matching"}}, "options/method"),
        ({"options": {"min_count": 0}}, "options/min_count"),
        ({"options": {"min_count": 9}}, None),
    ],
    ids=str,
)
def test_an_invalid_class_problem_is_refused(app, ask, change, loc):
    body = {"sources": [PARTED], "target": DOMAIN} | change
    found = check_problem(ask(app, "/v1/class-weights", json.dumps(body).encode()), 422, "invalid")
    assert loc is None or found["errors"][0]["loc"] == loc


@pytest.mark.parametrize(
    "body",
    [
        {"sources": [DOMAIN], "targets": []},
        {"sources": [DOMAIN], "targets": [DOMAIN, DOMAIN | {"space": "x"}]},
        {"sources": [DOMAIN], "targets": [DOMAIN | {"mean": [1.0]}]},
    ],
)
def test_an_invalid_batch_is_refused(app, ask, body):
    check_problem(ask(app, "/v1/weights/batch", json.dumps(body).encode()), 422, "invalid")


@pytest.mark.parametrize(
    "body",
    [
        {"v": []},
        {"v": [[]]},
        {"v": [[1], [1, 2]]},
        {"v": [[1], 2]},
        {"v": [[[1]]]},
        {"v": None},
        {"v": "1"},
        {"v": [True]},
        {"v": [0] * 9},
        {"v": [[0]] * 9},
        {"v": [1], "radius": 0},
        {"v": [1], "radius": -1},
        {"v": [1], "radius": True},
        {"v": [1], "radius": "1"},
        {"v": [1], "radius": None},
        {"v": [1], "more": 1},
        {"v": [4.7e16, 1.7976931348623157e308], "radius": 1.18e307},
    ],
    ids=str,
)
def test_an_invalid_projection_is_refused(app, ask, body):
    check_problem(ask(app, "/v1/project", json.dumps(body).encode()), 422, "invalid")


@pytest.mark.parametrize(
    "v",
    [
        np.zeros((2, 2, 2)),
        np.zeros(9),
        np.zeros((9, 1)),
        np.zeros(0),
        np.zeros((0, 3)),
        np.array([np.nan]),
        np.array([[np.inf, 0.0]]),
        [np.nan],
        [1.0, True],
        [np.zeros(2), np.zeros(3)],
    ],
    ids=str,
)
def test_invalid_arrays_are_refused(app, ask, v):
    reply = ask(app, "/v1/project", pack({"v": v}), kind="application/msgpack")
    check_problem(reply, 422, "invalid")


def test_an_array_in_the_place_of_another_thing_is_refused(app, ask):
    x = np.ones(2)
    good = {"name": "a", "n": 3, "mean": x}
    for change in ({"name": x}, {"n": x}, {"cov": x}, {"cov": np.ones((2, 2, 1))}, {"classes": x}):
        body = {"sources": [good | change], "target": good}
        reply = ask(app, "/v1/weights", pack(body), kind="application/msgpack")
        check_problem(reply, 422, "invalid")
    for body in ({"sources": x, "target": good}, {"sources": [good], "target": x}, x):
        reply = ask(app, "/v1/weights", pack(body), kind="application/msgpack")
        check_problem(reply, 422, "invalid")
    options = {"sources": [good], "target": good, "options": {"ridge": x}}
    reply = ask(app, "/v1/weights", pack(options), kind="application/msgpack")
    check_problem(reply, 422, "invalid")


def test_many_faults_are_reported_together_up_to_a_bound(app, ask):
    body = {"sources": [DOMAIN | {"n": 0}] * 8, "target": DOMAIN}
    found = check_problem(ask(app, "/v1/weights", json.dumps(body).encode()), 422, "invalid")
    assert [fault["loc"] for fault in found["errors"]] == [f"sources/{i}/n" for i in range(8)]
    assert "7 more" in found["detail"]


def test_unknown_paths_and_methods_are_problems(app, ask):
    check_problem(ask(app, "/v1/weights/"), 404, "not_found")
    check_problem(ask(app, "/v2", method="GET"), 404, "not_found")
    wrong = ask(app, "/v1/weights", method="GET")
    check_problem(wrong, 405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("kind", "headers"),
    [
        (None, {}),
        ("text/plain", {}),
        ("application/x-npz", {}),
        ("application/json; charset=latin-1", {}),
        ("application/json", {"Content-Encoding": "gzip"}),
        ("application/msgpack", {"Content-Encoding": "br"}),
    ],
)
def test_other_media_types_and_encodings_are_refused(app, ask, kind, headers):
    reply = ask(app, "/v1/project", b'{"v":[1]}', kind=kind, headers=headers)
    check_problem(reply, 415, "unsupported_media_type")
    assert reply.headers["accept"] == "application/json, application/msgpack"


def test_an_identity_encoding_is_no_encoding(app, ask):
    headers = {"Content-Encoding": "identity"}
    assert ask(app, "/v1/project", b'{"v":[1]}', headers=headers).status == 200


@pytest.mark.parametrize("length", ["100001", "9" * 400, "9" * 5000])
def test_a_declared_length_above_the_limit_is_refused_unread(app, ask_in_loop, length):
    async def receive():
        raise AssertionError("the body was read")

    reply = asyncio.run(
        ask_in_loop(app, "/v1/project", headers={"Content-Length": length}, receive=receive)
    )
    check_problem(reply, 413, "too_large")


def test_a_length_that_is_no_number_is_malformed(app, ask):
    check_problem(ask(app, "/v1/project", headers={"Content-Length": "-1"}), 400, "malformed")


def test_a_body_in_parts_is_refused_where_it_passes_the_limit(app, ask):
    parts = [b" " * 60_000] * 1000
    check_problem(ask(app, "/v1/project", parts=parts), 413, "too_large")
    whole = [b'{"v":', b"[1", b"]}"]
    assert ask(app, "/v1/project", parts=whole).json == {"w": [1.0]}


def test_a_slow_body_runs_out_of_time(ask_in_loop):
    app = create_app(ServiceSettings(body_timeout_s=0.01))
    reply = asyncio.run(ask_in_loop(app, "/v1/project", parts=[]))
    check_problem(reply, 408, "slow_body")
    assert reply.headers["connection"] == "close"


def test_a_caller_that_leaves_is_not_answered(app, ask_in_loop, caplog):
    async def receive():
        return {"type": "http.disconnect"}

    with caplog.at_level(logging.INFO):
        reply = asyncio.run(ask_in_loop(app, "/v1/project", receive=receive))
    assert reply.status == 0
    assert caplog.records[-1].fields["status"] == 499


def test_the_token_opens_all_but_the_probes(ask):
    app = create_app(ServiceSettings(token=WORD))
    for path in ("/v1/project", "/v1/methods", "/metrics", "/openapi.json", "/docs", "/nowhere"):
        missing = ask(app, path, b"{")
        check_problem(missing, 401, "unauthorized")
        assert missing.headers["www-authenticate"].startswith("Bearer")
        for given in ("Basic open-sesame", "Bearer ", "Bearer"):
            reply = ask(app, path, b"{", headers={"Authorization": given})
            check_problem(reply, 401, "unauthorized")
        for given in ("Bearer wrong", "Bearer open-sesam", "bearer open-sesame2"):
            reply = ask(app, path, b"{", headers={"Authorization": given})
            check_problem(reply, 403, "forbidden")
    right = {"Authorization": "Bearer open-sesame"}
    assert ask(app, "/v1/project", b'{"v":[1]}', headers=right).status == 200
    assert ask(app, "/healthz", method="GET").status == 200
    assert ask(app, "/readyz", method="GET").status == 503
    described = ask(app, "/openapi.json", method="GET", headers=right).json
    assert described["paths"]["/v1/project"]["post"]["security"] == [{"token": []}]
    assert "security" not in described["paths"]["/healthz"]["get"]


def test_the_token_is_in_no_log_and_no_representation(ask, caplog):
    settings = ServiceSettings(token=WORD)
    with caplog.at_level(logging.DEBUG):
        ask(create_app(settings), "/version", headers={"Authorization": "Bearer open-sesame"})
    assert "open-sesame" not in repr(settings) + caplog.text


def test_token_then_type_then_length_then_body(ask):
    app = create_app(ServiceSettings(token=SHORT, max_body_bytes=10))
    right, long = {"Authorization": "Bearer t"}, {"Content-Length": "11"}
    plain = {"Content-Type": "text/plain"}
    codes = [
        ask(app, "/v1/project", b"{" * 11, headers=plain).status,
        ask(app, "/v1/project", b"{" * 11, headers=right | plain | long).status,
        ask(app, "/v1/project", b"{" * 11, headers=right | long).status,
        ask(app, "/v1/project", b"{" * 10, headers=right).status,
    ]
    assert codes == [401, 415, 413, 400]


def test_too_many_requests_are_told_when_to_come_back(ask):
    app = create_app(ServiceSettings(rate_limit_per_s=2))
    replies = [ask(app, "/version", method="GET") for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    check_problem(replies[2], 429, "rate_limited")
    assert replies[2].headers["retry-after"] == "1"
    assert ask(app, "/healthz", method="GET").status == 200


def test_guessed_tokens_do_not_use_up_the_rate_of_the_right_one(ask):
    app = create_app(ServiceSettings(rate_limit_per_s=1, token=SHORT))
    wrong, right = {"Authorization": "Bearer x"}, {"Authorization": "Bearer t"}
    assert [ask(app, "/version", headers=wrong).status for _ in range(2)] == [403, 429]
    assert ask(app, "/version", method="GET", headers=right).status == 200


def test_a_slow_rate_names_the_wait_and_forgets_the_oldest_caller(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("neuros_sourceweigher._service.limits.time.monotonic", lambda: clock[0])
    limit = RateLimit(0.1)
    limit.check(b"a")
    with pytest.raises(ProblemError, match="come back in 11 s"):
        limit.check(b"a")
    clock[0] = 11.0
    limit.check(b"a")
    for caller in range(10_000):
        limit.check(struct.pack("<i", caller))
    limit.check(b"a")


def test_a_problem_beyond_memory_is_refused(ask, monkeypatch):
    def claim(*_, **__):
        raise MemoryError

    monkeypatch.setattr("neuros_sourceweigher._service.work.project_simplex", claim)
    reply = ask(create_app(ServiceSettings()), "/v1/project", b'{"v":[1]}')
    check_problem(reply, 503, "overloaded")


def test_an_unexpected_error_tells_the_log_and_not_the_caller(ask, caplog, monkeypatch):
    def fail(task):
        raise KeyError(MARK)

    monkeypatch.setattr("neuros_sourceweigher._service.work.Task.run", fail)
    app = create_app(ServiceSettings())
    reply = ask(app, "/v1/project", b'{"v":[1]}')
    check_problem(reply, 500, "internal")
    assert MARK not in reply.body.decode()
    assert MARK in caplog.text
