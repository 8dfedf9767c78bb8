"""What push refuses, each with its reason in the contract (hither.mesh.v1.Reason)."""

from discovery.errors import FailedPrecondition, NotFound, ResourceExhausted


class NoToken(NotFound):
    """The user has no device of that id that can be woken up."""

    reason = "NO_SUCH_DEVICE"


class NoProvider(FailedPrecondition):
    """No push provider is set up for the device's platform."""

    reason = "NO_PROVIDER"


class TooMany(ResourceExhausted):
    """The user has as many of these as a user may have."""

    reason = "QUOTA_EXCEEDED"


class TestedJustNow(ResourceExhausted):
    """The device was tested so recently that it is not tested again yet."""

    reason = "RATE_LIMITED"
