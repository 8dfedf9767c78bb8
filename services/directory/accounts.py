"""Accounts and sessions: signing up, signing in by password, and going on by refresh token."""

import hmac
from dataclasses import dataclass

import structlog

from discovery.clock import Clock
from discovery.rpc.call import Caller, Role
from services.directory.attempts import WrongPasswords
from services.directory.errors import BadPassword, BadToken, ExpiredToken, NoSuchUser, UserExists
from services.directory.model import Session, User
from services.directory.passwords import Passwords
from services.directory.ports import DirectoryStore, Tables
from services.directory.settings import DirectorySettings
from services.directory.tokens import RefreshToken, TokenIssuer

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a device that signed in gets: both tokens, and when the access token runs out."""

    access_token: str
    refresh_token: str
    expires_at_ms: int


async def sign_up(tables: Tables, user: User, password_hash: str) -> User:
    """Makes the account. Raises UserExists."""
    if not await tables.users.add(user, password_hash):
        raise UserExists("The user id is taken.")
    return user


async def check_free(tables: Tables, user_id: str) -> None:
    """Passes if nobody has the user id. Raises UserExists."""
    if await tables.users.find([user_id]):
        raise UserExists("The user id is taken.")


async def see(tables: Tables, caller_id: str, user_id: str) -> User:
    """The user, if it is the caller, or the caller's friend or fellow member. Raises NoSuchUser, whatever the cause."""
    user = (await tables.users.find([user_id])).get(user_id)
    if user is None:
        raise NoSuchUser()
    if user_id == caller_id or await tables.friendships.friends_among(caller_id, [user_id]):
        return user
    if await tables.conversations.share(caller_id, user_id):
        return user
    raise NoSuchUser()


class SignIn:
    """Grants tokens to devices."""

    def __init__(
        self,
        store: DirectoryStore,
        passwords: Passwords,
        issuer: TokenIssuer,
        clock: Clock,
        settings: DirectorySettings,
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._issuer = issuer
        self._clock = clock
        self._settings = settings
        self._wrong = WrongPasswords(
            settings.wrong_passwords_most, settings.wrong_passwords_window_s, settings.wrong_passwords_users, clock
        )

    async def by_password(self, user_id: str, password: str, device_id: str) -> Grant:
        """Begins the device's session, in the place of the one it had. Raises BadPassword or RateLimited."""
        self._wrong.begin(user_id)
        try:
            password_hash = await self._store.read(lambda tables: tables.users.password_hash(user_id))
            is_right = await self._passwords.verify(password, password_hash)
        except BaseException:
            self._wrong.forgive(user_id)
            raise
        if not is_right or password_hash is None:
            raise BadPassword("There is no such user, or the password is another.")
        self._wrong.forgive(user_id)
        better_hash = await self._passwords.hash(password) if self._passwords.is_outdated(password_hash) else None
        token = RefreshToken.of_new_session()
        session = self._session(token, user_id, device_id)

        async def begin(tables: Tables) -> None:
            if better_hash is not None:
                await tables.users.set_password_hash(user_id, better_hash)
            await tables.sessions.put(session)
            await tables.sessions.trim(user_id, self._settings.sessions_most)

        await self._store.write(begin)
        return self._grant(session, token)

    async def by_refresh_token(self, text: str) -> Grant:
        """Goes on with a session and replaces its refresh token. Raises ExpiredToken, or BadToken for all else; one that was
        replaced before is taken for stolen, and ends the session.
        """
        token = RefreshToken.parse(text)
        if token is None:
            raise BadToken("This is no refresh token.")
        successor = token.next()

        async def rotate(tables: Tables) -> Session | BadToken | ExpiredToken:
            session = await tables.sessions.find(token.session_id)
            if session is None:
                return BadToken("The session is unknown or has ended.")
            if not hmac.compare_digest(session.token_hash, token.hash()):
                await tables.sessions.remove(token.session_id)
                log.warning("a refresh token was used again: its session ends", user_id=session.user_id)
                return BadToken("The refresh token was used before; the session has ended.")
            if session.expire_time_ms <= self._clock.now_ms():
                return ExpiredToken("The refresh token has run out.")
            renewed = self._session(successor, session.user_id, session.device_id)
            await tables.sessions.put(renewed)
            return renewed

        # A refusal is returned, not raised: the end of a session must be committed.
        outcome = await self._store.write(rotate)
        if not isinstance(outcome, Session):
            raise outcome
        return self._grant(outcome, successor)

    def _session(self, token: RefreshToken, user_id: str, device_id: str) -> Session:
        now_ms = self._clock.now_ms()
        return Session(
            session_id=token.session_id,
            user_id=user_id,
            device_id=device_id,
            token_hash=token.hash(),
            refresh_time_ms=now_ms,
            expire_time_ms=now_ms + self._settings.refresh_ttl_s * 1000,
        )

    def _grant(self, session: Session, token: RefreshToken) -> Grant:
        caller = Caller(Role.USER, user_id=session.user_id, device_id=session.device_id)
        ttl_s = self._settings.access_ttl_s
        # The token's own times are whole seconds.
        expires_at_ms = (session.refresh_time_ms // 1000 + ttl_s) * 1000
        return Grant(self._issuer.issue(caller, ttl_s), str(token), expires_at_ms)
