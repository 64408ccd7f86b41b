"""OpenAPI 3.1 from the route table and its models; nothing is said twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from adaptd.api.endpoint import Endpoint
from adaptd.api.replies import Error

REF = "#/components/schemas/{model}"
OPEN = ("/healthz", "/readyz")  # without a token
SIGNED = "/v1/feeds/{name}/hook"  # without a token, too: its body is signed


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI document of the routes."""
    models = {one.request for one in endpoints} | {one.answer for one in endpoints} | {Error}
    classes = sorted((m for m in models if isinstance(m, type)), key=lambda m: m.__name__)
    _, schemas = models_json_schema([(m, "validation") for m in classes], ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "adaptd", "version": version("adaptd")},
        "paths": paths,
        "components": {"schemas": schemas.get("$defs", {}),
                       "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],  # none on the unix socket
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    answers = {str(endpoint.success): {"description": "Done.", "content": _content(endpoint.answer)},
               "default": {"description": "The error, with its cure.", "content": _content(Error)}}
    operation: dict[str, Any] = {"operationId": endpoint.handler.__name__, "summary": endpoint.summary,
                                 "parameters": _parameters(endpoint), "responses": answers}
    if endpoint.request is not None:
        operation["requestBody"] = {"required": not endpoint.may_be_empty, "content": _request(endpoint)}
    elif endpoint.raw:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
    if endpoint.path in (*OPEN, SIGNED):
        return {**operation, "security": []}
    return {**operation, "x-roles": [*endpoint.roles]}  # any of them; none: every token


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                                   for name in re.findall(r"{(\w+)}", endpoint.path)]
    if endpoint.query is not None:
        schema = endpoint.query.model_json_schema()
        found += [{"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": one}
                  for name, one in schema.get("properties", {}).items()]
    return found + [{"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name in endpoint.headers]


def _request(endpoint: Endpoint) -> dict[str, Any]:
    assert endpoint.request is not None
    one = _ref(endpoint.request)
    if not endpoint.batch:
        return {"application/json": {"schema": one}}
    return {"application/json": {"schema": {"anyOf": [one, {"type": "array", "items": one}]}},
            "application/x-ndjson": {"schema": {"type": "string", "description": "one such object a line"}}}


def _content(answer: type[BaseModel] | str) -> dict[str, Any]:
    if isinstance(answer, str):
        return {answer: {"schema": {"type": "string"}}}
    return {"application/json": {"schema": _ref(answer)}}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}
