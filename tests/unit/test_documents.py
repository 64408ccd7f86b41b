"""Documents are split into passages that can be cited, and only what lies in the folder is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptd.documents import LARGEST, SIZE, Piece, files, passages


def read(folder: Path, name: str, text: str) -> list[tuple[int, str, str]]:
    (folder / name).write_text(text, encoding="utf-8")
    return [(one.line, one.heading, one.text) for one in passages(folder / name, name)]


def test_markdown_is_read_by_heading_without_its_marks(tmp_path: Path) -> None:
    text = ("# Refunds\n\nWithin **30 days**. Keep the [receipt](x.html).\n\n## Shipping\n\n- it costs 5 euros\n"
            "- it takes `3` days\n\n| from | to |\n|---|---|\n| one | two |\n\n# Cards\n\n```\nplain\n```\n")
    assert read(tmp_path, "a.md", text) == [
        (3, "Refunds", "Within 30 days. Keep the receipt."),
        (7, "Refunds › Shipping", "it costs 5 euros\nit takes 3 days\nfrom\nto\none\ntwo"),
        (16, "Cards", "plain")]


def test_html_is_read_as_it_is_shown(tmp_path: Path) -> None:
    text = ("<html><head><title>x</title></head><body><h1>Cards</h1>\n<p>A <b>new</b> card costs &euro; 10.</p>\n"
            "<ul><li>one<li>two</ul><script>var p = '<p>no</p>'</script><h2>卡</h2>\n<p>补办新卡需要十元。</p></body>")
    assert read(tmp_path, "a.html", text) == [
        (2, "Cards", "A new card costs € 10.\none\ntwo"), (4, "Cards › 卡", "补办新卡需要十元。")]


def test_plain_text_is_read_by_paragraph(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", "\ufeffone\ntwo\n\n\nthree\n") == [(1, "", "one two\nthree")]


@pytest.mark.parametrize("sentence", ["这是一个很长的句子，说的是退款。", "This sentence is about refunds. ", "word " * 500])
def test_what_is_long_is_split_and_nothing_is_lost(sentence: str, tmp_path: Path) -> None:
    found = read(tmp_path, "a.txt", sentence * 60)
    assert len(found) > 1 and all(0 < len(text.encode()) <= SIZE for _, _, text in found)
    assert "".join("".join(text.split()) for _, _, text in found) == "".join((sentence * 60).split())


def test_a_passage_has_sentences_in_any_language() -> None:
    assert Piece("a", 1, "", "One. Two? 三。四！").sentences() == ["One.", "Two?", "三。", "四！"]


def test_only_what_can_be_read_and_lies_in_the_folder_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    for name in ("a.md", "inner/b.TXT", "picture.png"):
        (folder / name).write_text("x")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    assert sorted(files(folder)) == ["a.md", "inner/b.TXT"]
    with pytest.raises(OSError, match="nowhere"):
        files(tmp_path / "nowhere")


def test_what_is_no_text_or_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="utf-8"):
        passages(tmp_path / "a.txt", "a.txt")
    (tmp_path / "b.txt").write_bytes(b"x" * (LARGEST + 1))
    with pytest.raises(ValueError, match="the limit is"):
        passages(tmp_path / "b.txt", "b.txt")
