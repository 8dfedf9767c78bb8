"""What live locations refuse, each with its reason in the contract (hither.mesh.v1.Reason)."""

from discovery.errors import FailedPrecondition, NotFound, PermissionDenied, ResourceExhausted


class LiveLocationEnded(FailedPrecondition):
    """The live location has ended, or there never was one of that id."""

    reason = "LIVE_LOCATION_ENDED"


class NotTheSharer(PermissionDenied):
    """The live location is another user's."""

    reason = "NOT_YOURSELF"


class NotConnected(NotFound):
    """The device that would watch has no connection."""

    reason = "NO_SUCH_DEVICE"


class TooManyWatchers(ResourceExhausted):
    """As many devices watch as this process, or a conversation, can have."""

    retry_s = 60.0


class TooManyShared(ResourceExhausted):
    """As many live locations are shared as this process can keep."""

    retry_s = 60.0
