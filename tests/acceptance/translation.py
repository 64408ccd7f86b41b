"""A small world of sentences in two languages, the model that translates them, and how a daemon is asked for it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import psutil
import torch

from tests.acceptance.daemon import ADAPTING, Daemon

Json = dict[str, Any]
WHO = {"the dog": "der hund", "the cat": "die katze", "the child": "das kind", "a man": "ein mann", "a woman": "eine frau",
       "the pet": "der vierbeiner"}
DOES = {"runs": "läuft", "sleeps": "schläft", "sits": "sitzt", "plays": "spielt", "stands": "steht"}
WHERE = {"in the park": "im park", "on the street": "auf der straße", "at the beach": "am strand", "in the snow": "im schnee"}
PAIRS = [(f"{a} {b} {c}", f"{WHO[a]} {DOES[b]} {WHERE[c]}") for a, b, c in itertools.product(WHO, DOES, WHERE)]
CONFIG = ADAPTING + """
[plugins]
allow = ["adaptd-translate"]
[domains.translate.options]
model = "model"
beams = 2
threads = 1
[domains.text]
[observers.quality]
kind = "quality"
domain = "translate"
"""


def trained(folder: Path) -> Path:
    """Train the model that translates all of it into a folder."""
    from adaptd_translate import small

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    small.fresh(folder, PAIRS, width=64, layers=1, words=200)
    small.train(folder, PAIRS, epochs=80, rate=3e-3, warm=60, tokens=300)
    torch.set_num_threads(threads)
    return folder


def ask(daemon: Daemon, text: str) -> Json:
    """Return the answer to one text."""
    found: Json = daemon.post("translate/predict", {"inputs": [{"text": text}]})["predictions"][0]
    return found


def writer(daemon: Daemon) -> psutil.Process:
    """Return the process that writes."""
    assert daemon.process is not None
    return next(one for one in psutil.Process(daemon.process.pid).children() if "adaptd.generator" in one.cmdline())
