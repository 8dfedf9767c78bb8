"""Judges a recorded run: is anything lost, doubled or out of order? Pure; says what is wrong in words."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sent:
    """A message as one end saw it: the sender in its ack, a reader in the history, a device in its inbox."""

    conversation_id: str
    seq: int
    message_id: int
    client_id: str


def check_history(conversation_id: str, history: Sequence[Sent], acked: Iterable[Sent]) -> list[str]:
    """Problems of a conversation's whole history against the acks for it; empty if there are none.

    The history must hold contiguous seqs from 1, each client id once, and every ack exactly as it was given.
    """
    problems = []
    seqs = [message.seq for message in history]
    if seqs != list(range(1, len(seqs) + 1)):
        problems.append(f"{conversation_id}: seqs are not 1..{len(seqs)} in order")
    problems += [
        f"{conversation_id}: {client_id} stands {count} times in the history"
        for client_id, count in Counter(message.client_id for message in history).items()
        if count > 1
    ]
    kept = set(history)
    problems += [
        f"{conversation_id}: ack {ack} is not in the history"
        for ack in acked
        if ack.conversation_id == conversation_id and ack not in kept
    ]
    return problems


def check_inbox(device: str, inbox: Sequence[tuple[int, Sent]], expected: Iterable[Sent]) -> list[str]:
    """Problems of what a device saw, as (pos, message), against what it should have seen; empty if there are none.

    Places must be contiguous from 1, every expected message there once and no other, and each conversation's seqs ascending.
    """
    problems = []
    places = [pos for pos, _ in inbox]
    if places != list(range(1, len(places) + 1)):
        problems.append(f"{device}: places are not 1..{len(places)} in order")
    counted = Counter(message for _, message in inbox)
    wanted = set(expected)
    problems += [f"{device}: saw {message} {count} times" for message, count in counted.items() if count > 1]
    problems += [f"{device}: never saw {message}" for message in wanted - counted.keys()]
    problems += [f"{device}: saw {message}, which is in no history" for message in counted.keys() - wanted]
    newest: dict[str, int] = {}
    for _, message in inbox:
        if message.seq <= newest.get(message.conversation_id, 0):
            problems.append(f"{device}: {message} came after seq {newest[message.conversation_id]}")
        newest[message.conversation_id] = max(message.seq, newest.get(message.conversation_id, 0))
    return problems
