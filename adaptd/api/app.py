"""Puts the HTTP interface together. This is the HTTP boundary: whatever fails behind it becomes an error object."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from adaptd.api.bodies import check, read_batch, read_bytes, read_object
from adaptd.api.endpoint import Call, Endpoint
from adaptd.api.errors import Internal, failure, reply, status_failure
from adaptd.api.guard import OPERATOR, Guard
from adaptd.api.operations import Operations
from adaptd.api.routes import ENDPOINTS, STREAM
from adaptd.api.traced import ROUTE, RequestTracer, Traced
from adaptd.config import Limits
from adaptd.errors import AdaptdError, BadRequest
from adaptd.grants import Grant, Keyring
from adaptd.records import Report

log = logging.getLogger(__name__)


def create_app(operations: Operations, *, limits: Limits, keyring: Keyring, report: Report,
               tracer: RequestTracer | None = None) -> Starlette:
    """Return the ASGI application; `report` hears of problems.

    `app.state.closing` is an event that ends the open streams.
    """
    closing = asyncio.Event()
    routes = [Route(one.path, _route(one, operations, limits, closing, keyring), methods=[one.method]) for one in ENDPOINTS]
    for route in routes:
        if route.path == STREAM and route.methods:
            route.methods.discard("HEAD")  # its answer would never end
    guard = Middleware(Guard, keyring=keyring, report=report)
    app = Starlette(routes=routes, middleware=[guard, *([Middleware(Traced, tracer=tracer)] if tracer else [])],
                    exception_handlers={HTTPException: _http_error, Exception: _internal})
    app.router.redirect_slashes = False
    app.state.closing = closing
    return app


def _route(endpoint: Endpoint, operations: Operations, limits: Limits,
           closing: asyncio.Event, keyring: Keyring) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        request.scope[ROUTE] = endpoint.path
        try:
            grant: Grant = request.scope["adaptd.grant"]
            query = _query(request, endpoint)
            _check(grant, endpoint, request.path_params.get("domain") or getattr(query, "domain", None))
            call = Call(operations=operations, limits=limits, path=request.path_params, query=query, body=None,
                        headers=request.headers, grant=grant, closing=closing,
                        still_allowed=lambda: grant is OPERATOR or keyring.stands(grant))
            if endpoint.before is not None:
                endpoint.before(call)
            done = await endpoint.handler(replace(call, body=await _body(request, endpoint, limits)))
            return done if isinstance(done, Response) else reply(done, endpoint.success)
        except AdaptdError as error:
            if error.status >= 500:
                log.warning("%s %s: %s", request.method, endpoint.path, error)
            return failure(error)
        except ClientDisconnect:
            return failure(BadRequest("the body ended early"))  # nobody reads it
        except Exception as error:  # the HTTP boundary: a fault of ours is logged, and is no client's traceback
            return await _internal(request, error)

    return answer


def _check(grant: Grant, endpoint: Endpoint, domain: str | None) -> None:
    """Refuse what the roles or the domains do not allow, before the body is read."""
    grant.check_role(endpoint.roles, f"{endpoint.method} {endpoint.path}")
    if domain is not None or endpoint.whole:
        grant.check_domain(domain)


def _query(request: Request, endpoint: Endpoint) -> object:
    return None if endpoint.query is None else check(endpoint.query, dict(request.query_params))


async def _body(request: Request, endpoint: Endpoint, limits: Limits) -> object:
    if endpoint.raw:
        return await read_bytes(request, limits)
    if endpoint.request is None:
        return None
    if endpoint.batch:
        return await read_batch(request, endpoint.request, limits)
    return await read_object(request, endpoint.request, limits, may_be_empty=endpoint.may_be_empty)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return status_failure(error.status_code, error.headers, request.url.path)


async def _internal(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return failure(Internal(hint="the daemon's log has the details; adaptd status shows what is wrong"))
