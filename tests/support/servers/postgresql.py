"""PostgreSQL for tests: one cluster for a run, and a database of its own for each test that asks."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.servers.process import ServerFailed, ServerMissing, ServerProcess, free_port

_BINARIES = Path("/usr/lib/postgresql/15/bin")
_END_S = 30.0
_REMOVED_AT_ONCE = 32


class PostgresqlServer(ServerProcess):
    """PostgreSQL 15 on 127.0.0.1, without a password, in a folder of its own that goes with it. It refuses to run as root:
    root lends it the user `postgres`, who must be able to reach the folder, so it is not one of pytest's.

    `settings` are more of postgresql.conf. Raises ServerMissing where Debian's postgresql-15 is not installed. It does not
    sync to disk: what was committed survives kill -9, but not a crash of the machine.
    """

    stop_signal = signal.SIGINT  # Ends open connections; SIGTERM would wait for them.

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        if not (_BINARIES / "postgres").exists():
            raise ServerMissing(f"{_BINARIES}/postgres is missing: install Debian's postgresql-15")
        self.port = free_port()
        self._root = Path(tempfile.mkdtemp(prefix="hither-postgresql-", dir="/tmp"))
        self._root.chmod(0o755)
        self._data = self._root / "data"
        self._numbers = count(1)
        self._paused: list[int] = []
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
            "shared_buffers": "32MB",
            "max_prepared_transactions": "64",
            "wal_keep_size": "2GB",  # for a replica that was away while other tests wrote
            **(settings or {}),
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = [*_as_postgres(), str(_BINARIES / "postgres"), "-D", str(self._data), *flags]
        super().__init__(command, self._root, self._answers)

    def __enter__(self) -> Self:
        """Makes the cluster and starts it, or raises ServerFailed."""
        try:
            self._make_cluster()
            return super().__enter__()
        except BaseException:
            _remove(self._root)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops it and removes its folder."""
        super().__exit__(kind, error, trace)
        _remove(self._root)

    def new_database(self) -> str:
        """Makes an empty database; its URL, postgresql+asyncpg://..."""
        name = f"test_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name}")
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/{name}"

    def ask(self, statement: str) -> None:
        """Runs a statement on it, as its operator. Raises ServerFailed."""
        asked = self._psql(statement)
        if asked.returncode:
            raise ServerFailed(asked.stderr)

    def replica(self) -> "PostgresqlReplica":
        """A streaming replica, to be started by `with`. Stop it before this server."""
        return PostgresqlReplica(self)

    def kill(self) -> None:
        """kill -9 of the server and of the processes that it made, which would keep its memory and so the next start."""
        children = self._children()
        super().kill()
        for child in children:
            _end(child)

    def pause(self) -> None:
        """SIGSTOP to the server and to the processes that serve its connections."""
        self._paused = self._children()
        for pid in self._paused:
            os.kill(pid, signal.SIGSTOP)
        super().pause()

    def resume(self) -> None:
        """SIGCONT."""
        super().resume()
        for pid in self._paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._paused = []

    def _make_cluster(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self._root, "postgres", "postgres")
        initdb = [*_as_postgres(), str(_BINARIES / "initdb"), "-D", str(self._data), "-U", "postgres", "-A", "trust"]
        made = subprocess.run(
            [*initdb, "--no-sync", "-E", "UTF8", "--locale=C"], cwd=self._root, capture_output=True, text=True
        )
        if made.returncode:
            raise ServerFailed(f"initdb ended with {made.returncode}:\n{made.stdout}{made.stderr}")

    def _answers(self) -> bool:
        return self._psql("SELECT 1").returncode == 0

    def _psql(self, statement: str) -> subprocess.CompletedProcess[str]:
        address = f"postgresql://postgres@127.0.0.1:{self.port}/postgres?connect_timeout=5"
        return subprocess.run(
            [_BINARIES / "psql", "-X", "-d", address, "-c", statement],
            cwd=self._root,
            capture_output=True,
            text=True,
            timeout=_END_S,
        )

    def _children(self) -> list[int]:
        if self._process is None or self._process.poll() is not None:
            return []
        found = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(child) for child in found.split()]


class PostgresqlReplica(PostgresqlServer):
    """A hot standby of another server, copied from it when it is started."""

    def __init__(self, primary: PostgresqlServer) -> None:
        super().__init__()
        self._primary_port = primary.port

    def _make_cluster(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self._root, "postgres", "postgres")
        copy = [*_as_postgres(), str(_BINARIES / "pg_basebackup"), "-h", "127.0.0.1", "-p", str(self._primary_port)]
        made = subprocess.run(
            [*copy, "-U", "postgres", "-D", str(self._data), "-R", "-X", "stream", "-c", "fast", "--no-sync"],
            cwd=self._root,
            capture_output=True,
            text=True,
            timeout=_END_S,
        )
        if made.returncode:
            raise ServerFailed(f"pg_basebackup ended with {made.returncode}:\n{made.stdout}{made.stderr}")


def _as_postgres() -> list[str]:
    """What makes a command run as `postgres` where it would run as root; the process stays the same one."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


def _remove(root: Path) -> None:
    """Removes the folder of a server: many databases at a time, for each has 300 files and a busy machine takes its time over each."""
    with ThreadPoolExecutor(_REMOVED_AT_ONCE) as pool:
        for removal in [pool.submit(shutil.rmtree, database) for database in root.glob("data/base/*")]:
            removal.result()
    shutil.rmtree(root)


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    end_s = time.monotonic() + _END_S
    while _lives(pid):
        if time.monotonic() > end_s:
            raise ServerFailed(f"process {pid} of PostgreSQL did not end")
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(") ")[2][0] not in "ZX"
