"""The encoder: a short text takes one thread and gives the number back; vectors do not depend on it."""

from __future__ import annotations

import pytest
import torch

from adaptd.model.encoder import Transformers
from adaptd.records import Example


@pytest.fixture(scope="module")
def encoder() -> Transformers:
    made = Transformers(device="cpu")
    made.load()
    return made


def test_a_short_text_is_encoded_by_one_thread_and_a_batch_by_all(encoder: Transformers, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    forward = encoder._forward
    monkeypatch.setattr(encoder, "_forward", lambda ids: (seen.append(torch.get_num_threads()), forward(ids))[1])
    try:
        encoder.encode([Example(text="where is my card")])
        encoder.encode([Example(text="where is my card and when will it come at last")] * 32)
        assert seen == [1, 2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(usual)


def test_the_number_of_threads_comes_back_after_a_failure(encoder: Transformers, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = torch.get_num_threads()

    def broken(ids: list[list[int]]) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(encoder, "_forward", broken)
    with pytest.raises(RuntimeError):
        encoder.encode([Example(text="hello")])

    assert torch.get_num_threads() == usual
