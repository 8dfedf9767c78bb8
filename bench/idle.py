"""What an idle connection costs in memory: authenticated sessions, each of another user."""

import asyncio
import time

from bench.peer import Peer, connect_peers, disconnect
from bench.processes import cpu_s, rss_bytes

_FIRST = 100
_SETTLE_S = 3.0


async def measure_idle(url: str, tokens: list[str], server_pid: int) -> dict[str, object]:
    """Growth of the server's resident memory for each connection beyond the first 100, which load what is loaded once."""
    first = await connect_peers([url], tokens[:_FIRST], _ignore)
    await asyncio.sleep(_SETTLE_S)
    before = rss_bytes(server_pid)
    begun_s = time.perf_counter()
    server_s = cpu_s(server_pid)
    others = await connect_peers([url], tokens[_FIRST:], _ignore)
    connecting_s = time.perf_counter() - begun_s
    server_s = cpu_s(server_pid) - server_s
    await asyncio.sleep(_SETTLE_S)  # presence is gathered for a second; what it allocates belongs to the connections
    after = rss_bytes(server_pid)
    if lost := sum(peer.lost for peer in first + others):
        raise RuntimeError(f"{lost} connections were lost")
    disconnect(first + others)
    return {
        "connections": len(tokens),
        "bytes_per_connection": (after - before) / len(others),
        "server_rss_bytes": after,
        "connects_per_s": len(others) / connecting_s,
        "server_us_per_connect": server_s / len(others) * 1e6,
    }


def _ignore(_peer: Peer, _data: bytes) -> None:
    """Whatever comes: the connection is idle."""
