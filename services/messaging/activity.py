"""What a user's inbox says of each conversation: where it came to last, and how much of it the user has not read.

Pure. The state of a conversation follows from the user's inbox rows alone, in their order; so whoever makes it makes the same, and
making it again from rows that it knows changes nothing. The unread count is no counter: it is what follows the user's seen
mark in that state. Of the user's own messages the newest OWN_SEQS are known; where there are so many, what came before the
oldest of them counts as read.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from services.ports.message_store import ActivityPlace, ActivityRow, Head, InboxRow

OWN_SEQS = 32
"""Own messages that an ActivityRow knows of."""


def follow(known: Mapping[ActivityPlace, ActivityRow], rows: Iterable[InboxRow]) -> list[ActivityRow]:
    """The conversations that the rows (of any users, in order of pos) change, as they are after them, given what they were before.

    Rows that a conversation knows already leave it as it is.
    """
    changed: dict[ActivityPlace, ActivityRow] = {}
    for row in rows:
        place = (row.user_id, row.conversation_id)
        before = changed.get(place) or known.get(place)
        if before is None:
            changed[place] = _joined(row)
        elif row.pos > before.last_pos:
            changed[place] = _after(before, row)
    return list(changed.values())


def unread_count(activity: ActivityRow, seen_seq: int) -> int:
    """How many messages of others follow the seen mark, since the user came (or came back) into the conversation."""
    own = activity.own_seqs
    floor = max(seen_seq, activity.since_seq - 1)
    if len(own) == OWN_SEQS:
        floor = max(floor, own[0] - 1)
    return max(0, activity.last_seq - floor - (len(own) - bisect_right(own, floor)))


class RecentActivity:
    """The conversations of the users whose inboxes were written last, so that the next rows need not look them up.

    A user's conversations are known as of a place of the inbox, and serve as long as that is the inbox's newest.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._total = 0
        self._users: dict[str, tuple[int, dict[str, ActivityRow]]] = {}

    def known(self, rows: Sequence[InboxRow], heads: Mapping[str, Head]) -> dict[ActivityPlace, ActivityRow]:
        """What is known of the rows' conversations, for inboxes that now end at `heads`."""
        found: dict[ActivityPlace, ActivityRow] = {}
        for place in {(row.user_id, row.conversation_id) for row in rows}:
            user_id, conversation_id = place
            pos, conversations = self._users.get(user_id, (0, {}))
            activity = conversations.get(conversation_id)
            if activity is not None and pos == heads[user_id].place:
                found[place] = activity
        return found

    def wrote(self, rows: Sequence[InboxRow], activity: Sequence[ActivityRow], heads: Mapping[str, Head]) -> None:
        """Takes rows that were written to inboxes which ended at `heads` before, and what they made of their conversations."""
        newest = {row.user_id: row.pos for row in rows}
        for user_id, pos in newest.items():
            known_pos, conversations = self._users.pop(user_id, (0, {}))
            if known_pos != heads[user_id].place:
                self._total -= len(conversations)
                conversations = {}
            self._users[user_id] = (pos, conversations)
        for item in activity:
            _, conversations = self._users[item.user_id]
            self._total += item.conversation_id not in conversations
            conversations[item.conversation_id] = item
        while self._total > self._most:
            _, conversations = self._users.pop(next(iter(self._users)))
            self._total -= len(conversations)


def _joined(row: InboxRow) -> ActivityRow:
    own_seqs = (row.seq,) if row.sender_id == row.user_id else ()
    return ActivityRow(row.user_id, row.conversation_id, row.pos, row.seq, row.seq, own_seqs)


def _after(before: ActivityRow, row: InboxRow) -> ActivityRow:
    if row.seq != before.last_seq + 1:  # what lies between was not for the user
        return _joined(row)
    own_seqs = before.own_seqs
    if row.sender_id == row.user_id:
        own_seqs = (*own_seqs, row.seq)[-OWN_SEQS:]
    return ActivityRow(row.user_id, row.conversation_id, row.pos, row.seq, before.since_seq, own_seqs)
