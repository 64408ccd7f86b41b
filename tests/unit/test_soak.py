"""What a soak says of its figures: a leak is found under noise, and what is refused is not what failed."""

from __future__ import annotations

import random

import pytest

from adaptd.bench.soak import WARM_UP, Load, slope
from adaptd.errors import Busy, Disconnected, NotReady, PluginError


@pytest.mark.parametrize("leak", [0.0, 60.0])
def test_a_leak_is_found_whatever_single_samples_do_and_whatever_is_learned(leak: float) -> None:
    rng, samples = random.Random(2), []
    for number in range(240):
        at_s = 15.0 * (number + 1)
        warm = 200.0 * min(1.0, at_s / (WARM_UP * 3600))  # caches fill
        trainer = 300.0 if number % 40 == 0 else 0.0  # something large, now and then
        exemplars = at_s / 60
        samples.append({"at_s": at_s, "exemplars_mb": exemplars,
                        "rss_mb": 900 + warm + trainer + exemplars + leak * at_s / 3600 + rng.gauss(0, 3)})
    middle, low, high = slope(samples)
    assert low <= leak <= high and middle == pytest.approx(leak, abs=5)
    assert (low > 0) == (leak > 0)


def test_what_is_refused_is_told_by_kind_and_code_and_the_rest_failed() -> None:
    load = Load()

    def raises(error: Exception) -> object:
        raise error

    assert load.call("status", lambda: {"state": "running"}) == {"state": "running"}
    for error in (Busy(), Busy(), NotReady(), Disconnected(), PluginError(), ValueError("a bug")):
        assert load.call("predict", lambda error=error: raises(error)) is None  # type: ignore[misc]
    assert load.refused == {"predict: busy": 2, "predict: not_ready": 1}
    assert [one.split(": ")[1] for one in load.failed] == ["disconnected", "plugin_error", "ValueError('a bug')"]
    assert [kind for _, kind, _ in load.took] == ["status"]
