"""What is recent depends on how long there is: in a short stream, classes that come in turns teach no distrust in what is old."""

from __future__ import annotations

import numpy as np
import torch

from adaptd.bench.review import entry, learning, new_head
from adaptd.bench.streams import blocks, class_incremental
from adaptd.model.decoder import opine

CLASSES, EACH, PER, DIM = 10, 60, 2, 48


def clouds(each: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """Return vectors around ten centres, so far apart that three in ten are taken for another's."""
    centres = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(99))
    labels = [c for _ in range(each) for c in range(CLASSES)]
    x = centres[labels] + 2.6 * torch.randn(len(labels), DIM, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(x, dim=1).half(), [f"class {c}" for c in labels]


def test_classes_that_come_two_at_a_time_are_answered_as_well_as_by_the_ridge_that_forgets_nothing() -> None:
    (vectors, labels), (asked, truth) = clouds(EACH, 1), clouds(40, 2)
    stream = class_incremental(labels, truth, per=PER, seed=0)
    order = np.concatenate(stream.experiences)
    ordered, names = vectors[torch.from_numpy(order)], [labels[i] for i in order]
    head = new_head(DIM)
    with learning(head, ordered, -1) as learner:
        for block in blocks(np.arange(len(order)), 15):
            learner.deliver([entry(int(i), names[i]) for i in block])
            learner.call(lambda: None).result()  # what comes next is asked of this
    said = opine(asked, head.snapshot())
    right = np.array([head.labels.index(label) for label in truth])
    ridge, newest = ((said.experts[expert].argmax(1) == right).mean() for expert in (0, 2))
    assert newest < ridge - 0.1, "what prefers the newest is misled: else nothing is tried here"
    assert (said.pooled.argmax(1) == right).mean() > ridge - 0.03
