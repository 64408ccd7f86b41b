"""The plugin keeps its promises: the domain, what is rolling, and how often a surge is seen that is none."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from adaptd import Observed
from adaptd.testing import check_domain
from adaptd_finance import Finance
from adaptd_finance.opinion import Opinion
from adaptd_finance.surge import NORMAL, Surge


def opinions(*sentiments: str, entity: str = "ACME", topic: str = "price", start: int = 0) -> list[Observed]:
    return [Observed(event=f"{entity}-{start + place}", at=float(start + place), source="s",
                     payload={"text": "…", "entity": entity}, labels={"topic": topic, "sentiment": one})
            for place, one in enumerate(sentiments)]


def test_finance_is_a_good_domain() -> None:
    check_domain(Finance, feedback=[{"topic": " M&A "}], rejected=[{}, {"title": " "}, {"text": "a", "entity": 4}])
    several = Finance(several=True)
    assert several.heads["topic"].check(["grain", "corn"], "l") == '["corn","grain"]'
    assert Finance.heads["topic"].check("corn", "l") == "corn", "an option of one domain is not another's"


def test_sentiment_rolls_per_entity_and_topic() -> None:
    figures = Opinion(rolling=4).look(opinions("negative", "positive", "neutral", "positive", "positive")).figures
    assert figures["entities"] == [
        {"entity": "ACME", "topic": None, "events": 4, "negative": 0.0, "mean": 0.75},
        {"entity": "ACME", "topic": "price", "events": 4, "negative": 0.0, "mean": 0.75}]
    assert figures["topics"] == [{"topic": "price", "events": 4, "negative": 0.0, "mean": 0.75}]


def test_a_surge_is_told_with_the_events_that_make_it_and_is_over_when_it_is() -> None:
    calm = opinions(*(("negative", "positive", "neutral", "positive") * 50))
    storm = opinions(*(["negative"] * 40), start=200)
    told = Opinion().look(calm + storm)
    surge = next(one for one in told.figures["surges"] if one["entity"] == "ACME" and one["topic"] is None)
    assert 200 <= surge["alarmed_at"] < 230 and surge["going_on"] and surge["usual"] < 0.35
    assert {one.event for one in storm} - set(surge["events"]) == set()
    assert any(problem.subject == "ACME" and "ACME-20" in problem.message for problem in told.problems)
    after = opinions(*(("positive", "neutral", "positive", "negative") * 60), start=240)
    assert not Opinion().look(calm + storm + after).problems


def test_a_corrected_label_takes_the_surge_back() -> None:
    calm, storm = opinions(*(("negative", "positive") * 60)), opinions(*(["negative"] * 60), start=120)
    assert Opinion().look(calm + storm).problems
    corrected = opinions(*(("negative", "positive") * 30), start=120)
    assert not Opinion().look(calm + corrected).problems and not Opinion().look([]).problems


def test_what_lasts_becomes_what_is_usual() -> None:
    found = Opinion().look(opinions(*(("negative", "positive") * 50), *(["negative"] * (NORMAL + 60))))
    assert found.figures["surges"] and not found.problems


def test_what_cannot_be_read_is_passed_over() -> None:
    odd = [Observed(event="e", at=0.0, source="s", payload={"entity": 4}, labels={"sentiment": None, "topic": None}),
           Observed(event="f", at=0.0, source="s", payload={}, labels={"sentiment": "negative", "topic": ["a", "b"]})]
    assert [one["topic"] for one in Opinion().look(odd).figures["topics"]] == ["a", "b"]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
def test_alarms_by_chance_come_no_more_often_than_is_said(share: float) -> None:
    alarms = [at for drawn in range(60) for at in alarmed(drawn, 2000, share, share, each=500.0)]
    assert len(alarms) <= 60 * 2000 / 500


def alarmed(seed: int, events: int, before: float, after: float, each: float, known: int = 500) -> list[int]:
    """Return at which of the events an alarm came whose share of yeses is `after`, behind others where it was `before`."""
    drawn, surge, found = random.Random(seed), Surge(), []
    for place in range(known + events):
        yes = drawn.random() < (before if place < known else after)
        if surge.see("", yes, place, math.log(each)) is not None:
            found.append(place - known)
    return [place for place in found if place >= 0]


def main() -> None:
    """Print the figures of docs/finance.md: alarms in 1,000 events, and after how many the first, by what the odds become."""
    streams, events = 300, 1000
    for before in (0.01, 0.03, 0.1, 0.3, 0.6, 0.8):
        for times in (1.0, 1.5, 2.0, 4.0, 8.0):
            odds = times * before / (1 - before)
            found = [alarmed(seed, events, before, odds / (1 + odds), each=105_000.0) for seed in range(streams)]
            first = [alarms[0] for alarms in found if alarms]
            print(f"{before:.2f} x{times:g}: {sum(map(len, found)) / streams:.4f} alarms, {len(first) / streams:.0%} of streams, "
                  f"first after {statistics.median(first) if first else float('nan'):g}")


if __name__ == "__main__":
    main()
