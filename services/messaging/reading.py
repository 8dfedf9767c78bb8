"""Reading a conversation: from this process's tails, then from those that are shared, then from the store.

What may be answered from a tail is decided in tails.py. Here the store is asked for the conversation's head on each read that a
tail might serve, after the read began: it is what makes an answer from a tail as good as one from the store.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from services.messaging import metrics
from services.messaging.shared_tails import SharedTails
from services.messaging.tails import MOST_MESSAGES, NOTHING, Asked, Span, Tail, Tails, tail_of
from services.ports.message_store import ConversationStore, Head, MessageRow

AskHeads = Callable[[Sequence[str]], Awaitable[Mapping[str, Head]]]
"""ConversationStore.conversation_heads, asked after the call; the answer may hold more."""


class ConversationReads:
    """Reads messages. Without `shared`, there are this process's tails and the store only."""

    def __init__(
        self, store: ConversationStore, ask_heads: AskHeads, tails: Tails, shared: SharedTails | None = None
    ) -> None:
        self._store = store
        self._ask_heads = ask_heads
        self._tails = tails
        self._shared = shared

    async def read(self, conversation_id: str, asked: Asked) -> Span:
        """What is asked for, with all that was visible when the call began. Raises what the store raises."""
        tail = self._tails.find(conversation_id)
        if tail is not None:
            span = await self._from_tail(conversation_id, asked, tail, "process")
        else:
            metrics.TAIL_READS.labels("process", "miss").inc()
            span = await self._from_shared(conversation_id, asked)
        return span or await self._from_store(conversation_id, asked)

    async def _from_shared(self, conversation_id: str, asked: Asked) -> Span | None:
        if self._shared is None or not asked.to_the_end:  # what lies before a place is seldom near the end
            return None
        tail = await self._shared.find(conversation_id)
        if tail is None:
            metrics.TAIL_READS.labels("shared", "miss").inc()
            return None
        return await self._from_tail(conversation_id, asked, tail, "shared")

    async def _from_tail(self, conversation_id: str, asked: Asked, tail: Tail, layer: str) -> Span | None:
        """The answer, if the tail holds all of it once it is extended to the conversation's head."""
        head = (await self._ask_heads([conversation_id]))[conversation_id]
        seqs = asked.seqs(head.place)
        whole = await self._whole(conversation_id, seqs, tail, head)
        if whole is None:
            metrics.TAIL_READS.labels(layer, "miss").inc()
            return None
        metrics.TAIL_READS.labels(layer, "hit" if whole is tail else "stale").inc()
        self._tails.put(conversation_id, whole)
        if whole is not tail and layer == "shared":
            self._share(conversation_id, whole)
        return whole.span(seqs)

    async def _whole(self, conversation_id: str, seqs: range, tail: Tail, head: Head) -> Tail | None:
        """The tail as it goes on to the head; None if it does not, or does not hold these places."""
        if tail.contradicts(head):
            self._tails.forget(conversation_id)
            return None
        lacking = head.place - tail.newest_seq
        if lacking > MOST_MESSAGES or (seqs and seqs.start < tail.first_seq):
            return None
        if not lacking:
            return tail
        rows = await self._store.read_messages(
            conversation_id, tail.newest_seq - 1, head.place + 1, lacking + 1, newest=False
        )
        extended = tail.extended(rows)
        if extended is None:
            self._tails.forget(conversation_id)
        elif seqs and seqs.start < extended.first_seq:
            self._tails.put(conversation_id, extended)
            return None
        return extended

    async def _from_store(self, conversation_id: str, asked: Asked) -> Span:
        rows = await self._store.read_messages(
            conversation_id, asked.after_seq, asked.before_seq, asked.limit, asked.newest
        )
        if not rows:
            return NOTHING
        self._keep(conversation_id, rows, at_end=asked.to_the_end and (asked.newest or len(rows) < asked.limit))
        return Span(rows[0].seq, [row.payload for row in rows])

    def _keep(self, conversation_id: str, rows: Sequence[MessageRow], *, at_end: bool) -> None:
        known = self._tails.find(conversation_id)
        if at_end and (known is None or rows[-1].seq > known.newest_seq or rows[0].seq < known.first_seq):
            tail = tail_of(rows)
            self._tails.put(conversation_id, tail)
            self._share(conversation_id, tail)
        elif known is not None and rows[-1].seq + 1 >= known.first_seq:
            self._tails.put(conversation_id, known.preceded_by(rows))

    def _share(self, conversation_id: str, tail: Tail) -> None:
        if self._shared is not None:
            self._shared.offer(conversation_id, tail)
