"""Instances and snapshots as messages of the contract, and back."""

from discovery.registry.port import Instance, InstanceState
from hither.mesh.v1 import instance_pb2


def to_message(instance: Instance) -> instance_pb2.Instance:
    """The instance as a message."""
    return instance_pb2.Instance(
        service=instance.service,
        instance_id=instance.instance_id,
        address=instance.address,
        region=instance.region,
        zone=instance.zone,
        weight=instance.weight,
        version=instance.version,
        state=instance.state.value,
        load=instance.load,
        partitions=instance.partitions,
    )


def from_message(message: instance_pb2.Instance) -> Instance:
    """The instance that the message describes. One in a state that this version does not know takes no new work."""
    serving = message.state == instance_pb2.INSTANCE_STATE_SERVING
    return Instance(
        service=message.service,
        instance_id=message.instance_id,
        address=message.address,
        region=message.region,
        zone=message.zone,
        weight=message.weight,
        version=message.version,
        state=InstanceState.SERVING if serving else InstanceState.DRAINING,
        load=message.load,
        partitions=message.partitions,
    )
