"""Documents: a folder of Markdown, HTML and plain text, split into passages that can be cited by file, line and heading.

Where: read by the library. Pure: files in, passages out. What a person wrote as one piece stays one: a passage is of one heading,
paragraphs are joined while they are short, and split at the ends of sentences where they are long. Sizes are in bytes of UTF-8:
a Chinese character takes three of them, and about as many tokens as an English word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

SIZE = 480  # bytes of a passage, about 120 tokens
LARGEST = 8 * 1024 * 1024  # bytes of a file
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？；])")
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
SILENT = ("script", "style", "template", "head", "nav")  # not read
INLINE = ("a", "abbr", "b", "code", "em", "i", "small", "span", "strong", "sub", "sup", "u", "br", "img")  # end no block


@dataclass(frozen=True)
class Block:
    """What stands together: a paragraph, an item of a list, a cell."""

    line: int
    heading: str
    text: str


@dataclass(frozen=True)
class Piece:
    """One passage of a file."""

    file: str
    line: int
    heading: str
    text: str

    @property
    def read(self) -> str:
        """What the encoder reads."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text

    def sentences(self) -> list[str]:
        """Return its sentences."""
        return [one for one in SENTENCE.split(self.text) if one.strip()]


def files(folder: Path) -> dict[str, Path]:
    """Return what can be read below a folder, by its name in it; a link that leads out of it is not followed.

    Raises
    ------
    OSError
        The folder is not there, or cannot be read.
    """
    root = folder.resolve(strict=True)
    found = (path for path in sorted(root.rglob("*")) if path.suffix.lower() in READERS)
    return {str(path.relative_to(root)): path for path in found if path.is_file() and path.resolve().is_relative_to(root)}


def passages(file: Path, name: str) -> list[Piece]:
    """Return a file's passages, in order.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is too large, or not UTF-8.
    """
    if (size := file.stat().st_size) > LARGEST:
        raise ValueError(f"{size} bytes; the limit is {LARGEST}")
    text = file.read_bytes().decode("utf-8-sig").replace("\0", "\ufffd")
    return [Piece(name, one.line, one.heading, one.text) for one in _sized(READERS[file.suffix.lower()](text))]


def _sized(blocks: Iterable[Block]) -> Iterator[Block]:
    """Join short blocks of one heading, and split long ones at the ends of sentences."""
    held: Block | None = None
    for block in (part for whole in blocks for part in _split(whole)):
        if held is not None and held.heading == block.heading and _size(held.text) + _size(block.text) < SIZE:
            held = Block(held.line, held.heading, f"{held.text}\n{block.text}")
            continue
        if held is not None:
            yield held
        held = block
    if held is not None:
        yield held


def _split(block: Block) -> Iterator[Block]:
    part = ""
    for sentence in (piece for one in SENTENCE.split(block.text) for piece in _cut(one)):
        if part and _size(part) + _size(sentence) > SIZE:
            yield Block(block.line, block.heading, part.strip())
            part = ""
        part = f"{part} {sentence}" if part and part[-1] in ".!?" else part + sentence
    if part.strip():
        yield Block(block.line, block.heading, part.strip())


def _cut(sentence: str) -> Iterator[str]:
    """Cut what has no end where it should: a table, a list of words."""
    while _size(sentence) > SIZE:
        part = sentence.encode()[:SIZE].decode(errors="ignore")
        place = max(part.rfind(" "), 0) or len(part)
        yield sentence[:place]
        sentence = sentence[place:]
    yield sentence


def _size(text: str) -> int:
    return len(text.encode())


def _plain(text: str) -> Iterator[Block]:
    """Read paragraphs, which empty lines part."""
    lines, start = list[str](), 1
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.strip():
            start = start if lines else number
            lines.append(line.strip())
        elif lines:
            yield Block(start, "", " ".join(lines))
            lines = []


def _markdown(text: str) -> Iterator[Block]:
    """Read headings, paragraphs, items, cells and code."""
    headings, tag = dict[str, str](), ""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        tag = token.tag if token.type == "heading_open" else tag
        words = _words(token)
        if not words or token.map is None:
            continue
        if tag:
            headings, tag = {**{level: one for level, one in headings.items() if level < tag}, tag: words}, ""
        else:
            yield Block(token.map[0] + 1, " › ".join(headings.values()), words)


def _words(token: Token) -> str:
    """Return the words of a token without their marks."""
    if token.type in ("fence", "code_block"):
        return token.content.strip()
    said = [" " if one.type in ("softbreak", "hardbreak") else one.content for one in token.children or ()
            if one.type in ("text", "code_inline", "softbreak", "hardbreak")]
    return "".join(said).strip()


class _Html(HTMLParser):
    """Collects the blocks of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._headings: dict[str, str] = {}
        self._words: list[str] = []
        self._line = 1
        self._silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        if tag in SILENT:
            self._silent.append(tag)
        elif tag not in INLINE:
            self.end()

    def handle_endtag(self, tag: str) -> None:
        if self._silent and tag == self._silent[-1]:
            self._silent.pop()
        elif tag in HEADINGS:
            self._headings = {level: one for level, one in self._headings.items() if level < tag} | {tag: self._taken()}
        elif tag not in INLINE:
            self.end()

    def handle_data(self, data: str) -> None:
        if not self._silent and data.strip():
            self._line = self._line if self._words else self.getpos()[0]
            self._words.append(data)

    def end(self) -> None:
        """End a block."""
        if words := self._taken():
            self.blocks.append(Block(self._line, " › ".join(one for one in self._headings.values() if one), words))

    def _taken(self) -> str:
        words, self._words = " ".join("".join(self._words).split()), []
        return words


def _html(text: str) -> Iterator[Block]:
    reader = _Html()
    reader.feed(text)
    reader.close()
    reader.end()
    yield from reader.blocks


READERS: Mapping[str, Callable[[str], Iterator[Block]]] = {
    ".md": _markdown, ".markdown": _markdown, ".txt": _plain, ".html": _html, ".htm": _html}
