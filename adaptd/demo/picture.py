"""The demonstration's picture: accuracy over time, with what happened marked in it."""

from __future__ import annotations

from itertools import groupby
from math import floor
from pathlib import Path
from typing import Any

from adaptd.demo.story import Mark, Record

ADAPTD, CRON, BAD, GOOD, QUIET = "#0b6e99", "#b8860b", "#c0392b", "#2e8b57", "#6f6f6f"
COLOURS = {"topic": QUIET, "adapt": "#6a3d9a", "rollback": BAD, "resume": GOOD}
LONGEST = 30  # characters of a label
CLOSE = 0.02  # of the width: two labels nearer than that would cover each other


def draw(record: Record, source: str, file: Path) -> None:
    """Draw a record to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(14, 7.5), layout="constrained")
    low = _lowest(record)
    last = max(point.event for point in record.points)
    _frame(axes, low, last)
    _lines(axes, record, low)
    _bursts(axes, record, low)
    _marks(axes, record.marks, last)
    axes.set_title(f"adaptd beside a nightly refit\n{source}", loc="left", fontsize=12, pad=130)
    axes.legend(loc="lower left", frameon=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _lowest(record: Record) -> float:
    """Return where the scale starts: below both lines, the time before the rival's first night apart."""
    values = [point.adaptd for point in record.points] + [point.cron for point in record.points if point.cron]
    return max(0.0, floor(10 * min(values) - 1) / 10)


def _frame(axes: Any, low: float, last: int) -> None:
    ticks = range(round(100 * low), 101, 10)
    axes.set_yticks([tick / 100 for tick in ticks], [f"{tick} %" for tick in ticks])
    axes.set_ylim(low, 1.0)
    axes.set_xlim(0, last * 1.01)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("events received")
    axes.set_ylabel("right answers on texts never labelled, of all topics labelled so far")
    axes.spines[["top", "right"]].set_visible(False)


def _lines(axes: Any, record: Record, low: float) -> None:
    fitted = [point for point in record.points if point.cron]
    axes.plot([point.event for point in fitted], [point.cron for point in fitted], color=CRON, linewidth=1.8,
              drawstyle="steps-post", label="nightly refit: same encoder, same labels, logistic regression")
    nights = [mark.event for mark in record.marks if mark.kind == "night"]
    axes.plot(nights, [low] * len(nights), linestyle="", marker="^", markersize=9, color=CRON, clip_on=False,
              label="night: refit")
    axes.plot([point.event for point in record.points], [point.adaptd for point in record.points], color=ADAPTD,
              linewidth=2.4, marker="o", markersize=3.5, label="adaptd")


def _bursts(axes: Any, record: Record, low: float) -> None:
    """Shade what the bad source sent: strongly what was learned, lightly what was only journalled."""
    for held, found in groupby(record.spoilt, key=lambda stretch: stretch["held"]):
        stretches = list(found)
        start, end = stretches[0]["from"], stretches[-1]["to"]
        axes.axvspan(start, end, color=BAD, alpha=0.07 if held else 0.18, linewidth=0)
        words = " wrong labels again:\n held, not learned" if held else "wrong labels:\nlearned"
        height = 0.12 if held else 0.02
        axes.text(start if held else (start + end) / 2, low + height * (1 - low), words, color=BAD, fontsize=9,
                  va="bottom", ha="left" if held else "center")


def _marks(axes: Any, marks: list[Mark], last: int) -> None:
    """Mark topics, adaptations, the way back; several topics at one place share a label."""
    shown = sorted((mark for mark in marks if mark.kind in COLOURS), key=lambda mark: mark.event)
    written = -float(last)
    for (event, kind), found in groupby(shown, key=lambda mark: (mark.event, mark.kind)):
        axes.axvline(event, color=COLOURS[kind], linewidth=1, linestyle=":" if kind == "topic" else "-", alpha=0.8)
        if kind == "topic" and event - written < CLOSE * last:
            continue
        written = event
        words = ("new: " if kind == "topic" else "") + ", ".join(mark.text for mark in found)
        words = words if len(words) <= LONGEST else words[:LONGEST - 1] + "…"
        axes.text(event, 1.01, words, color=COLOURS[kind], rotation=55, ha="left", va="bottom", fontsize=9,
                  rotation_mode="anchor", parse_math=False, transform=axes.get_xaxis_transform())
