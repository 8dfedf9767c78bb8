"""Keeping local users' circles up to date: asked of the directory when a user comes, and again when it says that they changed.

News that two users stand to each other in another way severs them at once, and only a fresh answer of the directory brings
them together again; an answer that was on its way when the news came is thrown away. News that were lost are made up
for by asking again: when the Bus says that there may have been some, and from time to time.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from prometheus_client import Counter

from discovery.clock import Clock
from discovery.errors import HitherError, Unavailable
from services.presence.folding import Folding
from services.presence.settings import PresenceSettings
from services.presence.telling import Telling
from services.presence.watching import Circle, Watching

CHANGES_TOPIC = "directory.changes"
_BLOCKS_AT_ONCE = 200

AskFriends = Callable[[str], Awaitable[Sequence[str]]]
"""The accepted friends of a user, from the directory."""
AskBlocks = Callable[[str, Sequence[str]], Awaitable[Collection[str]]]
"""Those of at most 200 others with whom a user has a block, in either direction, from the directory."""
Recall = Callable[[Sequence[str]], Awaitable[None]]
"""Finds out whom the devices of users watched before they came to this owner."""

_failures = Counter(
    "hither_presence_friends_failures", "Times that a user's friends could not be asked for or followed."
)
_log = structlog.get_logger("hither.presence")


@dataclass(slots=True, eq=False)
class _Question:
    """A question about a user that is on its way, and whether news have overtaken it."""

    user_id: str
    is_stale: bool = False


class Friends:
    """Follows the circles of the users who are here (as `folding` says), and of nobody else."""

    def __init__(
        self,
        ask: AskFriends,
        ask_blocks: AskBlocks,
        recall: Recall,
        folding: Folding,
        watching: Watching,
        telling: Telling,
        clock: Clock,
        settings: PresenceSettings,
    ) -> None:
        self._ask = ask
        self._ask_blocks = ask_blocks
        self._recall = recall
        self._folding = folding
        self._watching = watching
        self._telling = telling
        self._clock = clock
        self._settings = settings
        self._due: dict[str, None] = {}
        """Users to ask for, in order."""
        self._later: deque[tuple[float, str]] = deque()
        """Users to ask for again after a failure, soonest first."""
        self._asked: OrderedDict[str, float] = OrderedDict()
        """When each local user was asked for last, longest ago first."""
        self._ungreeted: set[str] = set()
        """Users who are to be greeted as soon as their friends are known."""
        self._questions: set[_Question] = set()
        self._wake = asyncio.Event()

    def arrived(self, user_id: str) -> None:
        """A device of the user has connected."""
        if self._watching.knows(user_id) and user_id not in self._ungreeted:
            self._telling.greet(user_id)
            self.narrowed(user_id)
        else:
            self._ungreeted.add(user_id)
            self._ask_soon(user_id)

    def narrowed(self, user_id: str) -> None:
        """A device of the user came or went: if others named users, who is followed may change."""
        if self._watching.knows(user_id) and self._watching.is_narrow(user_id):
            self._ask_soon(user_id)

    def left(self, user_id: str) -> None:
        """The user is here no longer."""
        self._watching.forget(user_id)
        self._due.pop(user_id, None)
        self._asked.pop(user_id, None)
        self._ungreeted.discard(user_id)
        self._wake.set()

    def changed(self, topic: str, payload: bytes) -> None:
        """Takes news of the directory: "friends <user> <user>" for how the two stand, one on each line."""
        for line in payload.decode(errors="replace").splitlines():
            match line.split(" "):
                case ["friends", one, other]:
                    self._watching.sever(one, other)
                    self._make_stale({one, other})
                    for user_id in (one, other):
                        if self._folding.is_here(user_id):
                            self._ask_soon(user_id)

    def missed(self, _topic: str) -> None:
        """News of the directory may have been missed: everybody's friends are asked for again, few at a time."""
        self._due.update(dict.fromkeys(self._asked))
        self._asked.clear()
        self._wake.set()

    async def follow_now(self, user_id: str) -> None:
        """Follows whom the devices of a user who is here want to follow, and asks the directory only for what is not known
        yet. Raises what the directory and the Bus raise, and Unavailable if friendships keep changing or the user has gone.
        """
        for _ in range(self._settings.asks_most):
            with self._question(user_id) as question:
                circle = self._watching.circle(user_id)
                friend_ids = circle.friend_ids
                if not self._watching.knows(user_id):
                    friend_ids = frozenset(await self._ask(user_id))
                circle = await self._with_strangers(user_id, friend_ids, circle.stranger_ids)
                async with self._watching.changing, asyncio.timeout(self._settings.engine_timeout_s):
                    await self._watching.subscribe(user_id, circle)
                    if self._folding.is_here(user_id) and not question.is_stale:
                        self._watching.follow(user_id, circle)
                        return
        raise Unavailable("Who the user's friends are keeps changing.")

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            await self.step()
            try:
                async with asyncio.timeout(self._settings.friends_retry_s):
                    await self._wake.wait()
            except TimeoutError:
                continue  # whoever is to be asked for again may be due

    async def step(self) -> None:
        """Asks for everybody who is due, and lets go of what nobody watches any more."""
        self._wake.clear()
        self._take_up_what_is_due()
        while self._due:
            users = list(self._due)[: self._settings.friends_at_once]
            for user_id in users:
                del self._due[user_id]
            await self._recall([user_id for user_id in users if user_id in self._ungreeted])
            async with asyncio.TaskGroup() as group:
                for user_id in users:
                    group.create_task(self._renew(user_id))
        try:
            async with self._watching.changing, asyncio.timeout(self._settings.engine_timeout_s):
                await self._watching.close_idle()
        except (HitherError, TimeoutError) as error:
            _log.warning("unsubscribing.failed", error=str(error))

    def _ask_soon(self, user_id: str) -> None:
        self._due[user_id] = None
        self._wake.set()

    def _take_up_what_is_due(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._later and self._later[0][0] <= now_s:
            self._due[self._later.popleft()[1]] = None
        refresh_before_s = now_s - self._settings.friends_refresh_s
        while self._asked:
            user_id, asked_s = next(iter(self._asked.items()))
            if asked_s > refresh_before_s:
                return
            del self._asked[user_id]
            self._due[user_id] = None

    async def _renew(self, user_id: str) -> None:
        """Asks for all of the user's circle and follows it, unless something has changed meanwhile: then it is due again."""
        if not self._folding.is_here(user_id):
            return
        with self._question(user_id) as question:
            try:
                circle = await self._with_strangers(user_id, frozenset(await self._ask(user_id)), frozenset())
                async with self._watching.changing, asyncio.timeout(self._settings.engine_timeout_s):
                    await self._watching.subscribe(user_id, circle)
                    if not question.is_stale and self._folding.is_here(user_id):
                        self._follow(user_id, circle)
            except (HitherError, TimeoutError) as error:
                self._failed(user_id, error)

    def _follow(self, user_id: str, circle: Circle) -> None:
        added = self._watching.follow(user_id, circle)
        self._asked[user_id] = self._clock.monotonic_s()
        self._asked.move_to_end(user_id)
        if user_id in self._ungreeted:
            self._ungreeted.discard(user_id)
            self._telling.greet(user_id)
            return
        self._telling.introduce(user_id, added)
        for friend_id in added:
            # Where the friend's own answer came first, this user was not to be told of then.
            if self._watching.follows(friend_id, user_id):
                self._telling.introduce(friend_id, (user_id,))

    async def _with_strangers(self, user_id: str, friend_ids: frozenset[str], allowed_ids: frozenset[str]) -> Circle:
        """The circle of these friends, and of the strangers whom the user's devices name: those of `allowed_ids` without asking."""
        named = frozenset().union(*(ids for ids in self._folding.interests(user_id).values() if ids))
        strangers = (named - friend_ids) & allowed_ids
        unknown = sorted(named - friend_ids - allowed_ids)
        for start in range(0, len(unknown), _BLOCKS_AT_ONCE):
            chunk = unknown[start : start + _BLOCKS_AT_ONCE]
            strangers |= frozenset(chunk).difference(await self._ask_blocks(user_id, chunk))
        return Circle(friend_ids, strangers)

    @contextmanager
    def _question(self, user_id: str) -> Iterator[_Question]:
        question = _Question(user_id)
        self._questions.add(question)
        try:
            yield question
        finally:
            self._questions.discard(question)

    def _make_stale(self, user_ids: Collection[str]) -> None:
        for question in self._questions:
            question.is_stale = question.is_stale or question.user_id in user_ids

    def _failed(self, user_id: str, error: Exception) -> None:
        _failures.inc()
        _log.warning("friends.failed", error=str(error))
        self._later.append((self._clock.monotonic_s() + self._settings.friends_retry_s, user_id))
