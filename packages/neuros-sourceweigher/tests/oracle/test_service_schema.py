"""Schemathesis over the description of the service: generated requests meet every check.

`nox -s oracle` sends 500 cases per operation; `SCHEMATHESIS_CASES` sets another number.
"""

import os

import pytest

pytest.importorskip("schemathesis")
pytest.importorskip("fastapi", reason="the extra [service] is not installed")

import msgpack
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import positive_data_acceptance

from neuros_sourceweigher.service import ServiceSettings, create_app, warm_up

CASES = int(os.environ.get("SCHEMATHESIS_CASES", "500"))
# Small limits, so that generated documents also reach them.
APP = create_app(ServiceSettings(max_sources=20, max_features=20))
warm_up(APP.state.service)
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


@schemathesis.serializer("application/msgpack")
def as_messagepack(context, value):
    """The two formats have one description."""
    return value if isinstance(value, bytes) else msgpack.packb(value, default=as_float)


def as_float(value):
    """MessagePack has integers of 64 bits; larger ones go out as JSON readers take them."""
    return float(max(min(value, 10**300), -(10**300)))


# Thousands of generated requests.
@pytest.mark.slow
@pytest.mark.oracle
@schema.parametrize()
@settings(
    max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
def test_generated_requests_meet_every_check(case):
    # No schema says that names differ and vectors have one length: such requests get a 422.
    response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
    assert response.status_code < 500
