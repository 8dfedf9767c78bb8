"""Many keys in one query: statements whose number of keys is padded, so that few of them exist and stay prepared."""

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain

_MOST_KEYS = 256

Key = tuple[str | int, ...]


def select_by_keys(connection: sqlite3.Connection, query: str, keys: Sequence[Key]) -> Iterator[tuple[object, ...]]:
    """The rows of the query for all keys, in no order; a row may come more than once.

    The query names the keys' table in the place of "{keys}"; its columns are column1, column2 ... Keys are equally long.
    """
    for start in range(0, len(keys), _MOST_KEYS):
        chunk = list(keys[start : start + _MOST_KEYS])
        padded = 1 << (len(chunk) - 1).bit_length()
        chunk += chunk[-1:] * (padded - len(chunk))
        yield from connection.execute(
            _statement(query, padded, len(chunk[0])), list(chain.from_iterable(chunk))
        ).fetchall()


@lru_cache(maxsize=256)
def _statement(query: str, keys: int, width: int) -> str:
    key = f"({', '.join('?' * width)})"
    return query.replace("{keys}", f"(VALUES {', '.join([key] * keys)})")
