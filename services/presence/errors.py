"""What presence refuses, with its reason in the contract (hither.mesh.v1.Reason)."""

from discovery.errors import NotFound


class NoSuchDevice(NotFound):
    """The device is not connected, so it cannot be in use or away."""

    reason = "NO_SUCH_DEVICE"
