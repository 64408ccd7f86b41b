"""Tuned upper blocks: trained by every method, one more expert, silent about what it does not know, a part of the adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adaptd import consolidate, plugins
from adaptd.errors import BadConfig, CorruptFile
from adaptd.model import files
from adaptd.model.attention import CONSOLIDATED, Adapter
from adaptd.model.closed_form import RandomFeatures
from adaptd.model.decoder import EXPERTS, decode, opine
from adaptd.model.encoder import Transformers
from adaptd.model.fold import Fold
from adaptd.model.memory import NewRows
from adaptd.model.network import Head, HeadOptions
from adaptd.model.threads import one_thread
from adaptd.model.tuning import RATES, Tuning, _Average, tune
from adaptd.model.upper import Upper
from adaptd.records import Example
from adaptd.trainer import Job

DIM, WIDTH = 24, 8
TOPICS = {"card": "my bank card number {} is lost", "rain": "will it rain on day {} of the month"}
TEXTS = [text.format(i) for i in range(12) for text in TOPICS.values()]
TARGETS = torch.tensor([0, 1] * 12)


@pytest.fixture(scope="module")
def encoder() -> Transformers:
    made = Transformers(device="cpu")
    made.load()
    return made


@pytest.fixture(autouse=True)
def few() -> Iterator[None]:
    with one_thread():  # so few rows are no faster by several
        yield


def upper(encoder: Transformers, **options: object) -> Upper:
    how = Tuning(**{"blocks": 1, "epochs": 2, "batch": 8, **options})  # type: ignore[arg-type]
    cut = encoder.depth - how.blocks
    states = encoder.lower(encoder.tokens(TEXTS), cut)
    blocks, directions, losses = tune(encoder.blocks(cut), states, TARGETS, 2, how, 0, "cpu", lambda share, words: None)
    assert len(losses) == how.epochs and (how.epochs == 1 or how.distil or losses[-1] < losses[0])
    return Upper(encoder=encoder.digest, cut=cut, method=how.method, blocks=blocks, directions=directions, labels=tuple(TOPICS),
                 scale=20.0)


@pytest.mark.parametrize("method", sorted(RATES))
def test_every_method_gives_blocks_of_one_kind_and_the_encoder_stays_as_it_was(encoder: Transformers, method: str) -> None:
    examples = [Example(text=text) for text in TEXTS]
    before, _ = encoder.encode(examples)
    one, again = upper(encoder, method=method), upper(encoder, method=method)
    assert one.same(again) and one.digest == again.digest  # the same rows and seed: the same bytes
    learned = {"prompts"} if method in ("prefix", "prompt") else set()
    assert set(one.blocks) == set(encoder.blocks(one.cut).state_dict()) | learned
    alone = encoder.tuned(examples, one)
    assert torch.equal(one.scores(alone).argmax(1), TARGETS)
    after, _ = encoder.encode(examples)
    assert torch.equal(after, before)
    assert torch.equal(encoder.tuned(examples, one), alone)  # below the blocks nothing ran again
    frozen = {name: tensor.half() for name, tensor in encoder.blocks(one.cut).state_dict().items()}
    assert not learned or all(torch.equal(one.blocks[name], tensor) for name, tensor in frozen.items())
    untouched = replace(one, blocks=frozen)
    assert not torch.equal(encoder.tuned(examples, untouched), alone)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_tokens_are_learned_and_read_from_a_file_they_answer_the_same(encoder: Transformers, method: str) -> None:
    one, more = (upper(encoder, method=method, learning_rate=rate) for rate in (1e-4, 1e-2))
    assert not torch.equal(one.blocks["prompts"], more.blocks["prompts"])
    read = files.parse_adapter(files.dump_adapter(Adapter(upper=more)), "file").upper
    assert read is not None and read.same(more)
    examples = [Example(text=text) for text in TEXTS]
    assert torch.equal(encoder.tuned(examples, read), encoder.tuned(examples, more))


def test_tuned_weights_are_averaged(encoder: Transformers) -> None:
    assert not upper(encoder, average=0.5).same(upper(encoder))


def test_without_a_champion_the_frozen_blocks_teach(encoder: Transformers) -> None:
    def away(distil: float) -> float:
        made = upper(encoder, epochs=10, distil=distil)
        examples = [Example(text=text) for text in TEXTS]
        frozen = replace(made, blocks={name: tensor.half() for name, tensor in encoder.blocks(made.cut).state_dict().items()})
        return float((encoder.tuned(examples, made).float() - encoder.tuned(examples, frozen).float()).norm())

    assert away(100.0) < away(0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["full", "prefix", "prompt"])
def test_tuned_blocks_answer_on_a_gpu_as_on_the_cpu(encoder: Transformers, method: str) -> None:
    other, examples = Transformers(device="cuda"), [Example(text=text) for text in TEXTS]
    other.load()
    one = upper(encoder, method=method)
    assert torch.allclose(other.tuned(examples, one).float(), encoder.tuned(examples, one).float(), atol=2e-2)


def test_a_prefix_has_tokens_of_its_own_for_each_block_and_a_prompt_has_not(encoder: Transformers) -> None:
    shapes = {method: upper(encoder, method=method, blocks=2, tokens=4, epochs=1).blocks["prompts"].shape[:2]
              for method in ("prefix", "prompt")}
    assert shapes == {"prefix": (2, 4), "prompt": (1, 4)}


def test_what_is_distilled_stays_nearer_to_the_champion_and_new_labels_are_learned(encoder: Transformers) -> None:
    examples = [Example(text=text) for text in TEXTS]
    job = Job(strategy="consolidate", labels=[*TOPICS], parent_pid=0, device="cpu")
    champion = replace(upper(encoder, epochs=1), directions=-upper(encoder, epochs=1).directions)  # it says the opposite
    said = champion.scores(encoder.tuned(examples, champion))

    def away(distil: float) -> float:
        how = Tuning(blocks=1, epochs=10, batch=8, distil=distil)
        made, _, _ = consolidate.tuned(encoder, TEXTS, TARGETS, job, how, champion)
        return float((made.scores(encoder.tuned(examples, made)).softmax(1) - said.softmax(1)).abs().mean())

    assert away(100.0) < away(0.0) / 2
    known = replace(champion, labels=("card", "another"))
    made, _, _ = consolidate.tuned(encoder, TEXTS, TARGETS, job, Tuning(blocks=1, epochs=2, batch=8, distil=1.0), known)
    assert torch.equal(made.scores(encoder.tuned(examples, made)).argmax(1), TARGETS)  # of one label it knows there is no doubt


def test_weights_are_the_mean_of_the_last_steps() -> None:
    weights = torch.nn.Parameter(torch.zeros(2))
    some, none = _Average([weights], from_step=2), _Average([weights], from_step=4)
    for step in (1, 2, 3, 4):
        weights.data.fill_(step)
        some.stepped(step)
        none.stepped(step)
    none.take()
    assert weights.tolist() == [4.0, 4.0]
    some.take()
    assert weights.tolist() == [3.5, 3.5]


def test_of_long_texts_fewer_are_taken_of_each_label(encoder: Transformers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consolidate, "TOKENS", sum(map(len, encoder.tokens(TEXTS))) // 2)
    job = Job(strategy="consolidate", labels=[*TOPICS, "all of it held out"], parent_pid=0, device="cpu")
    found, _, numbers = consolidate.tuned(encoder, TEXTS, TARGETS, job, Tuning(blocks=1, epochs=1, batch=8))
    assert numbers["read"] == len(TEXTS) // 2 and list(found.labels) == list(TOPICS)


@pytest.mark.parametrize(("options", "words"), [
    ({"method": "adapters"}, "method must be one of"), ({"epochs": 0}, "epochs must be a whole number"),
    ({"learning_rate": -1.0}, "learning_rate must be a number"), ({"layers": 2}, "layers"), ({"tokens": 0}, "tokens must be"),
    ({"tokens": 1000}, "tokens must be at most"), ({"method": "adalora", "average": 0.5}, "average is not for adalora"),
    ({"distil": -1.0}, "distil must be a number"),
    ({"average": 1.5}, "average must be a number that is not negative, nor above 1"),
])
def test_a_wrong_option_is_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(BadConfig, match=words) as refused:
        plugins.build(Tuning, options, "consolidate.options")
    assert "consolidate.options" in str(vars(refused.value))


# -- in a head ------------------------------------------------------------------------------------------------


def made(labels: tuple[str, ...] = ("class 0", "class 1")) -> Upper:
    return Upper(encoder="e", cut=1, method="full", blocks={"0.weight": torch.ones(2, 2).half()},
                 directions=torch.eye(WIDTH)[: len(labels)].half(), labels=labels, scale=20.0)


def head(adapter: Adapter) -> tuple[Head, Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres, targets = torch.randn(3, DIM, generator=generator), [i % 3 for i in range(90)]
    vectors = torch.nn.functional.normalize(centres[targets] + 0.5 * torch.randn(90, DIM, generator=generator), dim=1).half()
    found = Head(HeadOptions(dim=DIM, features=128, neighbours=8, seed=1), RandomFeatures(DIM, 128, 1))
    ids, classes = range(90), [found.class_of(f"class {c}") for c in targets]
    found.enter(NewRows(ids=ids, events=ids, born=ids, targets=classes, sources=["a"] * 90, contents=[bytes([i]) for i in ids],
                        holdout=[False] * 90, vectors=vectors))
    found.solve()
    found.adopt(adapter)
    found.fold.grow(3)
    found.index()
    return found, vectors


def test_without_a_tuned_vector_the_answers_are_those_of_the_others() -> None:
    plain, vectors = head(Adapter())
    consolidated, _ = head(Adapter(upper=made()))
    wanted, found = (decode(vectors[:9], one.snapshot(), evidence=1) for one in (plain, consolidated))
    assert [one.label for one in found] == [one.label for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
        assert [voice.expert for voice in one.voices] == [voice.expert for voice in other.voices]


def test_it_speaks_about_what_it_was_tuned_on_and_of_nothing_else() -> None:
    consolidated, vectors = head(Adapter(upper=made()))
    frozen = consolidated.snapshot()
    tuned = torch.eye(WIDTH)[[1, 0, 0]].half()  # it calls the first row, of class 0, class 1; the second too is wrong
    said = opine(vectors[:3], frozen, tuned)
    assert said.experts[3].argmax(1).tolist() == [1, 0, 0] and said.gates[3].tolist() == [1.0, 1.0, 0.0]
    assert said.shares[3, 2] == 0.0  # class 2 it does not know: it would call it one of the others
    silent = opine(vectors[:3], frozen)
    assert said.pooled[0, 1] > silent.pooled[0, 1] and (said.pooled[2] == silent.pooled[2]).all()
    voices = {voice.expert: voice.label for voice in decode(vectors[:1], frozen, tuned[:1], evidence=1)[0].voices}
    assert voices[EXPERTS[3]] == "class 1"


def test_a_label_that_has_no_example_any_more_is_not_answered_by_it() -> None:
    consolidated, vectors = head(Adapter(upper=made()))
    consolidated.retire_rows([row for row in range(90) if row % 3 == 1])
    consolidated.solve()
    said = opine(vectors[:1], consolidated.snapshot(), torch.eye(WIDTH)[[1]].half())
    assert said.experts[3, 0, 1] < 1e-6


def test_trust_in_it_is_learned_and_goes_with_it() -> None:
    consolidated, vectors = head(Adapter(upper=made()))
    frozen, fold = consolidated.snapshot(), consolidated.fold
    assert fold.trust[:, 0].tolist() == pytest.approx([0.65 * 0.75, 0.65 * 0.20, 0.65 * 0.05, CONSOLIDATED])
    said = opine(vectors[:1], frozen, torch.eye(WIDTH)[[1]].half())
    for _ in range(20):
        fold.update(said, 0, 0, frozen)
    assert float(fold.trust[3, 0]) < 0.1 < float(fold.trust[0, 0])
    kept = Fold()
    kept.load(fold.trust, fold.at, fold.facts())
    assert torch.equal(kept.trust, fold.trust) and torch.equal(kept.prior, fold.prior)
    step = fold.step(said, 0, 0, frozen)
    consolidated.adopt(Adapter())
    fold = consolidated.fold
    assert fold.trust.shape == (3, 3) and torch.allclose(fold.trust.sum(0), torch.ones(3))
    assert torch.allclose(fold.trust[:, 2], torch.tensor([0.75, 0.20, 0.05]))  # of the class that had no outcome
    fold.follow(step)  # one that was taken under four
    assert fold.trust.shape == (3, 3) and torch.allclose(fold.trust.sum(0), torch.ones(3))


def test_an_adapter_s_file_carries_it_and_a_damaged_one_is_refused() -> None:
    adapter = Adapter(torch.eye(DIM)[:, :4], 16.0, {"class 0": 0.5}, made())
    data = files.dump_adapter(adapter)
    again = files.parse_adapter(data, "candidate", DIM)
    assert again.same(adapter) and files.dump_adapter(again) == data
    assert not adapter.same(replace(adapter, upper=None)) and not replace(adapter, upper=None).same(adapter)
    assert not adapter.same(replace(adapter, upper=replace(made(), scale=10.0)))
    short = replace(made(), directions=torch.eye(WIDTH)[:1].half())
    with pytest.raises(CorruptFile, match="do not fit together"):
        files.parse_adapter(files.dump_adapter(Adapter(upper=short)), "candidate")
    broken = replace(made(), blocks={"0.weight": torch.full((2, 2), float("nan")).half()})
    with pytest.raises(CorruptFile, match="not finite"):
        files.parse_adapter(files.dump_adapter(Adapter(upper=broken)), "candidate")
