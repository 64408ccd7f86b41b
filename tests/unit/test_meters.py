"""What is counted as it happens."""

from __future__ import annotations

import pytest

from adaptd.errors import Busy, UnknownDomain
from adaptd.meters import Meters


@pytest.mark.parametrize(("error", "counted"), [
    (RuntimeError("an encoder of its own"), "internal"), (Busy("later"), "busy"), (UnknownDomain("anybody's words"), None)])
def test_a_request_that_fails_is_counted_by_the_code_that_goes_out(error: Exception, counted: str | None) -> None:
    meters = Meters()
    with pytest.raises(type(error)), meters.time("predict", "text"):
        raise error
    found = {sample.labels["code"]: sample.value for family in meters.registry.collect() for sample in family.samples
             if sample.name == "adaptd_request_failures_total"}
    assert found == ({} if counted is None else {counted: 1.0})
