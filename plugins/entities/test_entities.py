"""The plugin keeps its promises."""

from adaptd.testing import check_domain
from adaptd_entities import Entities


def test_entities_is_a_good_domain() -> None:
    check_domain(Entities, feedback=[[]], rejected=[{}, {"text": ""}, {"text": " \n"}, {"text": 7}, {"tokens": ["a"]}])
