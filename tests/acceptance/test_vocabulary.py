"""What a vocabulary says of labels shows in the answers of a real daemon, and finds documents by another name."""

from __future__ import annotations

from tests.acceptance.daemon import Daemon, lesson, until

CONFIG = """
[adapt]
enabled = false
[domains.text.vocabulary]
file = "labels.csv"
[domains.text.documents]
folder = "handbook"
"""
TABLE = "label,parent,synonyms,related\nleisure,,,\nmusic,leisure,songs and concerts,\nsport,leisure,,\naccount,,Zorbulon Plus,\n"
HANDBOOK = ("# Products\n\n## Zorbulon Plus\n\nZorbulon Plus costs five a month. It can be ended at any time.\n\n"
            "## Trumbast\n\nTrumbast is a loan for tractors. It runs for ten years.\n\n"
            "## Branches\n\nEvery branch has a cash machine. It takes coins, too.\n")


def test_names_paths_and_documents_by_another_name() -> None:
    with Daemon(CONFIG) as daemon:
        (daemon.folder / "labels.csv").write_text(TABLE)
        (daemon.folder / "handbook").mkdir()
        (daemon.folder / "handbook" / "products.md").write_text(HANDBOOK)
        daemon.start()
        taught = lesson(["music", "card"], 5)
        daemon.teach([{**one, "label": "Songs and  Concerts" if one["label"] == "music" else "card"} for one in taught])
        assert set(daemon.ask("GET", "/v1/text/memory")[1]["heads"]["label"]["labels"]) == {"music", "card"}
        found = daemon.predict("the guitar concert")["predictions"][0]
        assert (found["label"], found["path"]) == ("music", ["leisure", "music"])
        assert "path" not in daemon.predict("my credit card")["predictions"][0]
        until(lambda: daemon.domain()["documents"]["passages"] == 3, "the handbook is read")
        cited = daemon.predict("how much does the account cost a month?")["predictions"][0]["passages"]
        assert cited[0]["heading"] == "Products › Zorbulon Plus" and cited[0]["text"].startswith("Zorbulon Plus costs")
