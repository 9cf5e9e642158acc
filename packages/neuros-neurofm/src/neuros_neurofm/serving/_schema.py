"""The OpenAPI description of the routes, written by hand: they read their bodies themselves."""

from typing import Any, Final

from neuros_neurofm._version import __version__
from neuros_neurofm.serving._codec import DTYPES, JSON, MSGPACK
from neuros_neurofm.serving._problem import MEDIA_TYPE, TITLES
from neuros_neurofm.serving.limits import ServingLimits

__all__: list[str] = []

Schema = dict[str, Any]

REFUSED: Final = {
    400: "The body cannot be read",
    406: "Accept takes neither JSON nor MessagePack",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body has another media type, or is compressed",
    422: "The model cannot take the request",
    500: "The service failed",
    503: "Busy, or shutting down",
    504: "The time limit is reached",
}
_BINARY: Final = (
    "As MessagePack the document is the same; an array may be "
    '{"dtype": "<f4", "shape": [...], "data": bytes}, where NaN is a missing sample, and the '
    "arrays of the answer are."
)
_SAMPLE: Final[Schema] = {"type": ["number", "null"]}
_NUMBER: Final[Schema] = {"type": "number"}


def describe(limits: ServingLimits) -> Schema:
    """The OpenAPI document of an application with these limits."""
    status = {JSON: {"schema": _object({"status": {"type": "string"}}, required=["status"])}}
    paths: Schema = {
        "/v1/embed": {"post": _post("Latents", "Embed", limits)},
        "/v1/decode": {"post": _post("Decoded behaviour", "Decode", limits)},
        "/healthz": {"get": _get("The process answers", "health", status)},
        "/readyz": {"get": _get("The process takes requests", "readiness", status, 503)},
        "/metrics": {"get": _get("Counts for Prometheus", "metrics", {"text/plain": {}})},
        "/v1/stream": {"get": _stream()},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "neurofm-serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": _components()},
    }


def _components() -> Schema:
    request = {
        "inputs": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"anyOf": [_nested(_SAMPLE, 2), _nested(_SAMPLE, 3)]},
            "description": "modality -> (time, channel), or (batch, time, channel); null: missing",
        },
        "units": {
            "type": ["object", "null"],
            "additionalProperties": _nested({"type": "string"}, 1),
            "description": "modality -> channel ids",
        },
    }
    decode = {
        "query_times": {
            "type": ["array", "null"],
            "items": _NUMBER,
            "minItems": 1,
            "description": "seconds; default: the end of each step",
        },
        "session": {
            "type": ["string", "null"],
            "description": "whose linear part is added; needed where the model has several",
        },
    }
    times = _nested(_NUMBER, 1) | {"description": "seconds"}
    latents = {"anyOf": [_nested(_NUMBER, 2), _nested(_NUMBER, 3)]}
    pooled = {"anyOf": [_nested(_NUMBER, 1), _nested(_NUMBER, 2)]}
    problem: Schema = {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string", "enum": sorted(set(TITLES.values()))},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": list(TITLES)},
        "request_id": {"type": "string"},
    }
    answers = {
        "EmbedAnswer": {"latents": latents, "pooled": pooled, "times": times},
        "DecodeAnswer": {"decoder": latents, "times": times},
        "Problem": problem,
        "Array": {
            "dtype": {"type": "string", "enum": list(DTYPES)},
            "shape": _nested({"type": "integer", "minimum": 0}, 1),
            "data": {"type": "string", "format": "binary"},
        },
    }
    return {
        "EmbedRequest": _object(request, required=["inputs"]),
        "DecodeRequest": _object(request | decode, required=["inputs"]),
    } | {name: _object(fields, required=list(fields)) for name, fields in answers.items()}


def _post(summary: str, name: str, limits: ServingLimits) -> Schema:
    asked, answered = ({"schema": _ref(f"{name}{part}")} for part in ("Request", "Answer"))
    return {
        "summary": summary,
        "operationId": name.lower(),
        "requestBody": {
            "description": f"At most {limits.max_body} bytes. {_BINARY}",
            "required": True,
            "content": {JSON: asked, MSGPACK: asked},
        },
        "responses": {
            "200": {
                "description": summary,
                "headers": _HEADERS,
                "content": {JSON: answered, MSGPACK: answered},
            },
            **_refusals(*REFUSED),
        },
    }


def _get(summary: str, name: str, content: Schema, *codes: int) -> Schema:
    answer = {"description": summary, "headers": _HEADERS, "content": content}
    return {
        "summary": summary,
        "operationId": name,
        "responses": {"200": answer, **_refusals(*codes)},
    }


def _stream() -> Schema:
    return {
        "summary": "A stream over WebSocket",
        "operationId": "stream",
        "description": (
            "One connection is one session. Text messages are JSON, binary ones MessagePack; the "
            "first may hold units, sampling_rates, max_lag, outputs and session, later ones inputs "
            "with units and t, or leave, or finish. Each gets one answer: opened, steps or problem."
        ),
        "responses": {"101": {"description": "The connection is open"}, **_refusals(503)},
    }


_HEADERS: Final[Schema] = {"X-Request-ID": {"schema": {"type": "string"}}}


def _refusals(*codes: int) -> Schema:
    retry = {"Retry-After": {"schema": {"type": "integer"}}}
    return {
        str(code): {
            "description": REFUSED[code],
            "headers": _HEADERS | (retry if code == 503 else {}),
            "content": {MEDIA_TYPE: {"schema": _ref("Problem")}},
        }
        for code in codes
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Schema, *, required: list[str]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _nested(items: Schema, depth: int) -> Schema:
    """Lists in lists, or an array of MessagePack in their place."""
    if depth == 0:
        return items
    return {"type": "array", "items": _nested(items, depth - 1)}
