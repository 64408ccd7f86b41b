"""Vectors of a text whose words are tagged, when its domain reads another text than it did: nothing stops, nothing slips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import Engine, func, insert, select

from adaptd import db, registry
from adaptd import tables as t
from adaptd.errors import BadPayload
from adaptd.heads import Head, Spans
from adaptd.interfaces import Domain
from adaptd.journal import Journal
from adaptd.model.words import Words
from adaptd.predict import Inference
from adaptd.records import Example, Item, place
from adaptd.rows import HoldoutRule
from adaptd.vectors import Vectors

DOMAIN, SHORT, LONG = 1, "Oslo is far", "Today Oslo is far away"


class Reads(Domain):
    """Reads as an older or a newer version of itself does."""

    name = "reads"
    heads: Mapping[str, Head] = {"places": Spans()}
    text: str | None = SHORT

    def example(self, payload: Mapping[str, Any]) -> Example:
        if self.text is None:
            raise BadPayload("not any more")
        return Example(text=self.text)


@pytest.fixture(scope="module")
def words() -> Words:
    made = Words(device="cpu")
    made.load()
    return made


@pytest.fixture
def store(engine: Engine, where: Path | str, words: Words) -> Iterator[tuple[Journal, Engine, Inference, int]]:
    with engine.begin() as connection:
        registry.create_domain(connection, "reads", words.digest, "config")
        encoder = registry.inserted(connection, insert(t.encoder).values(digest=words.digest + "2"))
    writer = db.Writer(engine, 1000)
    journal = Journal(writer, lambda domain, label: dict(label), lambda learned: None)
    journal.births.holdout[DOMAIN] = HoldoutRule(share=0.0, after=20)
    with engine.connect() as connection:
        journal.open(connection)
    writer.start(0)
    inference, reader = Inference({"words": words}, 1000), db.reading_engine(where)
    inference.start()
    yield journal, reader, inference, encoder
    inference.close()
    writer.close()
    reader.dispose()


def test_a_text_that_is_read_differently_is_encoded_anew_and_words_that_are_gone_are_like_nothing(
        store: tuple[Journal, Engine, Inference, int], words: Words) -> None:
    journal, reader, inference, encoder = store
    event = journal.append(DOMAIN, [Item(payload={"text": "any"}, source="crm")]).result(60).receipts[0].event_seq
    assert event is not None
    domain = Reads()

    def start() -> Vectors:
        return Vectors(domain, "words", encoder, inference, journal, reader)

    def asked(vectors: Vectors, count: int) -> torch.Tensor:
        places = [place(event, part) for part in range(count)]
        found = vectors(places)
        return torch.stack([found[one] for one in places])

    def stored() -> int:
        journal.committed().result(60)
        with reader.connect() as connection:
            return connection.execute(select(func.count()).select_from(t.vector)).scalar_one()

    def of(text: str) -> torch.Tensor:
        return words.encode([Example(text=text)])[0][0]

    assert torch.equal(asked(start(), 3), of(SHORT)) and stored() == 3
    domain.text = LONG
    again = start()
    assert torch.equal(asked(again, 3), of(SHORT))  # of what was taught then
    assert torch.equal(asked(again, 5), of(LONG)) and stored() == 5
    assert torch.equal(asked(again, 5), of(LONG))
    domain.text = SHORT  # fewer words: a label of these has those of this text
    again = start()
    assert torch.equal(asked(again, 3), of(SHORT)) and stored() == 3
    gone = asked(again, 5)  # what was taught of words that are gone
    assert torch.equal(gone[:3], of(SHORT)) and not gone[3:].any() and stored() == 5
    domain.text = None
    last = asked(start(), 6)
    assert torch.equal(last[:5], gone) and not last[5:].any() and stored() == 6
