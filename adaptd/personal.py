"""Personal data in a text: where it stands, by patterns whose finds are checked (numbering plans, check digits, dates).

Where: under `redact`, which imports this only where a domain asks for it (the extra `redact`). Pure and without a model:
names, addresses and whatever else has no form of its own are not found.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import phonenumbers
from phonenumbers import Leniency, NumberParseException, PhoneNumberFormat, PhoneNumberMatcher
from stdnum import iban, luhn
from stdnum.cn import ric
from stdnum.de import idnr
from stdnum.exceptions import ValidationError
from stdnum.iso7064 import mod_11_2
from stdnum.us import ssn

Number = tuple[int, int, str]  # from, to, and the one form that all its spellings share


class Found(NamedTuple):
    """One piece of personal data in a text."""

    start: int
    end: int
    entity: str
    same: str  # equal for every spelling of the same


# a full-width form for each printable ASCII character: Chinese keyboards write digits and @ so; one for one, places stay
WIDE = {0xFF01 + place: 0x21 + place for place in range(94)} | {0x3000: 0x20}
WORD = "A-Za-z0-9\u00c0-\u024f\u0370-\u052f"  # letters of words with spaces between them: Chinese has none
EMAIL = re.compile(rf"(?<![{WORD}._%+-])[{WORD}_%+-][{WORD}._%+'-]*@(?:[{WORD}-]+\.)+[{WORD}-]{{2,}}")
RUN = re.compile(r"(?<!\d)\d(?:[ -]?\d){11,}")
BRAND = re.compile(  # Visa, Mastercard, American Express, Diners, Discover, JCB, Maestro, UnionPay
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}|35\d{14}|(?:1800|2131)\d{11}|(?:50[1-3]\d|5[6-8]\d\d|63\d\d|67\d\d)\d{8,15}|62\d{14,17}")
ACCOUNT = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
RESIDENT = re.compile(r"(?<!\d)\d{17}[\dXx](?![\dA-Za-z])")
SOCIAL = re.compile(r"(?<![\d-])\d{3}([ -])\d{2}\1\d{4}(?![\d-])")
INSURANCE = re.compile(r"(?<![A-Za-z0-9])[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?(?:\d\d ?){3}[A-D](?![A-Za-z0-9])", re.IGNORECASE)
TAX = re.compile(r"(?<!\d)[1-9]\d(?: ?\d{3}){3}(?!\d)")
IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)")
IPV6 = re.compile(r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])")
EXTENSION = r"(?: ?(?:x|ext\.?) ?\d{1,6})?"
NORTH_AMERICAN = re.compile(r"(?<![\d.-])(?:(?:\+|00)?1[ .-]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d([.-]))[2-9]\d\d[.-]\d{4}(?![\d-])"
                            + EXTENSION)
WITH_COUNTRY = re.compile(r"(?<![\w+])\+(?:[ ./-]{0,2}(?:\(0\) ?|\(?\d\)?)){8,16}(?!\d)" + EXTENSION)


def _email(text: str) -> Iterator[Number]:
    if "@" in text:
        yield from ((m.start(), m.end(), m[0].casefold()) for m in EMAIL.finditer(text))


def _card(text: str) -> Iterator[Number]:
    for run in RUN.finditer(text):
        groups = [(g.start() + run.start(), g.end() + run.start()) for g in re.finditer(r"\d+", run[0])]
        for place, (start, _) in enumerate(groups):
            number = ""
            for left, right in groups[place:place + 19]:  # what stands beside it, as a date does, is no part of it
                number += text[left:right]
                if BRAND.fullmatch(number) and luhn.is_valid(number):
                    yield start, right, number
                    break


def _iban(text: str) -> Iterator[Number]:
    for m in ACCOUNT.finditer(text):
        for end in range(m.end(), m.start() + 14, -1):  # a word behind it may have been taken for its last group
            if not text[end:end + 1].isalnum() and iban.is_valid(text[m.start():end], check_country=False):
                yield m.start(), end, iban.compact(text[m.start():end])
                break


def _resident(number: str) -> bool:
    """Say whether date and check digit hold; counties come and go, and those who were born there keep their numbers."""
    try:
        ric.get_birth_date(number)
    except ValidationError:
        return False
    return bool(mod_11_2.is_valid(number.upper()))


def _id(text: str) -> Iterator[Number]:
    checks: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = (
        (RESIDENT, _resident), (SOCIAL, lambda number: ssn.is_valid(number.replace(" ", "-"))), (INSURANCE, lambda _: True),
        (TAX, idnr.is_valid))
    for pattern, valid in checks:
        for m in pattern.finditer(text):
            if valid(m[0]):
                yield m.start(), m.end(), re.sub(r"\W", "", m[0]).upper()


def _ip(text: str) -> Iterator[Number]:
    for pattern in (IPV4, IPV6):
        for m in pattern.finditer(text):
            try:
                address = str(ipaddress.ip_address(m[0]))
            except ValueError:
                continue
            if any(map(str.isdigit, m[0])):
                yield m.start(), m.end(), address


def _phone(text: str, regions: Sequence[str]) -> Iterator[Number]:
    for m in NORTH_AMERICAN.finditer(text) if "US" in regions else ():  # so written it is one, whether given out or not
        yield m.start(), m.end(), "+1" + re.sub(r"\D", "", m[0]).removeprefix("00").removeprefix("1")[:10]
    for m in WITH_COUNTRY.finditer(text):
        with suppress(NumberParseException):
            if phonenumbers.is_possible_number(number := phonenumbers.parse(m[0])):
                yield m.start(), m.end(), phonenumbers.format_number(number, PhoneNumberFormat.E164)
    for region in regions:
        for match in PhoneNumberMatcher(text, region, Leniency.STRICT_GROUPING, max_tries=1000):
            yield match.start, match.end, phonenumbers.format_number(match.number, PhoneNumberFormat.E164)


FIND: dict[str, Callable[[str], Iterator[Number]]] = {  # the surer ones first: a number belongs to who finds it first
    "email": _email, "iban": _iban, "id": _id, "card": _card, "ip": _ip}


@dataclass(frozen=True)
class Finder:
    """Finds the kinds of personal data that are asked for."""

    entities: Sequence[str]
    regions: Sequence[str]  # whose phone numbers are known without their country

    def find(self, text: str) -> list[Found]:
        """Return what is found, in the order in which it stands, none within another."""
        text = text.translate(WIDE)
        if "@" not in text and sum(map(str.isdecimal, text)) < 4 and ":" not in text:
            return []
        found: list[Found] = []
        for entity in (one for one in (*FIND, "phone") if one in self.entities):
            fresh: list[Found] = []
            for start, end, same in sorted(FIND[entity](text) if entity in FIND else self._phones(text)):
                if not fresh or start >= fresh[-1].end:
                    fresh.append(Found(start, end, entity, same))
            text = spliced(text, [(one.start, one.end, "#" * (one.end - one.start)) for one in fresh])  # for who looks next
            found += fresh
        return sorted(found)

    def replaced(self, text: str, by: Callable[[Found], str]) -> str:
        """Return the text with something else in the place of what is found."""
        while found := self.find(text):  # what stood beside a piece may be one by itself now
            text = spliced(text, [(one.start, one.end, by(one)) for one in found])
        return text

    def _phones(self, text: str) -> Iterator[Number]:
        return _phone(text, self.regions) if sum(map(str.isdecimal, text)) >= 7 else iter(())


def spliced(text: str, pieces: Iterable[tuple[int, int, str]]) -> str:
    """Return the text with pieces of it, given in order, replaced.

    >>> spliced("a bc d", [(2, 4, "X")])
    'a X d'
    """
    out, at = [], 0
    for start, end, new in pieces:
        out += [text[at:start], new]
        at = end
    return "".join([*out, text[at:]])


def known_region(region: str) -> bool:
    """Say whether there is a numbering plan for a region."""
    return region in phonenumbers.SUPPORTED_REGIONS
