"""Probation: after a promotion the old champion shadows the new one on live traffic, and comes back if the new one is worse.

Where: behind learning. The learner asks both about each labelled row before it learns it (`Learner._judge`): the old
adapter over the same memory and ridge, so that only the adapter differs, and with it what each has learned to trust from its
own outcomes. Only labelled rows are asked about, in the
learner's thread, so no answer waits for it. A sequential test (`adaptd.sequential`) looks at the counts after each
block, and either demotes or, at the end of the window, does not. Another promotion, a rollback or a forget ends it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from adaptd import config
from adaptd.adapt import Adaptation
from adaptd.db import Writer
from adaptd.errors import AdaptdError
from adaptd.history import act
from adaptd.learn import Learner
from adaptd.model.network import Shadow
from adaptd.sequential import Trial
from adaptd.versions import ADAPTD, Versions

log = logging.getLogger(__name__)
DAY_S = 86_400.0
PASSED = "probation-passed"


class Probation:
    """The probation of one domain's live version."""

    def __init__(self, domain: int, name: str, learner: Learner, versions: Versions, adaptation: Adaptation, writer: Writer,
                 settings: config.Probation, report: Callable[[str, str, str], None]) -> None:
        self._domain = domain
        self._name = name
        self._learner = learner
        self._versions = versions
        self._adaptation = adaptation
        self._writer = writer
        self.settings = settings
        self._report = report
        self._demoting = False
        versions.on_promoted = self._begin

    def status(self) -> dict[str, Any] | None:
        """Return the counts, and where the window ends; None when nothing is on probation."""
        trial = self._learner.state.trial
        if trial is None:
            return None
        return {**trial.evidence(), "demoted_at": 1 / self.settings.alpha, "labels": self.settings.labels,
                "since": trial.began, "until": trial.began + self.settings.days * DAY_S}

    def look(self) -> None:
        """Look whether the window has come to its end; also without a label, by the clock."""
        if self._learner.state.trial is not None:
            self._learner.call(self.judge)

    # -- in the learner's thread ------------------------------------------------------------------------------

    def _begin(self, version: int, champion: int, shadows: Mapping[str, Shadow]) -> None:
        new = Trial(version=version, champion=champion, began=time.time(), shadows=shadows)
        self._learner.state.trial = new if self.settings.labels and shadows else None

    def judge(self) -> None:
        """Demote, or end the window, when it is time; after each block."""
        trial = self._learner.state.trial
        if trial is None or self._demoting:
            return
        if trial.e_value >= 1 / self.settings.alpha:
            self._demoting = True  # elsewhere: it waits for this thread
            given = trial, f"{_figures(trial)}; {1 / self.settings.alpha:g} was enough", trial.evidence()
            threading.Thread(target=self._demote, args=given, name=f"demote-{self._name}", daemon=True).start()
        elif trial.n >= self.settings.labels or time.time() >= trial.began + self.settings.days * DAY_S:
            self._pass(trial)

    def _pass(self, trial: Trial) -> None:
        self._learner.state.trial = None
        words = f"{_figures(trial)}, too little to call version {trial.version} worse"
        self._writer.submit(lambda connection: act(connection, self._writer.last_seq, self._domain, PASSED, ADAPTD, words,
                                                   before=trial.champion, after=trial.version, detail=trial.evidence()))
        log.info("%s: %s", self._name, words, extra={"action": "probation_passed", "domain": self._name})

    # -- in a thread of its own -------------------------------------------------------------------------------

    def _demote(self, trial: Trial, words: str, evidence: Mapping[str, Any]) -> None:
        """Bring the old champion back; a running adaptation, which began from the new one, is stopped."""
        try:
            with self._adaptation.halted():
                number = self._versions.demote(trial, words, evidence)
            if number is not None:
                self._report("demoted", f"{self._name}: version {trial.version} did worse than the champion before it and was "
                             f"demoted: {words}", f"version {number} answers: the old adapter over the present memory")
        except (AdaptdError, OSError) as error:  # the next block tries again
            self._report("demotion_failed", f"{self._name}: version {trial.version} does worse and could not be demoted: {error}",
                         "it is tried again with the next label; or adaptd rollback")
        finally:
            self._demoting = False


def _figures(trial: Trial) -> str:
    return (f"on {trial.n} labels version {trial.version} alone was right {trial.better} times and the champion before it alone "
            f"{trial.worse} times: e-value {trial.e_value:.3g}")
