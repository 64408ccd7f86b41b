"""The test that holds a source: how rarely an honest one is held, how soon a bad one, and that a changing world blames nobody."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from statistics import median

import pytest

from adaptd.config import Quarantine
from adaptd.quarantine import Dissent, Finding, Suspicion, together

RULE = Quarantine()
Rate = Callable[[int], float]


def play(rates: Mapping[str, Rate], labels: int, seed: int, rule: Quarantine = RULE) -> list[Finding]:
    """Let sources in random turns teach labels that contradict the others' at their rates."""
    chooser, fold, found = random.Random(seed), Suspicion(), []
    for seq in range(labels):
        source = chooser.choice(list(rates))
        contrary = chooser.random() < rates[source](seq)
        if one := fold.judge(source, seq, Dissent(from_others=contrary, from_all=contrary), rule):
            found.append(one)
    return found


def steady(rate: float) -> Rate:
    return lambda seq: rate


def turned(rate: float, at: int, before: float = 0.05) -> Rate:
    return lambda seq: rate if seq >= at else before


def test_sources_of_different_quality_are_not_held() -> None:
    rates = {name: steady(rate) for name, rate in {"a": 0.02, "b": 0.03, "c": 0.05, "d": 0.07, "e": 0.09}.items()}
    assert [found for seed in range(20) for found in play(rates, 4000, seed)] == []


def test_at_the_bound_of_what_is_allowed_false_alarms_are_as_rare_as_stated() -> None:
    rule, labels = Quarantine(run_length=200), 5000
    rates = {"bound": steady(0.05 + rule.tolerance), **{name: steady(0.05) for name in "abcd"}}
    held = [found.source for seed in range(20) for found in play(rates, labels, seed, rule)]
    own = 20 * labels / len(rates)  # each source's labels over all seeds
    assert set(held) <= {"bound"} and len(held) <= own / rule.run_length


@pytest.mark.parametrize(("rate", "most", "slowest"), [(0.25, 700, 1500), (0.35, 150, 400), (0.95, 40, 100)])
def test_a_source_that_turns_is_held_the_sooner_the_worse_it_is(rate: float, most: int, slowest: int) -> None:
    turn = 2000
    rates = {"bad": turned(rate, turn), **{name: steady(0.05) for name in "abcd"}}
    delays = []
    for seed in range(20):
        first = play(rates, turn + 5 * slowest, seed)[0]
        assert first.source == "bad"
        delays.append(max(0, first.seq - turn) / len(rates))
    assert median(delays) < most and max(delays) < slowest


def test_the_evidence_begins_about_where_the_source_turned() -> None:
    rates = {"bad": turned(0.5, 2000), **{name: steady(0.05) for name in "abcd"}}
    began = [play(rates, 4000, seed)[0].since for seed in range(20)]
    assert 1800 < median(began) < 2200 and min(began) > 1000


def test_a_world_that_changes_for_all_blames_nobody() -> None:
    rates = {name: (lambda seq: 0.9 if 2000 <= seq < 2600 else 0.05) for name in "abcde"}
    assert [found for seed in range(20) for found in play(rates, 5000, seed)] == []


def test_two_sources_that_contradict_one_another_equally_are_both_let_be() -> None:
    assert [found for seed in range(20) for found in play({"a": steady(0.4), "b": steady(0.4)}, 4000, seed)] == []


def test_a_newcomer_is_held_by_the_measure_of_a_source_that_nobody_else_could_judge() -> None:
    fold = Suspicion()
    for seq in range(300):
        assert fold.judge("desk", seq, Dissent(from_others=None, from_all=seq % 20 == 0), RULE) is None
    found = [fold.judge("intern", seq, Dissent(from_others=True, from_all=True), RULE) for seq in range(300, 340)]
    first = next(one for one in found if one is not None)
    assert (first.source, first.since) == ("intern", 300) and first.labels < 20


def test_what_nobody_can_judge_is_never_held() -> None:
    fold = Suspicion()
    assert all(fold.judge("only", seq, Dissent(from_others=None, from_all=True), RULE) is None for seq in range(2000))


def test_a_fold_that_was_stored_goes_on_as_if_it_had_not_been() -> None:
    rates = {"bad": turned(0.4, 500), **{name: steady(0.05) for name in "abcd"}}
    one, other, chooser = Suspicion(), Suspicion(), random.Random(5)
    for seq in range(4000):
        source = chooser.choice(list(rates))
        contrary = chooser.random() < rates[source](seq)
        stands = Dissent(from_others=contrary, from_all=contrary)
        assert one.judge(source, seq, stands, RULE) == other.judge(source, seq, stands, RULE)
        if seq % 700 == 0:
            other = Suspicion.of(json.loads(json.dumps(one.facts())))
    assert other.facts() == one.facts() and Suspicion.of(None).facts() == Suspicion().facts()


def test_a_text_contradicts_when_most_of_its_words_do() -> None:
    def of(*told: bool | None) -> bool | None:
        return together([Dissent(from_others=one, from_all=one) for one in told]).from_others

    assert [of(None, None), of(None, False), of(True, False), of(True, None, True, False)] == [None, False, False, True]
