"""One line a request, which a machine can read, without payload."""

import json
import logging

import pytest

pytest.importorskip("fastapi", reason="the extra [service] is not installed")

from neuros_sourceweigher._service.logs import JsonLines, TextLines
from neuros_sourceweigher.service import ServiceSettings, create_app


def test_a_request_is_one_record_with_its_facts(ask, problem, document, caplog):
    body = json.dumps(document(*problem(4, 16))).encode()
    with caplog.at_level(logging.INFO):
        ask(create_app(ServiceSettings()), "/v1/weights", body, headers={"X-Request-ID": "r1"})
    (record,) = [r for r in caplog.records if r.name.startswith("neuros_sourceweigher")]
    line = json.loads(JsonLines().format(record))
    assert line.pop("ms") > 0
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "message": "request",
        "request_id": "r1",
        "method": "POST",
        "route": "/v1/weights",
        "status": 200,
        "K": 4,
        "d": 16,
    }


def make_record(message, error=None):
    trace = None if error is None else (type(error), error, None)
    record = logging.LogRecord("x", logging.ERROR, "", 0, message, (), trace)
    record.created = 1.25
    return record


def test_lines_carry_time_level_and_error():
    failed = make_record("broken\nline", ValueError("odd"))
    assert json.loads(JsonLines().format(failed)) == {
        "time": "1970-01-01T00:00:01.250Z",
        "level": "error",
        "message": "broken\nline",
        "exception": "ValueError: odd",
    }
    assert "\n" not in JsonLines().format(failed)
    assert TextLines().format(failed).endswith("\nValueError: odd")


def test_text_lines_hold_the_same_fields():
    record = make_record("request")
    record.fields = {"status": 200, "route": "/x"}
    assert (
        TextLines().format(record) == "1970-01-01T00:00:01.250Z error request status=200 route=/x"
    )
