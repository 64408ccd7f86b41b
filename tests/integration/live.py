"""The daemon's service in this process: the real parts on a real store, without sockets, signals and trainer processes."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from adaptd import config, plugins, restore
from adaptd.alerts import Alerts
from adaptd.assembly import Assembly
from adaptd.grants import Keyring
from adaptd.meters import Meters
from adaptd.model import files
from adaptd.model.attention import Adapter
from adaptd.observe import Problems
from adaptd.paths import CONFIG
from adaptd.records import Example
from adaptd.service import Service
from tests.integration import words

Json = dict[str, Any]
SETTINGS = """
[encoders.default]
kind = "hashed-words"
[learn]
features = 64
solve_after_s = 1000.0  # at barriers alone: the clock decides nothing
checkpoint_labels = 7
[memory]
neighbours = 8
[holdout]
after = 1000000
[adapt]
every_labels = 0
min_labels = 2
[domains.text]
"""
ENCODER = {"adaptd.learner": (*plugins.BUILTIN["adaptd.learner"], words.__name__)}


class Live:
    """One life of a store: opened with its maker, closed like a daemon that was told to stop, or left like one that died."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        if not (folder / CONFIG).exists():
            (folder / CONFIG).write_text(SETTINGS)
        settings, self.paths = config.load(folder)
        self.loop = asyncio.new_event_loop()
        self.problems, self.failed = Problems(), list[BaseException]()
        self.parts = Assembly(settings, self.paths, self.problems.report, self.failed.append)
        # the encoder comes through the door of all; what is installed beside adaptd is not looked for: that takes half a second
        with patch.dict(plugins.BUILTIN, ENCODER), patch.object(plugins, "entry_points", lambda **_: ()):
            self.parts.take_store()
            self.parts.open_store()
            self.parts.open_domains()
        self.served = self.parts.domains["text"]
        self.verdict = "undecided"
        self.served.adaptation._child_run = self._child  # type: ignore[method-assign]
        self.service = Service(self.parts.domains, {}, {}, self.parts.writer, self.parts.reader, self.parts.inference,
                               self.problems, Meters(), self.paths, Keyring(), self.parts.health, self.parts.room, Alerts([]))
        self.served.learner.when(self.parts.writer.last_seq).result(60)
        self.served.adaptation.go_on()
        self.service.state = "running"

    def do(self, operation: Coroutine[Any, Any, Json]) -> Json:
        """Run one of the service's operations to its end, and what it left for after its answer."""
        async def whole() -> Json:
            answer = await operation
            await asyncio.sleep(0)
            await asyncio.wrap_future(self.parts.writer.submit(lambda connection: None))
            return answer

        return self.loop.run_until_complete(whole())

    def answers(self, asked: Sequence[str]) -> list[tuple[str | None, dict[str, float]]]:
        """Return label and scores of texts, each asked alone, with the ridge solved; nothing is journalled."""
        self.served.learner.call(lambda: None).result(60)
        found = [self.parts.inference.predict("text", "default", [Example(text=text)]).result(60)[0] for text in asked]
        return [(one.heads["label"].label, one.heads["label"].scores) for one in found]

    def folds(self) -> Json:
        """Return what outcomes have made of the state, the comparison with an incumbent apart."""
        state = self.served.learner.state

        def read() -> Json:
            heads = {name: [fold.facts(), fold.trust.tolist(), fold.at.tolist(), fold.recent.tensor().tolist()]
                     for name, fold in ((name, head.fold) for name, head in state.heads.items())}
            return {**restore.folds(state), "incumbent": None, "trial": None, "heads": heads}

        return self.served.learner.call(read).result(60)

    def close(self) -> None:
        """Stop as the daemon does: a checkpoint, then every thread."""
        self.served.learner.call(lambda: self.parts.checkpoint("text")).result(60)
        self.end()

    def died(self, folder: Path) -> Path:
        """Return a copy of the store as a process that dies now leaves it."""
        shutil.copytree(self.folder, folder)
        self.end()
        shutil.rmtree(self.folder)
        return folder

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the threads; again is no harm."""
        if self.loop.is_closed():
            return
        self.served.adaptation.close()
        self.served.learner.close()
        self.parts.inference.close()
        self.parts.writer.close()
        self.parts.engine.dispose()
        self.loop.close()

    def _child(self, module: str, folder: Path, stage: str) -> None:
        """Leave what a trainer and an evaluation leave: an adapter that nobody else has, scores for the wanted verdict."""
        if module == "adaptd.trainer":
            generator = torch.Generator().manual_seed(int(torch.randint(1 << 30, (1,))))
            adapter = Adapter(torch.linalg.qr(torch.randn(16, 8, generator=generator))[0].contiguous(), 20.0)
            (folder / "out" / "adapter.safetensors").write_bytes(files.dump_adapter(adapter))
            (folder / "out" / "report.json").write_text(json.dumps({"versions": {}, "cpu_seconds": 0.0, "memory_mb": 0.0}))
            return
        targets = files.parse((folder / "in" / "judged.safetensors").read_bytes(), "rows")[0]["targets"]
        rows = torch.zeros(0 if self.verdict == "undecided" else 1000, dtype=torch.int64)
        right = targets[rows]
        candidate = right if self.verdict == "promote" else right - 1
        scores = {"rows": rows, "candidate": candidate.clone(), "champion": right.clone()}
        (folder / "out" / "scores.safetensors").write_bytes(files.dump(scores, {}))

