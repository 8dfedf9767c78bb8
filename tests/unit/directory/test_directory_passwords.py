"""Passwords: hashed off the loop, in bounded numbers."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from discovery.errors import ResourceExhausted
from services.directory.passwords import Passwords
from tests.support.directory import QUICK


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(replace(QUICK, hash_threads=1, hash_waiting_most=2))
    yield made
    made.close()


async def test_a_hash_is_that_of_its_password_only(passwords: Passwords) -> None:
    password_hash = await passwords.hash("correct horse")

    assert password_hash.startswith("$argon2id$")
    assert await passwords.verify("correct horse", password_hash) is True
    assert await passwords.verify("battery staple", password_hash) is False


async def test_equal_passwords_have_different_hashes(passwords: Passwords) -> None:
    assert await passwords.hash("correct horse") != await passwords.hash("correct horse")


@pytest.mark.parametrize("password", ["correct horse", "nobody's password"])
async def test_nobody_has_no_password(passwords: Passwords, password: str) -> None:
    assert await passwords.verify(password, None) is False


async def test_a_hash_that_is_none_matches_nothing(passwords: Passwords) -> None:
    assert await passwords.verify("correct horse", "not a hash") is False


async def test_hashes_of_other_parameters_are_outdated(passwords: Passwords) -> None:
    stronger = Passwords(replace(QUICK, hash_passes=2))
    password_hash = await passwords.hash("correct horse")
    stronger.close()

    assert (passwords.is_outdated(password_hash), stronger.is_outdated(password_hash)) == (False, True)


async def test_more_than_may_wait_are_refused_also_when_the_waiting_give_up(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()

    class HoldingHasher:
        def hash(self, _password: str) -> str:
            entered.set()
            leave.wait()
            return "hash"

    monkeypatch.setattr(passwords, "_hasher", HoldingHasher())
    under_way = [asyncio.create_task(passwords.hash("x")) for _ in range(2)]
    await asyncio.to_thread(entered.wait)
    under_way[0].cancel()
    await asyncio.wait([under_way[0]])

    with pytest.raises(ResourceExhausted) as refused:
        await passwords.hash("x")
    leave.set()

    assert (refused.value.reason, refused.value.retry_after_s) == ("OVERLOADED", 1.0)
    assert await under_way[1] == "hash"
    assert await passwords.hash("x") == "hash"
