"""`docs/gate.md` and its picture, from the results of `adaptd bench gate`.

`python -m adaptd.bench.gate_page bench-results docs/gate.md` makes both.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptd.bench import report
from adaptd.bench.gate import interval
from adaptd.bench.page import markdown
from adaptd.gate import NotWorse, rows_needed

Json = Mapping[str, Any]
DIFFER, TRIES = (0.01, 0.02, 0.03, 0.05, 0.065, 0.1), (1, 2, 3, 5, 10, 30)
PICTURE = "gate-power.png"

WORDS = """\
# The gate

Made by `python -m adaptd.bench.gate_page bench-results docs/gate.md` from the results of `{command}` (seed {seed}); do not
edit.

## What it promises

Candidate and champion answer the same held-out rows, each as if the row had never been learned. `not-worse` then promotes
a candidate that *looks* no worse and is *shown* to be less than a margin worse: 1 point of accuracy, with 95 % confidence
(`[gate.options] margin, confidence`). It rejects one that is shown to be worse, over all or in a class; else the verdict
is *undecided*, and the champion stays.

- **Truly worse** is worse by the margin or more. The first candidate against a champion that is so is promoted in at most
  5 % of cases.
- **Tries add up**, so the k-th candidate against the same champion is promoted only with confidence 1 - 0.05 / k². Of any
  number of tries together, on the same held-out rows or others, at most 0.05 · π²/6 = 8.2 % promote one that is a margin
  worse; that is a bound, the simulation has the rate. A promotion begins anew, a rollback or demotion does not, and a
  candidate that had too few held-out rows for a verdict (`min_rows`) is no try.
- **Worse by less than the margin** is not ruled out. What *looks* worse never passes, however small the loss, so it takes
  luck: of candidates that are half a point worse at most {half:.0f} % passed in any cell below, and fewer with more rows.
- **Classes**: one with `min_class` = 30 held-out rows or more is tested by itself (McNemar's exact test, all classes
  together at 5 % by Holm). A class with fewer is judged only with the others: a new class can be lost unseen.

A verdict says which try it was, what it could have found (its power), and how many held-out rows would do.

## How often it errs

Simulated, with the daemon's own gate class: 30 classes of sizes 1 : ½ : ⅓ …, of unlike difficulty; candidate and champion
err on much the same rows (latent normals with correlation 0.97). A better candidate wins where there is most to win. {trials}
candidates for each figure. *Differ*: the rows on which exactly one of two equally good models is right; it decides how
many rows are needed. Each cell: the candidates that were promoted, in %, by their true difference from the champion in
points, with the exact 95 % interval; then what stayed undecided.

{power}

![The chance to be promoted, by true difference, accuracy and held-out rows]({picture})

- At most 5 % of those that are a margin worse: the largest of the {cells} rates at -1 or below is {worst}, and the exact
  probabilities are below 5 % (`tests/unit/test_gate.py`).
- At least 80 % of those that are a point better, with 1,000 rows: {kept}.
  Where the two differ on 6.5 % of the rows, no test of right and wrong answers has a power of more than 80 % with 1,000 of
  them; this one has {seventy}.
- An equally good candidate passes about every second time where there are rows enough; the champion is worth as much.

Held-out rows that promote a candidate that is a point better in 80 % of cases, by the share of rows that differ and by
the try:

{needed}

## A month of candidates

A candidate each hour (720, on 500 held-out rows and five more each time) or each day (30, on 300 and 150 more), champion
at 90 %. *Counted*: as the gate does it; *each by itself*: as if every try were the first. *Erred*: months in which at
least one was promoted that is a margin worse. *As training gives them*: accuracies around that of the first champion with
a standard deviation of a point, whatever the champion has become; what is promoted is the next champion. `daily` and
`hourly` months differ in number, see the intervals.

{month}

Counting costs little where candidates differ: the better ones still get through, a few tries later.

## A class that is lost

Over all the candidate is a point better; the third largest class loses 20 points, or none does. Champion at 90 %.

{lost}

Until the class has 30 held-out rows the tests do not see it. What they refuse of candidates that lost nothing is within
the noise of the two columns.
"""


def page(results: Mapping[str, Json]) -> str:
    """Return the page in Markdown."""
    power = results["power"]
    worse = [cell for cell in power["cells"] if cell["points"] <= -100 * NotWorse.margin]
    at_most = max(cell["promote"] for cell in worse)
    better = {cell["accuracy"]: cell["promote"] for cell in power["cells"]
              if (cell["points"], cell["held-out rows"]) == (1, 1000)}
    half = max(cell["promote"] for cell in power["cells"] if cell["points"] == -0.5)
    return WORDS.format(
        half=half,
        command="adaptd bench gate", seed=power["seed"], trials=f"{power['cells'][0]['trials']:,}", picture=f"gate/{PICTURE}",
        power=_table(power), cells=len(worse), worst=interval(at_most, power["cells"][0]["trials"]),
        kept=", ".join(f"{share:.0f} % at an accuracy of {accuracy:g}" for accuracy, share in better.items()),
        seventy=f"{better[70]:.0f} %", needed=_needed(), month=_table(results["month"]), lost=_table(results["lost-class"]))


def _table(result: Json) -> str:
    return markdown(*report.table(dict(result)))


def _needed() -> str:
    rows = [[f"{100 * share:g} %", *(f"{rows_needed(share, NotWorse.margin, 1 - (1 - NotWorse.confidence) / k**2):,}"
                                    for k in TRIES)] for share in DIFFER]
    return markdown(["rows that differ", *(f"try {k}" for k in TRIES)], rows)


def picture(result: Json, folder: Path) -> Path:
    """Draw the power curves, a panel for each accuracy."""
    from matplotlib import pyplot

    cells = result["cells"]
    accuracies = sorted({cell["accuracy"] for cell in cells})
    figure, panels = pyplot.subplots(1, len(accuracies), figsize=(3.2 * len(accuracies), 3.8), sharey=True,
                                     layout="constrained", squeeze=False)
    for axes, accuracy in zip(panels[0], accuracies, strict=True):
        for rows in sorted({cell["held-out rows"] for cell in cells}):
            mine = [cell for cell in cells if (cell["accuracy"], cell["held-out rows"]) == (accuracy, rows)]
            axes.plot([cell["points"] for cell in mine], [cell["promote"] for cell in mine], marker=".", label=f"{rows} rows")
        axes.axvline(-100 * NotWorse.margin, color="grey", linestyle=":")
        axes.axhline(5, color="grey", linestyle=":")
        axes.set(title=f"accuracy {accuracy:g} %", xlabel="true difference, points")
        axes.grid(alpha=0.3)
    panels[0][0].set(ylabel="promoted, %")
    panels[0][-1].legend(fontsize="small")
    file = folder / PICTURE
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return file


def main(arguments: Sequence[str]) -> int:
    """Make the page and its picture from a folder of results."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m adaptd.bench.gate_page RESULTS PAGE.md\n")
        return 2
    target = Path(arguments[1])
    results = {one["set"]: one for one in report.load(Path(arguments[0])) if one["part"] == "gate" and not one["quick"]}
    report.pictures(results.values(), target.with_suffix(""))
    target.write_text(page(results), encoding="utf-8")
    sys.stdout.write(f"{target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
