"""Rules: what a head must answer, or never, whatever the model says. Conditions are CEL, over payload and answer.

Where: between a head's answer and its rendering; learning, gate and versions know nothing of it. CEL (Common Expression
Language) has no loops but over lists, no side effects and no way out; an evaluation is bounded. `cel_expr_python` is imported
where there are rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from adaptd.config import RuleSettings
from adaptd.errors import BadConfig, BadPayload, MissingExtra
from adaptd.heads import Classify, as_target
from adaptd.interfaces import Domain, Rule
from adaptd.records import HeadAnswer, Ruled

Withheld = Callable[[str, float], str | None]  # head and confidence -> why an answer of that confidence is withheld


class Rules:
    """The rules of one domain, compiled."""

    def __init__(self, rules: Sequence[tuple[str, Rule, Condition]] = ()) -> None:
        self._rules = rules  # with their heads

    @classmethod
    def of(cls, domain: Domain, configured: Sequence[Rule] = (), field: str = "rules") -> Self:
        """Compile the configuration's rules, then the domain's own.

        Raises
        ------
        BadConfig
            One of them cannot be a rule of this domain.
        MissingExtra
            There are rules, and nothing that reads them.
        """
        rules = [*configured, *domain.rules]
        names = [rule.name for rule in rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BadConfig(f"{field}: two rules named {twice[0]!r}", field=field, hint="each needs a name of its own")
        return cls([_compiled(domain, rule, f"{field}.{rule.name}") for rule in rules])

    def applied(self, payload: Mapping[str, Any], answers: Mapping[str, HeadAnswer],
                withheld: Withheld) -> Mapping[str, HeadAnswer]:
        """Return the answers as the rules let them stand; each rule sees what the model said."""
        if not self._rules:
            return answers
        labels = {name: as_target(answer.label) or "" for name, answer in answers.items()}
        return {head: self._applied(head, answer, {"payload": dict(payload), "labels": labels, "label": labels[head],
                                                   "confidence": answer.confidence}, withheld)
                for head, answer in answers.items()}

    def _applied(self, head: str, answer: HeadAnswer, said: Mapping[str, Any], withheld: Withheld) -> HeadAnswer:
        holding, told = list[Rule](), list[Ruled]()
        for of, rule, condition in self._rules:
            if of == head:
                try:
                    holding += [rule] if condition.holds(said) else []
                except Undecided as error:
                    told.append(Ruled(rule=rule.name, did="failed", error=str(error)))
        banned = {label: rule.name for rule in reversed(holding) for label in rule.never}
        for rule in holding:
            if rule.must in banned:  # the ban is the stronger
                told.append(Ruled(rule=banned[rule.must], did="never", label=rule.must))
            elif rule.must is not None:
                told.append(Ruled(rule=rule.name, did="must", label=rule.must))
                return dataclasses.replace(answer, label=rule.must, confidence=1.0, reason=None, rules=told)
        if answer.label in banned:
            answer = _next(answer, banned, told, lambda confidence: withheld(head, confidence))
        return dataclasses.replace(answer, rules=tuple(told))


def _next(answer: HeadAnswer, banned: Mapping[str, str], told: list[Ruled],
          withheld: Callable[[float], str | None]) -> HeadAnswer:
    """Return the best answer that is not banned, as unsure as the model was of it."""
    for label, score in sorted(answer.scores.items(), key=lambda one: -one[1]):
        if label not in banned:
            reason = withheld(score)
            return dataclasses.replace(answer, label=label if reason is None else None, confidence=score, reason=reason)
        told.append(Ruled(rule=banned[label], did="never", label=label))
    return dataclasses.replace(answer, label=None, confidence=0.0, reason="rules forbid every label that scored")


class Undecided(Exception):
    """A condition is neither true nor false of what was said."""


class Condition:
    """A CEL expression that is true or false of a payload and an answer."""

    def __init__(self, expression: str, field: str) -> None:
        try:
            from cel_expr_python import cel
        except ImportError:
            raise MissingExtra("rules need a reader of CEL, which is not installed", field=field,
                               hint="pip install 'adaptd[rules]'") from None
        types = cel.Type
        environment = cel.NewEnv(variables={
            "payload": types.Map(types.STRING, types.DYN), "labels": types.Map(types.STRING, types.STRING),
            "label": types.STRING, "confidence": types.DOUBLE})
        try:
            self._expression = environment.compile(expression)
        except RuntimeError as error:
            raise BadConfig(f"{field}.when: {_first(error)}", field=f"{field}.when",
                            hint="a CEL expression over payload, label, labels and confidence") from None
        self._bool, self._error = types.BOOL, types.ERROR
        if (gives := self._expression.return_type()) not in (types.BOOL, types.DYN):
            raise BadConfig(f"{field}.when: it gives {gives.name()}, not true or false", field=f"{field}.when",
                            hint="compare it with something: ==, <, in, has(…)")

    def holds(self, said: Mapping[str, Any]) -> bool:
        """Evaluate it.

        Raises
        ------
        Undecided
            A field is missing or of another kind, or it took too long.
        """
        try:
            found = self._expression.eval(data=said)
        except Exception as error:  # the bound on iterations, and values that CEL does not know
            raise Undecided(_first(error)) from None
        if found.type() != self._bool:
            raise Undecided(_first(found.value()) if found.type() == self._error else f"it gave {found.value()!r:.80}")
        return bool(found.value())


def of(domain: Domain, name: str, configured: Mapping[str, RuleSettings]) -> Rules:
    """Make the rules of a domain that the configuration names."""
    given = [Rule(name=rule, **settings.model_dump()) for rule, settings in configured.items()]
    return Rules.of(domain, given, f"domains.{name}.rules")


def _first(error: object) -> str:
    return str(error).strip().split("\n")[0][:200]


def _compiled(domain: Domain, rule: Rule, field: str) -> tuple[str, Rule, Condition]:
    known = sorted(domain.heads)
    head = rule.head or (known[0] if len(known) == 1 else "")
    if head not in domain.heads:
        raise BadConfig(f"{field}: " + (f"no head {head!r}" if head else "it names no head"), field=f"{field}.head",
                        hint=f"known: {', '.join(known)}")
    if not isinstance(domain.heads[head], Classify):
        raise BadConfig(f"{field}: the head {head!r} does not answer with one label", field=f"{field}.head",
                        hint="a rule is about a head that classifies; `render` can change what others say")
    if isinstance(rule.never, str) or (rule.must is None) == (not rule.never):
        raise BadConfig(f"{field}: give either must or never", field=field, hint='must = "a label", or never = ["a label", …]')
    try:
        check = domain.heads[head].check
        must = None if rule.must is None else check(rule.must, f"{field}.must")
        never = [check(label, f"{field}.never") for label in rule.never]
    except BadPayload as error:
        raise BadConfig(f"{error.field}: {error.message}", field=error.field, hint=error.hint) from None
    return head, dataclasses.replace(rule, must=must, never=never), Condition(rule.when, field)
