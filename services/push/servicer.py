"""PushService: takes each request apart, has it done, and puts the answer together."""

from discovery.clock import Clock
from hither.push.v1 import push_service_pb2 as pb
from hither.push.v1.push_service_pb2_grpc import PushServiceServicer
from services.paging import decode_token, encode_token
from services.ports.push_store import FOREVER_MS, DeliveryLog, Platform, Preview, PushStore, PushTokenRow
from services.push.errors import NoProvider, TooMany
from services.push.settings import PushSettings
from services.push.tokens import checked
from services.push.trying import Trials
from services.push.wire import delivery_message, mute_message, settings_message, token_message
from services.push.wishes import SettingsChange, Wishes


class PushServicer(PushServiceServicer):
    """See hither/push/v1/push_service.proto for what each method does and refuses.

    Rows are found by user and device together, and the user is the caller: so nobody can name another's device.
    """

    def __init__(
        self,
        store: PushStore,
        delivery_log: DeliveryLog,
        wishes: Wishes,
        trials: Trials,
        clock: Clock,
        settings: PushSettings,
        application_server_key: str,
    ) -> None:
        self._store = store
        self._delivery_log = delivery_log
        self._wishes = wishes
        self._trials = trials
        self._clock = clock
        self._settings = settings
        self._application_server_key = application_server_key

    async def RegisterPushToken(
        self, request: pb.RegisterPushTokenRequest, context: object
    ) -> pb.RegisterPushTokenResponse:
        """See the contract."""
        platform = Platform(request.platform)
        token = checked(platform, request.token)
        row = PushTokenRow(request.user_id, request.device_id, platform, token, self._clock.now_ms())
        if not await self._store.put_token(row, self._settings.most_tokens):
            raise TooMany(f"A user has at most {self._settings.most_tokens} devices with a push token; remove one.")
        return pb.RegisterPushTokenResponse()

    async def ListPushTokens(self, request: pb.ListPushTokensRequest, context: object) -> pb.ListPushTokensResponse:
        """See the contract."""
        list_name = f"push-tokens/{request.user_id}"
        size = request.page_size or self._settings.page_size
        after = decode_token(list_name, request.page_token, 1) or ("",)
        rows = (await self._store.tokens([request.user_id])).get(request.user_id, ())
        rows = [row for row in rows if row.device_id > after[0]]
        return pb.ListPushTokensResponse(
            tokens=map(token_message, rows[:size]),
            next_page_token=encode_token(list_name, rows[size - 1].device_id) if len(rows) > size else "",
        )

    async def RemovePushToken(self, request: pb.RemovePushTokenRequest, context: object) -> pb.RemovePushTokenResponse:
        """See the contract."""
        await self._store.remove_token(request.user_id, request.device_id)
        return pb.RemovePushTokenResponse()

    async def GetPushSettings(self, request: pb.GetPushSettingsRequest, context: object) -> pb.GetPushSettingsResponse:
        """See the contract."""
        return pb.GetPushSettingsResponse(settings=settings_message(await self._wishes.settings(request.user_id)))

    async def UpdatePushSettings(
        self, request: pb.UpdatePushSettingsRequest, context: object
    ) -> pb.UpdatePushSettingsResponse:
        """See the contract."""
        change = SettingsChange(
            Preview(request.preview) if request.preview else None,
            request.quiet_from_min if request.HasField("quiet_from_min") else None,
            request.quiet_to_min if request.HasField("quiet_to_min") else None,
            request.time_zone or None,
        )
        return pb.UpdatePushSettingsResponse(
            settings=settings_message(await self._wishes.change(request.user_id, change))
        )

    async def MuteConversation(
        self, request: pb.MuteConversationRequest, context: object
    ) -> pb.MuteConversationResponse:
        """See the contract."""
        # The time that stands for no end was long ago, and is refused as such where it is named.
        until_ms = (request.until.ToMilliseconds() or 1) if request.HasField("until") else FOREVER_MS
        await self._wishes.mute(request.user_id, request.conversation_id, until_ms)
        return pb.MuteConversationResponse(mute=mute_message(request.conversation_id, until_ms))

    async def UnmuteConversation(
        self, request: pb.UnmuteConversationRequest, context: object
    ) -> pb.UnmuteConversationResponse:
        """See the contract."""
        await self._wishes.unmute(request.user_id, request.conversation_id)
        return pb.UnmuteConversationResponse()

    async def ListMutes(self, request: pb.ListMutesRequest, context: object) -> pb.ListMutesResponse:
        """See the contract."""
        list_name = f"mutes/{request.user_id}"
        size = request.page_size or self._settings.page_size
        after = decode_token(list_name, request.page_token, 1) or ("",)
        found = await self._wishes.mutes(request.user_id)
        mutes = [mute for mute in found.items() if mute[0] > after[0]]
        return pb.ListMutesResponse(
            mutes=[mute_message(*mute) for mute in mutes[:size]],
            next_page_token=encode_token(list_name, mutes[size - 1][0]) if len(mutes) > size else "",
        )

    async def GetApplicationServerKey(
        self, request: pb.GetApplicationServerKeyRequest, context: object
    ) -> pb.GetApplicationServerKeyResponse:
        """See the contract."""
        if not self._application_server_key:
            raise NoProvider("Web Push is not set up here.")
        return pb.GetApplicationServerKeyResponse(application_server_key=self._application_server_key)

    async def SendTestPush(self, request: pb.SendTestPushRequest, context: object) -> pb.SendTestPushResponse:
        """See the contract."""
        row = await self._trials.send(request.user_id, request.device_id)
        return pb.SendTestPushResponse(delivery=delivery_message(row))

    async def ListPushDeliveries(
        self, request: pb.ListPushDeliveriesRequest, context: object
    ) -> pb.ListPushDeliveriesResponse:
        """See the contract."""
        list_name = f"push-deliveries/{request.user_id}/{request.device_id}"
        size = request.page_size or self._settings.page_size
        token = decode_token(list_name, request.page_token, 2)
        before = (int(token[0]), token[1]) if token else None
        rows = await self._delivery_log.read(request.user_id, request.device_id, before, size + 1)
        page = rows[:size]
        next_page_token = ""
        if len(rows) > size:
            next_page_token = encode_token(list_name, str(page[-1].at_ms), page[-1].push_id)
        return pb.ListPushDeliveriesResponse(deliveries=map(delivery_message, page), next_page_token=next_page_token)

    async def ForgetDevice(self, request: pb.ForgetDeviceRequest, context: object) -> pb.ForgetDeviceResponse:
        """See the contract."""
        await self._store.remove_token(request.user_id, request.device_id)
        await self._delivery_log.forget(request.user_id, request.device_id)
        return pb.ForgetDeviceResponse()
