"""What MLflow loads: texts in, labels with confidences out. Needs torch and transformers; copied into the model's folder."""

from __future__ import annotations

from typing import Any

import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class Answers(PythonModel):
    """The exported model behind MLflow's `python_function`."""

    def load_context(self, context: Any) -> None:
        """Load weights and tokenizer."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder = context.artifacts["model"]
        self._model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)

    def predict(self, model_input: list[str]) -> list[dict[str, Any]]:  # type: ignore[override]  # MLflow reads the hints
        """Answer texts."""
        config = self._model.config
        texts = [config.made_of["prefix"] + text for text in model_input]
        limit = config.made_of["max_length"]
        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.inference_mode():
            best = self._model(**tokens).logits.exp().max(1)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"label": config.id2label[c], "confidence": p} for c, p in pairs]


set_model(Answers())
