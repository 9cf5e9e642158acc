"""The OpenAPI description, written by hand: the solving routes read their bodies themselves."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from neuros_sourceweigher._service.codec import JSON, MSGPACK
from neuros_sourceweigher._service.options import (
    CLASS_TABLE,
    DEFAULT_METHOD,
    TABLES,
    Option,
)
from neuros_sourceweigher._service.problem import TITLES
from neuros_sourceweigher._service.reader import NAME
from neuros_sourceweigher._service.settings import ServiceSettings

__all__: list[str] = []

Schema = dict[str, Any]

_NUMBERS: Schema = {"type": "array", "items": {"type": "number"}}
_TEXTS: Schema = {"type": "array", "items": {"type": "string"}}
_NUMBER: Schema = {"type": ["number", "null"]}
_FLAG: Schema = {"type": ["boolean", "null"]}
_REFUSED = {
    400: "malformed body",
    401: "no token",
    403: "wrong token",
    406: "no acceptable media type",
    408: "slow body",
    413: "body too large",
    415: "other media type",
    422: "invalid problem",
    429: "too many requests",
    503: "overloaded or draining",
    504: "time limit",
}
_WAIT = {429, 503}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Schema, required: Iterable[str]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _domain(settings: ServiceSettings, *, classes: bool) -> Schema:
    vector = _NUMBERS | {"minItems": 1, "maxItems": settings.max_features}
    properties: Schema = {
        "schema": {"type": "integer", "const": 1, "default": 1},
        "name": {"type": "string", "minLength": 1, "maxLength": NAME},
        "n": {"type": "integer", "minimum": 1, "maximum": 2**63 - 1},
        "mean": vector | {"description": "(d,) feature means"},
        "cov": {
            "type": ["array", "null"],
            "items": vector,
            "description": "(d, d) unbiased covariance: symmetric, eigenvalues >= 0",
        },
        "space": {"type": "string", "maxLength": NAME, "default": ""},
        "classes": {"type": "object", "maxProperties": 0},
    }
    if classes:
        properties["classes"] = {
            "type": "object",
            "additionalProperties": _ref("ClassStatistics"),
            "propertyNames": {"minLength": 1, "maxLength": NAME},
        }
    return _object(properties, ("name", "n", "mean"))


def _options(table: Mapping[str, Option], method: Schema) -> Schema:
    return _object({"method": method} | {k: o.schema() for k, o in table.items()}, ())


def _method_options() -> Schema:
    forms = []
    for name, table in TABLES.items():
        form = _options(table, {"type": "string", "const": name})
        forms.append(form if name == DEFAULT_METHOD else form | {"required": ["method"]})
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _components(settings: ServiceSettings) -> Schema:
    domains = {"type": "array", "items": _ref("DomainStatistics"), "minItems": 1}
    domains["maxItems"] = settings.max_sources
    domain, options = _ref("DomainStatistics"), _ref("Options")
    row = _NUMBERS | {"minItems": 1, "maxItems": settings.max_sources}
    rows = {"type": "array", "items": row, "minItems": 1, "maxItems": settings.max_sources}
    shares = {"type": ["object", "null"], "minProperties": 1}
    shares["additionalProperties"] = {"type": "number", "minimum": 0, "maximum": 1}
    fault = _object({"loc": {"type": "string"}, "msg": {"type": "string"}}, ("loc", "msg"))
    problem: Schema = {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "enum": list(TITLES)},
        "errors": {"type": "array", "items": fault},
        "request_id": {"type": "string"},
    }
    diagnosis = dict.fromkeys(("residual", "j_stat", "p_value", "condition"), _NUMBER)
    diagnosis |= {"dof": {"type": ["integer", "null"]}, "in_hull": _FLAG, "identifiable": _FLAG}
    diagnosis["ambiguous"] = {"type": "array", "items": _TEXTS}
    weights = {
        "schema": {"const": 1},
        "names": _TEXTS,
        "weights": _NUMBERS,
        "method": {"type": "string"},
        "objective": _NUMBER,
        "gap": _NUMBER,
        "stderr": {"type": ["array", "null"], "items": {"type": "number"}},
        "interval": {"type": ["array", "null"], "items": _NUMBERS},
        "diagnosis": {"anyOf": [_object(diagnosis, diagnosis), {"type": "null"}]},
        "meta": {"type": "object"},
    }
    joint = {"type": "array", "items": _NUMBERS, "description": "(K, C)"}
    by_class = {"schema": {"const": 1}, "names": _TEXTS, "classes": _TEXTS, "joint": joint}
    results = {"results": {"type": "array", "items": _ref("SourceWeights")}}
    ask, many = {"sources": domains, "target": domain}, {"sources": domains, "targets": domains}
    more = {"options": options, "quality": shares | {"description": "fit share of each source"}}
    return {
        "DomainStatistics": _domain(settings, classes=True),
        "ClassStatistics": _domain(settings, classes=False),
        "Options": _method_options(),
        "ClassOptions": _options(CLASS_TABLE, {"type": "string"}),
        "WeightsRequest": _object(ask | more, ask),
        "BatchRequest": _object(many | more, many),
        "ClassWeightsRequest": _object(
            ask | {"options": _ref("ClassOptions"), "target_priors": shares}, ask
        ),
        "ProjectRequest": _object(
            {
                "v": {"anyOf": [row, rows]},
                "radius": {"type": "number", "exclusiveMinimum": 0, "default": 1},
            },
            ("v",),
        ),
        "SourceWeights": _object(weights, weights),
        "ClassSourceWeights": _object(by_class, by_class),
        "BatchAnswer": _object(results, results),
        "ProjectAnswer": _object(
            {"w": {"type": "array", "items": {"anyOf": [{"type": "number"}, _NUMBERS]}}}, ("w",)
        ),
        "Problem": _object(problem, problem),
    }


def _refusals(codes: Iterable[int]) -> Schema:
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    found: Schema = {}
    for code in codes:
        found[str(code)] = {"description": _REFUSED[code], "content": content}
        headers = {}
        if code in _WAIT:
            headers["Retry-After"] = {"schema": {"type": "integer"}}
        if code == 401:
            headers["WWW-Authenticate"] = {"schema": {"type": "string"}}
        if headers:
            found[str(code)]["headers"] = headers
    return found


_BINARY = (
    "As MessagePack the document is the same, and an array of numbers may be "
    '{"dtype": "<f8", "shape": [...], "data": bytes}.'
)


def _post(summary: str, request: str, answer: str, *, secured: bool) -> Schema:
    asked, binary = {"schema": _ref(request)}, {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": summary,
        "operationId": request.removesuffix("Request"),
        "requestBody": {
            "description": _BINARY,
            "required": True,
            "content": {JSON: asked, MSGPACK: asked},
        },
        "responses": {
            "200": {
                "description": f"The result. {_BINARY}",
                "content": {JSON: {"schema": _ref(answer)}, MSGPACK: binary},
            }
        }
        | _refusals(c for c in _REFUSED if secured or c not in (401, 403)),
    }


def _get(summary: str, name: str, content: Schema, codes: Iterable[int]) -> Schema:
    answer = {"200": {"description": summary, "content": content}}
    return {"summary": summary, "operationId": name, "responses": answer | _refusals(codes)}


def describe(settings: ServiceSettings, operations: Iterable[str]) -> Schema:
    """Return the OpenAPI document of an application with these settings."""
    secured = settings.secret() is not None
    posts = {
        "/v1/weights": ("Weights of the sources", "WeightsRequest", "SourceWeights"),
        "/v1/weights/batch": ("Weights for many targets", "BatchRequest", "BatchAnswer"),
        "/v1/class-weights": (
            "Weights of sources and classes",
            "ClassWeightsRequest",
            "ClassSourceWeights",
        ),
        "/v1/project": ("Projection onto the simplex", "ProjectRequest", "ProjectAnswer"),
    }
    thing = {JSON: {"schema": {"type": "object"}}}
    closed = [429, *([401, 403] if secured else [])]
    paths: Schema = {
        path: {"post": _post(*posts[path], secured=secured)} for path in operations
    } | {
        "/v1/methods": {"get": _get("Methods and their options", "Methods", thing, closed)},
        "/version": {"get": _get("Versions", "Version", thing, closed)},
        "/healthz": {"get": _get("The process answers", "Health", thing, ())},
        "/readyz": {"get": _get("The process takes work", "Readiness", thing, [503])},
        "/metrics": {"get": _get("Prometheus metrics", "Metrics", {"text/plain": {}}, closed)},
    }
    document: Schema = {
        "openapi": "3.1.0",
        "info": {"title": "neuros-sourceweigher", "version": version("neuros-sourceweigher")},
        "paths": paths,
        "components": {"schemas": _components(settings)},
    }
    if secured:
        bearer = {"type": "http", "scheme": "bearer"}
        document["components"]["securitySchemes"] = {"token": bearer}
        for path in document["paths"]:
            if path not in ("/healthz", "/readyz"):
                for operation in document["paths"][path].values():
                    operation["security"] = [{"token": []}]
    return document
