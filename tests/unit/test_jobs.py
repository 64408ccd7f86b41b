"""What runs by the clock, when the clock is set."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from adaptd import jobs


def test_an_interval_is_not_over_because_the_wall_says_so() -> None:
    done: list[str] = []
    job = jobs.paced(done.append, 0.05)
    job("too soon")
    time.sleep(0.06)  # of the interval itself
    job("in time")
    job("again")
    assert done == ["in time"]


def test_after_the_clock_was_set_back_intervals_begin_anew_and_times_of_day_stay() -> None:
    scheduler = BackgroundScheduler(timezone=UTC)
    later = datetime.now(UTC) + timedelta(days=1)
    scheduler.add_job(print, IntervalTrigger(seconds=5), id="beat", next_run_time=later)
    scheduler.add_job(print, CronTrigger.from_crontab("0 3 * * *"), id="night")
    scheduler.start(paused=True)
    try:
        night = scheduler.get_job("night").next_run_time
        jobs.clock_was_set(scheduler)
        assert scheduler.get_job("beat").next_run_time < datetime.now(UTC) + timedelta(seconds=6)
        assert scheduler.get_job("night").next_run_time == night
    finally:
        scheduler.shutdown(wait=False)
