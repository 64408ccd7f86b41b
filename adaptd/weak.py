"""Weak labels: whose they are, by the name of their source. They wait until a trial shows that they help (`adaptd.admission`).

Where: in the journal, which marks them, and wherever what judges must not be what was guessed. The mark is in the source, as
it was journalled, so it holds whatever the configuration says later: `weak:NAME` for rules, heuristics or another model,
`pseudo:VERSION` for what the daemon proposes itself. A weak label is never held out, judges no answer and no other source, and
never overrules a label that is none.
"""

from __future__ import annotations

from collections.abc import Collection

WEAK, PSEUDO = "weak:", "pseudo:"


def is_weak(source: str) -> bool:
    """Say whether labels of a source are weak.

    >>> [is_weak(source) for source in ("weak:rules", "pseudo:3", "rules", "weakly")]
    [True, True, False, False]
    """
    return source.startswith((WEAK, PSEUDO))


def marked(source: str, named: Collection[str]) -> str:
    """Return the source under which a label is journalled, where those `named` are weak.

    >>> marked("rules", {"rules"}), marked("weak:rules", {"rules"}), marked("crm", {"rules"})
    ('weak:rules', 'weak:rules', 'crm')
    """
    return f"{WEAK}{source}" if source in named else source


def family(source: str) -> str:
    """Return what is tried together over time: what the daemon proposed, by whatever version, is one.

    >>> family("pseudo:3"), family("weak:rules")
    ('pseudo', 'weak:rules')
    """
    return PSEUDO.rstrip(":") if source.startswith(PSEUDO) else source
