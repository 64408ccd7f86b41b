"""The gate against known truth: how often it promotes what is worse, and names a class that is not."""

from __future__ import annotations

import json
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from scipy import stats

from adaptd import gate
from adaptd.errors import BadConfig
from adaptd.gate import Discordance, NotWorse, holm, lower_bound, mcnemar, power, upper_bound
from adaptd.plugins import build, collect, load
from adaptd.records import Paired
from adaptd.testing import check_gate

MARGIN, CONFIDENCE = 0.01, 0.95


def trinomial(n: int, discordance: float, truth: float) -> dict[tuple[int, int], float]:
    """Return the probability of each (better, worse) when the true difference is `truth`."""
    better = (discordance + truth) / 2 / discordance
    found = {}
    for changed in range(n + 1):
        weight = stats.binom.pmf(changed, n, discordance)
        if weight > 1e-7:
            shares = stats.binom.pmf(np.arange(changed + 1), changed, better)
            found |= {(k, changed - k): weight * share for k, share in enumerate(shares) if weight * share > 1e-9}
    return found


def chance_to_promote(n: int, discordance: float, truth: float, confidence: float = CONFIDENCE) -> float:
    return sum(p for (better, worse), p in trinomial(n, discordance, truth).items()
               if better >= worse and lower_bound(Discordance(n, better, worse), confidence) > -MARGIN)


def paired(better: int, worse: int, both: int, name: str = "a") -> Paired:
    candidate = [1] * better + [0] * worse + [1] * both
    champion = [0] * better + [1] * worse + [1] * both
    return Paired(candidate=candidate, champion=champion, classes=[name] * len(candidate))


def joined(*parts: Paired) -> Paired:
    return Paired(candidate=[x for p in parts for x in p.candidate], champion=[x for p in parts for x in p.champion],
                  classes=[x for p in parts for x in p.classes])


@pytest.mark.parametrize("n", [100, 268, 300, 700])
@pytest.mark.parametrize("discordance", [0.01, 0.02, 0.05, 0.2])
def test_at_most_one_in_twenty_that_are_a_margin_worse_is_promoted(n: int, discordance: float) -> None:
    assert chance_to_promote(n, discordance, -MARGIN) <= 1 - CONFIDENCE


def test_the_whole_verdict_in_simulation_promotes_at_most_one_in_twenty_that_are_worse() -> None:
    random, trials, n, discordance = np.random.default_rng(1), 2000, 1000, 0.05
    counts = random.multinomial(n, [(discordance - MARGIN) / 2, (discordance + MARGIN) / 2, 1 - discordance], trials)
    promoted = sum(NotWorse().judge(paired(int(b), int(w), int(both))).decision == "promote" for b, w, both in counts)
    assert promoted / trials <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


def test_the_stated_power_is_the_chance_to_promote() -> None:
    for n, truth in ((500, 0.0), (1000, 0.0), (1000, 0.01)):
        assert power(n, 0.05, truth, MARGIN, CONFIDENCE) == pytest.approx(chance_to_promote(n, 0.05, truth), abs=0.03)


def test_power_grows_with_rows_and_with_the_candidate_and_falls_with_discordance() -> None:
    by_rows = [power(n, 0.05, 0.01, MARGIN, CONFIDENCE) for n in (100, 300, 1000, 3000, 10_000)]
    assert by_rows == sorted(by_rows) and by_rows[-1] > 0.99
    assert power(1000, 0.05, 0.01, MARGIN, CONFIDENCE) > power(1000, 0.05, 0.0, MARGIN, CONFIDENCE)
    assert power(1000, 0.02, 0.0, MARGIN, CONFIDENCE) > power(1000, 0.2, 0.0, MARGIN, CONFIDENCE)


def test_the_rows_said_to_be_needed_are_enough_and_one_fewer_is_not() -> None:
    needed = gate.rows_needed(0.05, MARGIN, CONFIDENCE)
    assert power(needed, 0.05, 0.01, MARGIN, CONFIDENCE) >= 0.8 > power(needed - 1, 0.05, 0.01, MARGIN, CONFIDENCE)


def test_the_interval_holds_the_estimate_and_is_mirrored_when_the_two_change_places() -> None:
    for n, better, worse in ((100, 0, 0), (1000, 20, 30), (100, 100, 0), (100, 0, 100), (50, 3, 0)):
        counts = Discordance(n, better, worse)
        low, high = lower_bound(counts, CONFIDENCE), upper_bound(counts, CONFIDENCE)
        assert -1 <= low <= counts.delta <= high <= 1
        assert lower_bound(Discordance(n, worse, better), CONFIDENCE) == -high


def test_mcnemar_is_the_exact_binomial_test() -> None:
    for better, worse in ((0, 1), (3, 9), (40, 60), (0, 12)):
        wanted = stats.binomtest(worse, better + worse, 0.5, alternative="greater").pvalue
        assert mcnemar(better, worse) == pytest.approx(wanted)
    assert mcnemar(0, 0) == 1


def test_holm_steps_down_and_stops_at_the_first_that_holds() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.02}, 0.05) == ["a", "c", "b"]
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}, 0.05) == ["a"]
    assert holm({"a": 0.02, "b": 0.04, "c": 0.03}, 0.05) == []
    assert holm({}, 0.05) == []


def test_at_most_one_equal_candidate_in_twenty_is_said_to_be_worse_in_any_class() -> None:
    random, trials, classes = np.random.default_rng(2), 2000, 20
    wrong = 0
    for _ in range(trials):
        changed = random.binomial(60, 0.3, classes)
        lost = random.binomial(changed, 0.5)
        pairs = zip(changed, lost, strict=True)
        wrong += bool(holm({str(i): mcnemar(int(c - w), int(w)) for i, (c, w) in enumerate(pairs)}, 0.05))
    assert wrong / trials <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


def test_a_candidate_that_lost_a_class_is_rejected_and_the_class_named() -> None:
    verdict = NotWorse().judge(joined(paired(100, 10, 2000, "new"), paired(0, 12, 48, "old")))
    assert verdict.decision == "reject"
    assert verdict.evidence["delta"] > 0 and verdict.evidence["classes"]["worse"] == ["old"]
    assert verdict.reasons[0] == "class 'old' is worse: 12 answers lost and 0 won on its 60 held-out rows"


def test_a_class_with_too_few_rows_is_judged_only_with_the_others() -> None:
    verdict = NotWorse().judge(joined(paired(60, 0, 2000, "new"), paired(0, 12, 17, "old")))
    assert verdict.decision == "promote" and verdict.evidence["classes"] == {"tested": 1, "min_rows": 30, "worse": []}


def test_too_few_rows_are_no_evidence() -> None:
    for scores in (paired(0, 0, 0), paired(99, 0, 0), paired(0, 99, 0)):
        verdict = NotWorse().judge(scores)
        assert verdict.decision == "undecided"
        assert f"only {len(scores.classes)} held-out rows and 100 are needed" in verdict.reasons[0]


def test_undecided_says_how_many_rows_are_missing() -> None:
    verdict = NotWorse().judge(paired(8, 8, 384))
    missing = verdict.evidence["rows_needed"] - 400
    assert verdict.decision == "undecided" and missing > 0
    assert verdict.reasons[-1].startswith(f"about {missing} more held-out rows")


def test_undecided_with_rows_enough_says_that_it_is_probably_not_much_better() -> None:
    verdict = NotWorse().judge(paired(25, 36, 2139))
    assert verdict.decision == "undecided" and "probably less than that" in verdict.reasons[-1]


def test_equal_answers_promote_once_there_are_rows_enough() -> None:
    assert NotWorse().judge(paired(0, 0, 200)).decision == "undecided"
    assert NotWorse().judge(paired(0, 0, 1000)).decision == "promote"


def test_worse_within_the_margin_is_rejected_all_the_same() -> None:
    """Else a chain of promotions could lose a little each time."""
    verdict = NotWorse().judge(paired(10, 50, 19_940))
    assert verdict.evidence["lower"] > -MARGIN and verdict.evidence["upper"] < 0 and verdict.decision == "reject"


def test_what_looks_worse_is_not_promoted_however_small_the_loss_may_be() -> None:
    """Else a chain of promotions could lose a little each time, without any one shown to be worse."""
    verdict = NotWorse().judge(paired(50, 55, 19_895))
    assert verdict.evidence["lower"] > -MARGIN and verdict.evidence["upper"] > 0 and verdict.decision == "undecided"


@pytest.mark.parametrize("n, discordance", [(300, 0.02), (700, 0.05), (700, 0.2)])
def test_any_number_of_tries_together_promote_what_is_worse_less_often_than_stated(n: int, discordance: float) -> None:
    """Whatever the tries have in common: the sum over them bounds the chance that any one errs."""
    chances = [chance_to_promote(n, discordance, -MARGIN, 1 - 0.05 / k**2) for k in range(1, 11)]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) <= 0.05 * np.pi**2 / 6


def test_a_later_try_against_the_same_champion_needs_more() -> None:
    scores = paired(18, 14, 968)
    assert NotWorse().judge(scores).decision == "promote"
    third = NotWorse().judge(replace(scores, earlier=[900, 950]))
    assert third.decision == "undecided" and third.evidence["tries"] == 3
    assert third.evidence["alpha"] == pytest.approx(0.05 / 9) and "with 99.4% confidence above" in third.reasons[0]


def test_tries_without_a_verdict_do_not_count() -> None:
    assert NotWorse().judge(replace(paired(18, 14, 968), earlier=[0, 99, 100])).evidence["tries"] == 2


def test_the_reasons_read_as_sentences_and_the_evidence_is_json() -> None:
    verdict = NotWorse().judge(paired(30, 12, 958))
    assert verdict.decision == "promote"
    assert verdict.reasons[0].startswith(
        "the candidate is not worse by 1 point or more: +1.80 points on 1000 held-out rows (30 answers won, 12 lost); "
        "with 95% confidence above +0.")
    assert verdict.reasons[1].startswith(
        "power of try 1 against this champion: a candidate that is 1 point better passes with ")
    assert json.loads(json.dumps(verdict.evidence)) == verdict.evidence
    assert set(verdict.evidence) >= {"n", "delta", "lower", "upper", "discordant", "power", "rows_needed", "classes"}


def test_the_gate_comes_through_the_plugins_door_with_its_options() -> None:
    classes = collect(load("adaptd", []), "register_gates")
    assert build(classes["not-worse"], {"margin": 0.02}, "gate.options") == NotWorse(margin=0.02)
    with pytest.raises(BadConfig) as unknown:
        build(classes["not-worse"], {"margn": 0.02}, "gate.options")
    assert "did you mean 'margin'?" in unknown.value.hint
    with pytest.raises(BadConfig, match="between 0 and 1"):
        build(classes["not-worse"], {"margin": 2}, "gate.options")


def test_the_gate_is_a_good_gate() -> None:
    check_gate(NotWorse())


def test_binomials_stay_exact_for_many_changed_answers() -> None:
    assert mcnemar(1000, 1000) == pytest.approx(0.5 + comb(2000, 1000) / 2**2001)


@pytest.mark.parametrize("n", [100, 300])
@pytest.mark.parametrize("discordance", [0.02, 0.05, 0.2])
def test_without_a_margin_at_most_one_in_twenty_that_are_equally_good_is_promoted(n: int, discordance: float) -> None:
    chance = sum(p for (better, worse), p in trinomial(n, discordance, 0.0).items()
                 if NotWorse(margin=0.0, min_class=n + 1).judge(paired(better, worse, n - better - worse)).decision == "promote")
    assert chance <= 1 - CONFIDENCE


def test_without_a_margin_the_words_say_that_it_is_better() -> None:
    verdict = NotWorse(margin=0.0).judge(paired(30, 5, 165))
    assert verdict.decision == "promote" and verdict.reasons[0].startswith("the candidate is better: ")
    assert NotWorse(margin=0.0).judge(paired(6, 5, 189)).decision == "undecided"
