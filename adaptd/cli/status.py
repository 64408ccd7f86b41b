"""`adaptd status` and `adaptd history`: from the daemon, else from the stopped store, read-only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import click

from adaptd.cli import options, show
from adaptd.errors import NotRunning

COLUMNS = ("domain", "version", "labels", "events", "labelled", "memory", "recent", "ece", "holdout", "forgot", "lag")
BESIDE = ("domain", "compared", "adaptd", "incumbent", "difference", "interval", "adaptd alone", "incumbent alone", "switched")
STATUS_TIMEOUT_S = 10.0


@click.command()
@options.config_option
@options.json_option
def status(as_json: bool) -> int:
    """Show what is live, how good it is, and what is wrong.

    Exit code 3 when the daemon is not running: then the store itself is read.

    \b
    Example:
      adaptd status --json
    """
    paths = options.paths()
    try:
        document = options.client().call("GET", "/v1/status", timeout_s=STATUS_TIMEOUT_S)
    except NotRunning:
        from adaptd.status import stopped_status

        document = stopped_status(paths)
    if as_json:
        show.data(document)
    else:
        _for_people(document)
    return _code(document)


@click.command()
@options.config_option
@options.json_option
@click.option("--domain", metavar="NAME", help="Only this domain.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many, newest first.")
def history(as_json: bool, domain: str | None, limit: int) -> int:
    """Show who or what changed something, when and why.

    Exit code 3 when the daemon is not running: then the store itself is read.

    \b
    Example:
      adaptd history --limit 5
    """
    query = {"limit": limit} if domain is None else {"domain": domain, "limit": limit}
    try:
        document = options.client().call("GET", f"/v1/history?{urlencode(query)}")
    except NotRunning:
        from adaptd.status import stopped_history

        document = stopped_history(options.paths(), domain, limit)
    if as_json:
        show.data(document)
    else:
        show.table(("at", "domain", "what", "before", "after", "who", "why"), (
            (show.moment(a["at"]), a["domain"], a["what"], a["before"], a["after"], a["actor"], a["reason"])
            for a in document["actions"]))
    return _code(document)


def _code(document: Mapping[str, Any]) -> int:
    if document.get("state") != "stopped":
        return 0
    show.say("the daemon is not running")
    return NotRunning.exit_code


def _for_people(document: Mapping[str, Any]) -> None:
    running = "" if document["pid"] is None else f" · pid {document['pid']} · up {_span(document['uptime_s'])}"
    listening = document["listening"]
    where = f" · {', '.join(map(str, listening))}" if isinstance(listening, list) and listening else ""
    show.line(f"{document['state']}{running} · seq {document['seq']}{where}")
    show.table(COLUMNS, [_row(name, domain) for name, domain in document["domains"].items()])
    for name, domain in document["domains"].items():
        show.line(f"{name}: version {domain['version']} since {show.moment(domain['promoted_at'])}{_now(domain)}")
    beside = {name: domain["incumbent"] for name, domain in document["domains"].items() if domain.get("incumbent")}
    if beside:
        show.table(BESIDE, [_beside(name, one) for name, one in beside.items()])
    if document["feeds"]:
        show.table(("feed", "state", "offset", "lag", "errors", "dead"), (
            (name, f["state"], f["offset"], f["lag"], f["errors"], f.get("dead", 0)) for name, f in document["feeds"].items()))
    if document["outputs"]:
        show.table(("output", "state", "offset", "lag", "errors", "sent"), (
            (name, o["state"], o["offset"], o["lag"], o["errors"], o["sent"]) for name, o in document["outputs"].items()))
    if document["problems"]:
        show.table(("problem", "what", "since", "cure"), (
            (p["code"], p["message"], show.moment(p["since"]), p["hint"]) for p in document["problems"]))


def _row(name: str, domain: Mapping[str, Any]) -> list[Any]:
    accuracy = domain["accuracy"]
    return [name, domain["version"], domain["labels"], domain["events"], domain["labelled"], domain["memory"],
            show.percent(accuracy["prequential"]), show.percent((domain.get("calibration") or {}).get("ece")),
            show.percent(accuracy["holdout"]),
            show.percent(domain["forgetting"]), domain["learn_lag"]]


def _beside(name: str, one: Mapping[str, Any]) -> list[Any]:
    """Return adaptd beside the incumbent, over the newest labels: accuracies, and on how many each alone was right."""
    low, high = one["interval"]
    switched = show.moment(one["switched_at"]) if one["switched_at"] else None
    return [name, one["compared"], show.percent(one["accuracy"]["adaptd"]), show.percent(one["accuracy"]["incumbent"]),
            f"{one['difference']:+.1%}", f"{low:+.1%} to {high:+.1%}", one["better"], one["worse"], switched]


def _now(domain: Mapping[str, Any]) -> str:
    """Say what a domain is doing: adapting, drifting, on hold; and what the gate said last."""
    stage, drift, verdict = domain["adapting"], domain["drift"] or {}, domain["last_verdict"] or {}
    words = [f"adapting: {stage.get('stage')} {stage.get('progress') or 0:.0%}"] if stage else []
    words += [f"drift seen {drift['detected']} times"] if drift.get("detected") else []
    words += [f"memory full, {domain['evicted']} evicted"] if domain.get("evicted") else []
    words += [f"learning on hold{f' ({source})' if source else ''}" for source in domain.get("held", ())]
    words += _withheld(domain["abstention"]) if domain.get("abstention") else []
    if trial := domain.get("probation"):
        words += [f"on probation: {trial['compared']} of {trial['labels']} labels, e-value {trial['e_value']:.3g}"]
    words += ["adaptation on hold"] if domain.get("adaptation_held") else []
    decision = verdict.get("verdict") or verdict.get("decision")  # of this life, or of the newest candidate
    words += [f"last verdict {decision}"] if decision else []
    words += [f"begun for {verdict['started']}"] if "started" in verdict else []
    words += _next("adapts", domain.get("next_adaptation") or {})
    words += _next("consolidates", domain.get("next_consolidation") or {})
    words += _weak(domain.get("weak") or {})
    return "".join(f" · {word}" for word in words)


def _next(what: str, adaptation: Mapping[str, Any]) -> list[str]:
    """Say when the next adaptation, or consolidation, starts by count, and why not sooner."""
    if not adaptation.get("at_labels"):
        return []
    fewer = f", {adaptation['backed_off']} times as many as usual: the last ones gained nothing"
    return [f"{what} at {adaptation['at_labels']} new labels ({adaptation['labels']} came"
            f"{fewer if adaptation['backed_off'] > 1 else ''})"]


def _weak(weak: Mapping[str, Any]) -> list[str]:
    """Say whose weak labels wait, and what the last trial of some came to."""
    last = weak.get("last")
    words = [f"{count} weak labels of {source} wait" for source, count in (weak.get("waiting") or {}).items()]
    return words + ([f"the last trial, of {last['source']}: {last['what'].removeprefix('weak-')}"] if last else [])


def _withheld(abstention: Mapping[str, Any]) -> list[str]:
    """Say how much was answered and how much of that was wrong."""
    if abstention["coverage"] is None:
        return ["abstains; no answer was judged yet"]
    wrong = "" if abstention["error"] is None else f", {abstention['error']:.1%} of that wrongly"
    return [f"answered {abstention['coverage']:.1%}{wrong}"]


def _span(seconds: float) -> str:
    """Return a duration in its two largest units.

    >>> [_span(s) for s in (7, 187, 7_500, 200_000)]
    ['7 s', '3 min 7 s', '2 h 5 min', '2 d 7 h']
    """
    for size, unit, smaller, name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // smaller)} {name}"
    return f"{int(seconds)} s"
