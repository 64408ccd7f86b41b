"""From the chances of tags to spans, and the encoder that gives each word a vector."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from adaptd.heads import Spans
from adaptd.model import tagging
from adaptd.model.closed_form import RandomFeatures
from adaptd.model.decoder import Opinions, opine
from adaptd.model.memory import NewRows
from adaptd.model.network import Head, HeadOptions
from adaptd.model.snapshot import Snapshot
from adaptd.model.tagging import likeliest
from adaptd.model.words import Words
from adaptd.predict import Inference
from adaptd.records import Example
from adaptd.words import MOST, words

TAGS = ("O", "B-a", "I-a", "B-b", "I-b")


def allowed(path: tuple[int, ...]) -> bool:
    named = [TAGS[tag] for tag in path]
    return all(not tag.startswith("I-") or before[2:] == tag[2:] for before, tag in zip(["O", *named], named, strict=False))


def test_the_sequence_is_the_likeliest_of_all_that_are_allowed() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        chances = random.dirichlet(np.ones(len(TAGS)), 4).astype(np.float32)
        best = max(filter(allowed, product(range(len(TAGS)), repeat=4)),
                   key=lambda path: np.log(chances[np.arange(4), list(path)]).sum())
        assert tuple(likeliest(chances, TAGS).tolist()) == best
    assert likeliest(np.full((1, 1), 1.0, np.float32), ("O",)).tolist() == [0]


@pytest.fixture(scope="module")
def encoder() -> Words:
    made = Words(device="cpu")
    made.load()
    return made


def test_each_word_has_a_vector_whatever_comes_with_the_text(encoder: Words) -> None:
    texts = ["Ada moved to Oslo.", "ada moved to oslo.", "x", "\x01 \u200b", "a" * 100_000, "word " * 1000, ""]
    vectors, cut = encoder.encode([Example(text=text) for text in texts])
    assert [one.shape for one in vectors] == [(len(words(text)), encoder.dim) for text in texts]
    assert cut == [False] * 5 + [True, False] and len(vectors[5]) == MOST
    alone = encoder.encode([Example(text=texts[0])])[0][0]
    assert torch.allclose(alone.float(), vectors[0].float(), atol=2e-3)
    lengths = vectors[0].float().norm(dim=1)
    assert torch.all((lengths > 0.9) & (lengths < 1.01))
    near = torch.nn.functional.cosine_similarity(vectors[0].float(), vectors[1].float())
    assert near[0] < near[1] < 1.001  # a name in small letters is another word, its neighbour hardly



# -- what answers ---------------------------------------------------------------------------------------------------


LESSON = "Ada moved to Oslo"
LABEL = ("B-person", "O", "O", "B-city")


@pytest.fixture(scope="module")
def head(encoder: Words) -> Head:
    made = Head(HeadOptions(dim=encoder.dim, features=256, neighbours=16, seed=1, kind=Spans()),
                RandomFeatures(encoder.dim, 256, 1))
    (vectors,), _ = encoder.encode([Example(text=LESSON)])
    ids = range(len(LABEL))
    made.enter(NewRows(ids=ids, events=ids, born=ids, targets=[made.class_of(tag) for tag in LABEL],
                       sources=["desk"] * len(LABEL), contents=[b"c"] * len(LABEL), holdout=[False] * len(LABEL),
                       vectors=vectors))
    made.solve()
    made.index()
    return made


def test_texts_are_answered_few_at_a_time_and_one_without_words_has_no_spans(encoder: Words, head: Head,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["", LESSON, " ", "word " * MOST, "", *[f"{LESSON} once {number}" for number in range(300)]]
    vectors, _ = encoder.encode([Example(text=text) for text in texts])
    asked: list[int] = []

    def seen(some: torch.Tensor, *rest: Any) -> Opinions:
        asked.append(len(some))
        return opine(some, *rest)

    monkeypatch.setattr(tagging, "opine", seen)
    found = tagging.decode_spans(vectors, texts, head.snapshot())
    assert max(asked) <= tagging.TOGETHER and sum(asked) == sum(map(len, vectors))
    for place in (0, 2, 4):
        assert (found[place].label, found[place].confidence, found[place].withheld) == ([], 1.0, ())
    alone = [tagging.decode_spans([vectors[place]], [texts[place]], head.snapshot())[0] for place in (0, 1, 200)]
    for place, one in zip((0, 1, 200), alone, strict=True):
        assert [span["words"] for span in found[place].label] == [span["words"] for span in one.label]
        assert found[place].confidence == pytest.approx(one.confidence, abs=1e-3)
    assert [(span["text"], span["type"]) for span in found[1].label] == [("Ada", "person"), ("Oslo", "city")]
    assert tagging.decode_spans([vectors[0]], [""], head.snapshot())[0].label == []


def test_a_large_request_is_answered_by_one_version_though_another_comes_meanwhile(encoder: Words, head: Head,
                                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptd.predict.ROUND", 8)  # whatever this machine does in a tenth of a second
    inference = Inference({"words": encoder}, 1000)
    rounds = 0

    def snapshot(version: int) -> Snapshot:
        return Snapshot(version=version, seq=version, heads={"places": head.snapshot()})

    def told(stage: str, *_: Any) -> None:
        nonlocal rounds
        if stage == "encode" and (rounds := rounds + 1) == 2:
            inference.swap("places", lambda: snapshot(2))

    inference.told = told
    inference.start()
    inference.swap("places", lambda: snapshot(1)).result(60)
    texts = [f"{LESSON} once {number}" for number in range(30)] + [""]
    answered = inference.predict("places", "words", [Example(text=text) for text in texts]).result(60)
    inference.close()
    assert rounds > 2 and {one.version for one in answered} == {2}
    assert [len(one.vector) for one in answered] == [len(words(text)) for text in texts]
    for text, one in zip(texts, answered, strict=True):
        alone = tagging.decode_spans([one.vector], [text], head.snapshot())[0]
        assert [span["words"] for span in one.heads["places"].label] == [span["words"] for span in alone.label]
