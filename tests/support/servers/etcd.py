"""etcd, alone or as a cluster on loopback, whose members a test kills, pauses and starts again."""

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.servers.process import ServerFailed, ServerMissing, ServerProcess, free_port

_ELECTION_S = 30.0
_POLL_S = 0.05
_TIMEOUT_S = 5.0

Json = dict[str, Any]


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: who signs, and what the server shows. With `asks_clients`, clients must show a certificate too."""

    ca: Path
    certificate: Path
    key: Path
    asks_clients: bool = False

    def options(self) -> list[str]:
        """What etcd is started with."""
        asked = ["--client-cert-auth", f"--trusted-ca-file={self.ca}"] if self.asks_clients else []
        return [f"--cert-file={self.certificate}", f"--key-file={self.key}", *asked]


@dataclass(frozen=True)
class _Ports:
    client: int
    peer: int
    metrics: int


class EtcdCluster:
    """Members of one etcd, numbered from 0. `with EtcdCluster(folder) as etcd:` starts them and stops what is left of them.

    Raises ServerMissing where there is no etcd.
    """

    def __init__(
        self, folder: Path, nodes: int = 3, *, tls: TlsFiles | None = None, options: Sequence[str] = ()
    ) -> None:
        program = shutil.which("etcd")
        if program is None:
            raise ServerMissing("etcd is not installed (Debian: etcd-server)")
        ports = _free_ports(nodes)
        self._ports = ports
        self._scheme = "http" if tls is None else "https"
        peers = ",".join(f"n{number}=http://127.0.0.1:{one.peer}" for number, one in enumerate(ports))
        self.nodes = [
            ServerProcess(
                [
                    program,
                    f"--name=n{number}",
                    f"--data-dir={folder / f'n{number}' / 'data'}",
                    f"--listen-client-urls={self._scheme}://127.0.0.1:{one.client}",
                    f"--advertise-client-urls={self._scheme}://127.0.0.1:{one.client}",
                    f"--listen-peer-urls=http://127.0.0.1:{one.peer}",
                    f"--initial-advertise-peer-urls=http://127.0.0.1:{one.peer}",
                    f"--listen-metrics-urls=http://127.0.0.1:{one.metrics}",
                    f"--initial-cluster={peers}",
                    *(tls.options() if tls else ()),
                    *options,
                ],
                folder / f"n{number}",
                lambda one=one: _is_healthy(one.metrics),  # type: ignore[misc] # mypy knows no default of a lambda
            )
            for number, one in enumerate(ports)
        ]
        """The members. Each can be killed, paused, resumed and started again."""
        self.endpoints = [f"127.0.0.1:{one.client}" for one in ports]
        """host:port for clients, in the order of the members."""

    def __enter__(self) -> Self:
        """Starts all members, or raises ServerFailed."""
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops all members, also those that are paused. Their data are of no use to anybody, so they need no time for them."""
        self.kill()

    def start(self) -> None:
        """Starts all members and returns when each serves."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_ready()

    def kill(self) -> None:
        """kill -9 for all members."""
        for node in self.nodes:
            node.kill()

    def leader(self) -> int:
        """Which member leads, as most others would say; waits for an election."""
        end_s = time.monotonic() + _ELECTION_S
        while time.monotonic() < end_s:
            for number in range(len(self.nodes)):
                try:
                    status = self.ask("maintenance/status", {}, node=number)
                except OSError:
                    continue
                if status.get("leader", "0") == status["header"]["member_id"]:
                    return number
            time.sleep(_POLL_S)
        raise ServerFailed("no member of etcd was elected")

    def ask(self, path: str, body: Json, *, node: int = 0, token: str = "") -> Json:
        """What a member answers to a JSON request ("kv/compaction", ...), for what clients of the mesh never do. Raises
        OSError if it does not.
        """
        url = f"{self._scheme}://{self.endpoints[node]}/v3/{path}"
        headers = {"Authorization": token} if token else {}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            found: Json = json.load(answer)
            return found

    def outlive(self, lease: int) -> None:
        """Returns when the lease, which nobody renews, has run out and what hung on it is gone."""
        # Whole seconds are left of a lease: in its last one 0, which JSON omits; of one that has ended, -1.
        while self.ask("lease/timetolive", {"ID": lease}).get("TTL") != "-1":
            time.sleep(_POLL_S)


def etcd_server(folder: Path, *, tls: TlsFiles | None = None, options: Sequence[str] = ()) -> EtcdCluster:
    """An etcd of one member, which elects itself fast so that its leases may be as short as 1 s."""
    quick = ("--heartbeat-interval=10", "--election-timeout=100")
    return EtcdCluster(folder, 1, tls=tls, options=[*quick, *options])


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=_TIMEOUT_S) as answer:
            return bool(json.load(answer)["health"] == "true")
    except (OSError, ValueError):
        return False


def _free_ports(nodes: int) -> list[_Ports]:
    found: list[int] = []
    while len(found) < 3 * nodes:
        port = free_port()
        if port not in found:
            found.append(port)
    return [_Ports(*found[at : at + 3]) for at in range(0, len(found), 3)]
