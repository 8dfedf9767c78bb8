"""What sessions refuses, each with its reason in the contract (hither.mesh.v1.Reason)."""

from discovery.errors import NotFound, ResourceExhausted


class NoSuchDevice(NotFound):
    """The user has no such device."""

    reason = "NO_SUCH_DEVICE"


class TooManyDevices(ResourceExhausted):
    """The user has as many devices as a user may have."""

    reason = "QUOTA_EXCEEDED"
