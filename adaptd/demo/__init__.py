"""The demonstration: a real daemon, a real stream, a bad source and the way back, beside a nightly refit.

Not on the way of an event: it is a client like any other, which starts its daemon itself.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

from adaptd import __version__
from adaptd.demo.board import Board
from adaptd.demo.data import SEED, Material, diagnoses, own
from adaptd.errors import MissingExtra

TERMINATED = 143


def run(data: Path | None, out: Path) -> int:
    """Play, write OUT/report.json and OUT/accuracy.png, and say in words what happened.

    Raises
    ------
    MissingExtra
        The `demo` extra is not installed.
    BadPayload
        The user's file is not one of texts and labels.
    """
    _check_extra()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # as ^C: the daemon is stopped, the store removed
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with Board() as board:
        board.now("reading the data")
        material = own(data) if data else diagnoses()
        board.said(f"{material.source}: {sum(map(len, material.days))} events in {len(material.days)} days, "
                   f"{len(material.asked)} texts held back to measure")
        report = _play(material, board, out)
    report["seconds"] = round(time.monotonic() - began, 1)
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for line in _summary(report):
        board.console.print(line, markup=False, soft_wrap=True)
    sys.stdout.write(f"{out / 'accuracy.png'}\n{out / 'report.json'}\n")
    return 0


def _check_extra() -> None:
    missing = [name for name in ("matplotlib", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(f"the demonstration needs {' and '.join(missing)}", hint="pip install 'adaptd[demo]'")


def _play(material: Material, board: Board, out: Path) -> dict[str, Any]:
    """Run daemon and story; return the report."""
    from adaptd.demo.cron import Cron
    from adaptd.demo.host import daemon
    from adaptd.demo.picture import draw
    from adaptd.demo.story import Story

    board.now("starting a daemon on a temporary store, and encoding everything once for the rival")
    with daemon() as client:
        cron = Cron(material.rows())
        board.said(f"the daemon is ready; for the rival {cron.encoded} texts were encoded in {cron.encoding_s:.1f} s")
        record = Story(client, cron, material, board).play()
        board.now("drawing")
        draw(record, material.source, out / "accuracy.png")
        versions = client.call("GET", "/v1/text/versions")["versions"]
        status = client.call("GET", "/v1/status")
    return {"source": material.source, "seed": SEED, "adaptd": __version__, "python": platform.python_version(),
            **record.body(),
            "cron": {"encoded": cron.encoded, "encoding_s": round(cron.encoding_s, 2), "refits": cron.refits},
            "named": {p.when: {"adaptd": p.adaptd, "cron": p.cron} for p in record.points if p.when},
            "versions": [{key: v[key] for key in ("version", "kind", "parent", "reason", "verdict")} for v in versions],
            "status": status["domains"]["text"], "problems": status["problems"]}


def _summary(report: dict[str, Any]) -> list[str]:
    """Say what happened, with the figures of the report."""
    answers, back = report["answers"], report["rollback"]
    ours, rival = ({when: f"{found[who]:.1%}" for when, found in report["named"].items()} for who in ("adaptd", "cron"))
    refits = [refit["seconds"] for refit in report["cron"]["refits"]]
    return [
        "",
        f"Answers on the stream, as given at the time: adaptd {answers['adaptd'] / answers['asked']:.1%} right, "
        f"the nightly refit {answers['cron'] / answers['asked']:.1%}, of {answers['asked']}.",
        f"At the end, on {report['points'][-1]['texts']} texts that were never labelled: adaptd {ours['end']}, "
        f"the nightly refit {rival['end']}.",
        *(f"Adaptation at event {a['event']}: {a['verdict']} after {a['seconds']:.0f} s: {'; '.join(a['reasons'])}."
          for a in report["adaptations"]),
        f"Wrong labels: adaptd went from {ours['before the burst']} to {ours['morning after']}, "
        f"the nightly refit from {rival['before the burst']} to {rival['morning after']}.",
        f"Rollback to version {back['version']} took {back['seconds']:.2f} s and gave {ours['after rollback']}; "
        f"the nightly refit stayed at {rival['after rollback']} until the next night.",
        f"Learning went on without the intern: {back['learned_at_resume']} good labels had waited, "
        f"and its next labels were journalled but not learned ({ours['after resume']} after them).",
        f"The rival's cost: {report['cron']['encoding_s']:.1f} s to encode everything once, "
        f"{len(refits)} refits of {min(refits, default=0):.2f} to {max(refits, default=0):.2f} s.",
        f"{report['seconds']:.0f} s in all.", ""]
