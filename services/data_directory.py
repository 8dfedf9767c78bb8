"""The data directory: a cluster's id and keys, the files of embedded engines, and the lock that keeps a second process off them.

    DIR/cluster-id          names the cluster; a token of another cluster is refused
    DIR/keys/signing.pem    Ed25519 private key that signs access tokens (0600)
    DIR/keys/verify.pem     its public half
    DIR/keys/resume.key     secret behind the resume tokens of the edge (0600)
    DIR/partitions          the number of partitions, which the keys of all data hash to
    DIR/*.db                the engines' files
    DIR/run.json            where the running process listens; absent when none runs

Keys and the cluster id are made at the first start. Files with secrets are never readable by others, not even for
the moment between making and writing them. A directory in which they (and `partitions`) are there is only read: services that
run apart take it from a read-only mount.
"""

import errno
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from services.directory.tokens import generate_keys

_LAST_MADE: Final = "keys/resume.key"
"""Where it is, all else is."""


class DataDirectoryBusy(Exception):
    """Another process runs on this data directory."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets of a cluster. A machine whose processes sign nothing need not have the signing key: then it is empty."""

    signing_pem: bytes
    verify_pem: bytes
    resume_key: bytes


@dataclass(frozen=True, slots=True)
class Running:
    """Where a process listens: its id, the address of HTTP and WebSocket, and the address of gRPC as host:port."""

    pid: int
    url: str
    grpc_address: str


class DataDirectory:
    """Opens the directory, making it and its keys if need be. Raises OSError if something is missing and cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / _LAST_MADE).exists():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            (path / "keys").mkdir(mode=0o700, exist_ok=True)
            with self._locked("keys.lock", wait=True):
                self._make()
        self.cluster = (path / "cluster-id").read_text().strip()
        self.keys = self._read_keys()

    def database(self, name: str) -> Path:
        """The file of an engine."""
        return self.path / f"{name}.db"

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keeps every other process off the directory for the time of the block. Raises DataDirectoryBusy at once if one is
        on it; a process that died holds nothing.
        """
        with self._locked("lock", wait=False):
            yield

    def fix_partitions(self, wanted: int) -> None:
        """Keeps the number of partitions for good. Raises ValueError if the data were made with another."""
        kept = self.partitions()
        if not kept:
            with self._locked("keys.lock", wait=True):
                kept = int(self._once("partitions", lambda: str(wanted).encode()))
        if kept != wanted:
            raise ValueError(f"the data in {self.path} have {kept} partitions, not {wanted}")

    def partitions(self) -> int:
        """The number that was kept; zero if none was."""
        path = self.path / "partitions"
        return int(path.read_text()) if path.exists() else 0

    def announce(self, running: Running) -> None:
        """Writes run.json, in one step."""
        fresh = self.path / "run.json.new"
        fresh.write_text(json.dumps(asdict(running)))
        fresh.replace(self.path / "run.json")

    def retract(self) -> None:
        """Removes run.json."""
        if (self.path / "run.json").exists():  # what may only be read holds none, and refuses
            (self.path / "run.json").unlink(missing_ok=True)

    def running(self) -> Running | None:
        """What run.json says if a process holds the directory now, else None."""
        try:
            with self.exclusively():
                return None
        except DataDirectoryBusy:
            pass
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
            return None  # nobody runs on what can only be read
        try:
            return Running(**json.loads((self.path / "run.json").read_text()))
        except FileNotFoundError:
            return None

    @contextmanager
    def _locked(self, name: str, *, wait: bool) -> Iterator[None]:
        with (self.path / name).open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataDirectoryBusy(f"another process runs on {self.path}") from error
            yield

    def _make(self) -> None:
        self._once("cluster-id", lambda: f"hither-{secrets.token_hex(8)}".encode())
        keys = self.path / "keys"
        if not (keys / "verify.pem").exists():
            pair = generate_keys()
            _write_secret(keys / "signing.pem", pair.private_pem)
            (keys / "verify.pem").write_bytes(pair.public_pem)
        self._once(_LAST_MADE, lambda: secrets.token_bytes(32))

    def _read_keys(self) -> Keys:
        keys = self.path / "keys"
        return Keys(
            signing_pem=(keys / "signing.pem").read_bytes() if (keys / "signing.pem").exists() else b"",
            verify_pem=(keys / "verify.pem").read_bytes(),
            resume_key=(self.path / _LAST_MADE).read_bytes(),
        )

    def _once(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self.path / name
        if not path.exists():
            _write_secret(path, make())
        return path.read_bytes()


def _write_secret(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
