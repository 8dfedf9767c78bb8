"""Commits: the offsets of consumer groups that have no members, with the state in the offset's metadata.

Offset and state of a partition are one record in Kafka's own compacted topic, written by all replicas before the
acknowledgement. Commits of a group that are made while one is under way go together in the next request.
"""

import asyncio
import base64
import binascii
import zlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NoReturn

from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest

from discovery.errors import HitherError, Internal, InvalidArgument, Unavailable
from services.ports.log import Committed
from services.storage.kafka.cluster import BACKOFF_S, FAILURES, NOT_SENT, Cluster, Refused, Traffic, name_of

_KEEP_MS = 100 * 365 * 24 * 3600 * 1000
"""Kafka would let go of the offsets of a group without members after a week in which nobody commits."""
_NO_GENERATION = -1
_NO_ERROR = 0
_METADATA_TOO_LARGE = 12
# Unknown topic (being made), coordinator loading, not available, elsewhere, timed out.
_PASSING = frozenset({3, 7, 14, 15, 16})
_COMPRESS_FROM_BYTES = 128
_PLAIN, _DEFLATED = "p", "z"

_Place = tuple[str, int]


@dataclass(slots=True)
class _Commit:
    metadata: str
    next_offset: int
    done: "list[asyncio.Future[None]]"
    sent: bool = False


@dataclass(slots=True, eq=False)
class _Group:
    name: str
    waiting: dict[_Place, _Commit] = field(default_factory=dict)
    under_way: dict[_Place, _Commit] = field(default_factory=dict)
    coordinator: int | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Committing:
    """The commits of all groups of a log. Topics are Kafka's names."""

    def __init__(
        self, cluster: Cluster, prefix: str, start: Callable[[Coroutine[None, None, NoReturn], str], None]
    ) -> None:
        self._cluster = cluster
        self._prefix = prefix
        self._start = start
        self._groups: dict[str, _Group] = {}

    async def commit(self, group: str, topic: str, partition: int, committed: Committed) -> None:
        """See Log.commit. Raises InvalidArgument for a state that the broker finds too large (offset.metadata.max.bytes)."""
        state = self._group(group)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = topic, partition
        # Who is replaced before being sent is done when his successor is: the last writer wins.
        earlier = state.waiting.get(place)
        still_waiting = [other for other in earlier.done if not other.done()] if earlier else []
        commit = _Commit(_pack(committed.state), committed.next_offset, [*still_waiting, done])
        state.waiting[place] = commit
        state.news.set()
        try:
            async with self._cluster.deadline():
                await done
        except TimeoutError as error:
            raise _unavailable(sent=commit.sent) from error

    async def committed(self, group: str, topic: str, partition: int) -> Committed:
        """See Log.committed."""

        def read(response: Any) -> tuple[int, Committed]:
            if response.error_code:
                state.coordinator = None
                return response.error_code, Committed(0, b"")
            ((_, ((_, offset, metadata, code),)),) = response.topics
            return code, Committed(0, b"") if offset < 0 else Committed(offset, _unpack(metadata))

        state = self._group(group)
        request = OffsetFetchRequest(state.name, [(topic, [partition])])
        try:
            async with self._cluster.deadline():
                while True:
                    node = await self._coordinator(state)
                    if node is None:
                        continue
                    try:
                        response = await self._cluster.send(node, request, Traffic.COMMIT)
                    except FAILURES:
                        await self._lose_coordinator(state)
                        continue
                    code, answer = read(response)
                    if code == _NO_ERROR:
                        return answer
                    if code not in _PASSING:
                        raise Refused(code)
                    await self._lose_coordinator(state)
        except TimeoutError as error:
            raise _unavailable(sent=False) from error

    def fail(self) -> None:
        """Ends all commits: nobody sends them any more."""
        for group in self._groups.values():
            for commit in [*group.under_way.values(), *group.waiting.values()]:
                _settle(commit, _unavailable(sent=commit.sent))
            group.waiting.clear()
            group.under_way.clear()

    def _group(self, name: str) -> _Group:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(self._prefix + name)
            self._start(self._run(group), f"commit {name}")
        return group

    async def _run(self, group: _Group) -> NoReturn:
        while True:
            await group.news.wait()
            group.news.clear()
            while group.waiting:
                node = await self._coordinator(group)
                self._drop_abandoned(group)
                if node is not None and group.waiting:
                    await self._exchange(group, node)

    async def _exchange(self, group: _Group, node: int) -> None:
        group.under_way, group.waiting = group.waiting, {}
        topics: dict[str, list[tuple[int, int, str]]] = {}
        for (topic, partition), commit in group.under_way.items():
            commit.sent = True
            topics.setdefault(topic, []).append((partition, commit.next_offset, commit.metadata))
        request = OffsetCommitRequest(group.name, _NO_GENERATION, "", _KEEP_MS, list(topics.items()))
        try:
            response = await self._cluster.send(node, request, Traffic.COMMIT)
        except FAILURES as error:
            if isinstance(error, NOT_SENT):
                for commit in group.under_way.values():
                    commit.sent = False
            self._wait_again(group, set(group.under_way))
            await self._lose_coordinator(group)
            return
        codes = {(topic, partition): code for topic, partitions in response.topics for partition, code in partitions}
        passing = {place for place, code in codes.items() if code in _PASSING}
        for place, commit in group.under_way.items():
            if place not in passing:
                _settle(commit, _refusal(codes.get(place, -1)))
        self._wait_again(group, passing)
        if passing:
            await self._lose_coordinator(group)

    @staticmethod
    def _wait_again(group: _Group, places: set[_Place]) -> None:
        """Commits are repeatable: those are sent again, unless a later one has taken their place."""
        for place in places:
            commit = group.under_way[place]
            later = group.waiting.get(place)
            if later is None:
                group.waiting[place] = commit
            else:
                later.done += commit.done
        group.under_way = {}

    @staticmethod
    def _drop_abandoned(group: _Group) -> None:
        for place, commit in list(group.waiting.items()):
            if all(future.done() for future in commit.done):
                del group.waiting[place]

    async def _coordinator(self, group: _Group) -> int | None:
        if group.coordinator is None:
            try:
                group.coordinator = await self._cluster.find_coordinator(group.name)
            except FAILURES:
                await self._lose_coordinator(group)
        return group.coordinator

    async def _lose_coordinator(self, group: _Group) -> None:
        group.coordinator = None
        await self._cluster.refresh()
        await asyncio.sleep(BACKOFF_S)


def _settle(commit: _Commit, error: HitherError | None) -> None:
    for future in commit.done:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _refusal(code: int) -> HitherError | None:
    if code == _NO_ERROR:
        return None
    if code == _METADATA_TOO_LARGE:
        return InvalidArgument("The state is larger than Kafka takes; raise offset.metadata.max.bytes.")
    return Unavailable(f"Kafka refused a commit: {name_of(code)}.", reason="ENGINE_DOWN")


def _unavailable(*, sent: bool) -> Unavailable:
    if sent:
        return Unavailable("Kafka did not say whether the commit was done.", reason="OUTCOME_UNKNOWN")
    return Unavailable("Kafka cannot be reached.", reason="ENGINE_DOWN")


def _pack(state: bytes) -> str:
    """The state as text: a letter for how it is written, then base64."""
    if len(state) >= _COMPRESS_FROM_BYTES:
        deflated = zlib.compress(state, 1)
        if len(deflated) < len(state):
            return _DEFLATED + base64.b64encode(deflated).decode()
    return _PLAIN + base64.b64encode(state).decode() if state else ""


def _unpack(metadata: str | None) -> bytes:
    if not metadata:
        return b""
    try:
        state = base64.b64decode(metadata[1:], validate=True)
        return zlib.decompress(state) if metadata[0] == _DEFLATED else state
    except (binascii.Error, zlib.error) as error:
        raise Internal("A committed state was not written by this log.") from error
