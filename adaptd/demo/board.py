"""What the demonstration shows while it plays: a live table, or lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

LINES = 8  # of what happened, kept in view


class Board:
    """Standard error: figures above, what happens now below."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._figures: dict[str, str] = {}
        self._lines: list[str] = []
        self._now = ""
        shown = self.console.is_terminal
        self._live = Live(console=self.console, refresh_per_second=4, transient=True) if shown else None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def now(self, words: str) -> None:
        """Say what is being done."""
        self._now = words
        self._draw()

    def said(self, words: str) -> None:
        """Say what happened."""
        self._lines = [*self._lines, words][-LINES:]
        if self._live is None:
            self.console.print(Text(words), soft_wrap=True)
        self._draw()

    def figures(self, figures: Mapping[str, str]) -> None:
        """Change figures of the table."""
        self._figures |= figures
        self._draw()

    def _draw(self) -> None:
        if self._live is None:
            return
        table = Table(title="adaptd beside a nightly refit", title_justify="left", box=None, pad_edge=False,
                      show_header=False)
        for name, value in self._figures.items():
            table.add_row(Text(name, style="dim"), Text(value, style="bold"))
        lines = [Text(line, style="dim") for line in self._lines]
        self._live.update(Group(table, Text(), *lines, Text(f"… {self._now}", style="cyan")))
