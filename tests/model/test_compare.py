"""What writes texts is judged on texts that it is not told of; and what it was trained to is a part of its head's file."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save

from adaptd.compare import briefs
from adaptd.errors import CorruptFile
from adaptd.model import files
from adaptd.model.attention import Adapter

WEIGHTS = save({"a.lora_A.weight": torch.eye(2).half(), "b": torch.ones(3)}, {"base": "x", "scale": "2.0"})


def test_a_held_out_text_is_written_from_the_nearest_others_and_from_none_of_its_own_content() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 0.35, 0.0])
    tensors = {"vectors": torch.stack([angles.cos(), angles.sin()], 1).half(), "retrievable": torch.tensor([1, 1, 0, 1, 1]),
               "content": torch.tensor([0, 1, 2, 3, 0])}
    pairs = [(f"text {row}", f"taught {row}") for row in range(5)]
    first, other = briefs(tensors, pairs, torch.tensor([0, 2]), 2)
    assert first.text == "text 0" and [one.text for one in first.remembered] == ["text 1", "text 3"]
    assert first.remembered[0].reply == "taught 1" and first.remembered[0].similarity == pytest.approx(0.995, abs=1e-3)
    assert [one.text for one in other.remembered] == ["text 1", "text 3"], "an evicted one is judged, and not remembered"
    [last] = briefs(tensors, pairs, torch.tensor([3]), 9)
    assert [one.text for one in last.remembered] == ["text 1", "text 0", "text 4"], "all that there are"


def test_weights_come_back_from_a_head_s_file_as_they_were() -> None:
    weights = files.parse_weights(WEIGHTS, "weights")
    data = files.dump_adapter(Adapter(weights=weights))
    found = files.parse_adapter(data, "adapter")
    assert found.weights is not None and found.weights.digest == weights.digest and found.weights.about["scale"] == "2.0"
    assert files.parse_weights(found.weights.file, "again").digest == weights.digest
    assert files.dump_adapter(found) == data
    other = files.parse_weights(save({"b": torch.ones(3)}), "other")
    assert found.same(Adapter(weights=weights)) and not found.same(Adapter()) and not Adapter().same(found)
    assert not found.same(Adapter(weights=other)) and other.digest != weights.digest


@pytest.mark.parametrize(("data", "words"), [
    (pickle.dumps({"a": 1}), "not a safetensors file"), (b"", "not a safetensors file"), (save({}), "no weights"),
    (save({"a": torch.tensor([float("nan")])}), "not finite")])
def test_what_training_gave_must_be_safetensors_and_finite(data: bytes, words: str) -> None:
    with pytest.raises(CorruptFile, match=words):
        files.parse_weights(data, "weights")
