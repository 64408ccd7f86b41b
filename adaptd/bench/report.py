"""Results as JSON, tables, pictures, and the page of the documentation that is made from them.

`python -m adaptd.bench.report bench-results docs/benchmarks.md` keeps what `bench-results` holds beside the page, instead of
what was kept of the same runs, draws its pictures, and makes the page of all that is kept.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptd.bench.page import PARTS as TITLED
from adaptd.bench.page import page, shown
from adaptd.bench.plan import PARTS, RATIOS, Run

Json = dict[str, Any]
DRAWN = ("curves", "matrices", "cells", "samples", "latency", "failed")  # large: they live on in pictures
PACKAGES = ("adaptd", "torch", "transformers", "faiss-cpu", "numpy", "scikit-learn", "river", "avalanche-lib")


def write(out: Path, run: Run, command: str, began: float, measured: Mapping[str, Any]) -> Json:
    """Write one result to its file and return it."""
    result = {"part": run.part, "set": run.set, "seed": run.seed, "adapt": run.adapt, "quick": run.quick,
              "last_only": run.last_only, "each": run.each, "encoder": Path(run.model or "").name, "name": run.name,
              "command": command, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
              "took_s": round(time.time() - began, 1),
              "machine": machine(), "versions": versions(), **measured}
    out.mkdir(parents=True, exist_ok=True)
    result = _rounded(result)
    (out / f"{run.name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return dict(result)


def _rounded(value: Any) -> Any:
    """Make numbers JSON's, with five digits; nan becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return value
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.5g}")


def machine() -> Json:
    """Say what it ran on."""
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.processor())
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 2),
            "system": platform.platform()}


def versions() -> dict[str, str]:
    """Return the versions of what matters."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def load(folder: Path) -> list[Json]:
    """Read all results of a folder, in the order of the parts."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda r: (PARTS.index(r["part"]), r["set"], r["adapt"], r["last_only"], r["seed"]))


def table(result: Json) -> tuple[list[str], list[list[Any]]]:
    """Return a result's table: columns and rows."""
    rows = result["rows"]
    if result["part"] in RATIOS:
        rows = [{**row, "absolute": ", ".join(f"{k} {shown(v)}" for k, v in row["absolute"].items())} for row in rows]
    columns = list(rows[0])
    return columns, [[row.get(column) for column in columns] for row in rows]


def pictures(results: Iterable[Json], folder: Path) -> list[Path]:
    """Draw curves over experiences or time, and forgetting by experience; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for result in results:
        if "curves" in result:
            files.append(_curves(result, folder))
        if "matrices" in result:
            files.append(_forgetting(result, folder))
        if "cells" in result:
            files.append(_power(result, folder))
        if "samples" in result:
            files.append(_soak(result, folder))
    return files


def _curves(result: Json, folder: Path) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, curve in result["curves"].items():
        points = [(x, y) for x, y in curve if y is not None]
        axes.plot(*zip(*points, strict=True), label=name, linewidth=2.5 if name == "adaptd" else 1.2,
                  zorder=3 if name == "adaptd" else 2)
    if result.get("mark") is not None:
        axes.axvline(result["mark"], color="grey", linestyle=":", label="labels change")
    axes.set(xlabel=result["axis"], ylabel="accuracy, %", title=result["name"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _saved(figure, folder / f"{result['name']}.png")


def _forgetting(result: Json, folder: Path) -> Path:
    """Draw, for each method, how far each experience's accuracy lies below its best so far."""
    import numpy as np
    from matplotlib import pyplot

    matrices = {name: np.array(m, dtype=float) for name, m in result["matrices"].items()}
    figure, all_axes = pyplot.subplots(1, len(matrices), figsize=(3 * len(matrices) + 1, 3.2), layout="constrained",
                                       squeeze=False)
    for axes, (name, matrix) in zip(all_axes[0], matrices.items(), strict=True):
        known = np.where(np.isnan(matrix), -np.inf, matrix)
        lost = np.where(np.isnan(matrix), np.nan, np.maximum.accumulate(known, axis=0) - matrix)
        shown_as = axes.imshow(lost, cmap="magma_r", vmin=0, vmax=15, origin="lower")
        ticks = range(0, len(matrix), max(1, len(matrix) // 5))
        axes.set(title=name, xlabel="classes of experience", ylabel="after experience", xticks=ticks, yticks=ticks,
                 xticklabels=[tick + 1 for tick in ticks], yticklabels=[tick + 1 for tick in ticks])
    figure.colorbar(shown_as, ax=all_axes, label="points forgotten")
    return _saved(figure, folder / f"{result['name']}-forgetting.png")


def _power(result: Json, folder: Path) -> Path:
    from adaptd.bench.gate_page import picture

    return picture(result, folder)


def _soak(result: Json, folder: Path) -> Path:
    from adaptd.bench.soak import picture

    return picture(result, folder / f"{result['name']}.png")


def _saved(figure: Any, file: Path) -> Path:
    from matplotlib import pyplot

    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return file


def keep(results: Iterable[Json], folder: Path) -> None:
    """Write what a page says of results beside its pictures: they can be made again only by another run."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        facts = {key: value for key, value in result.items() if key not in DRAWN}
        (folder / f"{result['name']}.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def made(folder: Path) -> str:
    """Return the page of what is kept in a folder."""
    drawn = sorted(folder.glob("*.png"), key=lambda file: file.stem)
    return page(load(folder), table, [f"{folder.name}/{file.name}" for file in drawn])


def main(arguments: Sequence[str]) -> int:
    """Keep a folder of results, and make the page."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m adaptd.bench.report RESULTS PAGE.md\n")
        return 2
    source, target = Path(arguments[0]), Path(arguments[1])
    results = [result for result in load(source) if not result["quick"] and result["part"] in TITLED]
    pictures(results, target.with_suffix(""))
    keep(results, target.with_suffix(""))
    target.write_text(made(target.with_suffix("")), encoding="utf-8")
    sys.stdout.write(f"{target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
