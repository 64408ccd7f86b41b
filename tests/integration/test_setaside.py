"""Setting a source aside, in the tables: what it takes out, what holds again, and that nobody's decision is overruled."""

from __future__ import annotations

from adaptd import db
from adaptd.config import Quarantine
from adaptd.journal import Journal
from adaptd.paths import Paths
from adaptd.quarantine import Dissent, Finding, Suspicion
from adaptd.records import Feedback, Item, Receipt
from adaptd.rows import alive, lineage
from tests.integration.journalled import journal


def taught(paths: Paths, source: str) -> list[str]:
    with db.reading_engine(paths.database).connect() as connection:
        return [r.target for r in connection.execute(alive(1, lineage(connection, 1))) if r.source == source]


def teach(opened: Journal, number: int) -> tuple[int, Receipt]:
    item = Item(payload={"text": f"{number}"}, source="intern", content=b"c" * 16, label="x", targets={"label": "x"})
    done = opened.append(1, [item]).result(10)
    return done.seq, done.receipts[0]


def test_a_label_that_the_source_had_corrected_itself_holds_again(journalled: Paths) -> None:
    with journal(journalled) as opened:
        _, receipt = teach(opened, 1)
        assert receipt.event is not None
        later = Feedback(event=receipt.event, label="y", targets={"label": "y"}, teacher="intern")
        seq = opened.feedback(1, [later]).result(10).seq
        found = Finding(source="intern", seq=seq, since=seq, labels=9, against=9, others=0.05, evidence=14.0)
        opened.late.set_aside(1, found, "it contradicts others").result(10)
        assert taught(journalled, "intern") == ["x"]
        opened.late.drop(1, "intern", "", "me").result(10)
        assert taught(journalled, "intern") == ["x"]


def test_evidence_from_before_a_decision_sets_nothing_aside(journalled: Paths) -> None:
    """A flood is journalled at once and judged label by label: what follows the finding is evidence of its own."""
    rule, fold, found = Quarantine(), Suspicion(), []
    against = Dissent(from_others=True, from_all=True)
    for seq in range(400):
        fold.judge("crm", seq, Dissent(from_others=seq % 20 == 0, from_all=seq % 20 == 0), rule)
    with journal(journalled) as opened:
        seqs = [teach(opened, number)[0] for number in range(30)]
        for seq in seqs:
            if (one := fold.judge("intern", seq, against, rule)) is not None:
                found.append(opened.late.set_aside(1, one, "it contradicts others").result(10) is not None)
        assert found[0] and opened.late.resume(1, "learning", "intern", "it was right", "me") == 30
        for number in range(100, 109):
            seq, _ = teach(opened, number)
            if (one := fold.judge("intern", seq, against, rule)) is not None and one.since <= seqs[-1]:
                assert opened.late.set_aside(1, one, "it contradicts others").result(10) is None
        assert len(taught(journalled, "intern")) == 39
