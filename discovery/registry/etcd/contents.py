"""What this process knows of the instances in etcd, pure: reads and watched changes in, snapshots out.

Reads and the watch arrive in any order, so each is weighed by etcd's revision: what is older than what is known is passed
over. A store that has gone back (wiped, or restored from a backup) is a new generation: its revisions begin lower, and the
snapshots go on counting upwards all the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from etcd.api.etcdserverpb import rpc_pb2
from etcd.api.mvccpb import kv_pb2
from google.protobuf.message import DecodeError

from discovery.registry.messages import from_message, to_message
from discovery.registry.port import Instance, Snapshot
from hither.mesh.v1 import instance_pb2


@dataclass(frozen=True, slots=True)
class Mark:
    """How much was known at some moment."""

    generation: int
    revision: int
    cluster_id: int
    term: int

    def gone_back(self, header: rpc_pb2.ResponseHeader) -> bool:
        """Whether an answer to a linearizable read that was asked for after this moment comes from a store that has lost
        what was known then: neither revisions nor terms of one store ever decrease.
        """
        if self.cluster_id == 0:
            return False
        return header.cluster_id != self.cluster_id or header.raft_term < self.term or header.revision < self.revision


class Contents:
    """The instances under one prefix, as of one revision of etcd."""

    def __init__(self) -> None:
        self._instances: dict[bytes, Instance] = {}
        self._mark = Mark(0, 0, 0, 0)
        self._offset = 0
        self._snapshot: Snapshot | None = None
        self._revision = 0

    @property
    def mark(self) -> Mark:
        """To be taken before a read."""
        return self._mark

    @property
    def known(self) -> bool:
        """Whether anything was ever read."""
        return self._mark.cluster_id != 0

    @property
    def revision(self) -> int:
        """Of the snapshot; 0 before the first."""
        return self._revision

    def snapshot(self) -> Snapshot:
        """The newest state. The same object as long as no instance changes, however far other keys move etcd's revision."""
        if self._snapshot is None:
            ordered = sorted(self._instances.values(), key=lambda instance: (instance.service, instance.instance_id))
            self._snapshot = Snapshot(self._revision, tuple(ordered))
        return self._snapshot

    def replace(self, asked: Mark, answer: rpc_pb2.RangeResponse) -> bool:
        """Takes over a linearizable read of the whole prefix. False: the store went back while the read was under way, and
        nobody can tell which side of that it shows; read again.
        """
        header = answer.header
        if asked.generation != self._mark.generation:
            return False
        instances = {pair.key: instance for pair in answer.kvs if (instance := decode(pair)) is not None}
        if asked.gone_back(header):
            # One more than the last snapshot's, so that whoever has that one takes this one over.
            self._offset = self._revision + 1 - header.revision
            self._move(Mark(asked.generation + 1, header.revision, header.cluster_id, header.raft_term), instances)
            return True
        if header.revision > self._mark.revision or not self.known:
            term = max(header.raft_term, self._mark.term)
            self._move(Mark(asked.generation, header.revision, header.cluster_id, term), instances)
        return True

    def apply(self, asked: Mark, revision: int, events: Iterable[kv_pb2.Event]) -> bool:
        """Takes over watched changes, complete up to the revision. False: the watch began in an earlier generation."""
        if asked.generation != self._mark.generation:
            return False
        if revision <= self._mark.revision:
            return True
        instances = self._instances.copy()
        for event in events:
            if event.kv.mod_revision <= self._mark.revision:
                continue
            instance = decode(event.kv) if event.type == kv_pb2.Event.PUT else None
            if instance is None:
                instances.pop(event.kv.key, None)
            else:
                instances[event.kv.key] = instance
        self._move(Mark(asked.generation, revision, self._mark.cluster_id, self._mark.term), instances)
        return True

    def _move(self, mark: Mark, instances: dict[bytes, Instance]) -> None:
        changed = instances != self._instances or not self.known or mark.generation != self._mark.generation
        self._mark = mark
        if changed:
            self._instances = instances
            self._revision = mark.revision + self._offset
            self._snapshot = None


def encode(instance: Instance) -> bytes:
    """The value of an instance's key."""
    return to_message(instance).SerializeToString()


def decode(pair: kv_pb2.KeyValue) -> Instance | None:
    """The instance that the key holds; None for a key that holds none (an instance number, or what somebody else put)."""
    try:
        message = instance_pb2.Instance.FromString(pair.value)
    except DecodeError:
        return None
    if not message.service or not message.instance_id or not message.state:
        return None
    return from_message(message)
