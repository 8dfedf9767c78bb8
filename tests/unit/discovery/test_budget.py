from dataclasses import dataclass

from discovery.budget import RetryBudget


@dataclass
class Time:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def spent(budget: RetryBudget, wanted: int = 1000) -> int:
    return sum(budget.spend() for _ in range(wanted))


def test_retries_are_a_share_of_the_calls() -> None:
    budget = RetryBudget(ratio=0.25, per_s=0, most=100, now_s=Time())
    for _ in range(100):
        budget.earn()

    assert spent(budget) == 25


def test_some_come_with_time_for_who_makes_few_calls() -> None:
    time = Time()
    budget = RetryBudget(ratio=0, per_s=5, most=100, now_s=time)

    assert spent(budget) == 5
    time.now_s += 2

    assert spent(budget) == 10


def test_no_more_than_so_many_are_saved_up() -> None:
    time = Time()
    budget = RetryBudget(ratio=0.5, per_s=5, most=30, now_s=time)
    for _ in range(1000):
        budget.earn()
    time.now_s += 1000

    assert spent(budget) == 30
