"""The plugin keeps its promises; and remembered pairs weigh as the formula says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adaptd import Brief, Evidence, HeadAnswer, Lesson, Observed, Prediction, Remembered
from adaptd.errors import BadConfig, Conflict, TrainingFailed
from adaptd.testing import check_domain
from adaptd_translate import HEAD, Translate, small
from adaptd_translate.quality import Quality
from adaptd_translate.translator import KERNEL, Nearest, Store, Translator, pieces

WORDS = [("the dog runs", "der hund läuft"), ("the cat sleeps", "die katze schläft"), ("a bird sings", "ein vogel singt")]


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """Return one whose model knows nothing."""
    folder = tmp_path_factory.mktemp("model")
    small.fresh(folder, WORDS, width=16, layers=1, words=120)
    made = Translator(Translate(model=str(folder), threads=1, beams=2))
    made.load()
    return made


def test_translate_is_a_good_domain() -> None:
    check_domain(Translate, feedback=["Guten Tag", "lang " * 200], rejected=[
        {}, {"text": ""}, {"text": " \x00 "}, {"text": 4}, {"text": "x" * 5001}])
    assert Translate().example({"text": "a\x07 b\n"}).text == "a  b"


@pytest.mark.parametrize("options", [{"pairs": -1}, {"beams": 0}, {"trust": 1.5}, {"characters": 0},
                                     {"rank": 0}, {"epochs": 0}, {"rate": 1.0}])
def test_a_knob_beyond_its_end_is_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=r"must (not )?be"):
        Translate(**options)


@pytest.mark.parametrize(("model", "words"), [("", "no model is named"), ("no/where", "neither a folder"), (".", "config.json")])
def test_a_model_that_is_none_is_refused_with_the_cure(model: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfig) as caught:
        Translator(Translate(model=str(tmp_path) if model == "." else model)).load()
    assert words in f"{caught.value} {caught.value.hint}" and caught.value.field == "domains.translate.options.model"


def test_what_is_remembered_weighs_by_its_distance(translator: Translator) -> None:
    trust, near, far = translator.options.trust, 0.04, 0.09  # distances of two keys from the state, over the spread
    store = Store(keys=torch.tensor([[[near**0.5, 0.0], [0.0, far**0.5], [0.0, 0.0]]]), values=torch.tensor([[3, 4, 5]]),
                  there=torch.tensor([[True, True, False]]), spread=torch.tensor([1.0]))
    translator._state = torch.zeros(1, 1, 2)
    scores = torch.tensor([[1.0, 2.0, -torch.inf, 0.5, 0.0, 0.0]])
    share = 1 - near / trust
    kernel = torch.softmax(-torch.tensor([near, far]) / (KERNEL * trust), 0)
    expected = (1 - share) * torch.softmax(scores, 1)
    expected[0, 3:5] += share * kernel
    assert torch.allclose(Nearest(translator, store, 1)(torch.empty(0), scores).exp(), expected, atol=1e-6)
    translator._state = torch.full((1, 1, 2), 9.0)  # beyond trust: the model alone
    assert torch.allclose(Nearest(translator, store, 1)(torch.empty(0), scores).exp(), torch.softmax(scores, 1), atol=1e-6)


def test_texts_that_are_translated_together_get_what_each_gets_alone(translator: Translator) -> None:
    near = [Remembered(text=source, reply=target, similarity=0.5) for source, target in WORDS]
    briefs = [Brief(text="the bird runs", remembered=near), Brief(text="a dog", remembered=near[:1]), Brief(text="a cat sings")]
    together = translator.write(briefs)
    alone = [translator.write([brief])[0] for brief in briefs]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.confidence for one in together] == pytest.approx([one.confidence for one in alone], abs=1e-4)
    assert all(0 < one.confidence <= 1 for one in together)


def test_what_was_taught_of_the_very_text_is_the_answer_the_newest_of_it(translator: Translator) -> None:
    near = [Remembered(text="The  dog", reply="alt", similarity=1.0), Remembered(text="the dog", reply="neu", similarity=1.0)]
    assert translator.write([Brief(text="THE dog", remembered=near)])[0].text == "neu"


def trainee(folder: Path) -> Translator:
    """Return one whose model knows nothing, and is quick to learn."""
    made = Translator(Translate(model=str(folder), threads=1, beams=1, pairs=0, rank=8, epochs=60, rate=2e-2))
    made.load()
    return made


def lesson(pairs: list[tuple[str, str]], told: list[float]) -> Lesson:
    return Lesson(pairs=pairs, seed=0, device="cpu", progress=lambda done, words: told.append(done))


def test_what_it_was_trained_to_is_put_in_and_taken_out_to_the_bit(tmp_path: Path) -> None:
    small.fresh(tmp_path, WORDS, width=32, layers=1, words=120)
    told = list[float]()
    taught = lesson(WORDS, told)
    weights = trainee(tmp_path).train(taught)
    assert len(taught.losses) == 60 and taught.losses[-1] < taught.losses[0] and told == sorted(told) and told[-1] == 1.0
    made = trainee(tmp_path)
    own = {name: tensor.clone() for name, tensor in made._model.state_dict().items()}
    briefs = [Brief(text=source) for source, _ in WORDS]
    before = made.write(briefs)
    made.adopt(weights)
    after = made.write(briefs)
    assert after != before and sum(a.confidence for a in after) > sum(b.confidence for b in before)
    made.adopt(weights)
    assert made.write(briefs) == after, "others go out before they come in"
    made.adopt(None)
    assert made.write(briefs) == before
    assert all(torch.equal(tensor, own[name]) for name, tensor in made._model.state_dict().items())
    assert trainee(tmp_path).train(lesson(WORDS, [])) == weights, "the same again"
    near = [Remembered(text=source, reply=target, similarity=0.9) for source, target in WORDS]
    other = Remembered(text="a cat sings", reply="eine katze singt", similarity=0.9)
    made.adopt(weights)
    assert made._store([near]) is None, "what was learned is not looked at"
    since, alone = made._store([[*near, other]]), made._store([[other]])
    assert since is not None and alone is not None and torch.equal(since.values, alone.values), "what was taught since is"
    made.adopt(None)
    assert made._store([near]) is not None


def test_weights_of_another_model_are_refused_and_none_are_left(tmp_path: Path, translator: Translator) -> None:
    small.fresh(tmp_path, WORDS, width=32, layers=1, words=120)
    weights = trainee(tmp_path).train(lesson(WORDS, []))
    with pytest.raises(Conflict, match="another model"):
        translator.adopt(weights)
    with pytest.raises(TrainingFailed, match="read whole"):
        trainee(tmp_path).train(lesson([("the dog " * 300, "der hund")], []))


def test_a_text_is_scored_by_what_was_taught(translator: Translator) -> None:
    assert translator.score("der hund läuft", "der hund läuft") == 1.0
    assert 0 < translator.score("der hund", "der hund läuft") < 1 and translator.score("", "der hund läuft") == 0.0


def test_a_text_is_read_in_sentences_and_nothing_of_it_is_lost() -> None:
    text = "One two.  Three!\n\n四五。六 seven eight nine"
    parts = list(pieces(text, lambda sentence: 2 if "eight" in sentence else 1))
    assert "".join(parts) == text
    assert parts == ["One two.", "  ", "Three!", "\n\n", "四五。", "", "六 seven", " ", "eight nine"]


def test_quality_is_that_of_answers_that_did_not_know_what_was_taught() -> None:
    def seen(answer: str | None, truth: str, source: str = "a", taught: bool = True) -> Observed:
        return Observed(event="e", at=0.0, source=source, payload={}, labels={HEAD: truth},
                        taught=frozenset([HEAD] if taught else []), answered={} if answer is None else {HEAD: answer})

    figures = Quality().look([seen("Ein Hund läuft im Park.", "Ein Hund läuft im Park."), seen(None, "Ja."),
                              seen("x", "x", taught=False), seen("Ein Hund.", "Eine Katze schläft.", "b")]).figures
    assert figures["all"]["translations"] == 2 and 0 < figures["all"]["chrf"] < 100
    assert figures["sources"]["a"] == {"translations": 1, "bleu": 100.0, "chrf": 100.0}
    assert Quality().look([]).figures == {"all": {"translations": 0}, "sources": {}}
    with pytest.raises(ValueError, match="rolling"):
        Quality(rolling=0)


def test_an_answer_shows_what_was_looked_at_whole() -> None:
    found = Evidence(event="7", label="key", taught="key", weight=1.0, similarity=0.91, source="anna", text="the dog")
    answer = HeadAnswer(label="x", confidence=0.5, scores={}, evidence=[found], replies={"key": "der lange Hund"})
    shown = Translate().render(Prediction(event="e", heads={HEAD: answer}, cost={}))
    assert shown["remembered"] == [
        {"text": "the dog", "translation": "der lange Hund", "by": "anna", "event": "7", "similarity": 0.91}]
