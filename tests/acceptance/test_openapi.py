"""Every route of the OpenAPI document against a real daemon, with what its schema allows and what it does not.

No answer is a 5xx, each has the schema and the type that the document says, and the daemon is there afterwards. A route
that joins the table is tried with the others. OPENAPI_EXAMPLES=500 tries longer; the cases are the same at every run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from adaptd.api import openapi
from adaptd.api.endpoint import Endpoint
from adaptd.api.routes import ENDPOINTS, SSE
from tests.acceptance.daemon import ADAPTING, Daemon, lesson

pytestmark = pytest.mark.acceptance
EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "50"))
SCHEMA = schemathesis.openapi.from_dict(openapi.document(ENDPOINTS))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
CONFIG = ADAPTING + '''
[feeds.scratch]
kind = "jsonl"
domain = "text"
options = { path = "events.jsonl" }
[feeds.sent]
kind = "webhook"
domain = "text"
options = { secret = "a secret that nobody has", signature = "github" }
'''


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """A daemon that may lose all that it has: the routes are tried in the table's order, forget and rollback among them."""
    with Daemon(CONFIG) as one:
        (one.folder / "events.jsonl").write_text('{"text": "not taken", "label": 7.5}\n{\n')
        one.start()
        one.teach(lesson(["card", "music", "food"], 10, prefix="e"))
        yield one
        assert one.status()["state"] == "running"
        assert "Traceback" not in one.said, one.said


def cases(endpoint: Endpoint, daemon: Daemon) -> st.SearchStrategy[Case]:
    """Return requests of a route: as its schema allows and as it does not, its examples, with names that are known or not."""
    event = daemon.predict("where is my card?")["predictions"][0]["event"]
    feed = "sent" if endpoint.path == openapi.SIGNED else "scratch"
    known = {"domain": "text", "name": feed, "number": "1", "other": "1", "event": event}
    operation = SCHEMA[endpoint.path][endpoint.method]
    named: Any = {"path_parameters": {name: known[name] for name in known if f"{{{name}}}" in endpoint.path}}
    made = [operation.as_strategy(), operation.as_strategy(**named)]
    if operation.body or operation.query:
        made.append(operation.as_strategy(GenerationMode.NEGATIVE, **named))
    extra: Any = endpoint.request.model_config.get("json_schema_extra") if endpoint.request else None
    examples = extra["examples"] if extra else []
    return st.one_of(*made, *(operation.as_strategy(**named, body=body, media_type="application/json") for body in examples))


@pytest.mark.parametrize("endpoint", [one for one in ENDPOINTS if one.answer != SSE],  # whose answer does not end
                         ids=lambda one: f"{one.method} {one.path}")
def test_a_route_answers_as_the_document_says(endpoint: Endpoint, daemon: Daemon) -> None:
    base = next(one for one in daemon.status()["listening"] if one.startswith("http://"))
    token = (daemon.folder / "token").read_text().strip()

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
    @given(cases(endpoint, daemon))
    def ask(case: Case) -> None:
        answer = case.call(base_url=base, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        case.validate_response(answer, checks=CHECKS)

    ask()
