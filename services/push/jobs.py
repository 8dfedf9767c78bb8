"""A push on its way to one device, and the queue of those that wait for a provider. Pure: times are given."""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from services.ports.push_store import Preview, PushTokenRow
from services.push.identity import collapse_id, push_id
from services.push.policy import Plan
from services.push.unread import Glance

_Key = tuple[str, str, str]
_MOST_OUT_OF_DATE = 64


@dataclass(slots=True, eq=False)
class Tenure:
    """The time for which this process owns a partition. `over`: what is not sent yet is the next owner's to send."""

    partition: int
    over: bool = False


class Parcel:
    """The pushes to all devices of a user for one plan: `settle` is called when the last of them is done with."""

    __slots__ = ("_left", "_settle", "tenure")

    def __init__(self, tenure: Tenure, jobs: int, settle: Callable[[], None]) -> None:
        self.tenure = tenure
        self._left = jobs
        self._settle = settle

    def one_done(self) -> None:
        """One of the pushes is done with."""
        self._left -= 1
        if self._left == 0:
            self._settle()


@dataclass(slots=True, eq=False)
class Job:
    """One push for one device."""

    token: PushTokenRow
    plan: Plan
    preview: Preview
    glance: Glance
    parcels: list[Parcel]
    gives_up_ms: int
    """After this it is not tried any more."""
    attempts: int = 0
    queued_s: float = 0.0
    """Since when it waits."""
    not_before_s: float | None = None
    """When it may be tried again; None: now."""
    collapse_id: str = field(init=False)
    push_id: str = field(init=False)

    def __post_init__(self) -> None:
        plan = self.plan
        self.collapse_id = collapse_id(plan.user_id, plan.conversation_id, plan.kind)
        self._name()

    @property
    def key(self) -> _Key:
        """Jobs of the same key take each other's place."""
        return self.token.user_id, self.token.device_id, self.collapse_id

    @property
    def tenure(self) -> Tenure:
        """That of its partition."""
        return self.parcels[0].tenure

    def absorb(self, older: "Job") -> None:
        """Takes the place of an older job of the same key."""
        plan = self.plan
        self.plan = replace(
            plan,
            first_seq=min(older.plan.first_seq, plan.first_seq),
            newest=max(older.plan.newest, plan.newest, key=lambda arrival: arrival.seq),
            messages=older.plan.messages + plan.messages,
            offsets=tuple(sorted({*older.plan.offsets, *plan.offsets})),
            sender_ids=older.plan.sender_ids | plan.sender_ids,
        )
        self.parcels = [*older.parcels, *self.parcels]
        self.attempts = max(older.attempts, self.attempts)
        self._name()

    def done(self) -> None:
        """Nothing remains to be done about it."""
        for parcel in self.parcels:
            parcel.one_done()

    def _name(self) -> None:
        plan, token = self.plan, self.token
        self.push_id = push_id(token.user_id, token.device_id, plan.conversation_id, plan.kind, plan.first_seq)


class Backlog:
    """The jobs that wait: urgent ones before others, each kind in order; a job that failed waits for its time."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[_Key, Job] = OrderedDict()
        self._ready: dict[bool, OrderedDict[_Key, Job]] = {True: OrderedDict(), False: OrderedDict()}
        self._later: list[tuple[float, int, Job]] = []
        """By time; entries of jobs that are not there any more, or wait for another time, are passed over."""
        self._count = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def __contains__(self, key: _Key) -> bool:
        return key in self._jobs

    def put(self, job: Job) -> bool:
        """Queues a job; True if it took the place of one that waited, to be sent when that was to be."""
        older = self._jobs.get(job.key)
        if older is None:
            self._jobs[job.key] = job
            self._ready[job.plan.urgent][job.key] = job
            return False
        job.absorb(older)
        self._jobs[job.key] = job
        if older.not_before_s is None:
            self._ready[job.plan.urgent][job.key] = job
        else:
            self._delay(job, older.not_before_s)
        return True

    def put_back(self, job: Job, not_before_s: float) -> bool:
        """Queues a job again that has failed; True if it went into one that came meanwhile."""
        newer = self._jobs.get(job.key)
        if newer is not None:
            newer.absorb(job)
            return True
        self._jobs[job.key] = job
        self._delay(job, not_before_s)
        return False

    def take(self, now_s: float) -> Job | None:
        """Takes out the next job that may be tried now."""
        while (at_s := self._next_later_s()) is not None and at_s <= now_s:
            job = heapq.heappop(self._later)[2]
            job.not_before_s = None
            self._ready[job.plan.urgent][job.key] = job
        for ready in (self._ready[True], self._ready[False]):
            if ready:
                key, job = ready.popitem(last=False)
                del self._jobs[key]
                return job
        return None

    def oldest(self) -> Job | None:
        """The job that was queued first."""
        return next(iter(self._jobs.values()), None)

    def remove(self, job: Job) -> None:
        """Takes out a job that waits."""
        del self._jobs[job.key]
        self._ready[job.plan.urgent].pop(job.key, None)

    def next_s(self) -> float | None:
        """When a job may be tried: zero for now, None if there is none."""
        if self._ready[True] or self._ready[False]:
            return 0.0
        return self._next_later_s()

    def _next_later_s(self) -> float | None:
        while self._later and not self._waits(self._later[0]):
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def _waits(self, entry: tuple[float, int, Job]) -> bool:
        at_s, _, job = entry
        return job.not_before_s == at_s and self._jobs.get(job.key) is job

    def _delay(self, job: Job, not_before_s: float) -> None:
        if len(self._later) > 2 * len(self._jobs) + _MOST_OUT_OF_DATE:
            self._later = [entry for entry in self._later if self._waits(entry)]
            heapq.heapify(self._later)
        self._count += 1
        job.not_before_s = not_before_s
        heapq.heappush(self._later, (not_before_s, self._count, job))
