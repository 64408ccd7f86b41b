"""Adapt: the slow path, from the trigger to the verdict. A training job is a folder in and a folder out.

Steps: write the job (rows, champion's adapter) → the trainer child trains a candidate → the evaluation child loads
it from the disk and scores it beside the champion → the gate judges → the candidate is entered as a version, and
promoted if the verdict says so. The champion answers all the while, and learning goes on: the rows that came
meanwhile are projected when the candidate goes live. A crash at any step leaves a job folder that the next start
removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptd import config, runlog, training
from adaptd.errors import Conflict, Refused, TrainingFailed
from adaptd.interfaces import Gate
from adaptd.learn import Learner
from adaptd.metrics import forgetting
from adaptd.model import files
from adaptd.model.attention import Adapter
from adaptd.model.network import Head
from adaptd.process import GivingWay
from adaptd.records import Paired, Verdict
from adaptd.runlog import Run
from adaptd.versions import Versions

log = logging.getLogger(__name__)
KEEP_OUTPUT = 20  # lines of a child's stderr that a failure quotes
ONE_AT_A_TIME = threading.Lock()  # adaptations of all domains share the machine


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an adaptation came to."""

    verdict: Verdict
    version: int

    def body(self) -> dict[str, Any]:
        """Return the contract's answer."""
        return {
            "verdict": self.verdict.decision,
            "version": self.version,
            "reasons": list(self.verdict.reasons),
            "evidence": dict(self.verdict.evidence),
        }


class Adaptation:
    """The adaptations of one domain."""

    def __init__(
        self,
        domain: str,
        learner: Learner,
        versions: Versions,
        gate: Gate,
        settings: config.Adapt,
        jobs: Path,
        runs: Path,
        plugins: Sequence[str],
        report: Callable[[str, str, str], None],
    ) -> None:
        self._domain = domain
        self._learner = learner
        self._versions = versions
        self._gate = gate
        self.settings = settings
        self._jobs = jobs
        self._runs = runs
        self._plugins = plugins
        self._report = report
        self._losses: dict[str, list[float]] = {}  # by head and epoch, of the newest training
        self._since = 0  # labels learned since the last adaptation began
        self._newest = versions.trained_up_to()  # seq up to which rows have been an experience
        self._running: Future[Outcome] | None = None
        self._child: subprocess.Popen[str] | None = None
        self._stopped = False
        self._halted = False
        self._starting = threading.Lock()
        self.suffers: Callable[[], bool] = lambda: False  # whether those who ask wait because of what runs here
        self.held = False
        self.stage: dict[str, Any] | None = None  # what it is doing now, for status
        self.last: dict[str, Any] | None = None  # the last verdict, for status
        self.on_phase: Callable[[str, float], None] = lambda phase, seconds: None
        self.on_trained: Callable[[Mapping[str, Any]], None] = lambda report: None
        self.on_over: Callable[[Mapping[str, Any]], None] = lambda last: None

    @property
    def every(self) -> str | None:
        """The schedule, when there is one and adaptation is enabled."""
        return self.settings.every if self.settings.enabled else None

    # -- triggers ---------------------------------------------------------------------------------------------

    def count(self, rows: int) -> None:
        """Count learned labels; start when there are enough."""
        self._since += rows
        if self.settings.enabled and self.settings.every_labels and self._since >= self.settings.every_labels:
            self.trigger(f"{self._since} new labels")

    def trigger(self, reason: str) -> None:
        """Start unless one is running, or adaptation is on hold."""
        if self._stopped:
            return
        with contextlib.suppress(Conflict):  # held: this is not the moment
            self.start(reason, "adaptd")

    def start(self, reason: str, actor: str) -> Future[Outcome]:
        """Start an adaptation in a thread of its own, or join the one that runs.

        Raises
        ------
        Conflict
            Adaptation is on hold, or records are being forgotten.
        """
        if self.held:
            raise Conflict("adaptation is on hold", hint="adaptd resume --adaptation")
        with self._starting:
            if self._halted:
                raise Conflict("records are being forgotten", hint="adapt again when that is done")
            if self._running is not None and not self._running.done():
                return self._running
            self._since = 0
            self._running = done = Future[Outcome]()
        threading.Thread(target=self._run, args=(reason, actor, done), name=f"adapt-{self._domain}", daemon=True).start()
        return done

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Stop a running adaptation, which may have read what is to be forgotten, and start none meanwhile."""
        with self._starting:
            self._halted = True
        stopped = self._stopped
        try:
            self.close()
            yield
        finally:
            self._stopped, self._halted = stopped, False

    def close(self) -> None:
        """Stop a running adaptation; its job is removed."""
        self._stopped = True
        while self._running is not None and not self._running.done():
            if (child := self._child) is not None:
                child.kill()
            with contextlib.suppress(TimeoutError):  # a child that starts just now is killed at the next turn
                self._running.exception(timeout=0.5)

    # -- the run ----------------------------------------------------------------------------------------------

    def _run(self, reason: str, actor: str, done: Future[Outcome]) -> None:
        try:
            outcome = self._in_turn(reason, actor)
        except BaseException as error:  # an adaptation that fails leaves the champion as it is
            if not self._stopped:
                log.warning("adaptation failed: %s", error, extra={"action": "adapt_failed", "domain": self._domain})
                self._tell(self._report, "adaptation_failed", f"{self._domain}: {error}",
                           "the champion answers on; look at the log")
                self._is_over({"verdict": "failed", "reasons": [str(error)]})
            done.set_exception(error)
        else:
            self._is_over(outcome.body())
            done.set_result(outcome)

    def _in_turn(self, reason: str, actor: str) -> Outcome:
        folder = self._jobs / f"{self._domain}-{os.getpid()}-{time.time_ns()}"
        try:
            with self._turn():
                return self._adapt(folder, reason, actor)
        finally:  # before anybody hears that it is over: who forgets relies on it
            self.stage = None
            shutil.rmtree(folder, ignore_errors=True)

    def _is_over(self, came_to: Mapping[str, Any]) -> None:
        self.last = {**came_to, "at": time.time()}
        self._tell(self.on_over, self.last)

    def _tell(self, somebody: Callable[..., object], *what: Any) -> None:
        """Let somebody know; what fails there is no failure of the adaptation, which may be promoted by then."""
        try:
            somebody(*what)
        except Exception:  # whatever an observer raises: it is logged, and the outcome stands
            log.exception("what an adaptation came to was not told everywhere", extra={"domain": self._domain})

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for the other domains' adaptations, unless this one is stopped meanwhile."""
        while not ONE_AT_A_TIME.acquire(timeout=0.5):
            if self._stopped:
                raise TrainingFailed("stopped before it began")
        try:
            yield
        finally:
            ONE_AT_A_TIME.release()

    def _adapt(self, folder: Path, reason: str, actor: str) -> Outcome:
        self.stage = {"stage": "preparing", "progress": 0.0, "since": time.time(), "reason": reason}
        with self._phase("prepare"):
            branch, seq, jobs = self._learner.call(self._jobs_of_now).result()
            for tensors, _, _, away in jobs.values():
                away.read_into(tensors["vectors"])
        judged: dict[str, tuple[Verdict, dict[str, Any], bytes]] = {}
        for name, (tensors, facts, adapter, _) in jobs.items():
            if int((tensors["holdout"] == 0).sum()) >= self.settings.min_labels and len(set(tensors["targets"].tolist())) > 1:
                judged[name] = self._head(name, folder / name, tensors, facts, adapter)
        if not judged:
            have = max((len(tensors["targets"]) for tensors, *_ in jobs.values()), default=0)
            return Outcome(
                version=self._learner.state.version,
                verdict=Verdict(
                    decision="undecided",
                    reasons=[f"{have} learned labels; an adaptation wants {self.settings.min_labels} of at least two classes"],
                ),
            )
        trained = {  # what a forget asks about it, and what makes it again
            "branch": branch,
            "seq": seq,
            "after": self._newest,
            "from": [hashlib.sha256(files.dump_adapter(adapter)).hexdigest() for _, _, adapter, _ in jobs.values()],
            "heads": list(jobs),
            "judged": {name: metrics["holdout_rows"] for name, (_, metrics, _) in judged.items()},
            "recipe": self._recipe.facts(),
            "made_by": next(iter(judged.values()))[1]["training"]["versions"],
        }
        self._newest = seq
        with self._phase("decide"):
            outcome = self._decide(judged, branch, trained, reason, actor)
        if self.settings.log:
            made = {name: metrics for name, (_, metrics, _) in judged.items()}
            writing = threading.Thread(target=self._log_runs, args=(outcome, made), name=f"runlog-{self._domain}", daemon=True)
            self._tell(writing.start)
        return outcome

    def _logged(self, outcome: Outcome, head: str, metrics: Mapping[str, Any]) -> Run:
        figures = {**metrics["training"]["numbers"], **{f"holdout_{name}": value for name, value in metrics["holdout"].items()},
                   "holdout_rows": metrics["holdout_rows"], "seconds": metrics["training"]["seconds"]}
        return Run(parent_pid=os.getpid(), log=[*self.settings.log], domain=self._domain, head=head, version=outcome.version,
                   decision=outcome.verdict.decision, config=self._recipe.facts(), losses=self._losses.get(head, []),
                   figures={name: float(value) for name, value in figures.items() if value is not None})

    def _log_runs(self, outcome: Outcome, judged: Mapping[str, Mapping[str, Any]]) -> None:
        try:
            for run in [self._logged(outcome, name, metrics) for name, metrics in judged.items()]:
                runlog.write(run, self._runs)
        except (OSError, TypeError, ValueError) as error:  # the verdict stands: only the log lacks it
            self._report("run_not_logged", f"{self._domain}: an adaptation was not logged: {error}", "look at [adapt] log")

    @contextlib.contextmanager
    def _phase(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._tell(self.on_phase, phase, time.monotonic() - began)

    @property
    def _recipe(self) -> training.Recipe:
        settings = self.settings
        return training.Recipe(strategy=settings.strategy, options=settings.options, seed=settings.seed,
                               device=settings.device, threads=settings.threads)

    def _jobs_of_now(self) -> tuple[int, int, dict[str, tuple[dict[str, Tensor], dict[str, Any], Adapter, training.Away]]]:
        """Return the branch that grows, its seq, and what a job of each head needs."""
        state = self._learner.state
        return self._versions.branch(), state.seq, {name: self._rows(head) for name, head in state.heads.items()}

    def _rows(self, head: Head) -> tuple[dict[str, Tensor], dict[str, Any], Adapter, training.Away]:
        """Copy what a job needs; in the learner's thread, with the ridge solved."""
        tensors, away = training.rows(head, self._newest)
        tensors |= {"trust": head.fold.trust, "trust_at": head.fold.at}
        facts = {
            "labels": head.labels,
            "learned": head.learned,
            "features": head.options.features,
            "seed": head.options.seed,
            "neighbours": head.options.neighbours,
            **head.fold.facts(),
        }
        return tensors, facts, head.adapter, away

    def _head(
        self, name: str, folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any], adapter: Adapter
    ) -> tuple[Verdict, dict[str, Any], bytes]:
        """Train, evaluate and judge one head."""
        training.write(folder, self._recipe, tensors, facts["labels"], adapter, plugins=self._plugins)
        with self._phase("train"):
            self._child_run("adaptd.trainer", folder, "training")
        (folder / "in" / "rows.safetensors").write_bytes(files.dump(tensors, facts))
        with self._phase("evaluate"):
            self._child_run("adaptd.evaluate", folder, "evaluating")
        candidate = (folder / "out" / "adapter.safetensors").read_bytes()
        scores, _ = files.parse((folder / "out" / "scores.safetensors").read_bytes(), "scores")
        verdict, metrics = self._judge(name, tensors, facts, scores)
        report = json.loads((folder / "out" / "report.json").read_text())
        if self.settings.log:
            self._losses[name] = json.loads((folder / "out" / "losses.json").read_text())
        self._tell(self.on_trained, report)
        return verdict, {**metrics, "training": report}, candidate

    def _judge(
        self, head: str, tensors: dict[str, Tensor], facts: dict[str, Any], scores: dict[str, Tensor]
    ) -> tuple[Verdict, dict[str, Any]]:
        truth = tensors["targets"][scores["rows"]]
        right = {name: (scores[name] == truth).int() for name in ("candidate", "champion")}
        paired = Paired(
            candidate=right["candidate"].tolist(),
            champion=right["champion"].tolist(),
            classes=[facts["labels"][c] for c in truth.tolist()],
            earlier=self._versions.tries(head),
        )
        verdict = self._gate.judge(paired)
        n = len(truth)
        classes = {facts["labels"][c]: float(right["champion"][truth == c].float().mean()) for c in sorted(set(truth.tolist()))}
        return verdict, {
            "holdout": {name: float(r.float().mean()) if n else None for name, r in right.items()},
            "holdout_rows": n,
            "classes": classes,
        }

    def _decide(
        self,
        judged: Mapping[str, tuple[Verdict, dict[str, Any], bytes]],
        branch: int,
        trained: Mapping[str, Any],
        reason: str,
        actor: str,
    ) -> Outcome:
        """Enter the candidate and, if every head's verdict says so, promote it."""
        self.stage = {**(self.stage or {}), "stage": "deciding", "progress": 1.0}
        verdicts = [verdict for verdict, _, _ in judged.values()]
        worst = min(verdicts, key=lambda v: ("reject", "undecided", "promote").index(v.decision))
        reasons = [(f"{name}: " if len(judged) > 1 else "") + text for name, (v, _, _) in judged.items() for text in v.reasons]
        verdict = Verdict(decision=worst.decision, reasons=reasons, evidence=worst.evidence)
        first = next(iter(judged.values()))[1]
        metrics = {**first, "heads": {name: m for name, (_, m, _) in judged.items()}} if len(judged) > 1 else first
        metrics = {**metrics, "trained": trained}
        contents = {f"{name}.adapter": data for name, (_, _, data) in judged.items()}
        body = {"decision": verdict.decision, "reasons": reasons, "evidence": verdict.evidence}
        number = self._versions.enter_candidate(contents, body, metrics, f"{self.settings.strategy}: {reason}", actor)
        if verdict.decision == "promote":
            try:
                if self.held:
                    raise Refused("adaptation was put on hold while this candidate was trained", hint=f"adaptd promote {number}")
                self._versions.promote(number, False, "; ".join(reasons), actor, verdict.evidence, branch)
            except Refused as refusal:
                return Outcome(version=number, verdict=Verdict(decision="undecided", evidence=verdict.evidence,
                                                               reasons=[*reasons, f"not promoted: {refusal.message}"]))
        return Outcome(verdict=verdict, version=number)

    def forgetting(self) -> float | None:
        """Return forgetting over the evaluations so far, as a share."""
        return forgetting(self._versions.evaluations())

    # -- children ---------------------------------------------------------------------------------------------

    def _child_run(self, module: str, folder: Path, stage: str) -> None:
        """Run a child to its end, following its progress; raise TrainingFailed with its own words."""
        if self._stopped:
            raise TrainingFailed("stopped: the daemon is stopping, or records are being forgotten")
        self.stage = {**(self.stage or {}), "stage": stage, "progress": 0.0}
        child = training.start(module, folder)
        self._child = child
        said: deque[str] = deque(maxlen=KEEP_OUTPUT)
        listener = threading.Thread(target=lambda: said.extend(child.stderr or ()), daemon=True)
        listener.start()
        try:
            with GivingWay(child, stage, self.settings.time_limit_s, lambda: self.suffers()) as way:
                for line in child.stdout or ():
                    self._progress(line)
                code = child.wait()
            if way.stopped_s:
                log.info("%s gave way to predictions for %.1f s", stage, way.stopped_s,
                         extra={"action": "gave_way", "domain": self._domain})
            listener.join(timeout=5.0)
        finally:
            self._child = None
        if code != 0:
            raise TrainingFailed(training.failure(stage, code, said))

    def _progress(self, line: str) -> None:
        try:
            told = json.loads(line)
            self.stage = {**(self.stage or {}), "progress": float(told["progress"]), "words": str(told.get("words", ""))}
        except (ValueError, KeyError, TypeError):
            log.debug("trainer: %s", line.rstrip())


def sweep(jobs: Path) -> list[str]:
    """Remove what an earlier daemon's adaptations left; return the folders' names."""
    left = sorted(p.name for p in jobs.glob("*")) if jobs.is_dir() else []
    shutil.rmtree(jobs, ignore_errors=True)
    jobs.mkdir(parents=True, mode=0o700)
    return left
