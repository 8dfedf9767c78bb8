from dataclasses import dataclass

from discovery.registry.port import Instance
from discovery.rpc.outlier import FIRST_S, LONGEST_S, Outliers

ONE, TWO, THREE, FOUR = (Instance("hither.a.v1.AService", name) for name in ("one", "two", "three", "four"))


@dataclass
class Time:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def without_jitter(time: Time) -> Outliers:
    return Outliers(time, share=lambda: 1.0)


def test_who_failed_is_spared_for_a_while() -> None:
    time = Time()
    outliers = without_jitter(time)

    assert outliers.failed("one")
    assert outliers.fit([ONE, TWO]) == [TWO]
    time.now_s += FIRST_S

    assert outliers.fit([ONE, TWO]) == [ONE, TWO]


def test_failures_in_a_row_spare_it_for_longer_each_time_up_to_a_limit() -> None:
    time = Time()
    outliers = without_jitter(time)
    spared_s = []
    for _ in range(8):
        outliers.failed("one")
        begun_s = time.now_s
        while outliers.fit([ONE, TWO]) == [TWO]:
            time.now_s += 0.5
        spared_s.append(time.now_s - begun_s)

    assert spared_s == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S, 16 * FIRST_S, LONGEST_S, LONGEST_S, LONGEST_S]


def test_the_time_is_jittered() -> None:
    time = Time()
    outliers = Outliers(time, share=lambda: 0.0)
    outliers.failed("one")
    time.now_s += FIRST_S / 2

    assert outliers.fit([ONE, TWO]) == [ONE, TWO]


def test_calls_that_fail_together_are_one_failure() -> None:
    time = Time()
    outliers = without_jitter(time)

    assert [outliers.failed("one") for _ in range(100)] == [True] + [False] * 99
    time.now_s += FIRST_S

    assert len(outliers) == 0


def test_an_answer_makes_it_as_good_as_new() -> None:
    time = Time()
    outliers = without_jitter(time)
    outliers.failed("one")
    outliers.succeeded("one")

    assert outliers.fit([ONE, TWO]) == [ONE, TWO]
    outliers.failed("one")
    time.now_s += FIRST_S

    assert outliers.fit([ONE, TWO]) == [ONE, TWO]


def test_at_most_half_are_ejected_and_those_come_back_first_that_failed_first() -> None:
    time = Time()
    outliers = without_jitter(time)
    for instance in (ONE, TWO, THREE):
        outliers.failed(instance.instance_id)
        time.now_s += 0.1

    assert outliers.fit([ONE, TWO, THREE, FOUR]) == [ONE, FOUR]
    assert outliers.fit([ONE]) == [ONE]


def test_who_left_is_forgotten() -> None:
    outliers = without_jitter(Time())
    outliers.failed("one")
    outliers.keep({"two"})

    assert len(outliers) == 0
