"""The text of `docs/benchmarks.md`: words that stay, tables from the results, means over seeds on top."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from adaptd.bench.plan import RATIOS

Json = dict[str, Any]
Table = Callable[[Json], tuple[list[str], list[list[Any]]]]

INTRODUCTION = """\
# Benchmarks

Made by `python -m adaptd.bench.report bench-results docs/benchmarks.md` from the results of `adaptd bench`, which are kept in
`docs/benchmarks/`; do not edit. Every figure of adaptd comes from a real daemon over HTTP, with the configuration that
`adaptd init` writes; where a protocol turns adaptation off, that is the only change. Peers learn from the same vectors in
the same run: `cron` is the real rival, a linear model (logistic regression) on cached embeddings, refitted on all history.

Accuracy is in percent, forgetting and losses in points. CPU seconds of adaptd are the daemon's with its trainers,
encoding included; those of the peers leave encoding out.
"""
PARTS: Mapping[str, str] = {
    "class-incremental": """\
## Class-incremental

Classes sorted by name, permuted by the seed; an experience is the next 15 (CLINC150, in scope only), 11 (Banking77) or 2
(THUCNews, learned from its dev split) of them, its examples in random order, sent once, 15 at a time, with no task id.
After each experience the set's own test split, restricted to the classes seen so far, is asked over HTTP. final: after the
last experience; average: over experiences; forgetting: mean over earlier experiences of (best accuracy ever - last
accuracy), of the first alone where only that was tested. With adaptation the stream pauses while one runs. `cron` refits
after each experience, so its final figure is the joint linear probe; `frozen` is fitted after the first and never again.
digits8x8 through the encoder of numbers (64 pixels), each fourth image asked; cifar10_small through an encoder of images, 60
images a class learned and 20 asked; two classes an experience.
""",
    "strategies": """\
## Strategies

The same stream in-process, through the trainer's own code: after each experience every strategy adapts its own last
adapter to it, always from the options that it begins with, and what comes out answers, with no gate between. final,
average, forgetting: of the whole answer, in which the ridge, that no adaptation touches, has its say; attention: of the
attention over memory alone. No row is held out, and trust in the parts of the answer stays where it begins, so these
figures compare strategies with one another and not with the daemon's. Training takes one thread.
""",
    "consolidation": """\
## Consolidation

In-process, through the consolidation's own code, with no gate between: the training rows come in random order (of a set without
test split each fourth row is asked), and after each half of them every method tunes the encoder's upper two blocks on all that
came, for three epochs, from the frozen ones; so the second time there is a champion, from which `distilled` learns, too.
together: the whole answer, with the trust that it begins with; alone: the tuned blocks. All rows are learned, attention is not
trained.
""",
    "new-classes": """\
## A new class

All but the last experience's classes are learned in full; then n random examples of each of the last experience's
classes come together. new: accuracy on them among all classes; old: on the others; old lost: against before. Between
the rounds the daemon is rolled back and learning resumed.
""",
    "prequential": """\
## Prequential

Each block of events is answered, then its labels come back as feedback. commit_stream: in the order of time, blocks
of 20. clinc150: the training split in random order, blocks of 10, and half-way the labels of ten classes are shifted
cyclically. `cron` refits every 500 events (each twentieth of a short stream); `no-change` repeats the label before.
The stream pauses while an adaptation runs: the real ones take years. elec2 and outdoor: numbers and the label before (known by
then: Žliobaitė et al., 2015), in order, one event at a time; the trees are River's (an adaptive Hoeffding tree, an adaptive
random forest) on the numbers themselves. fsdd: spoken digits, one speaker after the other, blocks of 20; behind a change: the
first 50 events of a new speaker. Where a stream is long its last events are taken, as is said there; `frozen` is fitted once,
when `cron` is for the first time.
""",
    "heads": """\
## Heads

Every fourth event in the order of time; each block of 50 is answered, then its labels come back as feedback. airline_tweets:
sentiment (an order of three) and the topic of the complaint, two heads; only complaints have a topic. reuters_stream: several
topics an event, of title and text to 200 characters. last fifth: accuracy on the events of the last fifth as they were answered,
of several labels micro F1. forgetting: what answers to a tenth of the first fifth, which is never taught, lost from the end of
that fifth to the end. Linear models on the same vectors: `fitted once` on the first fifth, `cron` refitted on all history every
500 events, `fitted at last` on all before the last fifth.
""",
    "noise": """\
## Label noise

Five sources teach in turns, the training split once in random order, and a fifth of what one of them says is wrong, at random.
clean, noisy: accuracy on the test split at the end, without and with it. named: whom `problems` of the status names then. The
peers learn the same labels and know no sources; `cron` fits once, at the end.
""",
    "memory": """\
## Bounded memory

In-process, one head for each policy and capacity; what is evicted stays in the sums, so all answer with the same ridge.
clinc150: the class-incremental stream, the test split asked at its end, trust in the parts of the answer where it begins.
commit_stream: each block of 100 events is answered, then learned. pooled: the whole answer; attention: the attention over
memory alone.
""",
    "abstain": """\
## Abstention

In-process, through the daemon's own learner: the training split comes once in random order, 25 events at a time, each
answered before it is learned. abstain_error: what of the stream was withheld, and how much of what was answered was wrong.
out_of_scope: the limit after the stream, on the test split and on queries that belong to no class: CLINC150's own, or
CLINC150's test queries outside banking and credit cards for the other sets. AUROC tells in scope from out of scope;
`max softmax` does the same by confidence instead of fit (Hendrycks and Gimpel, 2017).
""",
    "replies": """\
## Replies and documents

banking77: in-process, through the daemon's own learner: 3,000 training events in random order, 50 at a time, each answered
before it is learned; each intent has one reply, given by its first event. known: events whose reply was given in an earlier
block; right: the reply is the right one, withheld or not; in five: it is among the five that scored best; answered: not
withheld, with `unseen` at 10 %. The nearest neighbour is by the same vectors; `frozen once` remembers the first tenth and
never learns again. bank_faq: questions and answers of a bank; all distinct answers are passages, each question is asked once.
""",
    "entities": """\
## Entities

Spans of words, over the domain `entities` with the configuration of [entities.md](entities.md): sentences drawn by the seed,
taught 25 at a time, once; then test sentences, which nobody was taught (400 are drawn where a set has no test split). F1 of
whole spans as the set gives them: one whose boundary lies in a word counts as wrong. Linear models are logistic regressions on
the same vectors with the same decoding, `fitted once` on the first fifth, `of all` from scratch at the end; the conditional
random field has the features of sklearn-crfsuite's tutorial. forgetting: what answers to a quarter of the first fifth, which is
never taught, lost from the end of that fifth to the end, in points of F1. A+B+C: one set after the other, with the types that
they have in common; there `fitted once` knows the first set, and forgetting is read off its test sentences, which are asked
again at the end.
""",
    "ranking": """\
## Ranking

movielens100k in the order of time, in-process, with the ranker of the domain `recommend` ([recommend.md](recommend.md)), which
follows learned rows as in a daemon. Of each hundred ratings the first, where the user liked the item (4 or 5 stars), is ranked
among 99 items that came before and that the user has not rated, drawn at random; then the hundred are learned. The first fifth
is not counted: what is frozen learns it alone. forgetting: what rankings of the first fifth, which are never taught, lost from
its end to the end, in points of NDCG. Matrix factorisation is PureSVD of rank 50 on likes, users by what they liked so far;
anew for each ranking is what retraining from scratch gives. New users have rated fewer than five items.
""",
    "translation": """\
## Translation

Captions of at most 11 words from English to German, over the domain `translate` ([translate.md](translate.md)). The model is a
small one that was trained from scratch on 4,132 captions without sport: how the ways compare is said here, not how well a good
model translates. new: captions about sport; terms: others, with a customer's words for some German ones in all references; each
is translated before it is taught. BLEU, chrF: on held-out captions of the stream's kind, at the end; old: on captions of
neither kind; forgetting: what old ones lost against the bare model. Words taught: how often a customer's word is used that was
taught so often before, in percent. A translation memory gives the nearest pair's translation. With LoRA: adapted after each
hundred pairs, each candidate promoted by hand whatever the gate said. Fine-tuned: 4 epochs on the captions that the model was
trained on and three times the stream.
""",
    "review": """\
## Review

In-process, through the daemon's own learner and its choice of what to ask: the training split waits without labels, the 5,000
newest of it in the pool; a fifth of the labels is asked for in rounds, chosen by `review` or at random. accuracy: on the test
split, after the last round; share of all: against what all labels give. No row is held out, nothing is adapted.
""",
    "weak": """\
## Weak labels

In-process, through the daemon's own learner, proposals, trial and gate. The first so many labels of each class are true, 30 % of
them held out once a class has two; 3,000 events at most come behind them. pseudo: what the daemon proposes for those; 20 % and 60
% wrong: another source's labels for all of them, wrong at random. right: of these labels; held out: the rows that judge, 100 at
least, else there is no verdict; without, with: accuracy on the test split before and after they are learned; kept: what the
verdict leaves; admitted: of the seeds. Nothing is adapted.
""",
    "speed": """\
## Speed and size

Ratios to something measured in the same run; a budget is the most that is allowed, for throughput the least.
The bare encoder is the same class, engine and thread count in the benchmark's process, batch 1, the same texts, in
alternating blocks. Clients share the cores with the daemon. Learning costs are taken in-process from the daemon's own
learner; beyond the size of the set its rows are near copies of real vectors.
""",
    "latency": """\
## Latency by domain

After 500 labels (or half of the set): an answer over HTTP beside the bare encoder on one payload at a time, and a label that is
taught over HTTP, 15 in a request, each answered when it is learned, beside the bare encoder on the same 15 at once; in turns,
medians. Numbers take less than a millisecond to encode: of them the milliseconds say more.
""",
    "ingest": """\
## Ingest

Unlabelled events over HTTP, a thousand in a request, four clients, each answered when it is durable; beside it, in
turns, the bare database: the very rows that the daemon has written, journal and chain, by the driver's `executemany`, a
transaction for each thousand, with the writer's settings. Medians; the budget is the least that is wanted.
""",
    "feeds": """\
## Feeds

Redis Streams, NATS JetStream, MQTT (Mosquitto), RabbitMQ and Kafka's protocol (Tansu), each started by the run, all followed by
one daemon: each gives the same messages with labels while the daemon is killed with SIGKILL; after the first kills each broker
is stopped and started again, too. kills: those that came before everything was read. lost: messages that are no event; twice:
those that are two events, or learned more than once. seconds: from the first message to the last label learned, all together.
""",
    "overload": """\
## Overload

Capacity: what 16 clients get that ask one text after the other; their p99 is the normal one. Then 64 clients ask ten times as
much, on a timetable that no answer changes, for a minute. All the while one client teaches and one asks for the status, five
times a second each. All clients are threads of one process and share the cores with the daemon. half_load_ms: p99 at half the
capacity, for comparison. Afterwards all that was taught is sent again: what is no duplicate was lost.
""",
    "soak": """\
## Soak

Six clients for the time that is stated, each with a mean pause of 0.2 s: they predict, teach, correct, explain, search and ask
for the status; a conductor takes snapshots, adapts, goes back (every second time with a replay) and resumes. Memory is bounded
to 1,000 exemplars, so that what is remembered has a limit. RAM: the slope of the daemon's resident memory less the arrays
of its exemplars, after Theil and Sen, with its 95 % interval, without the first quarter of the run; in a short run the interval
says little. Descriptors and threads: of the idle daemon after the run, less those before it. A request has failed when it
was neither answered nor refused with a reason (4xx, 503).
"""}


def page(results: Sequence[Json], table: Table, pictures: Sequence[str]) -> str:
    """Return the page in Markdown."""
    text = [INTRODUCTION, *_machines(results)]
    for part, words in PARTS.items():
        mine = [result for result in results if result["part"] == part]
        text += [words] if mine else []
        for group in _groups(mine):
            text.append(f"### {_title(group)}\n\n{markdown(*table(_mean(group)))}\n")
            text += [f"{result['remark']}\n" for result in group if result.get("remark")]  # what a reader must know of this run
            names = {group[0]["name"] + kind for kind in (".png", "-forgetting.png")}
            text += [f"![{file}]({file})\n" for file in pictures if file.rpartition("/")[2] in names]
    return "\n".join(text)


def _machines(results: Iterable[Json]) -> list[str]:
    lines = {f"- {r['machine']['cpu']}, {r['machine']['cores']} cores; " +
             ", ".join(f"{name} {version}" for name, version in r["versions"].items()) for r in results}
    return ["\n".join(sorted(lines)) + "\n"] if lines else []


def _groups(results: Iterable[Json]) -> list[list[Json]]:
    """Group results that differ in the seed alone."""
    groups: dict[tuple[Any, ...], list[Json]] = {}
    for result in results:
        kind = result["set"], result["adapt"], result["last_only"], result.get("each"), result.get("encoder")
        groups.setdefault(kind, []).append(result)
    return list(groups.values())


def _title(group: Sequence[Json]) -> str:
    first = group[0]
    seeds = ", ".join(str(result["seed"]) for result in group)
    adapt = "" if first["part"] in RATIOS else ", adaptation " + ("on" if first["adapt"] else "off")
    tested = ", tested after the first and the last experience only" if first["last_only"] else ""
    each = f", {first['each']} rows of a class in each split" if first.get("each") else ""
    encoder = f", {first['encoder']}" if first.get("encoder") else ""
    return f"{first['set']}{encoder}{each}{adapt}{tested}, " + (f"mean of seeds {seeds}" if len(group) > 1 else f"seed {seeds}")


def _mean(group: Sequence[Json]) -> Json:
    """Return one result with the mean of each figure over the seeds, by method (and number of examples)."""
    if len(group) == 1:
        return group[0]
    rows: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for result in group:
        for row in result["rows"]:
            rows.setdefault((row.get("method"), row.get("examples"), row.get("what")), []).append(row)
    means = [{key: _middle([row[key] for row in same]) for key in same[0]} for same in rows.values()]
    return {**group[0], "rows": means}


def _middle(values: Sequence[Any]) -> Any:
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return statistics.fmean(numbers) if len(numbers) == len(values) else values[0]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *([shown(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value: Any) -> str:
    """Return a value as tables show it.

    >>> [shown(v) for v in (None, 95.333, 0.0123, 3, "x")]
    ['-', '95.33', '0.0123', '3', 'x']
    """
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
    return str(value)
