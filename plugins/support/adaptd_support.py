"""Customer-service messages: what a customer wants, and what the team has answered to such a question before.

A label is `{"intent": …, "answer": …}`, or one of them: the answer is the text that an agent sent, at any length. A bare string
is an intent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import adaptd

INTENT, ANSWER = "intent", "answer"


@dataclass
class Support(adaptd.Domain):
    """A message is `{"text": …}`, or a mail as `{"subject": …, "body": …}`; `conversation` has the turns before it."""

    name = "support"
    heads = {INTENT: adaptd.Classify(), ANSWER: adaptd.Reply()}
    evidence = 3
    samples = [
        {"text": "my card is gone", "label": {"intent": "card_lost", "answer": "We have blocked it; a new one is on its way."}},
        {"subject": "Card", "body": "It is gone.\n", "label": {"intent": "card_lost"}},
        {"text": "and how much does it cost?", "conversation": ["I need a new card", {"from": "agent", "text": "Of course."}]},
    ]

    sure: float = 0.5  # of an intent: from this confidence on nobody need look
    unseen: float = 0.1  # of the questions that nobody has answered yet at most this share is given a remembered answer
    turns: int = 2  # earlier turns of the conversation that count

    def __post_init__(self) -> None:
        """Take the knobs over."""
        if not 0 <= self.sure <= 1 or self.turns < 0:
            raise ValueError("sure must lie between 0 and 1, and turns not be negative")
        self.heads = {INTENT: adaptd.Classify(), ANSWER: adaptd.Reply(unseen=self.unseen)}

    def example(self, payload: Mapping[str, Any]) -> adaptd.Example:
        """Give the encoder the message, the subject first, and behind it the newest turns before it."""
        parts = [payload[field] for field in ("text", "subject", "body") if payload.get(field) is not None]
        if not all(isinstance(part, str) for part in parts):
            raise adaptd.BadPayload("text, subject and body must be strings", field="text", hint='send {"text": "…"}')
        text = "\n".join(part.strip() for part in parts).strip()
        if not text:
            raise adaptd.BadPayload("a message needs words", field="text", hint='send {"text": …}, or subject and body')
        earlier = [_turn(turn, index) for index, turn in enumerate(_conversation(payload))]
        return adaptd.Example(text="\n".join([text, *reversed(earlier[len(earlier) - min(self.turns, len(earlier)):])]))

    def targets(self, label: Any) -> Mapping[str, Any]:
        """Read a label."""
        return {INTENT: label} if isinstance(label, str) else super().targets(label)

    def render(self, prediction: adaptd.Prediction) -> Mapping[str, Any]:
        """Say what was answered before and to what question; where that is nothing, what documents say, or who is to be asked."""
        intent, reply = prediction.heads[INTENT], prediction.heads[ANSWER]
        return {
            "intent": intent.label,
            "answer": None if reply.label is None else reply.whole(reply.label),
            "from": "memory" if reply.label is not None else "documents" if prediction.passages else None,
            "hand_over": (why := self._why(intent, reply)) is not None,
            "why": why,
            "remembered": [{"question": one.text, "answer": reply.whole(one.label), "by": one.source, "event": one.event,
                            "similarity": round(one.similarity, 4)} for one in reply.evidence],
        }

    def _why(self, intent: adaptd.HeadAnswer, reply: adaptd.HeadAnswer) -> str | None:
        """Say why a person is asked; None: nobody is. A team that only teaches intents, or only answers, is asked for no more."""
        if not reply.scores and not intent.scores:
            return "nothing has been learned yet"
        if reply.scores and reply.label is None:
            return f"answer: {reply.reason}"
        if intent.scores and intent.label is None:
            return f"intent: {intent.reason}"
        unsure = intent.scores and intent.confidence < self.sure
        return f"intent: confidence {intent.confidence:.3f} is below {self.sure:g} (sure)" if unsure else None


def _conversation(payload: Mapping[str, Any]) -> Sequence[Any]:
    turns = payload.get("conversation")
    if turns is not None and not isinstance(turns, list):
        raise adaptd.BadPayload("conversation must be a list of the turns before this message", field="conversation",
                                hint='["…", {"from": "agent", "text": "…"}], the oldest first')
    return turns or ()


def _turn(turn: Any, index: int) -> str:
    text = turn.get("text") if isinstance(turn, Mapping) else turn
    if not isinstance(text, str):
        raise adaptd.BadPayload(f"turn {index} of the conversation has no text", field=f"conversation[{index}]",
                                hint='a turn is a string, or {"from": …, "text": "…"}')
    return text.strip()


@adaptd.hookimpl
def register_domains() -> Iterable[type[adaptd.Domain]]:
    """Offer the domain."""
    return [Support]
