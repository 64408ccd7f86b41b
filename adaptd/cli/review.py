"""`adaptd review`: a person is asked for the labels that are expected to prevent most errors, and told later what they did."""

from __future__ import annotations

import difflib
import getpass
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import click

from adaptd.cli import options, show
from adaptd.errors import AdaptdError, Busy, NotRunning
from adaptd.heads import as_target, named

MINUTES = 10.0
BATCH = 10  # answers after which is asked anew: what was learned from them changes what is worth asking
MOST = 500  # items that one request gives
PATIENCE_S = 60.0
TEXT_CHARACTERS = 2000  # of an event that are shown
HELP = ("Enter: the guess is right; a number or a name: that label (=NAME for one that is a number, s or q); s: skip; q: quit; "
        "Ctrl-C at any time, nothing is lost")
SHAPES: Sequence[tuple[Any, str]] = (  # of labels that are no names
    (dict, 'an object: {"head": "label"}'), (list, 'a list: ["one", "another"]'), ((int, float), "a number"))


@click.command()
@options.config_option
@options.domain_option
@click.option("--minutes", type=click.FloatRange(0, 480, min_open=True), metavar="M", help="Stop after so long.  [default: 10]")
@click.option("-n", "count", type=click.IntRange(1, MOST), metavar="N", help="Stop after so many answers, instead.")
@click.option("--source", metavar="NAME", help="Who answers; the labels are review:NAME's.  [default: who runs this]")
@click.option("--report", is_flag=True, help="Show what the answers so far were good for; ask nothing.")
@options.json_option
def review(domain: str | None, minutes: float | None, count: int | None, source: str | None, report: bool, as_json: bool) -> None:
    """Label the events whose labels are expected to prevent most errors.

    Each answer is learned at once. With --json the list is printed and nothing is asked.

    \b
    Example:
      adaptd review --minutes 10
      adaptd review --report
    """
    if minutes is not None and count is not None:
        raise click.UsageError("--minutes and -n both given; give one of them")
    if report and (minutes is not None or count is not None or source is not None):
        raise click.UsageError("--report asks nothing: leave --minutes, -n and --source out")
    name = options.chosen(domain)
    if report:
        document = _asked(options.route(name, "review/report"))
        show.data(document) if as_json else _report(document)
    elif as_json:
        measure = f"n={count}" if count is not None else f"minutes={MINUTES if minutes is None else minutes:g}"
        show.data(_asked(options.route(name, f"review?{measure}")))
    else:
        _Session(name, f"review:{source or _user()}", count, None if count is not None else 60 * (minutes or MINUTES)).run()


def _asked(path: str) -> dict[str, Any]:
    """Ask the daemon, again where it is at another person's list."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return options.client().call("GET", path, timeout_s=300.0)
        except Busy as error:
            if time.monotonic() > until:
                raise
            time.sleep(error.retry_after_s)  # as the daemon asked; bounded by PATIENCE_S


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry in the password database
        return f"uid {os.getuid()}"


@dataclass
class _Session:
    """One person's sitting."""

    domain: str
    teacher: str
    count: int | None
    limit_s: float | None
    answered: int = 0
    corrected: int = 0
    held: int = 0
    skipped: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    spent_s: float = 0.0

    def run(self) -> None:
        """Ask until time, number, person or pool say that it is enough; tell what was done, whatever ended it."""
        began = time.monotonic()
        self.known = self._labels()
        try:
            while self._goes_on(began) and (items := self._batch()):
                if not self._ask_all(items, began):
                    break
            else:
                show.say("nothing waits for a label" if self._goes_on(began) else "that is all for now, thank you")
        finally:
            self._tell()

    def _goes_on(self, began: float) -> bool:
        if self.count is not None and self.answered >= self.count:
            return False
        return self.limit_s is None or time.monotonic() - began < self.limit_s

    def _labels(self) -> set[str]:
        heads = options.client().call("GET", options.route(self.domain, "memory"))["heads"]
        return {label for head in heads.values() for label in head["labels"]}

    def _batch(self) -> list[dict[str, Any]]:
        """Return what to ask next, chosen by the model as it is now; what was skipped does not come again."""
        some = BATCH if self.count is None else min(BATCH, self.count - self.answered)
        path = options.route(self.domain, f"review?n={min(MOST, some + len(self.skipped))}")
        items = _asked(path)["items"]
        return [item for item in items if item["event"] not in self.skipped][:some]

    def _ask_all(self, items: Sequence[Mapping[str, Any]], began: float) -> bool:
        """Ask about items; return whether the person goes on."""
        for item in items:
            if not self._goes_on(began):
                return True
            shown = time.monotonic()
            found = self._ask(item)
            if found is None:
                return False
            if "label" in found:
                self._send(item, found["label"])
                self.spent_s += time.monotonic() - shown
            else:
                self.skipped.add(item["event"])
        return True

    def _ask(self, item: Mapping[str, Any]) -> dict[str, Any] | None:
        """Show an item and return {"label": …}, {} for a skip, None for the end."""
        several = isinstance(item["label"], dict)
        plain = item["label"] is None or isinstance(item["label"], str)
        choices = [] if several else list(item["scores"].items())
        text = item["text"] if item["text"] is not None else json.dumps(item["payload"], ensure_ascii=False)
        show.say(f"\n{text[:TEXT_CHARACTERS]}{'…' if len(text) > TEXT_CHARACTERS else ''}")
        show.say(f"  ({item['reason']})")
        for number, (label, score) in enumerate(choices, 1):
            show.say(f"  {number}  {label}  {show.percent(score)}")
        if not plain:
            show.say(f"  guess: {json.dumps(item['label'], ensure_ascii=False)}")
        while True:
            given = self._prompt()
            if given is None or given == "q":
                return None
            if given == "s":
                return {}
            if given == "?":
                show.say(HELP)
            elif (label := self._read(given, item["label"], [name for name, _ in choices], plain)) is not None:
                return {"label": label}

    @staticmethod
    def _prompt() -> str | None:
        """Read one line; None at the end of the input."""
        try:
            return str(click.prompt("label (? for help)", default="", show_default=False, err=True)).strip()
        except click.Abort as ended:
            if isinstance(ended.__context__, EOFError):
                return None
            raise

    def _read(self, given: str, guess: Any, choices: Sequence[str], plain: bool) -> Any:
        """Return the label that a line stands for; None where it stands for none, which is said."""
        if not given:
            if guess is None or (isinstance(guess, dict) and None in guess.values()):
                show.say("there is no guess yet: type a label")
                return None
            return guess
        if not plain:
            return self._json(given, guess)
        if given.isascii() and given.isdecimal() and not given.startswith("="):
            if 1 <= int(given[:9]) <= len(choices):
                return choices[int(given) - 1]
            show.say(f"there is no label {given} in the list; type ={given} for a label of that name")
            return None
        label = given.removeprefix("=").strip()
        return label if label in self.known or self._is_new(label) else None

    @staticmethod
    def _json(given: str, guess: Any) -> Any:
        """Read a label that is no name: of several heads, of several labels, or a number."""
        kind, words = next(found for found in SHAPES if isinstance(guess, found[0]))
        with suppress(ValueError):
            if isinstance(label := json.loads(given), kind):
                return label
        show.say(f"a label of this domain is {words}")
        return None

    def _is_new(self, label: str) -> bool:
        """Ask whether a label that nobody has taught is meant."""
        if not label:
            return False
        near = difflib.get_close_matches(label, self.known, 1)
        hint = f" (there is {near[0]!r})" if near else ""
        return click.confirm(show.plain(f"{label!r} is a new label{hint}. Teach it?"), default=not near, err=True)

    def _send(self, item: Mapping[str, Any], label: Any) -> None:
        """Send an answer at once; what the daemon refuses is told, and the next item comes."""
        body = {"event": item["event"], "label": label, "teacher": self.teacher}
        try:
            done = options.client().call("POST", options.route(self.domain, "feedback"), body)
        except NotRunning:
            raise
        except AdaptdError as error:
            show.say(f"not taken: {error}" + (f"; {error.hint}" if error.hint else ""))
            self.skipped.add(item["event"])
            return
        self.answered += 1
        self.corrected += label != item["label"]
        self.held += done["held"]
        labels = label.values() if isinstance(label, dict) else (label,)
        self.known |= {name for one in labels for name in named(as_target(one))}

    def _tell(self) -> None:
        words = f"{self.answered} label{'' if self.answered == 1 else 's'} by {self.teacher}"
        if self.answered:
            words += f", {self.corrected} of them not as guessed; {self.spent_s / self.answered:.1f} s each"
        if self.held:
            words += f"; {self.held} wait, as learning is on hold"
        show.line(words + (f"; {len(self.skipped)} skipped" if self.skipped else ""))


def _report(document: Mapping[str, Any]) -> None:
    if not document["teachers"]:
        show.line("no label has come from a review yet: adaptd review")
        return
    show.table(("teacher", "labels", "answered", "corrected", "prevented", "caused", "net", "judged"), (
        (one["teacher"], one["labels"], one["answered"], one["corrected"],
         *((one["later"] or {}).get(name) for name in ("prevented", "caused", "net", "events")))
        for one in document["teachers"]))
    later = document["later"]
    show.line("nobody else has labelled events that were answered since the first review, so what it prevented cannot be told"
              if later is None else
              f"of the newest {later['events']} answers that others judged since, {later['right']} are right with the reviewed "
              f"labels; {later['prevented']} are right only with them, {later['caused']} only without")
