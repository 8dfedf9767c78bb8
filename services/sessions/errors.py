"""What sessions refuses, each with its reason in the contract (hither.mesh.v1.Reason)."""

from discovery.errors import Aborted, FailedPrecondition, NotFound, ResourceExhausted


class NoSuchDevice(NotFound):
    """The user has no such device."""

    reason = "NO_SUCH_DEVICE"


class TooManyDevices(ResourceExhausted):
    """The user has as many devices as a user may have."""

    reason = "QUOTA_EXCEEDED"


class Superseded(Aborted):
    """A newer connection of the device is held."""

    reason = "CONFLICT"


class LiveLocationEnded(FailedPrecondition):
    """The live location has ended, or there never was one of that id."""

    reason = "LIVE_LOCATION_ENDED"


class LiveLocationsFull(ResourceExhausted):
    """As many live locations are shared as one process watches over."""

    reason = "OVERLOADED"
