"""Adapt: the slow path, from the trigger to the verdict. A training job is a folder in and a folder out.

Steps: write the job (rows, champion's adapter) → the trainer child trains a candidate → the evaluation child loads
it from the disk and scores it beside the champion → the gate judges → the candidate is entered as a version, and
promoted if the verdict says so. The champion answers all the while, and learning goes on: the rows that came
meanwhile are projected when the candidate goes live. A stop or a crash at any step leaves a job folder that the next start
goes on with, if all is as it was (`adaptd.begun`), and removes otherwise.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptd import begun, config, heads, runlog, training
from adaptd.begun import Begun
from adaptd.children import Children
from adaptd.errors import Cancelled, Conflict, Refused, TrainingFailed
from adaptd.evaluate import paired
from adaptd.interfaces import Gate
from adaptd.learn import Learner
from adaptd.metrics import forgetting
from adaptd.model import files
from adaptd.model.attention import Adapter
from adaptd.records import Verdict
from adaptd.runlog import Run
from adaptd.training import CONSOLIDATE, FINETUNE
from adaptd.triggers import Triggers
from adaptd.versions import Versions

log = logging.getLogger(__name__)
ON_DEMAND = "on demand"  # why one was started that somebody asked for
ADAPT, TRIAL = "adapt", "weak"  # beside CONSOLIDATE: what may run, and what the history calls it
RUNS = {ADAPT: "an adaptation runs", CONSOLIDATE: "a consolidation runs", TRIAL: "a trial of weak labels runs"}


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


Work = Callable[[Path, str, str], Outcome]  # a job's folder, why it was started, by whom


@dataclass(frozen=True, kw_only=True)
class Consolidating:
    """What a domain's consolidations need."""

    settings: config.Consolidate
    reads: training.Reads
    triggers: Triggers

    def when(self, adapt: config.Adapt) -> config.Adapt:
        """Return what starts one by itself, in the words of what starts an adaptation."""
        wanted = adapt.enabled and self.reads.tunable and self.settings.every_labels > 0
        return config.Adapt(enabled=wanted, every_labels=self.settings.every_labels, min_labels=adapt.min_labels)


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
        self.gate = gate
        self.settings = settings
        self._jobs = jobs
        self._runs = runs
        self._plugins = plugins
        self._report = report
        self._losses: dict[str, list[float]] = {}  # by head and epoch, of the newest training
        self._newest = versions.trained_up_to()  # seq up to which rows have been an experience
        self.triggers = Triggers(versions.tried(), versions.labels_since(self._newest))
        self._consolidate: Consolidating | None = None
        self.writes: training.Writes | None = None  # where texts are written by what is trained
        self._kind = ADAPT  # of what runs
        self.trying: Mapping[str, Any] | None = None  # what a trial that runs is about, for the history if it comes to nothing
        self._asked: object = None  # of it, where one kind does several things
        self._running: Future[Outcome] | None = None
        self.children = Children(domain)
        self._stopped = False
        self._halted = False
        self.counting = True  # not while the journal's tail is learned again: its labels have been counted in the tables
        self._starting = threading.Lock()
        self.last: dict[str, Any] | None = None  # the last verdict, for status
        self.on_phase: Callable[[str, float], None] = lambda phase, seconds: None
        self.on_trained: Callable[[Mapping[str, Any]], None] = lambda report: None
        self.on_over: Callable[[Mapping[str, Any]], None] = lambda last: None

    def consolidates(self, settings: config.Consolidate, reads: training.Reads) -> None:
        """Let upper blocks of the encoder be tuned, on demand and, if it says so, by count of labels."""
        since = self._versions.labels_since(self._versions.consolidated_up_to())
        triggers = Triggers(self._versions.tried(consolidations=True), since)
        self._consolidate = Consolidating(settings=settings, reads=reads, triggers=triggers)

    @property
    def consolidating(self) -> Mapping[str, Any] | None:
        """When the next consolidation starts, for status; None where upper blocks cannot be tuned."""
        known = self._consolidate
        return None if known is None or not known.reads.tunable else known.triggers.facts(known.when(self.settings))

    @property
    def every(self) -> str | None:
        """The schedule, when there is one and adaptation is enabled."""
        return self.settings.every if self.settings.enabled else None

    @property
    def held(self) -> bool:
        """Whether no adaptation starts, and one that runs is paused."""
        return self.children.paused

    def hold(self) -> None:
        """Start none, and pause one that runs."""
        self.children.pause()

    def resume(self) -> None:
        """Start again, and go on with what was paused."""
        self.children.go_on()

    # -- triggers ---------------------------------------------------------------------------------------------

    def count(self, rows: int) -> None:
        """Count learned labels; start when it is time."""
        if not self.counting:
            return
        if (why := self.triggers.due(self.settings, rows, self._learner.state.prequential)) is not None:
            self.trigger(why)
        known = self._consolidate
        if known is not None and (why := known.triggers.due(known.when(self.settings), rows,
                                                            self._learner.state.prequential)) is not None:
            self.trigger(why, consolidate=True)

    def trigger(self, reason: str, *, consolidate: bool = False) -> None:
        """Start unless one is running, or adaptation is on hold."""
        if self._stopped:
            return
        with contextlib.suppress(Conflict):  # held: this is not the moment
            self.start(reason, "adaptd", consolidate=consolidate)

    def start(self, reason: str, actor: str, *, consolidate: bool = False) -> Future[Outcome]:
        """Start an adaptation, or a consolidation, in a thread of its own, or join the one that runs.

        Raises
        ------
        Conflict
            Adaptation is on hold, records are being forgotten, something else runs, or there is nothing to adapt, or no
            blocks to tune.
        """
        recipe = self._consolidation() if consolidate else self._recipe
        return self.start_other(CONSOLIDATE if consolidate else ADAPT, self._adapting(recipe), reason, actor)

    def start_other(self, kind: str, work: Work, reason: str, actor: str,
                    trying: Mapping[str, Any] | None = None, asked: object = None) -> Future[Outcome]:
        """Start what has its turn as an adaptation has, in a thread of its own, or join what was `asked` alike; see `start`."""
        if self.held:
            raise Conflict("adaptation is on hold", hint="adaptd resume --adaptation")
        if not any(head.options.adapts for head in self._learner.state.heads.values()):
            raise Conflict("there is nothing to adapt: the answers of this domain are written by what is not trained",
                           hint="it learns from each label")
        with self._starting:
            if self._halted:
                raise Conflict("records are being forgotten", hint="adapt again when that is done")
            if self._running is not None and not self._running.done():
                if (kind, asked) != (self._kind, self._asked):
                    raise Conflict(RUNS[self._kind], hint="start it when that is over")
                return self._running
            self.trying, self._asked = trying, asked
            return self._begin(self._jobs / begun.name(self._domain), reason, actor, kind, work)

    def go_on(self) -> None:
        """Go on with the adaptation that an earlier daemon had begun, if there is one; after the journal's tail is learned."""
        self.counting = True
        with self._starting:
            if self._running is None and (taken := begun.take(self._jobs, self._domain)) is not None:
                folder, was = taken
                log.info("goes on with an adaptation (%s)", was.reason, extra={"action": "adapt_goes_on", "domain": self._domain})
                tunes = was.recipe["strategy"] == CONSOLIDATE and self.consolidating is not None
                recipe = self._consolidation() if tunes else self._recipe
                self._begin(folder, was.reason, was.actor, CONSOLIDATE if tunes else ADAPT, self._adapting(recipe, was))

    def _adapting(self, recipe: training.Recipe, was: Begun | None = None) -> Work:
        return functools.partial(self._adapt, recipe=recipe, was=was)

    def _begin(self, folder: Path, reason: str, actor: str, kind: str, work: Work) -> Future[Outcome]:
        known, self._kind = self._consolidate, kind
        if kind != TRIAL:
            (known.triggers if known is not None and kind == CONSOLIDATE else self.triggers).begun()
        self._running = done = Future[Outcome]()
        self.children.ending = None
        threading.Thread(target=self._run, args=(folder, reason, actor, kind, work, done), name=f"adapt-{self._domain}",
                         daemon=True).start()
        return done

    def cancel(self, reason: str, actor: str) -> str:
        """End the adaptation that runs, or is paused; return what became of it, in words.

        Raises
        ------
        Conflict
            None runs, or it was over before it could be ended.
        """
        with self._starting:
            running = self._running
            if running is None or running.done():
                raise Conflict("no adaptation runs", hint="adaptd status shows one that does")
            words = f"cancelled by {actor}" + (f": {reason}" if reason else "")
            why = Cancelled(words, hint="adapt again when you want one")
            why.by = actor
            self.children.end(why)
        if not isinstance(running.exception(), Cancelled):
            raise Conflict("the adaptation was over before it could be cancelled", hint="adaptd history says what it came to")
        return words

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
        """Stop a running adaptation; the next start goes on with its job, unless that is halted."""
        self._stopped = True
        self.children.end(TrainingFailed("stopped: the daemon is stopping, or records are being forgotten"))
        if self._running is not None:
            self._running.exception()

    # -- the run ----------------------------------------------------------------------------------------------

    def _run(self, folder: Path, reason: str, actor: str, kind: str, work: Work, done: Future[Outcome]) -> None:
        try:
            outcome = self._in_turn(folder, reason, actor, work)
        except BaseException as error:  # an adaptation that fails leaves the champion as it is
            if not self._stopped:
                self._came_to_nothing(error, actor, reason, kind)
            done.set_exception(error)
        else:
            if kind != TRIAL:
                self._is_over({**outcome.body(), "started": reason})
            done.set_result(outcome)

    def _in_turn(self, folder: Path, reason: str, actor: str, work: Work) -> Outcome:
        try:
            with self.children.turn():
                return work(folder, reason, actor)
        finally:  # before anybody hears that it is over: who forgets relies on it
            self.children.stage = None
            if self._stopped and not self._halted:
                begun.stopped(folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)

    def _came_to_nothing(self, error: BaseException, actor: str, reason: str, which: str) -> None:
        """Say why in history, status and, if nobody wanted it so, problems."""
        what = "cancelled" if isinstance(error, Cancelled) else "failed"
        log.warning("adaptation %s: %s", what, error, extra={"action": f"adapt_{what}", "domain": self._domain})
        if what == "failed":
            self._tell(self._report, "adaptation_failed", f"{self._domain}: {error}",
                       getattr(error, "hint", "") or "the champion answers on; look at the log")
        who = error.by if isinstance(error, Cancelled) else actor
        detail = self.trying if which == TRIAL else None
        self._tell(lambda: self._versions.note(f"{which}-{what}", who, str(error), detail=detail))
        if which == TRIAL:
            return
        self._is_over({"verdict": what, "reasons": [str(error)], "started": reason})

    def _is_over(self, came_to: Mapping[str, Any]) -> None:
        self.last = {**came_to, "at": time.time()}
        self._tell(self._look_back)
        self._tell(self.on_over, self.last)

    def _look_back(self) -> None:
        self.triggers.tried = self._versions.tried()
        if self._consolidate is not None:
            self._consolidate.triggers.tried = self._versions.tried(consolidations=True)

    def _tell(self, somebody: Callable[..., object], *what: Any) -> None:
        """Let somebody know; what fails there is no failure of the adaptation, which may be promoted by then."""
        try:
            somebody(*what)
        except Exception:  # whatever an observer raises: it is logged, and the outcome stands
            log.exception("what an adaptation came to was not told everywhere", extra={"domain": self._domain})

    def _adapt(self, folder: Path, reason: str, actor: str, *, recipe: training.Recipe, was: Begun | None) -> Outcome:
        self.children.stage = {"stage": "preparing", "progress": 0.0, "since": time.time(), "reason": reason}
        with self._phase("prepare"):
            after = self._newest if was is None else was.after
            branch, seq, jobs = self._learner.call(functools.partial(self._jobs_of_now, after)).result()
            for tensors, _, _, away in jobs.values():
                away.read_into(tensors["vectors"])
        origin = {name: hashlib.sha256(files.dump_adapter(adapter)).hexdigest() for name, (_, _, adapter, _) in jobs.items()}
        if was is not None:
            self._check_same(was.differs(branch, self._newest, origin, recipe.facts()))
        now = was or Begun(domain=self._domain, reason=reason, actor=actor, branch=branch, seq=seq, after=after, origin=origin,
                           recipe=recipe.facts())
        consolidates, asked = recipe.strategy == CONSOLIDATE, reason == ON_DEMAND
        judged: dict[str, tuple[Verdict, dict[str, Any], bytes]] = {}
        for name, (tensors, facts, adapter, _) in jobs.items():
            if self._lacks(tensors, facts, consolidates, asked) is None:
                now.write(folder)
                judged[name] = self._head(name, folder / name, tensors, facts, adapter, now)
        if not judged:
            lacks = [words for tensors, facts, *_ in jobs.values() if (words := self._lacks(tensors, facts, consolidates, asked))]
            return Outcome(version=self._learner.state.version, verdict=Verdict(decision="undecided", reasons=lacks[:1]))
        trained = {  # what a forget asks about it, and what makes it again
            "branch": now.branch,
            "seq": now.seq,
            "after": now.after,
            "from": list(origin.values()),
            "heads": list(jobs),
            "judged": {name: metrics["holdout_rows"] for name, (_, metrics, _) in judged.items()},
            "recipe": now.recipe,
            "made_by": next(iter(judged.values()))[1]["training"]["versions"],
        }
        if not consolidates:
            self._newest = now.seq
        self.children.check()
        with self._phase("decide"):
            outcome = self._decide(judged, branch, trained, reason, actor)
        if self.settings.log:
            made = {name: metrics for name, (_, metrics, _) in judged.items()}
            writing = threading.Thread(target=self._log_runs, args=(outcome, made, now.recipe), name=f"runlog-{self._domain}",
                                       daemon=True)
            self._tell(writing.start)
        return outcome

    def _lacks(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], consolidates: bool, asked: bool) -> str | None:
        """Say what a head lacks to be adapted, or consolidated, None where it lacks nothing."""
        seen, wanted = tensors["holdout"] == 0, self.settings.min_labels
        generates = _generates(facts)
        if int(seen.sum()) < wanted or (len(set(tensors["targets"].tolist())) < 2 and not generates):
            return f"{len(seen)} learned labels; an adaptation wants {wanted}" + ("" if generates else " of at least two classes")
        if consolidates:
            one = type(heads.of(facts["kind"])) is heads.Classify
            return None if one else "only a head that answers with one label has a use for tuned upper blocks"
        if not bool((tensors["fresh"][seen] == 1).any()) and not (generates and asked):  # its weights may be out of use
            return "no label was learned since the last adaptation"
        return None

    def _logged(self, outcome: Outcome, head: str, metrics: Mapping[str, Any], recipe: Mapping[str, Any]) -> Run:
        figures = {**metrics["training"]["numbers"], **{f"holdout_{name}": value for name, value in metrics["holdout"].items()},
                   "holdout_rows": metrics["holdout_rows"], "seconds": metrics["training"]["seconds"]}
        return Run(parent_pid=os.getpid(), log=[*self.settings.log], domain=self._domain, head=head, version=outcome.version,
                   decision=outcome.verdict.decision, config=dict(recipe), losses=self._losses.get(head, []),
                   figures={name: float(value) for name, value in figures.items() if value is not None})

    def _log_runs(self, outcome: Outcome, judged: Mapping[str, Mapping[str, Any]], recipe: Mapping[str, Any]) -> None:
        try:
            for run in [self._logged(outcome, name, metrics, recipe) for name, metrics in judged.items()]:
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
        settings, strategy, options = self.settings, self.settings.strategy, self.settings.options
        if self.writes is not None and all(head.options.generates for head in self._learner.state.heads.values()):
            strategy, options = FINETUNE, {"digest": self.writes.digest}  # not themselves: they may hold secrets
        return training.Recipe(strategy=strategy, options=options, seed=settings.seed, device=settings.device,
                               threads=settings.threads)

    def _consolidation(self) -> training.Recipe:
        """Return the recipe of a consolidation.

        Raises
        ------
        Conflict
            The encoder's upper blocks cannot be tuned.
        """
        known = self._consolidate
        if known is None or not known.reads.tunable:
            raise Conflict("this domain's encoder has no upper blocks that can be tuned", field="consolidate",
                           hint="text encoders of the kind of BERT can be; adapt without --consolidate")
        return replace(self._recipe, strategy=CONSOLIDATE, options=known.settings.options)

    def _check_same(self, wrong: str | None) -> None:
        """Let go of an adaptation that an earlier daemon had begun and that would make another candidate now."""
        if wrong is not None:
            raise Cancelled(f"an adaptation that was interrupted does not go on: {wrong} since")

    def _jobs_of_now(
        self, after: int
    ) -> tuple[int, int, dict[str, tuple[dict[str, Tensor], dict[str, Any], Adapter, training.Away]]]:
        """Return the branch that grows, its seq, and what a job of each head needs."""
        state = self._learner.state
        return self._versions.branch(), state.seq, {name: training.judged(head, after) for name, head in state.heads.items()
                                                      if head.options.adapts}

    def _head(
        self, name: str, folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any], adapter: Adapter, now: Begun
    ) -> tuple[Verdict, dict[str, Any], bytes]:
        """Train, evaluate and judge one head; go on where an earlier daemon had come to."""
        reads = self._consolidate.reads if self._consolidate is not None else None
        consolidates, writes = now.recipe["strategy"] == CONSOLIDATE, self.writes if _generates(facts) else None
        trainer, judge = ("adaptd.finetune", "adaptd.compare") if writes else \
            ("adaptd.consolidate" if consolidates else "adaptd.trainer", "adaptd.evaluate")
        if (folder / "in").is_dir():
            same = training.go_on(folder, tensors, facts["labels"], now.seq)
            self._check_same(None if same else "the rows that it learns have changed")
        elif writes:
            training.write_lesson(folder, training.Recipe(**now.recipe), tensors, facts["labels"], adapter, name, writes,
                                  seq=now.seq, plugins=self._plugins)
        else:
            recipe = training.Recipe(**now.recipe)
            training.write(folder, recipe, tensors, facts["labels"], adapter, seq=now.seq, plugins=self._plugins,
                           reads=reads if consolidates else None)
        if not (folder / "out" / "report.json").exists():
            with self._phase("train"):
                self._child_run(trainer, folder, "training")
        (folder / "in" / "judged.safetensors").write_bytes(files.dump(tensors, facts))
        if writes:
            (folder / "in" / "judged.json").write_bytes(writes.file(name, tensors["id"]))
        elif reads is not None and (consolidates or adapter.upper is not None):
            training.write_held(folder, training.Recipe(**now.recipe), tensors, facts["labels"], reads, self._plugins)
        with self._phase("evaluate"):
            self._child_run(judge, folder, "evaluating")
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
        truth, generates = tensors["targets"][scores["rows"]], _generates(facts)
        right = {name: scores[name] if generates else (scores[name] == truth).int() for name in ("candidate", "champion")}
        verdict = self.gate.judge(paired(scores, tensors, facts["labels"], self._versions.tries(head)))
        n = len(truth)
        if generates and verdict.decision == "promote" and right["candidate"].mean() < right["champion"].mean():
            spoils = "it is better more often, but worse by more: its mean score is lower"
            verdict = replace(verdict, decision="undecided", reasons=[spoils, *verdict.reasons])
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
        """Enter the candidate and promote it: the heads that their verdict says so of, where the others stay as they are."""
        self.children.at("deciding", 1.0)
        verdicts = [verdict for verdict, _, _ in judged.values()]
        passed = {name for name, (verdict, _, _) in judged.items() if verdict.decision == "promote"}
        worst = min(verdicts, key=lambda v: (bool(passed) and v.decision != "promote",
                                             ("reject", "undecided", "promote").index(v.decision)))
        reasons = [(f"{name}: " if len(judged) > 1 else "") + text for name, (v, _, _) in judged.items() for text in v.reasons]
        verdict = Verdict(decision=worst.decision, reasons=reasons, evidence=worst.evidence)
        first = next(iter(judged.values()))[1]
        metrics = {**first, "heads": {name: m for name, (_, m, _) in judged.items()}} if len(judged) > 1 else first
        metrics = {**metrics, "trained": {**trained, "passed": sorted(passed)}}
        contents = {f"{name}.adapter": data for name, (_, _, data) in judged.items() if not passed or name in passed}
        body = {"decision": verdict.decision, "reasons": reasons, "evidence": verdict.evidence}
        number = self._versions.enter_candidate(contents, body, metrics, f"{trained['recipe']['strategy']}: {reason}", actor)
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

    def _child_run(self, module: str, folder: Path, stage: str) -> None:
        self.children.run(module, folder, stage, self.settings)


def _generates(facts: Mapping[str, Any]) -> bool:
    """Say whether a head's facts are those of texts that are written."""
    return isinstance(heads.of(facts["kind"]), heads.Generate)
