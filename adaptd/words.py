"""Words: how a text that is tagged is divided, the same for whoever encodes, teaches and answers. Pure.

A word is a run of letters, digits and underscores; of a script that has no spaces between words (Han, kana) each character, and
of all others each character that is no space. So a word's vector, its row and its place in an answer need nothing but the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice

ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # kana and Han: a character is a word
WORD = re.compile(rf"[{ALONE}]|[^\W{ALONE}]+|[^\w\s]")
MOST = 512  # words of one text; what stands behind them is not read

OUTSIDE = "O"
Place = tuple[int, int]  # from a character to the one behind it
Span = tuple[int, int, str]  # from a word to the one behind it, and the type


def words(text: str) -> list[Place]:
    """Return where the words of a text stand, in Unicode code points; at most MOST.

    >>> words("Hi, 北京!")
    [(0, 2), (2, 3), (4, 5), (5, 6), (6, 7)]
    """
    return [found.span() for found in islice(WORD.finditer(text), MOST)]


def is_cut(text: str) -> bool:
    """Say whether a text has more words than are read."""
    return next(islice(WORD.finditer(text), MOST, None), None) is not None


def tags(spans: Iterable[Span], count: int) -> dict[int, str]:
    """Return the tag of each of so many words (BIO; Ramshaw and Marcus, 1995).

    >>> tags([(1, 3, "city")], 4)
    {0: 'O', 1: 'B-city', 2: 'I-city', 3: 'O'}
    """
    found = dict.fromkeys(range(count), OUTSIDE)
    for first, behind, kind in spans:
        found.update(dict.fromkeys(range(first, behind), f"I-{kind}"))
        found[first] = f"B-{kind}"
    return found


def spans(tags: Mapping[int, str]) -> frozenset[Span]:
    """Return the spans that the tags of words stand for; an I that continues nothing begins a span.

    >>> sorted(spans({0: "O", 1: "B-city", 2: "I-city", 3: "B-city"}))
    [(1, 3, 'city'), (3, 4, 'city')]
    """
    found: list[Span] = []
    for place in sorted(tags):
        begins, _, kind = tags[place].partition("-")
        if begins == "I" and found and found[-1][1:] == (place, kind):
            found[-1] = (found[-1][0], place + 1, kind)
        elif kind:
            found.append((place, place + 1, kind))
    return frozenset(found)
