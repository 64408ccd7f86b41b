"""LoRA: what training adds to the model's matrices, ``W + s B A`` of low rank (Hu et al., 2022), kept apart from them.

Trained on all remembered pairs at once, from the model as it is, with peft. So that it does not forget what no pair is about, a
token costs the cross entropy of what was taught and, with a share of `HOLD`, of what the model itself would say there: the
regularised objective of continued training (Dakwale and Monz, 2017; Khayrallah et al., 2018), which needs no old pairs.

The weights are a safetensors file with the names that peft gives them, at 16 bits; its metadata say of which model, and s. Beside
them stands which pairs they have learned, as digests: those need not be looked at any more.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, softmax

from adaptd import Lesson
from adaptd.errors import Conflict, MissingExtra, TrainingFailed
from adaptd_translate.small import Ids, batches, padded

HOLD = 0.3
SCALE = 2.0  # s
TOKENS = 1200  # of a batch, of both languages together
WARM = 0.1  # share of the steps in which the rate rises; then it falls linearly to zero
A, B = ".lora_A.weight", ".lora_B.weight"
LEARNED, ABOUT = "learned", "lora"
PREFIX = "base_model.model."  # of peft's names


def digest(model: Any) -> str:
    """Return what a model's own weights are known by."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def train(model: Any, ids: Sequence[Ids], lesson: Lesson, *, rank: int, epochs: int, rate: float) -> bytes:
    """Train on pairs of token ids, and return the weights; the model is of no use afterwards."""
    try:
        import peft
    except ImportError:
        raise MissingExtra("training a translation model needs peft", hint='pip install "adaptd[peft]"') from None
    torch.manual_seed(lesson.seed)
    drawn, base = random.Random(lesson.seed), digest(model)
    config = peft.LoraConfig(r=rank, lora_alpha=int(SCALE * rank), lora_dropout=0.0, target_modules="all-linear")
    tuned = peft.PeftModel(model, config).to(lesson.device).train()
    trained = [one for one in tuned.parameters() if one.requires_grad]
    optimizer, steps = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0), epochs * sum(1 for _ in batches(ids, TOKENS, drawn))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1.0, WARM * steps), 1 - step / steps))
    for epoch in range(epochs):
        losses = []
        for batch in batches(ids, TOKENS, drawn):
            loss = _loss(tuned, batch, lesson.device)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            lesson.progress((epoch + len(losses) * epochs / steps) / epochs, f"epoch {epoch + 1} of {epochs}")
        lesson.losses.append(sum(losses) / len(losses))
        if lesson.losses[-1] != lesson.losses[-1]:
            raise TrainingFailed("the loss is not finite")
    found = peft.get_peft_model_state_dict(tuned)
    weights = {name: tensor.detach().half().cpu().contiguous() for name, tensor in found.items()}
    learned = torch.tensor([pair_digest(*pair) for pair in lesson.pairs])
    about = json.dumps({"base": base, "scale": SCALE})  # one word of metadata: the order of several is not the same twice
    return save({**weights, LEARNED: learned}, {ABOUT: about})


def pair_digest(text: str, taught: str) -> int:
    """Return what a pair is known by: 64 bits."""
    return int.from_bytes(hashlib.blake2b(f"{text}\0{taught}".encode(), digest_size=8).digest(), "big", signed=True)


def _loss(tuned: Any, batch: Sequence[Ids], device: str) -> Tensor:
    """Return the mean cost of a token of a batch."""
    pad = tuned.config.pad_token_id
    source, target = (padded([pair[side] for pair in batch], pad).to(device) for side in (0, 1))
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(pair[0])) for pair in batch], batch_first=True).long().to(device)
    there = torch.nn.utils.rnn.pad_sequence([torch.ones(len(pair[1])) for pair in batch], batch_first=True).bool().to(device)
    given = {"input_ids": source, "attention_mask": mask,
             "decoder_input_ids": tuned.prepare_decoder_input_ids_from_labels(labels=target)}
    tuned.eval()  # what the model itself says is no random sample of dropout's
    with torch.no_grad(), tuned.disable_adapter():
        own = softmax(tuned(**given).logits[there], 1)
    tuned.train()
    said = tuned(**given).logits[there]
    return (1 - HOLD) * cross_entropy(said, target[there]) - HOLD * (own * log_softmax(said, 1)).sum(1).mean()


class Swap:
    """The trained matrices of a model: what they are without any weights, and with some."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._own: dict[str, Tensor] = {}  # those that stand aside for others
        self._learned: frozenset[int] = frozenset()

    @cached_property
    def _base(self) -> str:
        return digest(self._model)

    def knows(self, text: str, taught: str) -> bool:
        """Say whether the weights that are in have learned a pair."""
        return bool(self._learned) and pair_digest(text, taught) in self._learned

    def __call__(self, weights: bytes | None) -> None:
        """Put weights in; the model's own come back first, to the bit.

        Raises
        ------
        Conflict
            They were trained over another model.
        """
        for name, tensor in self._own.items():
            self._model.get_submodule(name).weight.data = tensor
        self._own, self._learned = {}, frozenset()
        if weights is None:
            return
        about = json.loads(json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])["__metadata__"][ABOUT])
        if about["base"] != self._base:
            raise Conflict("they were trained over another model", hint="adapt again, or configure the model of then")
        tensors = load(weights)
        for name, change in _changes(tensors, about["scale"]):
            matrix = self._model.get_submodule(name)
            self._own[name] = matrix.weight.data
            matrix.weight.data = matrix.weight.data + change
        self._learned = frozenset(tensors[LEARNED].tolist())


def _changes(tensors: dict[str, Tensor], scale: float) -> Iterator[tuple[str, Tensor]]:
    """Yield what each matrix changes by."""
    for key, low in tensors.items():
        if key.endswith(A):
            name = key.removesuffix(A)
            yield name.removeprefix(PREFIX), scale * tensors[name + B].float() @ low.float()
