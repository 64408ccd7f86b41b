"""What runs by the clock: the one table of APScheduler jobs. They live in memory and come from the configuration."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from apscheduler.schedulers.base import BaseScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from adaptd import config
from adaptd.errors import BadConfig
from adaptd.health import Health
from adaptd.served import Served
from adaptd.watch import Watch

EXPIRE_S = 3600  # how often old versions lose their files, and once at the start
PROBATION_S = 60  # how often a probation is looked at without a label
TRIAL_S = 15  # between two looks at whether weak labels are to be tried, where there may be some
WATCH_S = 5  # between two looks of an observer
LOOK_S = 2  # between two looks at what is to be alerted, and at a folder of documents
BEAT_S = 5  # how often the scheduler shows that it turns
STATUS_S = 60  # how often the status document is kept for when the daemon is stopped
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def trigger(every: str) -> BaseTrigger:
    """Return the trigger of an interval ("30m", "6h") or a crontab ("0 3 * * *").

    Raises
    ------
    BadConfig
        It is neither.
    """
    if found := re.fullmatch(r"\s*(\d+)\s*([smhd])\s*", every):
        return IntervalTrigger(**{UNITS[found[2]]: int(found[1])})
    try:
        return CronTrigger.from_crontab(every)
    except ValueError as error:
        raise BadConfig(
            f"adapt.every: {every!r}: {error}", field="adapt.every", hint='"6h", or a crontab like "0 3 * * *"'
        ) from None


def schedule(scheduler: BaseScheduler, domains: Mapping[str, Served], health: Health, look: Callable[[], None] | None,
             save_status: Callable[[], None], versions: config.Versions) -> None:
    """Enter every job: one at a time each, missed ones run once."""
    common = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    health.watch("scheduler")
    scheduler.add_job(health.beat, IntervalTrigger(seconds=BEAT_S), args=("scheduler",), id="beat", **common)
    if look is not None:
        scheduler.add_job(look, IntervalTrigger(seconds=LOOK_S), id="alerts", **common)
    scheduler.add_job(save_status, IntervalTrigger(seconds=STATUS_S), id="status", **common)
    for name, served in domains.items():
        scheduler.add_job(served.versions.expire, IntervalTrigger(seconds=EXPIRE_S), args=(versions.keep, versions.keep_days),
                          id=f"expire-{name}", next_run_time=datetime.now(UTC), **common)
        scheduler.add_job(served.probation.look, IntervalTrigger(seconds=PROBATION_S), id=f"probation-{name}", **common)
        if served.library is not None:
            scheduler.add_job(served.library.look, IntervalTrigger(seconds=LOOK_S), id=f"documents-{name}",
                              next_run_time=datetime.now(UTC), **common)
        if served.admission.by_the_clock:
            scheduler.add_job(served.admission.look, IntervalTrigger(seconds=TRIAL_S), id=f"weak-{name}", **common)
        if (every := served.adaptation.every) is not None:
            when = trigger(every)
            adapt = paced(served.adaptation.trigger, when.interval.total_seconds()) if isinstance(when, IntervalTrigger) else \
                served.adaptation.trigger
            scheduler.add_job(adapt, when, args=("by schedule",), id=f"adapt-{name}", **common)


def watch(scheduler: BaseScheduler, watches: Mapping[str, Watch]) -> None:
    """Enter a job for each observer, which looks where there is something new."""
    for name, one in watches.items():
        scheduler.add_job(one.by_the_clock, IntervalTrigger(seconds=WATCH_S), id=f"watch-{name}", coalesce=True, max_instances=1,
                          misfire_grace_time=None)


def paced(run: Callable[[str], object], seconds: float) -> Callable[[str], None]:
    """Return a job that does nothing before its interval is over, whatever the clock on the wall was set to."""
    began = time.monotonic()

    def when_due(why: str) -> None:
        nonlocal began
        if time.monotonic() - began > 0.9 * seconds:
            began = time.monotonic()
            run(why)

    return when_due


def clock_was_set(scheduler: BaseScheduler) -> None:
    """Begin every interval anew: next times are the wall's, and after it was set back none would come for as long."""
    for job in scheduler.get_jobs():
        if isinstance(job.trigger, IntervalTrigger):
            job.reschedule(IntervalTrigger(seconds=job.trigger.interval.total_seconds()))
