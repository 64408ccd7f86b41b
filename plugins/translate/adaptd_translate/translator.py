"""Translator: a transformers model of encoder and decoder that looks at remembered pairs while it writes.

Nearest-neighbour machine translation (Khandelwal et al., 2021) over a datastore made for each text of the few pairs nearest to it
(Dai et al., "Simple and Scalable Nearest Neighbor Machine Translation", 2023): the model reads each pair as if it wrote its
translation; the states h of its decoder there are the keys, the tokens that come next the values. Where it writes,

``p(y) = l p_kNN(y) + (1 - l) p_model(y)``, ``p_kNN(y) ~ sum over keys with value y of exp(-d / T)``,
``l = max(0, 1 - min d / trust)``, ``d = |h - key|^2 / spread``.

The distance d is 0 where the state is the same and about 1 where it has nothing in common: the spread is twice the keys'
variance, so that one `trust` is right for models of any size. Nothing is kept from one text to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor
from torch.nn.functional import softmax

from adaptd import Brief, Lesson, Remembered, Written
from adaptd.errors import BadConfig, MissingExtra, TrainingFailed
from adaptd.interfaces import normalised
from adaptd.modelfiles import find
from adaptd_translate import lora
from adaptd_translate.small import Ids

if TYPE_CHECKING:
    from adaptd_translate import Translate

MODEL = "domains.translate.options.model"
KERNEL = 0.1  # T, of the trust
UNKNOWN = 0.5  # share of pieces that a model need not know to be asked at all
LONGER = 2.0  # times as many tokens as the text has, and a few: where a translation is cut at last
SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|\n+")
NO_LETTER = re.compile(r"[\W\d_]*")


@dataclass(frozen=True)
class Store:
    """The datastore of some texts: keys [n, m, d], the tokens behind them [n, m], which there are [n, m], their spread [n]."""

    keys: Tensor
    values: Tensor
    there: Tensor
    spread: Tensor


class Translator:
    """Implements `adaptd.Trainable`."""

    def __init__(self, options: Translate) -> None:
        self.options = options
        self._chrf = CHRF()
        self._state = torch.empty(0)  # of the decoder, before it chose a token [rows, tokens, d]

    def load(self) -> None:
        """Load model and tokenizer.

        Raises
        ------
        BadConfig
            There is none, or it is no such model's.
        """
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
        from transformers.utils import logging as chatter

        chatter.set_verbosity_error()
        chatter.disable_progress_bar()
        torch.set_num_threads(self.options.threads or max(1, torch.get_num_threads() // 2))
        folder, named = self._folder(), {"src_lang": self.options.source, "tgt_lang": self.options.target}
        languages = {name: value for name, value in named.items() if value}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **languages)
            model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise BadConfig(f"model {self.options.model}: {str(error)[:500]}", field=MODEL,
                            hint="the folder needs config.json, the tokenizer's files and *.safetensors") from None
        self._model = model.float().eval().requires_grad_(False)
        self._swap = lora.Swap(self._model)
        self._first = None if self.options.target is None else self._tokenizer.convert_tokens_to_ids(self.options.target)
        self._model.get_output_embeddings().register_forward_pre_hook(self._remember)
        self._longest: int = min(512, self._tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))

    def _folder(self) -> Path:
        """Return where the model lies."""
        if not self.options.model:
            raise BadConfig("no model is named", field=MODEL, hint='a folder, or one of the hub: "Helsinki-NLP/opus-mt-en-de"')
        try:
            return find(self.options.model, download=self.options.download)
        except MissingExtra:
            raise BadConfig(f"model {self.options.model!r} is neither a folder nor in the hub cache", field=MODEL,
                            hint="give a folder, or allow the download: [domains.translate.options] download = true") from None

    def _remember(self, _: Any, given: tuple[Tensor, ...]) -> None:
        self._state = given[0]

    def write(self, briefs: Sequence[Brief]) -> list[Written]:
        """Translate: a text that is remembered as it was taught, others sentence by sentence."""
        written: dict[int, Written] = {}
        todo: list[tuple[int, str]] = []  # which text, and a sentence of it
        for place, brief in enumerate(briefs):
            if (known := taught(brief)) is not None:
                written[place] = Written(text=known, confidence=1.0)
            elif not NO_LETTER.fullmatch(brief.text) and self._is_foreign(brief.text):
                written[place] = Written(text=None, reason="most of it is in characters that the model does not know")
            else:
                todo += [(place, part) for part in pieces(brief.text, self._parts)]
        asked = [(place, part) for place, part in todo if not NO_LETTER.fullmatch(part)]
        answers = iter(self._translated([part for _, part in asked], [briefs[place].remembered for place, _ in asked]))
        found: dict[int, list[tuple[str, float]]] = {}
        for place, part in todo:
            found.setdefault(place, []).append((part, 1.0) if NO_LETTER.fullmatch(part) else next(answers))
        for place, parts in found.items():
            written[place] = Written(text="".join(text for text, _ in parts).strip(), confidence=min(sure for _, sure in parts))
        return [written[place] for place in range(len(briefs))]

    def _is_foreign(self, text: str) -> bool:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        unknown = self._tokenizer.unk_token_id
        return unknown is not None and sum(one == unknown for one in ids) > UNKNOWN * len(ids)

    def _parts(self, sentence: str) -> int:
        """Return in how many parts a sentence is read."""
        ids: list[int] = self._tokenizer(sentence)["input_ids"]
        return -(-len(ids) // (self._longest - 2))

    def train(self, lesson: Lesson) -> bytes:
        """Train LoRA weights on all pairs, by sentences where both have as many; what the model cannot read whole is left."""
        ids: list[Ids] = []
        whole: list[tuple[str, str]] = []  # pairs of which nothing is left: they need not be looked at any more
        for pair in lesson.pairs:
            found = [(self._tokenizer(source)["input_ids"], self._tokenizer(text_target=target)["input_ids"])
                     for source, target in sentences(*pair) if source and target]
            read = [one for one in found if max(map(len, one)) <= self._longest - 2]
            ids += read
            whole += [pair] if len(read) == len(found) else []
        if not ids:
            raise TrainingFailed("there is no pair that the model can read whole")
        self.adopt(None)
        options, read_whole = self.options, replace(lesson, pairs=whole)
        return lora.train(self._model, ids, read_whole, rank=options.rank, epochs=options.epochs, rate=options.rate)

    def adopt(self, weights: bytes | None) -> None:
        """Translate with these weights in the model's matrices from now on."""
        self._swap(weights)

    def score(self, text: str, taught: str) -> float:
        """Return the sentence's chrF (Popović, 2015) as a share."""
        return min(1.0, float(self._chrf.sentence_score(text, [taught]).score) / 100)

    @torch.inference_mode()
    def _translated(self, texts: Sequence[str], remembered: Sequence[Sequence[Remembered]]) -> list[tuple[str, float]]:
        """Return translations, each with the mean probability of its tokens."""
        if not texts:
            return []
        from transformers import LogitsProcessorList

        store, beams = self._store(remembered), self.options.beams
        given = self._tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=self._longest)
        limits = (LONGER * given["attention_mask"].sum(1) + 10).long().clamp(max=self._longest - 2)
        processors: list[Any] = [] if store is None else [Nearest(self, store, beams)]
        processors.append(Ends(limits.repeat_interleave(beams), self._model.config.eos_token_id))
        extra = {} if self._first is None else {"forced_bos_token_id": self._first}
        out: Any = self._model.generate(
            **given, num_beams=beams, do_sample=False, max_new_tokens=int(limits.max()) + 1, max_length=None,
            logits_processor=LogitsProcessorList(processors), return_dict_in_generate=True, output_scores=True, **extra)
        steps = self._model.compute_transition_scores(out.sequences, out.scores, getattr(out, "beam_indices", None),
                                                      normalize_logits=beams == 1)
        ends = (out.sequences[:, 1:] == self._model.config.eos_token_id).long()
        written = ends.cumsum(1) - ends == 0  # up to the end, which counts
        sure = torch.where(written, steps, 0.0).sum(1) / written.sum(1).clamp(min=1)
        return list(zip(self._tokenizer.batch_decode(out.sequences, skip_special_tokens=True), sure.exp().tolist(), strict=True))

    def _store(self, remembered: Sequence[Sequence[Remembered]]) -> Store | None:
        """Return the datastore of texts' remembered pairs; None without any. A pair of several texts is read once.

        What the weights have learned is not looked at: their states come near to it wherever words are alike.
        """
        remembered = [[one for one in some if not self._swap.knows(one.text, one.reply)] for some in remembered]
        pairs = list(dict.fromkeys((one.text, one.reply) for some in remembered for one in some))
        if not pairs:
            return None
        keys, values = self._read(pairs)
        place = {pair: row for row, pair in enumerate(pairs)}
        rows = [[place[one.text, one.reply] for one in some] for some in remembered]
        parts = [([keys[row] for row in some], [values[row] for row in some]) for some in rows]
        empty = torch.zeros(0, keys[0].shape[1]), torch.zeros(0, dtype=torch.int64)
        joined = [(torch.cat([empty[0], *k]), torch.cat([empty[1], *v])) for k, v in parts]
        most = max(len(v) for _, v in joined)
        filled = [torch.nn.functional.pad(k, (0, 0, 0, most - len(k))) for k, _ in joined]
        there = torch.stack([torch.arange(most) < len(v) for _, v in joined])
        spread = torch.stack([2 * (k - k.mean(0)).square().sum(1).mean() if len(k) else torch.tensor(1.0) for k, _ in joined])
        return Store(torch.stack(filled), torch.stack([torch.nn.functional.pad(v, (0, most - len(v))) for _, v in joined]), there,
                     spread.clamp(min=1e-6))

    def _read(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[Tensor], list[Tensor]]:
        """Read pairs as if they were written; return the decoder's states at each token, and the tokens."""
        options = {"return_tensors": "pt", "padding": True, "truncation": True, "max_length": self._longest}
        given = self._tokenizer([source for source, _ in pairs], **options)
        target = self._tokenizer(text_target=[target for _, target in pairs], **options)
        tokens, there = target["input_ids"], target["attention_mask"].bool()
        self._model(**given, decoder_input_ids=self._model.prepare_decoder_input_ids_from_labels(labels=tokens))
        return [state[which] for state, which in zip(self._state, there, strict=True)], \
            [row[which] for row, which in zip(tokens, there, strict=True)]

    def state(self) -> Tensor:
        """Return the decoder's states where the next tokens are chosen [rows, d]."""
        return self._state[:, -1]


class Nearest:
    """Mixes what comes next in the remembered pairs into the model's probabilities; called at each token, for each beam."""

    def __init__(self, translator: Translator, store: Store, beams: int) -> None:
        self._translator = translator
        self._store = store
        self._beams = beams

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        """Return log-probabilities [rows, V] for scores [rows, V]."""
        store, trust = self._store, self._translator.options.trust
        if not trust:
            return scores
        state = self._translator.state().view(len(store.keys), self._beams, -1)
        far = torch.cdist(state, store.keys, compute_mode="donot_use_mm_for_euclid_dist").square() / store.spread[:, None, None]
        far = far.masked_fill(~store.there[:, None], torch.inf)
        share = (1 - far.amin(2) / trust).clamp(min=0).view(-1, 1)  # [rows, 1]; 0 where nothing is remembered
        weight = softmax(-far / (KERNEL * trust), 2).nan_to_num(0.0).flatten(0, 1)
        values = store.values.repeat_interleave(self._beams, 0)
        near = torch.zeros_like(scores).scatter_add_(1, values, weight)
        mixed = share * near + (1 - share) * softmax(scores, 1)
        return mixed.log().masked_fill(scores == -torch.inf, -torch.inf)


class Ends:
    """Ends each text at its own limit [rows] of tokens, whatever else is translated with it."""

    def __init__(self, limits: Tensor, end: int) -> None:
        self._limits = limits
        self._end = end

    def __call__(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """Return scores [rows, V] that let a text which is too long only end."""
        only = torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([self._end]), 0.0)
        return torch.where((tokens.shape[1] > self._limits)[:, None], only, scores)


def taught(brief: Brief) -> str | None:
    """Return what was taught of the very text; of several the newest, which stands last among equals."""
    text = normalised(brief.text)
    return next((one.reply for one in reversed(brief.remembered) if normalised(one.text) == text), None)


def sentences(source: str, target: str) -> list[tuple[str, str]]:
    """Return the sentences of a pair side by side, where there are as many on both; else the pair.

    >>> sentences("One. Two.", "Eins. Zwei."), sentences("One. Two.", "Eins und zwei.")
    ([('One.', 'Eins.'), ('Two.', 'Zwei.')], [('One. Two.', 'Eins und zwei.')])
    """
    both = SENTENCE.split(source), SENTENCE.split(target)
    return list(zip(*both, strict=True)) if len(both[0]) == len(both[1]) else [(source, target)]


def pieces(text: str, parts: Any) -> Iterator[str]:
    """Yield sentences and what stands between them, in order; a sentence that is read in several parts is cut between words."""
    end = 0
    for found in SENTENCE.finditer(text):
        yield from _cut(text[end : found.start()], parts)
        yield found[0]
        end = found.end()
    yield from _cut(text[end:], parts)


def _cut(sentence: str, parts: Any) -> Iterator[str]:
    if not sentence:
        return
    count, words = parts(sentence), sentence.split(" ")
    size = max(1, -(-len(words) // count))
    for start in range(0, len(words), size):
        yield " ".join(words[start : start + size])
        if start + size < len(words):
            yield " "
