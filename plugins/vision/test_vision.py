"""The plugin keeps its promises."""

import base64

from adaptd.testing import check_domain
from adaptd_vision import SAMPLE, Vision

CUT = base64.b64encode(base64.b64decode(SAMPLE)[:44]).decode()


def test_vision_is_a_good_domain() -> None:
    check_domain(Vision, rejected=[{}, {"image": "a.png"}, {"image": {"$base64": CUT}},
                                   {"image": {"$base64": base64.b64encode(b"no image").decode()}}])
