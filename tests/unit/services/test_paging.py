"""Page tokens: only what was handed out for a list is taken back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.errors import InvalidArgument
from services.paging import decode_token, encode_token

_PART = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@given(parts=st.lists(_PART, min_size=1, max_size=4))
def test_a_token_gives_back_its_parts(parts: list[str]) -> None:
    token = encode_token("friends/alice", *parts)

    assert decode_token("friends/alice", token, len(parts)) == tuple(parts)


def test_no_token_stands_for_the_first_page() -> None:
    assert decode_token("friends/alice", "", 1) is None


def test_a_token_is_safe_in_a_url() -> None:
    token = encode_token("friends/alice", "ö~?/&=" * 20)

    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_token_of_another_list_is_refused() -> None:
    token = encode_token("friends/alice", "bob")

    with pytest.raises(InvalidArgument) as refused:
        decode_token("friends/carol", token, 1)

    assert refused.value.reason == "BAD_PAGE_TOKEN"


def test_a_token_with_another_number_of_parts_is_refused() -> None:
    token = encode_token("friends/alice", "bob")

    with pytest.raises(InvalidArgument):
        decode_token("friends/alice", token, 2)


@pytest.mark.parametrize("place", range(len(encode_token("friends/alice", "bob"))))
def test_a_change_of_any_character_is_refused(place: int) -> None:
    token = encode_token("friends/alice", "bob")
    changed = token[:place] + ("B" if token[place] == "A" else "A") + token[place + 1 :]

    with pytest.raises(InvalidArgument):
        decode_token("friends/alice", changed, 1)


@pytest.mark.parametrize("junk", ["x", "!!!!", "é", "AAAA", " ", "=", "\0"])
def test_junk_is_refused(junk: str) -> None:
    with pytest.raises(InvalidArgument):
        decode_token("friends/alice", junk, 1)


@pytest.mark.parametrize("spelling", ["{}=", "{}\n", " {}", "{}!"])
def test_another_spelling_of_a_good_token_is_refused(spelling: str) -> None:
    token = encode_token("friends/alice", "bob")

    with pytest.raises(InvalidArgument):
        decode_token("friends/alice", spelling.format(token), 1)


def test_a_part_with_a_nul_cannot_be_put_into_a_token() -> None:
    with pytest.raises(ValueError, match="NUL"):
        encode_token("friends/alice", "a\0b")
