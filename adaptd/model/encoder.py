"""Encoder: ``x' = Encoder(x)``, a frozen transformers model; an event is encoded once and the vector kept.

``x' = [norm(pool(h_l)) for l in layers] / sqrt(len(layers))`` with mean pooling over tokens (Reimers & Gurevych,
2019, Sentence-BERT) of several layers, rounded to float16. Nothing is downloaded unless `download = true`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from adaptd.errors import CannotStart, Conflict
from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Encoder, Kind
from adaptd.model.prompted import Prompted, front
from adaptd.model.threads import one_thread
from adaptd.model.upper import Upper
from adaptd.modelfiles import MINILM, find, sha256
from adaptd.records import Example

log = logging.getLogger(__name__)
BATCH_TOKENS = 4096  # tokens, padding included, that go through the model together
COPIES = 8  # of tuned blocks that are ready at once
SMALL = 350e6  # multiply-adds up to which one thread is as fast as several that sleep between their turns, as the daemon's do


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """Return the device: CUDA when there is one and nobody said otherwise."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


@dataclass
class Transformers:
    """A text encoder from a local folder, the hub cache, or an installed package's folder."""

    name: ClassVar[str] = "transformers"
    reads: ClassVar[Kind] = "text"
    model: str = MINILM
    layers: Sequence[int] = ()  # pooled layers; () = a third, two thirds and all of the depth
    max_length: int = 128  # tokens
    prefix: str = ""  # what the model wants before a text ("query: " for e5)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    download: bool = False  # may fetch a hub model
    dim: int = field(init=False, default=0)
    digest: str = field(init=False, default="")

    def load(self) -> None:
        """Load the weights and compute the digest.

        Raises
        ------
        MissingExtra
            The model is not on this machine.
        CorruptFile
            The shipped model is not the one that was pinned.
        """
        from transformers import AutoModel, AutoTokenizer  # 2 s, paid by the process that encodes
        from transformers.utils import logging as chatter

        chatter.set_verbosity_error()
        chatter.disable_progress_bar()
        folder = find(self.model, download=self.download)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._model: Any = AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise CannotStart(f"encoder {self.model}: {error}", field="encoders",
                              hint="the folder needs config.json, tokenizer and *.safetensors") from None
        self._device = pick_device(self.device)
        self._model.eval().requires_grad_(False).to(self._device)
        config = self._model.config
        self._weights = sum(p.numel() for name, p in self._model.named_parameters() if "embeddings" not in name)
        depth = config.num_hidden_layers
        self.layers = tuple(self.layers) or tuple(sorted({math.ceil(depth / 3), math.ceil(2 * depth / 3), depth}))
        if max(self.layers) > depth or min(self.layers) < 0:
            raise CannotStart(f"encoder {self.model} has {depth} layers, not {max(self.layers)}", field="encoders")
        self.max_length = min(self.max_length, getattr(config, "max_position_embeddings", self.max_length))
        self.dim = config.hidden_size * len(self.layers)
        self.digest = self._digest(folder)

    def _digest(self, folder: Path) -> str:
        """Digest weights, tokenizer, maximum length, pooling, layers: equal digest, interchangeable vectors."""
        files = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors" or p.name in
                       ("config.json", "tokenizer.json", "vocab.txt"))
        parts = {"files": {p.name: sha256(p) for p in files}, "max_length": self.max_length, "pooling": "mean",
                 "layers": list(self.layers), "prefix": self.prefix}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def __post_init__(self) -> None:
        self._shared: dict[int, dict[tuple[int, ...], Tensor]] = {}  # cut -> token states of what was encoded last
        self._copies: dict[str, Any] = {}  # tuned blocks by their digest, the newest few

    def parts(self) -> tuple[Any, Any]:
        """Return the loaded transformers model and its tokenizer."""
        return self._model, self._tokenizer

    def encode(self, examples: Sequence[Example]) -> tuple[Tensor, Sequence[bool]]:
        """Return float16 vectors [n, dim] on the CPU and, per example, whether it was truncated."""
        texts = [self.prefix + (example.text or "") for example in examples]
        tokens = self._tokenizer(texts, truncation=True, max_length=self.max_length, return_overflowing_tokens=False)
        truncated = [bool(encoding.overflowing) for encoding in tokens.encodings]
        lengths = [len(ids) for ids in tokens["input_ids"]]
        out = torch.empty(len(texts), self.dim, dtype=torch.float16)
        for kept in self._shared.values():
            kept.clear()
        for batch in batches(lengths):
            with one_thread(self._is_small(len(batch) * max(lengths[i] for i in batch))):
                out[batch] = self._forward([tokens["input_ids"][i] for i in batch])
        return out, truncated

    def _is_small(self, tokens: int) -> bool:
        return tokens * self._weights <= SMALL and self._device == "cpu"

    @torch.inference_mode()
    def _forward(self, ids: list[list[int]]) -> Tensor:
        """Run one padded batch; return its pooled layers [b, dim] as float16."""
        longest = max(map(len, ids))
        padded = torch.zeros(len(ids), longest, dtype=torch.long)
        mask = torch.zeros(len(ids), longest, dtype=torch.long)
        for row, one in enumerate(ids):
            padded[row, :len(one)] = torch.tensor(one)
            mask[row, :len(one)] = 1
        padded, mask = padded.to(self._device), mask.to(self._device)
        with torch.autocast(self._device, dtype=torch.float16, enabled=self._device == "cuda"):
            states = self._model(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states
        for cut, kept in self._shared.items():
            kept.update({tuple(one): states[cut][row, :len(one)] for row, one in enumerate(ids)})
        return (torch.cat([mean(states[layer], mask) for layer in self.layers], dim=1) / math.sqrt(len(self.layers))).half().cpu()

    # -- tuned upper blocks -----------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """How many blocks it has."""
        return int(self._model.config.num_hidden_layers)

    def blocks(self, cut: int) -> Any:
        """Return a copy of the blocks from `cut` on, to be tuned.

        Raises
        ------
        Conflict
            This model is not built of blocks that can be run by themselves, or has not that many.
        """
        layers = getattr(getattr(self._model, "encoder", None), "layer", None)
        if layers is None or not 0 <= cut < len(layers) or not self._runs_by_blocks():
            raise Conflict(f"encoder {self.model}: its upper blocks cannot be tuned", field="consolidate",
                           hint="text encoders of the kind of BERT can be, by fewer blocks than they have")
        return copy.deepcopy(layers[cut:]).float()

    @torch.inference_mode()
    def _runs_by_blocks(self) -> bool:
        """Say whether the model's own answer is what its blocks give one by one: one that does more is not of this kind."""
        ids = [self._tokenizer("a probe")["input_ids"]]
        padded = torch.tensor(ids).to(self._device)
        whole = self._model(input_ids=padded, attention_mask=torch.ones_like(padded)).last_hidden_state
        return bool(torch.allclose(whole[0].float().cpu(), self.lower(ids, len(self._model.encoder.layer))[0], atol=1e-2))

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, as `encode` reads them."""
        found: list[list[int]] = self._tokenizer([self.prefix + text for text in texts], truncation=True,
                                                 max_length=self.max_length)["input_ids"]
        return found

    @torch.inference_mode()
    def lower(self, ids: Sequence[list[int]], cut: int) -> list[Tensor]:
        """Return the token states [t, width] that the frozen blocks below `cut` leave, float32 on the CPU."""
        found: list[Tensor] = [torch.empty(0)] * len(ids)
        for batch in batches([len(one) for one in ids]):
            padded, mask = (one.to(self._device) for one in stacked([torch.tensor(ids[i]) for i in batch]))
            states = through(self._model.encoder.layer[:cut], self._model.embeddings(input_ids=padded), mask)
            for row, i in enumerate(batch):
                found[i] = states[row, :len(ids[i])].float().cpu()
        return found

    @torch.inference_mode()
    def tuned(self, examples: Sequence[Example], upper: Upper) -> Tensor:
        """Return what tuned blocks make of examples: float16 [n, width]. What was just encoded is not run again."""
        kept = self._shared.setdefault(upper.cut, {})
        ids = self.tokens([example.text or "" for example in examples])
        missing = [one for one in ids if tuple(one) not in kept]
        for batch in batches([len(one) for one in missing]):  # in the same way, so that the states are the same, to the bit
            with one_thread(self._is_small(len(batch) * max(len(missing[i]) for i in batch))):
                self._forward([missing[i] for i in batch])
        found = [kept[tuple(one)].float() for one in ids]
        for one in missing:
            kept.pop(tuple(one), None)
        blocks, out = self._tuned_blocks(upper), torch.empty(len(ids), upper.directions.shape[1], dtype=torch.float16)
        lengths = [len(one) + front(blocks) for one in ids]
        for batch in batches(lengths):
            with one_thread(self._is_small(len(batch) * max(lengths[i] for i in batch))):
                states, mask = (one.to(self._device) for one in stacked([found[i] for i in batch]))
                out[batch] = mean(through(blocks, states, mask), mask).half().cpu()
        return out

    def _tuned_blocks(self, upper: Upper) -> Any:
        if upper.digest not in self._copies:
            if upper.encoder != self.digest:
                raise Conflict("tuned blocks of another encoder", hint="consolidate again")
            blocks = self.blocks(upper.cut)
            if "prompts" in upper.blocks:
                blocks = Prompted(blocks, upper.blocks["prompts"].shape).to(self._device)
            blocks.load_state_dict({name: tensor.float() for name, tensor in upper.blocks.items()})
            self._copies = dict([*self._copies.items(), (upper.digest, blocks.eval().requires_grad_(False))][-COPIES:])
        return self._copies[upper.digest]


def stacked(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad rows [t, …] to one tensor [b, longest, …]; return it and its mask [b, longest]."""
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), mask


def through(blocks: Any, states: Tensor, mask: Tensor) -> Tensor:
    """Run blocks of a transformer one by one over token states [b, t, width]; padding is not attended to."""
    prompts, added = blocks.prompts if isinstance(blocks, Prompted) else (), front(blocks)
    states, mask = pad(states, (0, 0, added, 0)), pad(mask, (added, 0), value=1)
    hidden = None if bool(mask.all()) else (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
    for place, block in enumerate(blocks):
        if place < len(prompts):
            states = torch.cat([prompts[place].expand(len(states), -1, -1), states[:, added:]], dim=1)
        given: Any = block(states, hidden)
        states = given[0] if isinstance(given, tuple) else given
    return states[:, added:]


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the normalised mean [b, width] over the tokens that are there."""
    weights = mask.unsqueeze(-1).float()
    return normalize((states.float() * weights).sum(1) / weights.sum(1), dim=-1)


def batches(lengths: Sequence[int]) -> Iterable[list[int]]:
    """Group indices by length so that little is padded: at most `BATCH_TOKENS` a batch, padding included.

    >>> list(batches([5, 3000, 4, 3000]))
    [[2, 0], [1], [3]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if (batch and lengths[index] * (len(batch) + 1) > BATCH_TOKENS) or (
                batch and lengths[index] > 2 * lengths[batch[0]] + 8):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@hookimpl
def register_encoders() -> Iterable[type[Encoder]]:
    """Offer the text encoder."""
    return [Transformers]
