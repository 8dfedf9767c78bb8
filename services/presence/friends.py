"""Keeping local users' friends up to date: asked of the directory when a user comes, and again when it says that they changed.

News that two users stand to each other in another way severs them at once, and only a fresh answer of the directory brings
them together again; an answer that was on its way when the news came is thrown away. News that were lost are made up
for by asking again: when the Bus says that there may have been some, and from time to time.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence

import structlog
from prometheus_client import Counter

from discovery.clock import Clock
from discovery.errors import HitherError
from services.presence.settings import PresenceSettings
from services.presence.telling import Telling
from services.presence.watching import Watching

CHANGES_TOPIC = "directory.changes"

AskFriends = Callable[[str], Awaitable[Sequence[str]]]
"""The accepted friends of a user, from the directory."""

_failures = Counter(
    "hither_presence_friends_failures", "Times that a user's friends could not be asked for or followed."
)
_log = structlog.get_logger("hither.presence")


class Friends:
    """Follows the friends of the users who are here (`is_here`), and of nobody else."""

    def __init__(
        self,
        ask: AskFriends,
        is_here: Callable[[str], bool],
        watching: Watching,
        telling: Telling,
        clock: Clock,
        settings: PresenceSettings,
    ) -> None:
        self._ask = ask
        self._is_here = is_here
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
        self._wake = asyncio.Event()

    def arrived(self, user_id: str) -> None:
        """A device of the user has connected."""
        if self._watching.knows(user_id):
            self._telling.greet(user_id)
        else:
            self._ask_soon(user_id)

    def left(self, user_id: str) -> None:
        """The user is here no longer."""
        self._watching.forget(user_id)
        self._due.pop(user_id, None)
        self._asked.pop(user_id, None)
        self._wake.set()

    def changed(self, topic: str, payload: bytes) -> None:
        """Takes news of the directory: "friends <user> <user>" for how the two stand, one on each line."""
        for line in payload.decode(errors="replace").splitlines():
            match line.split(" "):
                case ["friends", one, other]:
                    self._watching.sever(one, other)
                    for user_id in (one, other):
                        if self._is_here(user_id):
                            self._ask_soon(user_id)

    def missed(self, _topic: str) -> None:
        """News of the directory may have been missed: everybody's friends are asked for again, few at a time."""
        self._due.update(dict.fromkeys(self._asked))
        self._asked.clear()
        self._wake.set()

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
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(self._friends_of(user_id)) for user_id in users]
            for user_id, answer in zip(users, asked, strict=True):
                await self._follow(user_id, answer.result())
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
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

    async def _friends_of(self, user_id: str) -> Sequence[str] | None:
        if not self._is_here(user_id):
            return None
        try:
            return await self._ask(user_id)
        except HitherError as error:
            self._failed(user_id, error)
            return None

    async def _follow(self, user_id: str, friend_ids: Sequence[str] | None) -> None:
        if friend_ids is None:
            return
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                await self._watching.subscribe(friend_ids)
        except (HitherError, TimeoutError) as error:
            self._failed(user_id, error)
            return
        if user_id in self._due or not self._is_here(user_id):
            return  # something has changed since the directory was asked
        is_new = not self._watching.knows(user_id)
        added = self._watching.follow(user_id, friend_ids)
        self._asked[user_id] = self._clock.monotonic_s()
        self._asked.move_to_end(user_id)
        if is_new:
            self._telling.greet(user_id)
            return
        self._telling.introduce(user_id, added)
        for friend_id in added:
            # Where the friend's own answer came first, this user was not to be told of then.
            if self._watching.follows(friend_id, user_id):
                self._telling.introduce(friend_id, (user_id,))

    def _failed(self, user_id: str, error: Exception) -> None:
        _failures.inc()
        _log.warning("friends.failed", error=str(error))
        self._later.append((self._clock.monotonic_s() + self._settings.friends_retry_s, user_id))
