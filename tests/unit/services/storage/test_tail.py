from services.ports.log import Record
from services.storage.sqlite.tail import Tail


def test_a_tail_holds_what_it_was_given_and_nothing_before() -> None:
    tail = Tail(next_offset=10)
    tail.extend([b"a", b"b"])

    assert tail.next_offset == 12
    assert not tail.holds(9)
    assert tail.read(10, 5) == [Record(10, b"a"), Record(11, b"b")]
    assert tail.read(11, 5) == [Record(11, b"b")]


def test_a_tail_lets_the_oldest_go_beyond_2048_records() -> None:
    tail = Tail()
    for n in range(10_000):
        tail.extend([str(n).encode()])

    assert not tail.holds(10_000 - 2_049)
    assert tail.read(10_000 - 2_048, 1) == [Record(7_952, b"7952")]
    assert [r.value for r in tail.read(9_998, 10)] == [b"9998", b"9999"]


def test_a_tail_lets_the_oldest_go_beyond_one_mebibyte() -> None:
    tail = Tail()
    for n in range(100):
        tail.extend([bytes([n]) * 100_000])

    assert tail.holds(90)
    assert not tail.holds(89)
    assert tail.read(99, 1) == [Record(99, bytes([99]) * 100_000)]


def test_a_record_larger_than_a_tail_is_not_held() -> None:
    tail = Tail()
    tail.extend([bytes(2 * 1024 * 1024)])

    assert tail.next_offset == 1
    assert not tail.holds(0)


def test_a_trimmed_tail_has_only_what_is_after() -> None:
    tail = Tail()
    tail.extend([b"a", b"b"])
    tail.first_offset = 2

    assert not tail.has_from(0)
    tail.extend([b"c"])
    assert tail.has_from(0)
