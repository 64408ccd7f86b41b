"""What changes the live version: snapshot, rollback, promote, adapt; and the list to choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from adaptd.cli import options, show
from adaptd.clock import moment
from adaptd.errors import NotRunning, Refused

NUMBER = click.IntRange(min=1)


@click.command()
@options.config_option
@options.domain_option
@options.json_option
def versions(domain: str | None, as_json: bool) -> None:
    """List the versions of a domain.

    \b
    Example:
      adaptd versions --json
    """
    document = options.client().call("GET", options.route(options.chosen(domain), "versions"))
    if as_json:
        show.data(document)
        return
    show.table(("", "version", "kind", "parent", "seq", "created", "verdict", "who", "why"), (
        (_mark(v), v["version"], v["kind"], v["parent"], v["seq"], show.moment(v["created"]),
         (v["verdict"] or {}).get("decision"), v["actor"], v["reason"]) for v in document["versions"]))


def _mark(version: Mapping[str, Any]) -> str:
    return "live" if version["live"] else "gone" if "expired" in version.get("metrics", {}) else " "


@click.command()
@options.config_option
@options.domain_option
@options.reason_option
@options.json_option
def snapshot(domain: str | None, reason: str, as_json: bool) -> None:
    """Name the live state as a version.

    \b
    Example:
      adaptd snapshot --reason "before the campaign"
    """
    document = options.client().call("POST", options.route(options.chosen(domain), "snapshot"), {"reason": reason})
    _done(document, as_json, f"version {document['version']}")


@click.command()
@options.config_option
@options.domain_option
@click.option("--to", type=NUMBER, metavar="N", help="The version; without it one step back.")
@click.option("--at", callback=options.moment, metavar="TIME",
              help="The moment: ISO 8601 with a zone, or seconds since the epoch.")
@click.option("--and-replay", is_flag=True, help="Then learn again what came since.")
@click.option("--except-source", "sources", multiple=True, metavar="S",
              help="With --and-replay: not the labels of this source, which is put on hold; may be repeated.")
@options.reason_option
@options.json_option
def rollback(domain: str | None, to: int | None, at: str | float | None, and_replay: bool, sources: tuple[str, ...],
             reason: str, as_json: bool) -> None:
    """Go back to an earlier version, or to what was live at a moment.

    What was live is saved first, so that a rollback can be rolled back. Learning is on hold until `adaptd resume`.
    Works on a stopped daemon's store too.

    \b
    Example:
      adaptd rollback --to 7 --reason "poisoned feed"
      adaptd rollback --at 2026-05-04T14:05:00Z --and-replay --except-source intern
    """
    if to is not None and at is not None:
        raise click.UsageError("--to and --at both given: name a version or a moment")
    if sources and not and_replay:
        raise click.UsageError("--except-source is about a replay: add --and-replay")
    name = options.chosen(domain)
    body: dict[str, Any] = {key: value for key, value in (("to", to), ("at", at)) if value is not None} | {"reason": reason}
    body |= {"and_replay": True, "except_sources": list(sources)} if and_replay else {}
    document: Mapping[str, Any]
    try:
        document = options.client().call("POST", options.route(name, "rollback"), body, timeout_s=None if and_replay else 60.0)
    except NotRunning:
        if and_replay:
            raise NotRunning("a replay needs the daemon, and it is not running",
                             hint="roll back without --and-replay, start the daemon, then: adaptd replay") from None
        from adaptd import offline

        then = None if at is None else moment(at, "at")
        document = offline.rollback(options.paths(), name, to, reason, options.actor(), then)
    _done(document, as_json, f"version {document['version']} is live; what was live is version {document['saved']}")
    if and_replay:
        show.say(_relearned(document))
    show.say("learning is on hold; go on with: adaptd resume")


@click.command()
@options.config_option
@options.domain_option
@click.option("--since", callback=options.since, metavar="TIME|SEQ", required=True,
              help="From this seq, or this moment (ISO 8601 with a zone, or seconds with a decimal point), on.")
@click.option("--except-source", "sources", multiple=True, metavar="S", help="Not this source's labels; may be repeated.")
@click.option("--except-event", "events", multiple=True, metavar="E", help="Not this event's labels; may be repeated.")
@options.reason_option
@options.json_option
def replay(domain: str | None, since: str | float, sources: tuple[str, ...], events: tuple[str, ...], reason: str,
           as_json: bool) -> None:
    """Learn again what a rollback took back, but for what was bad.

    Labels that the journal has and the live state has not are learned in the order in which they came, those that wait
    on hold too. What is excepted stays in the journal: what waited goes on waiting for `adaptd resume`, the rest for
    another replay. The hold stays as it is, and a source that is on hold by itself stays out. Done again it learns
    nothing twice.

    \b
    Example:
      adaptd replay --since 2026-05-04T14:05:00Z --except-source intern
    """
    body = {"since": since, "except_sources": list(sources), "except_events": list(events), "reason": reason}
    document = options.client().call("POST", options.route(options.chosen(domain), "replay"), body, timeout_s=None)
    _done(document, as_json, _relearned(document))


def _relearned(document: Mapping[str, Any]) -> str:
    return f"{document['relearned']} labels are learned again; {document['skipped']} stayed out"


@click.command()
@options.config_option
@options.domain_option
@click.argument("number", type=NUMBER, metavar="N")
@click.option("--force", is_flag=True, help="Even where the gate refused.")
@click.option("--reason", metavar="TEXT", required=True, help="Why, for the history.")
@options.json_option
def promote(domain: str | None, number: int, force: bool, reason: str, as_json: bool) -> None:
    """Make a candidate live.

    \b
    Example:
      adaptd promote 9 --force --reason "the holdout lacks the new traffic"
    """
    body = {"to": number, "force": force, "reason": reason}
    document = options.client().call("POST", options.route(options.chosen(domain), "promote"), body)
    _done(document, as_json, f"version {document.get('version', number)} is live")


@click.command()
@options.config_option
@options.domain_option
@click.option("--back", is_flag=True, help="They use the incumbent's again; the comparison goes on.")
@options.reason_option
@options.json_option
def switch(domain: str | None, back: bool, reason: str, as_json: bool) -> None:
    """Say that clients use adaptd's answers, not the incumbent's.

    Clients choose themselves whose answers they use. This writes into the history that they do, with what the comparison
    came to, and ends it.

    \b
    Example:
      adaptd switch --reason "better for a month"
    """
    document = options.client().call("POST", options.route(options.chosen(domain), "switch"), {"back": back, "reason": reason})
    _done(document, as_json, "clients use the incumbent again" if back else f"clients use version {document['version']}")


@click.command()
@options.config_option
@options.domain_option
@click.option("--wait", is_flag=True, help="Until the gate has judged; exit code 4 when it rejects.")
@click.option("--consolidate", is_flag=True, help="Tune a copy of the encoder's upper blocks: one more expert.")
@click.option("--weak", is_flag=True, help="Try the weak labels that wait: those are learned that help the holdout.")
@click.option("--pseudo", is_flag=True, help="Propose labels for unlabelled events first, then try them.")
@click.option("--cancel", is_flag=True, help="End the one that runs or is paused; the champion stays.")
@options.reason_option
@options.json_option
def adapt(domain: str | None, wait: bool, consolidate: bool, weak: bool, pseudo: bool, cancel: bool, reason: str,
          as_json: bool) -> int:
    """Train a candidate and let the gate judge it.

    One that runs is paused by adaptd hold --adaptation, and goes on with adaptd resume --adaptation.

    \b
    Example:
      adaptd adapt --wait
      adaptd adapt --consolidate --wait
      adaptd adapt --pseudo --wait
      adaptd adapt --cancel --reason "the machine is needed"
    """
    asked = {name: True for name, given in (("consolidate", consolidate), ("weak", weak), ("pseudo", pseudo)) if given}
    if cancel and (wait or asked):
        raise click.UsageError("--cancel ends an adaptation, --wait and --consolidate start one")
    if consolidate and len(asked) > 1:
        raise click.UsageError("--consolidate is one thing, and a trial of weak labels another")
    if reason and not cancel:
        raise click.UsageError("--reason says why one is cancelled: add --cancel")
    path = options.route(options.chosen(domain), "adapt")
    if cancel:
        document = options.client().call("POST", f"{path}/cancel", {"reason": reason})
        _done(document, as_json, str(document["cancelled"]))
        return 0
    if not wait:
        document = options.client().call("POST", path, {"wait": False, **asked})
        _done(document, as_json, "adaptation started; adaptd status follows it")
        return 0
    from rich.console import Console

    with Console(stderr=True).status("adapting: training in a child process, then the gate"):
        document = options.client().call("POST", path, {"wait": True, **asked}, timeout_s=None)
    return _verdict(document, as_json)


def _verdict(document: Mapping[str, Any], as_json: bool) -> int:
    """Show a verdict. A rejection is an exit code, "undecided" is words: more evidence is collected."""
    verdict = document.get("verdict")
    _done(document, as_json, f"{verdict}: version {document.get('version')}")
    for reason in document.get("reasons", ()):
        show.say(f"  {reason}")
    if verdict == "undecided":
        show.say("too little evidence: the champion stays")
    return Refused.exit_code if verdict == "reject" else 0


def _done(document: Mapping[str, Any], as_json: bool, words: str) -> None:
    if as_json:
        show.data(document)
    else:
        show.line(words)
