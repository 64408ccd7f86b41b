"""Numbers: what the generic domain reads, and how the encoder tells them apart."""

import pytest
import torch

from adaptd.errors import BadPayload
from adaptd.model.numeric import Numeric as Encoder
from adaptd.numeric import Numeric
from adaptd.records import Example
from adaptd.testing import check_domain


def similarity(*features: dict[str, float | str]) -> torch.Tensor:
    vectors, truncated = Encoder().encode([Example(features=one) for one in features])
    assert truncated == [False] * len(features)
    return vectors.float() @ vectors.float().T


def test_the_generic_domain_of_numbers_is_a_good_domain() -> None:
    check_domain(Numeric, payloads=[{"a": "1e3", "b": True}], rejected=[{}, {"a": None}, {"a": " "}, {"a": {"b": []}}])


def test_a_string_that_is_a_number_is_one_and_any_other_a_category() -> None:
    features = Numeric().example({"a": "0.5", "b": "north", "c": None, "d": [1, "x"], "e": {"f": 2}}).features
    assert features == {"a": 0.5, "b": "north", "d[0]": 1.0, "d[1]": "x", "e.f": 2.0}


def test_only_the_configured_fields_are_read() -> None:
    assert Numeric(fields=["a"]).example({"a": 1, "b": "x" * 1000}).features == {"a": 1.0}


@pytest.mark.parametrize("payload", [{"a": "x" * 300}, {"a": list(range(3000))}])
def test_what_is_no_set_of_features_is_refused_with_a_cure(payload: dict[str, object]) -> None:
    with pytest.raises(BadPayload) as refused:
        Numeric().example(payload)
    assert refused.value.hint


def test_nearer_numbers_are_more_alike_in_any_unit() -> None:
    for unit in (1e-3, 1.0, 1e6):
        alike = similarity({"x": unit}, {"x": 1.001 * unit}, {"x": 1.1 * unit}, {"x": 3 * unit})[0]
        assert alike[1] > alike[2] > alike[3]


def test_a_category_is_alike_only_to_itself_and_a_gap_to_nothing() -> None:
    alike = similarity({"site": "north"}, {"site": "south"}, {"site": "north"}, {})
    assert alike[0, 2] > 0.99
    assert abs(alike[0, 1]) < 0.5
    assert alike[3].abs().max() == 0


def test_a_fixed_order_is_named_by_its_places() -> None:
    listed, named = Encoder().encode([Example(features=[1.0, 2.0]), Example(features={"0": 1.0, "1": 2.0})])[0]
    assert torch.equal(listed, named)


def test_a_vector_does_not_depend_on_what_it_is_encoded_with() -> None:
    features = [{"a": float(i), "b": str(i % 3)} for i in range(20)]
    together = Encoder().encode([Example(features=one) for one in features])[0]
    alone = [Encoder().encode([Example(features=one)])[0][0] for one in features]
    assert torch.equal(together, torch.stack(alone))
