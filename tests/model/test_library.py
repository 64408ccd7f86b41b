"""A library searches what its folder holds now; what cannot be read is named, and nothing is encoded twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from adaptd.config import Documents
from adaptd.errors import NotReady
from adaptd.library import Library
from adaptd.records import Example

WORDS = ("card", "loan", "branch", "coins", "weather")


def vector(text: str) -> torch.Tensor:
    counts = torch.tensor([float(text.casefold().count(word)) for word in WORDS]) + 0.01
    return (counts / counts.norm()).half()


class World:
    """A folder with its library, what was encoded, and what was reported."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder, self.encoded, self.reported, self.stopping = folder, list[str](), list[tuple[str, str]](), False
        self.library = Library("text", Documents.model_validate({"folder": "x", **settings}), folder, self._encode,
                               lambda code, message, hint: self.reported.append((code, message)))

    def _encode(self, examples: Sequence[Example]) -> torch.Tensor:
        if self.stopping:
            raise NotReady("the daemon is stopping")
        self.encoded += [one.text or "" for one in examples]
        return torch.stack([vector(one.text or "") for one in examples])

    def cited(self, text: str) -> list[tuple[str, int]]:
        (found,) = self.library.find([vector(text)])
        return [(one.file, one.line) for one in found]


def test_what_changes_in_the_folder_is_searched_from_the_next_look_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "a.md").write_text("# Cards\n\nA card is new. The card costs ten.\n")
    assert world.cited("card") == []
    world.library.look()
    assert world.cited("card") == [("a.md", 3)] and world.cited("weather") == []
    before = len(world.encoded)
    (tmp_path / "b.txt").write_text("A loan is paid back. The loan runs long.\n")
    world.library.look()
    assert world.cited("loan") == [("b.txt", 1)] and not any("card" in text for text in world.encoded[before:])
    (tmp_path / "a.md").unlink()
    world.library.look()
    assert world.cited("card") == [] and world.library.facts()["files"] == 1


def test_a_folder_that_is_gone_is_named_and_what_was_read_is_searched_on(tmp_path: Path) -> None:
    world = World(tmp_path / "folder")
    world.library.look()
    assert [code for code, _ in world.reported] == ["documents"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("A card. Another card.")
    world.library.look()
    (tmp_path / "folder" / "a.txt").rename(tmp_path / "a.txt")
    (tmp_path / "folder").rmdir()
    world.library.look()
    assert world.cited("card") == [("a.txt", 1)]


def test_more_passages_than_are_allowed_are_named_and_the_first_are_searched(tmp_path: Path) -> None:
    world = World(tmp_path, passages=1)
    (tmp_path / "a.txt").write_text("A card. One card.")
    (tmp_path / "b.txt").write_text("A loan. One loan.")
    world.library.look()
    assert "2 passages; the first 1 are searched" in world.reported[0][1] and world.cited("loan") == []


def test_a_daemon_that_stops_is_not_held_up(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "a.txt").write_text("A card. One card.")
    world.stopping = True
    world.library.look()
    world.stopping = False
    world.library.look()
    assert world.cited("card") == [("a.txt", 1)]
