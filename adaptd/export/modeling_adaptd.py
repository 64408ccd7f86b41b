"""A version of an adaptd domain as a transformers model: encoder, attention over its memory, ridge and decoder, frozen.

This file is copied beside the weights and needs torch and transformers alone. The formulas are those of `adaptd.model`
(`closed_form`, `attention`, `decoder`), one for one; neighbours are found by an exact search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize, pad, softmax
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

GRID, STEP, LEVELS = 4096.0, 0.125, 31
RIDGE_SCALE, FLOOR, POOL, BURST, NEWER, NEAREST = 10.0, 0.01, 2.0, 1.5, 4.0, 5
MEAN_SCALE, VETO = 30.0, 0.3
NEVER, LEAST = -1e4, 1e-9


class AdaptdConfig(PretrainedConfig):  # type: ignore[misc]
    """The encoder's configuration, the sizes of what was learned, and the scalars that it answers with."""

    model_type = "adaptd"

    def __init__(self, encoder: Mapping[str, Any] | None = None, layers: Sequence[int] = (),
                 sizes: Mapping[str, Any] | None = None, scalars: Mapping[str, Any] | None = None,
                 made_of: Mapping[str, Any] | None = None, **more: Any) -> None:
        self.encoder, self.layers = dict(encoder or {}), list(layers)
        self.sizes, self.scalars = dict(sizes or {}), dict(scalars or {})
        self.made_of = dict(made_of or {})  # domain, head, version and seq in the store
        super().__init__(**more)


class AdaptdForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """Answers as the version did: `logits` are calibrated log-probabilities [n, classes]."""

    config_class = AdaptdConfig
    base_model_prefix = "encoder"

    def __init__(self, config: AdaptdConfig) -> None:
        super().__init__(config)
        settings = dict(config.encoder)
        self.encoder = AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
        for name, (shape, kind) in config.sizes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=getattr(torch, kind)))
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Initialise nothing: every weight comes from the file."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None,
                **_: Any) -> SequenceClassifierOutput:
        """Return calibrated log-probabilities of token ids [n, tokens] with their mask."""
        return SequenceClassifierOutput(logits=self.decode(self.embed(input_ids, attention_mask))[0])

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the vectors [n, dim] of token ids: the mean over tokens of several layers, rounded to 16 bits."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        mask = attention_mask.unsqueeze(-1).float()
        pooled = [normalize((states[layer].float() * mask).sum(1) / mask.sum(1), dim=-1) for layer in self.config.layers]
        return (torch.cat(pooled, dim=1) / math.sqrt(len(pooled))).half().float()

    def decode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities [n, classes] and how well each vector [n, dim] fits what was learned [n]."""
        s, known = self.config.scalars, self.known
        ridge = self._features(x) @ self.ridge
        queries = normalize(x @ self.projection, dim=1) if s["projected"] else x
        similarity, slots = (queries @ self.keys.float().T).topk(min(s["neighbours"], self.keys.shape[0]), dim=1)
        labels = self.targets[slots]
        score = similarity * s["scale"] + self.log_value[labels]
        newest = (-self.order[slots]).argsort(1).argsort(1).float()
        experts = torch.stack([
            softmax(torch.where(known, RIDGE_SCALE * pad(ridge, (0, known.shape[0] - ridge.shape[1])), NEVER), dim=1),
            self._attend(softmax(score, dim=1), labels),
            self._attend(softmax(score - newest * (math.log(2.0) / NEWER), dim=1), labels)])
        plain = self._pool(experts, self._shares(experts, self._gates(experts)))
        pooled = self._with_young(plain, x) if s["young"] else plain
        fit = ridge.clamp(min=0).amax(1) + similarity[:, :NEAREST].mean(1) if ridge.shape[1] else similarity[:, :NEAREST].mean(1)
        return log_softmax(math.exp(s["temperature"]) * pooled, dim=1), fit

    def _features(self, x: Tensor) -> Tensor:
        """Return the integer random features [n, M] that the ridge is over."""
        signed = pad((x * GRID).round()[:, None] * self.signs, (0, self.left.shape[0] * self.right.shape[0] - x.shape[1]))
        z = self.left @ (signed.reshape(-1, self.signs.shape[0], self.left.shape[0], self.right.shape[0]) @ self.right)
        features: Tensor = (z.flatten(1)[:, : self.ridge.shape[0]] / (GRID * STEP)).round().clamp(0, LEVELS)
        return features

    def _attend(self, weight: Tensor, labels: Tensor) -> Tensor:
        return torch.zeros(weight.shape[0], self.known.shape[0], dtype=weight.dtype).scatter_add(1, labels, weight)

    def _gates(self, experts: Tensor) -> Tensor:
        """Return how far each expert may speak [E, n]."""
        solved = float(self.config.scalars["solved"])
        newest = self.rates[(experts[0] * solved + experts[1]).argmax(1)].clamp(max=1.0) ** BURST
        return torch.stack([torch.full_like(newest, solved), torch.ones_like(newest), newest])

    def _shares(self, experts: Tensor, gates: Tensor) -> Tensor:
        """Return how far each expert is heard [E, n], by the trust in the classes at stake."""
        stake = (experts * gates[..., None]).sum(0) / gates.sum(0)[:, None]
        share = (self.trust @ stake.T) * gates
        heard: Tensor = share / share.sum(0).clamp(min=LEAST)
        return heard

    def _pool(self, experts: Tensor, shares: Tensor) -> Tensor:
        mixed = POOL * (shares[..., None] * (experts + FLOOR).log()).sum(0)
        return log_softmax(torch.where(self.known, mixed, -50.0), dim=1)

    def _with_young(self, plain: Tensor, x: Tensor) -> Tensor:
        """Let the nearest mean decide about young classes, as far as that rule has earned it."""
        s, young = self.config.scalars, self.young
        z = x - self.centre
        z = z @ self.projection if s["projected"] else z
        cosines = z @ self.directions.T / z.norm(dim=1, keepdim=True).clamp(min=LEAST)
        near = log_softmax(torch.where(self.known, MEAN_SCALE * cosines, NEVER), dim=1)
        mean = softmax(torch.where(self.known, (1 - VETO) * near + VETO * plain, NEVER), dim=1)
        if s["others"]:
            old = plain.exp() * ~young
            left = 1 - (mean * young).sum(1, keepdim=True)
            mean = torch.where(young, mean, left * old / old.sum(1, keepdim=True).clamp(min=LEAST))
        ruled = mean.clamp(min=LEAST).log()
        return torch.logaddexp(ruled + math.log(s["rule"]), plain + math.log(1 - s["rule"]))
