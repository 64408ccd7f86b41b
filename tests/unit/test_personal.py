"""Personal data in generated texts of four languages: how much is found, and how much that is none is taken for it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from faker import Faker

from adaptd.personal import Finder

LOCALES = ("en_US", "en_GB", "de_DE", "zh_CN")
ALL = ("email", "phone", "card", "iban", "id", "ip")
FINDER = Finder(ALL, ("US", "GB", "DE", "CN"))
FRAMES = {
    "en": ("Please use {} from now on.", "My details: {}, thanks", "{} is what I gave you last week", "why was ({}) refused?",
           "I wrote to you about 3 orders on 2024-05-17 and you still ask for {}"),
    "de": ("Bitte ab jetzt {} verwenden.", "Meine Daten: {}, danke", "{} hatte ich Ihnen am 17.05.2024 genannt", "warum ({})?"),
    "zh": ("我的新联系方式是{}谢谢", "请用{}。", "{}就是我上周说的", "为什么（{}）不行？", "2024年5月17日我说过，用{}"),
}
# of the same look and nobody's: what a shop's texts are full of
DECOYS = ("order 4471-2213", "订单号2024051700012345", "ticket #88213004", "invoice 2024-000-118", "$12,345,678.90",
          "2024-05-17 10:30:00", "version 3.11.4", "ISBN 978-3-16-148410-0", "4111 1111 1111 1112", "DE00 3704 0044 0532 0130 00",
          "epoch 1700000000000", "11010519491231002Y", "@support", "a@b", "10:30-12:45", "300x400x500", "size 2024/25",
          "999.999.1.1")


def made(locale: str, seed: int, count: int) -> Iterator[tuple[str, str, str]]:
    """Yield texts with one piece of personal data each: entity, the piece, the text."""
    fake, rng = Faker(locale), random.Random(seed)
    fake.seed_instance(seed)
    kinds = {"email": fake.email, "phone": fake.phone_number, "card": fake.credit_card_number, "ip": fake.ipv4,
             **({"iban": fake.iban} if locale in ("en_GB", "de_DE") else {}),
             **({"id": {"en_US": fake.ssn, "zh_CN": fake.ssn, "en_GB": lambda: fake.bothify("AB ## ## ## C")}[locale]}
                if locale != "de_DE" else {})}
    for place in range(count):
        entity = list(kinds)[place % len(kinds)]
        piece = kinds[entity]()
        yield entity, piece, rng.choice(FRAMES[locale[:2]]).format(piece)


def measured(count: int) -> tuple[dict[str, dict[str, float]], float]:
    """Return the recall by locale and entity (the whole piece is gone, under any name), and the precision by characters."""
    recall, right, marked = {}, 0, 0
    for seed, locale in enumerate(LOCALES, 1):
        whole: Counter[str] = Counter()
        of: Counter[str] = Counter()
        for entity, piece, text in made(locale, seed, count):
            start = text.index(piece)
            inside = {place for place in range(start, start + len(piece)) if text[place].isalnum()}
            gone = {place for one in FINDER.find(text) for place in range(one.start, one.end) if text[place].isalnum()}
            of[entity] += 1
            whole[entity] += inside <= gone
            right, marked = right + len(gone & inside), marked + len(gone)
        recall[locale] = {entity: whole[entity] / of[entity] for entity in of}
    return recall, right / marked


def test_most_of_what_is_generated_is_found_and_little_else() -> None:
    recall, precision = measured(400)
    assert precision > 0.99
    for locale, by in recall.items():
        assert all(share >= 0.97 for entity, share in by.items() if entity != "phone"), (locale, by)
        assert by["phone"] >= 0.75, (locale, by)  # some of Faker's numbers are of no one's plan


@pytest.mark.parametrize("text", DECOYS)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert FINDER.find(f"about {text}, please") == FINDER.find(f"关于{text}的问题") == []


@pytest.mark.parametrize(("text", "entity", "same"), [
    ("我的手机是13812345678谢谢", "phone", "+8613812345678"),
    ("电话：１３８ １２３４ ５６７８。", "phone", "+8613812345678"),
    ("打010-62345678吧", "phone", "+861062345678"),
    ("身份证11010519491231002X号", "id", "11010519491231002X"),
    ("联系zhang.san@qq.com谢谢", "email", "zhang.san@qq.com"),
    ("write to Jörg.Müller@bücher.de!", "email", "jörg.müller@bücher.de"),
    ("卡号６２２２ 0212 3456 7890 128", "card", "6222021234567890128"),
    ("4111 1111 1111 1111 12/26 123", "card", "4111111111111111"),
    ("DE89 3704 0044 0532 0130 00 bitte", "iban", "DE89370400440532013000"),
    ("(415) 555-2671?", "phone", "+14155552671"),
    ("+44 (0)20 7946 0958", "phone", "+442079460958"),
    ("536-90-4399", "id", "536904399"),
    ("AB 12 34 56 C", "id", "AB123456C"),
    ("from fe80::1", "ip", "fe80::1"),
])
def test_every_spelling_is_one(text: str, entity: str, same: str) -> None:
    assert [(one.entity, one.same) for one in FINDER.find(text)] == [(entity, same)]


def test_only_what_is_asked_for_is_found() -> None:
    text = "bob@example.com, 4111111111111111"
    assert [one.entity for one in Finder(("card",), ()).find(text)] == ["card"]
    assert Finder(("phone",), ()).find("13812345678") == []
    assert len(Finder(("phone",), ()).find("+86 138 1234 5678")) == 1


@pytest.mark.parametrize("piece", ["@", "a", "1 ", "1", "1-", "a@a.", "DE89 ", ":", "1.1.1.1.", "(", "+1 (",
                                   "(415) 555-2671 ", "1:"])
def test_no_text_takes_long(piece: str) -> None:
    """The longest text there may be; most are a thousand times shorter."""
    text = (piece * 100_000)[:100_000]
    started = time.process_time()
    FINDER.find(text)
    assert time.process_time() - started < 10
