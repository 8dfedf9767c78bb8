"""One partition of the log "push" as its owner runs it: read in order, handed to the policy, committed as it is settled."""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NoReturn, Protocol

import structlog
from google.protobuf.message import DecodeError

from discovery.clock import Clock
from discovery.errors import HitherError
from hither.messaging.v1 import records_pb2
from services.ports.log import Log, Record
from services.ports.push_store import PushPreferences, PushStore, PushTokenRow
from services.push import metrics
from services.push.arrivals import arrival_of
from services.push.jobs import Tenure
from services.push.pipeline_settings import PushPipelineSettings
from services.push.policy import Policy
from services.push.quiet import is_silenced
from services.push.waiting import until_answered, wait_until
from services.push.window import MOST_PAIRS, Window, read_committed, write_committed

TOPIC = "push"
GROUP = "push"
NO_TOKEN = "NO_TOKEN"  # noqa: S105 - a reason, no secret
BAD_RECORD = "BAD_RECORD"
_LOOK_AGAIN_S = 1.0
_log = structlog.get_logger("hither.push")


class People(Protocol):
    """Tokens and wishes of users, asked for until they are there."""

    async def find(
        self, user_ids: Collection[str]
    ) -> tuple[Mapping[str, Sequence[PushTokenRow]], Mapping[str, PushPreferences]]:
        """The users' tokens, with no entry for who has none, and what each of them wants."""


class StoredPeople:
    """From the store. While it is away whoever asks waits."""

    def __init__(self, store: PushStore, settings: PushPipelineSettings, rng: random.Random) -> None:
        self._store = store
        self._settings = settings
        self._rng = rng

    async def find(
        self, user_ids: Collection[str]
    ) -> tuple[Mapping[str, Sequence[PushTokenRow]], Mapping[str, PushPreferences]]:
        """See People. At most 1,000 users."""
        tokens = await until_answered("store", lambda: self._store.tokens(user_ids), self._settings, self._rng)
        known = [user_id for user_id in user_ids if tokens.get(user_id)]
        if not known:
            return tokens, {}
        return tokens, await until_answered("store", lambda: self._store.preferences(known), self._settings, self._rng)


class Partition:
    """One tenure of a partition. Nothing happens before run(). `news` is called when something may be due; `give_up_before` has
    what waits for a provider that is away give way.
    """

    def __init__(
        self,
        number: int,
        log: Log,
        people: People,
        policy: Policy,
        news: Callable[[], None],
        give_up_before: Callable[[int, int], int],
        clock: Clock,
        settings: PushPipelineSettings,
        rng: random.Random,
    ) -> None:
        self.tenure = Tenure(number)
        self._number = number
        self._log = log
        self._people = people
        self._policy = policy
        self._news = news
        self._give_up_before = give_up_before
        self._clock = clock
        self._settings = settings
        self._rng = rng
        self._window: Window | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._unsaved = False

    @property
    def held(self) -> int:
        """Records that are read and not settled."""
        return self._window.held if self._window is not None else 0

    def settle(self, offsets: Sequence[int]) -> None:
        """Nothing remains to be done for the records."""
        if self._window is None:
            return
        for offset in offsets:
            self._window.settle(offset)
        self._unsaved = True
        self._changed.set()
        self._room.set()

    def room(self) -> None:
        """There may be room for more."""
        self._room.set()

    async def run(self) -> None:
        """Reads and commits until cancelled."""
        self._policy.hold(self._number)
        await asyncio.sleep(self._settings.takeover_pause_s)
        committed = await until_answered(
            "log", lambda: self._log.committed(GROUP, TOPIC, self._number), self._settings, self._rng
        )
        resumed = read_committed(committed)
        self._window = window = Window(resumed)
        self._policy.alerts.restore(self._number, dict(sorted(resumed.alerts.items(), key=lambda entry: entry[1])))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(window), name=f"push {self._number} reads")
            group.create_task(self._commit(window), name=f"push {self._number} commits")

    async def commit_last(self) -> None:
        """Commits what has been settled since the last commit, if something has. Raises when it fails."""
        if self._window is not None and self._unsaved:
            await self._commit_once(self._window)

    async def _read(self, window: Window) -> NoReturn:
        """Nothing goes before all is in that was there at the start: what had been sent together, and not been committed, must go
        together again.
        """
        began_ms = self._clock.now_ms()
        while True:
            records = await until_answered(
                "log",
                lambda: self._log.read(TOPIC, self._number, window.end, self._settings.batch_records),
                self._settings,
                self._rng,
            )
            if not records:
                self._policy.let_go(self._number)
                self._news()
                await until_answered("log", lambda: self._wait_for_records(window.end), self._settings, self._rng)
                continue
            metrics.RECORDS.inc(len(records))
            newest_ms = await self._take(window, records)
            if newest_ms >= began_ms:
                self._policy.let_go(self._number)
            self._news()
            await self._until_room(window)

    async def _wait_for_records(self, offset: int) -> None:
        """Returns when there are some, or after a while."""
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s / 2):
                await self._log.wait(TOPIC, self._number, offset)
        except TimeoutError:
            pass

    async def _take(self, window: Window, records: Sequence[Record]) -> int:
        """Hands a batch to the policy. Returns when the newest of its messages was accepted."""
        fresh: list[tuple[int, records_pb2.PushRecord]] = []
        for record in records:
            if not window.read(record.offset):
                continue
            try:
                fresh.append((record.offset, records_pb2.PushRecord.FromString(record.value)))
            except DecodeError:
                _log.exception("record.unreadable", partition=self._number, offset=record.offset)
                self._drop(record.offset, BAD_RECORD)
        if not fresh:
            return 0
        tokens, wishes = await self._people.find(sorted({push.user_id for _, push in fresh}))
        now_ms = self._clock.now_ms()
        for offset, push in fresh:
            if not tokens.get(push.user_id):
                self._drop(offset, NO_TOKEN)
                continue
            wish = wishes[push.user_id]
            arrival = arrival_of(self._number, offset, push, wish.settings.preview)
            silenced = is_silenced(wish, arrival.conversation_id, now_ms)
            reason = self._policy.take(arrival, now_ms, silenced=silenced)
            if reason:
                self._drop(offset, reason)
        return max(push.message.create_time.ToMilliseconds() for _, push in fresh)

    async def _until_room(self, window: Window) -> None:
        """Makes room and waits for it: in the window of what may be committed, and in the memory of the policy."""
        batch = self._settings.batch_records
        most = max(0, self._settings.window_offsets - batch)
        while True:
            self._room.clear()
            if window.span > most:
                before = window.lowest + max(batch, self._settings.window_offsets // 4)
                sent = self._policy.expedite_before(self._number, before, self._clock.now_ms())
                metrics.EXPEDITED.labels("window").inc(sent)
                self._give_up_before(self._number, before)
            elif self._policy.full:
                metrics.EXPEDITED.labels("memory").inc(self._policy.expedite(self._clock.now_ms(), batch))
            else:
                return
            self._news()
            if window.span > most or self._policy.full:
                await wait_until(self._room, _LOOK_AGAIN_S)

    async def _commit(self, window: Window) -> NoReturn:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._commit_once(window)
            except (HitherError, TimeoutError) as error:
                metrics.ENGINE_FAILURES.labels("log").inc()
                _log.warning("commit.failed", partition=self._number, error=str(error))
                self._changed.set()
                await asyncio.sleep(self._settings.engine_retry_max_s)
            await asyncio.sleep(self._settings.commit_interval_s)

    async def _commit_once(self, window: Window) -> None:
        self._unsaved = False
        alerts = self._policy.alerts.newest(self._number, MOST_PAIRS)
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                await self._log.commit(GROUP, TOPIC, self._number, write_committed(window.now(alerts)))
        except BaseException:  # cancelled too: it is not known to be committed, so the last commit is to try again
            self._unsaved = True
            raise

    def _drop(self, offset: int, reason: str) -> None:
        metrics.MESSAGES_DROPPED.labels(reason).inc()
        self.settle((offset,))
