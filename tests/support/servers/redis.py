"""Redis for tests: keeps nothing over a restart, as a cache may."""

from pathlib import Path

import redis

from tests.support.servers.process import ServerMissing, ServerProcess, free_port

_BINARY = Path("/usr/bin/redis-server")


class RedisServer(ServerProcess):
    """A redis-server on 127.0.0.1. Raises ServerMissing where Debian's redis-server is not installed."""

    def __init__(self, folder: Path) -> None:
        if not _BINARY.exists():
            raise ServerMissing(f"{_BINARY} is missing: install Debian's redis-server")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        command = f"{_BINARY} --bind 127.0.0.1 --port {self.port} --save  --appendonly no --dir {folder}".split(" ")
        super().__init__(command, folder, self._answers)

    def ask(self, *command: str | bytes) -> object:
        """One command over a connection of its own, for tests that look behind an adapter."""
        with redis.Redis(port=self.port, socket_timeout=5, socket_connect_timeout=5) as client:
            answer: object = client.execute_command(*command)
            return answer

    def _answers(self) -> bool:
        try:
            return self.ask("PING") is True
        except redis.RedisError:
            return False
