"""A small translation model of the Marian architecture, trained from scratch: where none can be downloaded.

`python -m adaptd_translate.small PAIRS.jsonl FOLDER` trains one on pairs, and with `--of` a model that is there on more of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianConfig, MarianMTModel, PreTrainedTokenizerFast

log = logging.getLogger(__name__)
Pair = tuple[str, str]
Ids = tuple[list[int], list[int]]
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
SMOOTHING = 0.1


def fresh(folder: Path, pairs: Sequence[Pair], *, width: int = 128, layers: int = 2, words: int = 3000, seed: int = 0) -> None:
    """Write a model that was not trained yet, and a tokenizer of the pairs' two languages together (byte-pair encoding)."""
    torch.manual_seed(seed)
    bpe = Tokenizer(models.BPE(unk_token=UNKNOWN))
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = [PAD, END, UNKNOWN]
    bpe.train_from_iterator((text for pair in pairs for text in pair),
                            trainers.BpeTrainer(vocab_size=words, special_tokens=special, show_progress=False))
    bpe.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, bpe.token_to_id(END))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
                                        model_max_length=256)
    model = MarianMTModel(MarianConfig(
        vocab_size=len(tokenizer), d_model=width, encoder_layers=layers, decoder_layers=layers, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=4 * width, decoder_ffn_dim=4 * width, max_position_embeddings=256,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=1, scale_embedding=True, dropout=0.1,
        activation_function="relu"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(folder: Path | str, pairs: Sequence[Pair], *, epochs: int, rate: float = 2e-3, warm: int = 400, tokens: int = 1200,
          seed: int = 0, into: Path | None = None) -> None:
    """Train a folder's model, or one of the hub, on pairs, and write it there, or into another folder."""
    torch.manual_seed(seed)
    drawn = random.Random(seed)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
    ids = [(tokenizer(source)["input_ids"], tokenizer(text_target=target)["input_ids"]) for source, target in pairs]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    steps = epochs * sum(1 for _ in batches(ids, tokens, drawn))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.02, 1 - (step - warm) / max(1, steps - warm))))
    model.train()
    for epoch in range(epochs):
        losses = []
        for batch in batches(ids, tokens, drawn):
            source, target = (padded([pair[side] for pair in batch], tokenizer.pad_token_id) for side in (0, 1))
            given = model.prepare_decoder_input_ids_from_labels(target)
            mask = source != tokenizer.pad_token_id
            logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=given).logits
            loss = cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=tokenizer.pad_token_id,
                                 label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        log.info("epoch %d of %d: loss %.3f", epoch + 1, epochs, sum(losses) / len(losses))
    model.save_pretrained(into or folder)
    tokenizer.save_pretrained(into or folder)


def batches(ids: Sequence[Ids], tokens: int, drawn: random.Random) -> Iterator[list[Ids]]:
    """Yield batches of at most so many tokens, in a random order; those of like lengths are together."""
    order = sorted(range(len(ids)), key=lambda row: (len(ids[row][1]) + drawn.random() * 4))
    found: list[list[int]] = [[]]
    for row in order:
        if found[-1] and (len(found[-1]) + 1) * (len(ids[row][0]) + len(ids[row][1])) > tokens:
            found.append([])
        found[-1].append(row)
    drawn.shuffle(found)
    yield from ([ids[row] for row in batch] for batch in found)


def padded(rows: Sequence[Sequence[int]], pad: int) -> Any:
    """Return rows of ids as one tensor."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on the pairs of a file that `adaptd ingest` reads, too."""
    parser = argparse.ArgumentParser(prog="python -m adaptd_translate.small", description=main.__doc__)
    parser.add_argument("pairs", type=Path, help='JSONL, a line {"text": …, "label": …}')
    parser.add_argument("folder", type=Path, help="where the model is written")
    parser.add_argument("--of", metavar="MODEL", help="a folder or hub name: this model is trained on, instead of a new one")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--warm", type=int, default=400, help="steps until the rate is reached")
    given = parser.parse_args(arguments)
    rows = map(json.loads, given.pairs.read_text(encoding="utf-8").splitlines())
    pairs = [(row["text"], row["label"]) for row in rows]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    if given.of is None:
        fresh(given.folder, pairs)
    train(given.of or given.folder, pairs, epochs=given.epochs, rate=given.rate, warm=given.warm, into=given.folder)


if __name__ == "__main__":
    main()
