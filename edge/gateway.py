"""The way from a client into the mesh, shared by the WebSocket and the HTTP shell. Knows callers, never sockets."""

from google.protobuf.message import Message

from discovery.clock import Clock
from discovery.contract import MethodSpec
from discovery.errors import HitherError, Unauthenticated
from discovery.fill import fill
from discovery.mesh import Mesh
from discovery.rpc.call import Caller, Role
from discovery.rpc.tokens import ResumeTokens, TokenVerifier
from edge.settings import EdgeSettings


class Gateway:
    """Authenticates clients and calls the owners of what they ask for."""

    def __init__(
        self,
        mesh: Mesh,
        verifier: TokenVerifier,
        resume: ResumeTokens,
        edge_id: str,
        settings: EdgeSettings,
        clock: Clock,
    ) -> None:
        self.mesh = mesh
        self.edge_id = edge_id
        self.settings = settings
        self.clock = clock
        self._verifier = verifier
        self._resume = resume

    async def call(self, spec: MethodSpec, request: Message, caller: Caller) -> Message:
        """Calls the owner in the client's name, within `call_timeout_s`. Fills the request's empty `filled` fields in place.

        Raises HitherError: whatever the contract names for the method, or what the mesh says about reaching its owner.
        """
        fill(request, caller)
        return await self.mesh.call(spec.path, request, caller=caller, timeout_s=self.settings.call_timeout_s)

    def authenticate(self, token: str) -> Caller:
        """Who the access or resume token names. Raises Unauthenticated (NO_CREDENTIALS, BAD_TOKEN, EXPIRED_TOKEN)."""
        if not token:
            raise Unauthenticated("a token is needed")
        return self._verifier.verify(token)

    def authenticate_device(self, token: str) -> Caller:
        """Like `authenticate`, for a WebSocket: resume tokens are taken too, and the token must name a device of a user."""
        caller = self._device(token)
        if caller.role is not Role.USER or not caller.device_id:
            raise Unauthenticated("the token names no device of a user", reason="BAD_TOKEN")
        return caller

    def issue_resume(self, caller: Caller) -> str:
        """A token that stands in for the device's access token at its next connection, for 120 s."""
        return self._resume.issue(caller.user_id, caller.device_id)

    def _device(self, token: str) -> Caller:
        try:
            return self.authenticate(token)
        except HitherError as error:
            if error.reason != "BAD_TOKEN":
                raise
            try:
                return self._resume.verify(token)
            except HitherError as second:
                raise (second if second.reason == "EXPIRED_TOKEN" else error) from None
