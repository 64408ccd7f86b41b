"""Words: an encoder that gives a vector to each word of a text, for heads that tag them (`adaptd.words`, `adaptd.heads.Spans`).

``x'_w = [norm(mean(h_l[w])) for l in layers] / sqrt(L), form(w - 1), form(w), form(w + 1)``, scaled to one and rounded to
float16: the states of a word's tokens (as Devlin et al., 2019, tag them), and what a model that knows no capitals does not see,
how a word and its neighbours are written (Ratinov and Roth, 2009). Longer texts than the model reads go through it in pieces.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from adaptd.hookspecs import hookimpl
from adaptd.interfaces import Encoder
from adaptd.model.encoder import Transformers, batches
from adaptd.model.threads import one_thread
from adaptd.records import Example
from adaptd.words import is_cut, words

LETTERS = 100  # of a word that are read
FORM = 0.5  # how much the forms count beside the states
FORMS = 12  # properties of a word's form, beside its ending
ENDINGS = 20  # into which the last two letters are hashed


@dataclass
class Words(Transformers):
    """A text encoder that gives a vector to each word."""

    name: ClassVar[str] = "words"
    tags: ClassVar[bool] = True  # each word has a vector of its own

    def load(self) -> None:
        """Load the weights and compute the digest. Raises what `Transformers.load` does."""
        super().load()
        self._states, self.dim = self.dim, self.dim + 3 * (FORMS + ENDINGS)
        self.digest = hashlib.sha256(f"words 1 {self.digest}".encode()).hexdigest()

    def encode(self, examples: Sequence[Example]) -> tuple[Sequence[Tensor], Sequence[bool]]:  # type: ignore[override]
        """Return float16 vectors [words, dim] of each example on the CPU, and whether it had more words than are read."""
        texts = [example.text or "" for example in examples]
        divided = [[text[start:end] for start, end in words(text)] for text in texts]
        pieces = [piece for some in divided for piece in self._pieces(some)]
        states: list[Tensor] = [torch.zeros(0, self._states)] * len(pieces)
        lengths = [sum(map(len, piece)) + 2 for piece in pieces]
        for batch in batches(lengths):
            with one_thread(self._is_small(len(batch) * max(lengths[i] for i in batch))):
                for place, found in zip(batch, self._states_of([pieces[i] for i in batch]), strict=True):
                    states[place] = found
        left = iter(states)
        return [self._joined(some, left) for some in divided], [is_cut(text) for text in texts]

    def _joined(self, text: Sequence[str], states: Iterable[Tensor]) -> Tensor:
        """Return the vectors of a text's words, of the states of its pieces, which are taken from their front."""
        found = torch.zeros(len(text), self._states)
        done = 0
        while done < len(text):
            piece = next(iter(states))
            found[done:done + len(piece)] = piece
            done += len(piece)
        form = forms(text)
        nothing = torch.zeros(1, form.shape[1])
        around = torch.cat([torch.cat([nothing, form])[:-1], form, torch.cat([form, nothing])[1:]], 1)
        return torch.cat([found, FORM * around], 1).div(math.sqrt(1 + FORM**2)).half()

    def _pieces(self, text: Sequence[str]) -> list[list[list[int]]]:
        """Return the tokens of each word, in pieces that the model can read."""
        if not text:
            return []
        unknown = [self._tokenizer.unk_token_id]
        ids = self._tokenizer([word[:LETTERS] for word in text], add_special_tokens=False)["input_ids"]
        room, pieces, used = self.max_length - 2, list[list[list[int]]](), self.max_length
        for one in ids:
            one = one[:room] or unknown  # a word of characters that the model leaves out
            if used + len(one) > room:
                pieces.append([])
                used = 0
            pieces[-1].append(one)
            used += len(one)
        return pieces

    @torch.inference_mode()
    def _states_of(self, pieces: Sequence[Sequence[Sequence[int]]]) -> list[Tensor]:
        """Run one padded batch; return the words' pooled layers [words, states] of each."""
        start, end = self._ends
        ids = [[*start, *(token for word in piece for token in word), *end] for piece in pieces]
        longest = max(map(len, ids))
        padded = torch.tensor([one + [0] * (longest - len(one)) for one in ids]).to(self._device)
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids]).to(self._device)
        with torch.autocast(self._device, dtype=torch.float16, enabled=self._device == "cuda"):
            layers = self._model(input_ids=padded, attention_mask=mask, output_hidden_states=True).hidden_states
        hidden = torch.stack([layers[layer].float() for layer in self.layers], 2).cpu()  # [b, tokens, L, H]
        return [self._pooled(hidden[row], piece, len(start)) for row, piece in enumerate(pieces)]

    def _pooled(self, hidden: Tensor, piece: Sequence[Sequence[int]], first: int) -> Tensor:
        places = torch.repeat_interleave(torch.arange(len(piece)), torch.tensor([len(word) for word in piece]))
        sums = torch.zeros(len(piece), *hidden.shape[1:]).index_add_(0, places, hidden[first:first + len(places)])
        return normalize(sums, dim=-1).flatten(1) / math.sqrt(len(self.layers))

    @cached_property
    def _ends(self) -> tuple[list[int], list[int]]:
        """The tokens that the model wants before and behind a text."""
        token, made = self._tokenizer("a", add_special_tokens=False)["input_ids"][0], self._tokenizer("a")["input_ids"]
        return made[:made.index(token)], made[made.index(token) + 1:]


def forms(text: Sequence[str]) -> Tensor:
    """Return how words are written [words, FORMS + ENDINGS], each scaled to one third: three of them are as long as one."""
    found = torch.zeros(len(text), FORMS + ENDINGS)
    for place, word in enumerate(text):
        found[place, :FORMS] = torch.tensor(_form(word, place))
        found[place, FORMS + int(hashlib.blake2b(word[-2:].lower().encode(), digest_size=2).hexdigest(), 16) % ENDINGS] = 0.5
    return normalize(found, dim=-1) / math.sqrt(3)


def _form(word: str, place: int) -> list[bool]:
    digits, letters = any(map(str.isdigit, word)), any(map(str.isalpha, word))
    return [word[0].isupper() and not word.isupper(), word.isupper() and len(word) > 1, word.isupper() and len(word) == 1,
            word.islower(), any(a.islower() and b.isupper() for a, b in pairwise(word)), digits and not letters,
            digits and letters, not digits and not letters, len(word) == 1, len(word) > 6, place == 0, True]


@hookimpl
def register_encoders() -> Iterable[type[Encoder]]:
    """Offer the encoder of words."""
    return [Words]
