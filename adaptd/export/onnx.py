"""A version as an ONNX graph: token ids and their mask in, calibrated probabilities and fit out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptd.errors import MissingExtra
from adaptd.export.modeling_adaptd import AdaptdForSequenceClassification
from adaptd.model.encoder import Transformers

GRAPH, LABELS = "model.onnx", "labels.json"


class Answer(torch.nn.Module):
    """What the graph computes."""

    def __init__(self, model: AdaptdForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities [n, classes] and fit [n]."""
        logits, fit = self.model.decode(self.model.embed(input_ids, attention_mask))
        return logits.exp(), fit


def write(model: AdaptdForSequenceClassification, encoder: Transformers, folder: Path) -> None:
    """Write graph, tokenizer, and the labels in the order of the classes.

    Raises
    ------
    MissingExtra
        onnx is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  what torch exports through
    except ImportError:
        raise MissingExtra("onnx is not installed", hint="pip install 'adaptd[onnx]'") from None
    _, tokenizer = encoder.parts()
    folder.mkdir(parents=True, exist_ok=True)
    tokens: Any = tokenizer(["one example", "and another that is longer"], padding=True, return_tensors="pt")
    many = {0: torch.export.Dim("n"), 1: torch.export.Dim("tokens")}
    torch.onnx.export(Answer(model).eval(), (tokens["input_ids"], tokens["attention_mask"]), str(folder / GRAPH), dynamo=True,
                      dynamic_shapes={"input_ids": many, "attention_mask": many}, external_data=False, verbose=False,
                      input_names=["input_ids", "attention_mask"], output_names=["probabilities", "fit"])
    onnx.checker.check_model(str(folder / GRAPH))
    (folder / LABELS).write_text(json.dumps([model.config.id2label[c] for c in range(len(model.config.id2label))]))
    tokenizer.save_pretrained(folder)
