"""Documents that are almost right, by the thousand: an answer or a refusal, never a failure."""

import asyncio
import json

import pytest

pytest.importorskip("fastapi", reason="the extra [service] is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_sourceweigher._wire import pack
from neuros_sourceweigher.service import ServiceSettings, create_app

PROFILE = settings(max_examples=50, derandomize=True, deadline=None)
APP = create_app(ServiceSettings(max_sources=20, max_features=20))

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0.0, -0.0, 1.0, 5e-324, 1e153, 1e154, 1.7e308]),
)
leaves = st.one_of(numbers, st.booleans(), st.none(), st.text(max_size=5))
anything = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
vectors = st.one_of(st.lists(numbers, min_size=2, max_size=2), anything)
domains = st.fixed_dictionaries(
    {
        "name": st.one_of(st.sampled_from("abc"), leaves),
        "n": st.one_of(st.integers(1, 50), leaves),
        "mean": vectors,
    },
    optional={
        "cov": st.one_of(st.lists(vectors, min_size=2, max_size=2), anything),
        "space": st.one_of(st.just(""), leaves),
        "classes": anything,
        "schema": st.one_of(st.just(1), leaves),
    },
)
sources = st.one_of(st.lists(domains, min_size=1, max_size=4), anything)
options = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "ridge": st.one_of(numbers, st.just("auto"), leaves),
            "prior": anything,
            "metric": st.one_of(st.sampled_from(["identity", "diagonal", "efficient"]), leaves),
            "moments": st.one_of(st.sampled_from(["mean", "mean+cov"]), leaves),
            "n_bootstrap": st.one_of(st.integers(-2, 9), leaves),
            "level": leaves,
            "shrinkage": leaves,
            "seed": leaves,
        },
    ),
    anything,
)


def check_answered(ask_in_loop, path, document):
    async def replies():
        text = await ask_in_loop(APP, path, json.dumps(document).encode())
        binary = await ask_in_loop(APP, path, pack(document), kind="application/msgpack")
        return text, binary

    text, binary = asyncio.run(replies())
    # The two formats differ only in what they cannot say: JSON has no entry for 1e400.
    assert text.status == binary.status, (text, binary)
    assert text.status in {200, 422}, text
    if text.status == 422:
        assert text.json["errors"] == binary.json["errors"]


@PROFILE
@given(document=st.fixed_dictionaries({"sources": sources, "target": domains, "options": options}))
def test_weights_are_answered_or_refused(ask_in_loop, document):
    check_answered(ask_in_loop, "/v1/weights", document)


@PROFILE
@given(document=st.fixed_dictionaries({"sources": sources, "targets": sources}))
def test_batches_are_answered_or_refused(ask_in_loop, document):
    check_answered(ask_in_loop, "/v1/weights/batch", document)


@PROFILE
@given(
    document=st.fixed_dictionaries(
        {"sources": sources, "target": domains},
        optional={"target_priors": anything, "options": anything},
    )
)
def test_class_weights_are_answered_or_refused(ask_in_loop, document):
    check_answered(ask_in_loop, "/v1/class-weights", document)


@PROFILE
@given(document=st.fixed_dictionaries({"v": vectors}, optional={"radius": leaves}))
def test_projections_are_answered_or_refused(ask_in_loop, document):
    check_answered(ask_in_loop, "/v1/project", document)


@PROFILE
@given(document=anything, path=st.sampled_from(["/v1/weights", "/v1/weights/batch", "/v1/project"]))
def test_any_document_is_answered_or_refused(ask_in_loop, document, path):
    check_answered(ask_in_loop, path, document)


@PROFILE
@given(
    body=st.binary(max_size=200), kind=st.sampled_from(["application/json", "application/msgpack"])
)
def test_any_bytes_are_refused(ask_in_loop, body, kind):
    reply = asyncio.run(ask_in_loop(APP, "/v1/weights", body, kind=kind))
    assert reply.status in {400, 422}
