"""Tests that users ask for: one push to one device at once, and what came of it."""

from typing import Protocol

import structlog

from discovery.clock import Clock
from discovery.errors import HitherError
from services.ports.push_store import DeliveryLog, DeliveryRow, Fate, PushStore, PushTokenRow
from services.push.errors import NoProvider, NoToken, TestedJustNow
from services.push.settings import PushSettings

_log = structlog.get_logger("hither.push")


class TestSender(Protocol):
    """Sends tests."""

    async def send_test(self, token: PushTokenRow) -> DeliveryRow:
        """Tries to wake the device up, once, and tells what came of it (kind "test"); whoever asked records it. Where nobody takes
        tokens of the platform: DROPPED for "NO_PROVIDER". Whatever a provider does is an answer.
        """


class Trials:
    """Has tests sent, to each device one in `test_interval_s`."""

    def __init__(
        self,
        store: PushStore,
        delivery_log: DeliveryLog,
        sender: TestSender,
        clock: Clock,
        settings: PushSettings,
    ) -> None:
        self._store = store
        self._delivery_log = delivery_log
        self._sender = sender
        self._clock = clock
        self._interval_s = settings.test_interval_s
        self._most = settings.most_tests
        self._tested_s: dict[tuple[str, str], float] = {}
        """When each device was tested last, in this order."""

    async def send(self, user_id: str, device_id: str) -> DeliveryRow:
        """What became of the test. Raises NoToken, NoProvider, TestedJustNow, and what the store raises."""
        tokens = (await self._store.tokens([user_id])).get(user_id, ())
        token = next((one for one in tokens if one.device_id == device_id), None)
        if token is None:
            raise NoToken("The user has no such device with a push token.")
        self._admit(user_id, device_id)
        row = await self._sender.send_test(token)
        if row.fate is Fate.DROPPED and row.reason == NoProvider.reason:
            self._tested_s.pop((user_id, device_id), None)  # it was not tested
            raise NoProvider(f"No push provider of {token.platform.name} is set up here.")
        await self._record(row)
        return row

    def _admit(self, user_id: str, device_id: str) -> None:
        device, now_s = (user_id, device_id), self._clock.monotonic_s()
        left_s = self._tested_s.get(device, now_s - self._interval_s) + self._interval_s - now_s
        if left_s > 0:
            raise TestedJustNow("The device was tested just now.", retry_after_s=left_s)
        self._tested_s.pop(device, None)
        self._tested_s[device] = now_s
        while len(self._tested_s) > self._most:
            del self._tested_s[next(iter(self._tested_s))]

    async def _record(self, row: DeliveryRow) -> None:
        """The answer does not depend on it: the push has gone."""
        try:
            await self._delivery_log.record([row])
        except HitherError as error:
            _log.warning("test.unrecorded", reason=error.reason, error=error.message)
