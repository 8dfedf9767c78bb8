"""How busy a process says that it is."""

from discovery.load import Load


class Machine:
    """Its two clocks."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.now_s = 0.0

    def work(self, cpu_s: float, within_s: float) -> None:
        self.cpu_s += cpu_s
        self.now_s += within_s


def test_the_load_is_the_share_of_a_core_since_the_last_look() -> None:
    machine = Machine()
    load = Load(lambda: machine.cpu_s, lambda: machine.now_s)

    machine.work(5.0, within_s=10.0)
    assert load.look(calls=0.0) == 0.5
    machine.work(8.0, within_s=10.0)
    assert load.look(calls=0.0) == 0.8


def test_calls_count_where_they_are_more_than_the_core_shows() -> None:
    machine = Machine()
    load = Load(lambda: machine.cpu_s, lambda: machine.now_s)

    machine.work(1.0, within_s=10.0)
    assert load.look(calls=0.9) == 0.9


def test_what_is_near_to_what_was_told_is_no_news() -> None:
    machine = Machine()
    load = Load(lambda: machine.cpu_s, lambda: machine.now_s)

    machine.work(5.0, within_s=10.0)
    load.look(calls=0.0)
    machine.work(5.5, within_s=10.0)

    assert load.look(calls=0.0) is None
    assert load.told == 0.5


def test_several_threads_are_no_more_than_a_full_load() -> None:
    machine = Machine()
    load = Load(lambda: machine.cpu_s, lambda: machine.now_s)

    machine.work(19.0, within_s=10.0)

    assert load.look(calls=0.0) == 1.0
