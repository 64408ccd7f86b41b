"""A disk that fails while a version is written, or a label is learned: who asked is told, and what is live stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptd.errors import NotReady, StoreFailed
from tests.integration.live import Live


def test_a_version_whose_files_cannot_be_written_is_no_fault_of_ours_and_changes_nothing(tmp_path: Path) -> None:
    with Live(tmp_path / "store") as live:
        before = live.service.status()["domains"]["text"]["version"]
        versions, aside = live.paths.versions, tmp_path / "aside"
        versions.rename(aside)
        versions.write_text("no folder")
        with pytest.raises(StoreFailed, match="could not be written"):
            live.do(live.service.snapshot("text", reason="", actor="me"))
        versions.unlink()
        aside.rename(versions)
        assert live.service.status()["domains"]["text"]["version"] == before
        assert live.do(live.service.snapshot("text", reason="", actor="me"))["version"] > before


def test_who_waits_for_a_label_that_cannot_be_learned_is_told_and_it_is_learned_at_the_next_start(tmp_path: Path) -> None:
    with Live(tmp_path / "store") as live:
        def broken(places: object) -> dict[int, object]:
            raise OSError(5, "Input/output error")

        live.served.learner._vectors = broken  # type: ignore[assignment]
        for _ in range(2):  # the one that meets it, and those behind it
            with pytest.raises(NotReady, match="learning has stopped"):
                live.do(live.service.events("text", [{"text": "a card", "label": "card"}], source="http"))
        assert [type(error) for error in live.failed] == [OSError], "the daemon ends, and is started again"
    with Live(tmp_path / "store") as live:
        assert live.service.status()["domains"]["text"]["labels"] == 1
