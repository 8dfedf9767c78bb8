"""What a client missed, page by page, then live: places are contiguous whatever happens in between."""

from discovery.errors import Unavailable
from edge.session import Purpose
from edge.settings import EdgeSettings
from hither.messaging.v1 import messaging_pb2, messaging_service_pb2
from tests.support.fake_mesh import inbox_message
from tests.support.sessions import SessionDriver, live


def told(driver: SessionDriver) -> list[str]:
    """The frames that wait, in short: "connected", "message 3", "synced 3"."""
    return [f"{frame['type']} {frame['pos']}" if "pos" in frame else frame["type"] for frame in driver.frames()]


def connected(settings: EdgeSettings | None = None, cursor: int = 0) -> SessionDriver:
    driver = SessionDriver(settings)
    driver.session.open("alice/phone", cursor)
    driver.register()
    assert told(driver) == [f"connected {cursor}"]
    return driver


def mark(seq: int) -> messaging_pb2.InboxEvent:
    event = messaging_pb2.MessageStatusEvent(
        conversation_id="d.x", seq=seq, status=messaging_pb2.MESSAGE_STATUS_SEEN, user_id="bob"
    )
    return messaging_pb2.InboxEvent(message_status=event)


def test_what_was_missed_comes_in_order_and_then_synced() -> None:
    driver = connected(cursor=3)
    driver.page(inbox_message(4), inbox_message(5))
    assert told(driver) == ["message 4", "message 5", "synced 5"]


def test_pages_are_asked_for_until_there_are_no_more() -> None:
    driver = connected()
    driver.page(inbox_message(1), inbox_message(2), more=True)
    assert told(driver) == ["message 1", "message 2"]
    driver.page(inbox_message(3))
    assert told(driver) == ["message 3", "synced 3"]


def test_a_page_is_as_long_as_the_settings_say() -> None:
    driver = connected(EdgeSettings(sync_page=7), cursor=2)
    call = driver.call()
    assert (call.request.pos, call.request.limit) == (2, 7)  # type: ignore[attr-defined]  # a SyncInboxRequest


def test_marks_come_without_a_place() -> None:
    driver = connected()
    driver.page(inbox_message(1), mark(9))
    frames = driver.frames()
    assert [frame["type"] for frame in frames] == ["message", "message_status", "synced"]
    assert "pos" not in frames[1]
    assert frames[1]["status"] == "SEEN"


def test_live_events_are_not_queued_during_a_recovery_but_read_afterwards() -> None:
    driver = connected()
    driver.deliver(2)
    driver.deliver(3)
    driver.page(inbox_message(1))
    assert told(driver) == ["message 1"]
    driver.page(inbox_message(2), inbox_message(3))
    assert told(driver) == ["message 2", "message 3", "synced 3"]


def test_a_live_event_that_the_page_has_brought_already_is_not_sent_twice() -> None:
    driver = connected()
    driver.deliver(2)
    driver.page(inbox_message(1), inbox_message(2))
    assert told(driver) == ["message 1", "message 2", "synced 2"]
    driver.deliver(2)
    assert told(driver) == []
    assert driver.calls() == []


def test_events_without_a_place_pass_during_a_recovery() -> None:
    driver = connected()
    driver.deliver_typing("bob")
    assert told(driver) == ["typing"]


def test_events_before_connected_wait_in_the_inbox() -> None:
    driver = SessionDriver()
    driver.session.open("alice/phone", None)
    driver.deliver(1)
    driver.deliver_typing("bob")
    driver.register()
    driver.page(inbox_message(1))
    assert told(driver) == ["connected 0", "message 1", "synced 1"]


def test_an_event_that_comes_while_an_empty_page_is_on_its_way_is_read_at_once() -> None:
    driver = connected()
    call = driver.call()
    driver.deliver(1)
    driver.session.answer(call, messaging_service_pb2.SyncInboxResponse(), driver.now_s)
    driver.page(inbox_message(1))
    assert told(driver) == ["message 1", "synced 1"]


def test_live_events_are_sent_at_once() -> None:
    driver = live()
    driver.deliver(1)
    driver.deliver(2)
    assert told(driver) == ["message 1", "message 2"]
    assert driver.calls() == []


def test_a_gap_is_filled_before_the_event_after_it_and_synced_is_not_said_again() -> None:
    driver = live()
    driver.deliver(1)
    driver.deliver(4)
    assert told(driver) == ["message 1"]
    driver.page(inbox_message(2), inbox_message(3), inbox_message(4))
    assert told(driver) == ["message 2", "message 3", "message 4"]
    driver.deliver(5)
    assert told(driver) == ["message 5"]
    assert driver.metrics.recoveries == 1


def test_a_page_that_does_not_come_is_asked_for_again_ever_more_patiently() -> None:
    driver = connected(EdgeSettings(sync_retry_s=1.0, sync_retry_max_s=2.0))
    for wait_s in (1.0, 2.0, 2.0):
        driver.fail(driver.call(), Unavailable("away"))
        driver.wait(wait_s - 0.1)
        assert driver.calls() == []
        driver.wait(0.2)
    driver.page(inbox_message(1))
    assert told(driver) == ["message 1", "synced 1"]


def test_an_announced_event_that_the_inbox_does_not_have_yet_is_looked_for_later() -> None:
    driver = SessionDriver(EdgeSettings(sync_retry_s=1.0))
    driver.session.open("alice/phone", 0)
    driver.deliver(1)
    driver.register()
    driver.page()
    assert told(driver) == ["connected 0", "synced 0"]
    assert driver.calls() == []
    driver.wait(1.1)
    driver.page(inbox_message(1))
    assert told(driver) == ["message 1"]


def test_paging_waits_while_the_outbox_is_more_than_half_full() -> None:
    driver = connected(EdgeSettings(outbox_bytes=2000))
    driver.page(*[inbox_message(pos) for pos in range(1, 30)], more=True)
    assert driver.calls() == []
    assert driver.session.outbox.waiting_bytes < 2000
    assert driver.closed() is None


def test_a_page_larger_than_the_outbox_goes_out_as_the_client_reads() -> None:
    driver = connected(EdgeSettings(outbox_bytes=2000))
    driver.page(*[inbox_message(pos) for pos in range(1, 30)])
    seen: list[str] = []
    while frames := told(driver):
        seen += frames
    assert seen == [*(f"message {pos}" for pos in range(1, 30)), "synced 29"]


def test_a_recovery_is_asked_for_in_the_users_own_name() -> None:
    [call] = connected().calls(Purpose.SYNC)
    assert (call.caller.user_id, call.caller.device_id) == ("alice", "phone")


def test_what_came_before_the_registry_knew_the_connection_is_looked_for() -> None:
    driver = live()
    driver.session.look_again(driver.now_s)
    driver.page(inbox_message(1))
    assert told(driver) == ["message 1"]
    driver.deliver(2)
    assert told(driver) == ["message 2"]


def test_what_came_after_the_page_that_is_on_its_way_was_read_is_looked_for_too() -> None:
    driver = connected()
    call = driver.call()
    driver.session.look_again(driver.now_s)
    driver.session.answer(call, messaging_service_pb2.SyncInboxResponse(), driver.now_s)
    assert told(driver) == []
    driver.page(inbox_message(1))
    assert told(driver) == ["message 1", "synced 1"]
