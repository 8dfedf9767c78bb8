"""The command line: `hither up`, `serve`, `edge`, `bus-server`, `token`, `status`, `certs`, `init` and `plan`."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import uvloop

from discovery.clock import SystemClock
from discovery.errors import HitherError
from discovery.rpc.call import Caller, Role
from discovery.rpc.telemetry import configure_logging
from discovery.rpc.tls import TlsError, open_credentials
from hither.mesh.v1.status_service_pb2 import GetStatusResponse
from services.app import PARTITIONS_APART, run_edge, run_services, run_whole
from services.bus_server import keep_bus_server
from services.catalogue import NAMES
from services.certs import DEFAULT_CLUSTER, DEFAULT_DAYS, MOST_DAYS, CertsError, write_certificates
from services.config import Config, ConfigError, MeshSettings, load_config
from services.data_directory import DataDirectory, DataDirectoryBusy, Running
from services.directory.tokens import TokenIssuer
from services.planning.command import plan
from services.registries import EMBEDDED, open_registry
from services.status import render_status, watch_process, watch_registry

_Command = Callable[..., Any]
_STATUS_TOKEN_S = 3600
_MESH_KEYS = {setting.name for setting in fields(MeshSettings)}

_data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data directory. Default: .hither, or HITHER_PROCESS_DATA.",
)


_config_option = click.option(
    "--config", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Settings, as TOML."
)


def _public_options(command: _Command) -> _Command:
    """Where clients connect."""
    options = (
        click.option("--host", help="Address to listen on for clients. Default: 127.0.0.1."),
        click.option(
            "--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one. Default: 8080."
        ),
        click.option("--behind-tls-proxy", is_flag=True, default=None, help="Something in front of --host speaks TLS."),
    )
    return _decorated(command, options)


def _mesh_options(command: _Command) -> _Command:
    """The process's place in the mesh."""
    options = (
        click.option("--registry", help="etcd://HOST:PORT[,HOST:PORT...]. Default: embedded."),
        click.option("--listen", help="HOST:PORT for gRPC; port 0 takes a free one. Default: 127.0.0.1:0."),
        click.option("--zone", help="Calls that no key decides stay in the zone where they can."),
    )
    return _decorated(command, options)


def _decorated(command: _Command, options: Iterable[Callable[[_Command], _Command]]) -> _Command:
    for option in options:
        command = option(command)
    return command


@click.group()
@click.version_option(package_name="hither")
def main() -> None:
    """Messages, presence and whereabouts between people who know each other."""


@main.command()
@click.option(
    "--edges", type=click.IntRange(0, 64), default=0, help="Edge processes beside this one; 0: it is the edge itself."
)
@_public_options
@_mesh_options
@_config_option
@_data_option
def up(edges: int, file: Path | None, **given: object) -> None:
    """Run everything in one process, on embedded engines; or all but the edge, with --edges."""
    config = _configure(file, given)
    _run(config, run_whole(config, lambda url: click.echo(f"hither is ready at {url}"), edges, file))


@main.command()
@click.argument("services", metavar="SERVICE...", nargs=-1, required=True, type=click.Choice(NAMES))
@_mesh_options
@_config_option
@_data_option
def serve(services: tuple[str, ...], file: Path | None, **given: object) -> None:
    """Run SERVICE... apart from the others, found through the registry."""
    config = _configure(file, given)
    names = tuple(dict.fromkeys(services))
    _run(config, run_services(names, config, lambda address: click.echo(f"{' '.join(names)} ready at {address}")))


@main.command()
@click.option("--with-parent", is_flag=True, help="End when standard input does.")
@_public_options
@_mesh_options
@_config_option
@_data_option
def edge(with_parent: bool, file: Path | None, **given: object) -> None:
    """Run an edge, where clients connect, apart from the services."""
    config = _configure(file, given)
    _run(config, run_edge(config, lambda url: click.echo(f"hither is ready at {url}"), with_parent))


@main.command("bus-server")
@click.argument("url", metavar="redis://HOST:PORT")
@click.option("--weight", type=click.IntRange(1, 1000), default=100, show_default=True, help="Its share of the topics.")
@click.option(
    "--advertise", default="", help="HOST:PORT where others reach it, if that is not where this process does."
)
@click.option("--registry", help="etcd://HOST:PORT[,HOST:PORT...].")
@_config_option
@_data_option
def bus_server(url: str, weight: int, advertise: str, file: Path | None, **given: object) -> None:
    """Keep the Redis at redis://HOST:PORT in the registry while it answers, so that the bus uses it (engines: bus = "registry")."""
    config = _configure(file, given)
    shown = urlsplit(url).netloc.rpartition("@")[2]

    def announce(there: bool) -> None:
        click.echo(f"{shown} {'announced' if there else 'withdrawn'}")

    _run(config, keep_bus_server(config, url, weight, advertise, announce))


@main.command()
@click.argument("subjects", metavar="USER...", nargs=-1, required=True)
@click.option("--device", default="operator", show_default=True, help="The device that the token names.")
@click.option("--role", type=click.Choice(["user", "service", "admin"]), default="user", show_default=True)
@click.option(
    "--hours", type=click.FloatRange(min=0.01, max=24), default=24, show_default=True, help="How long it is good for."
)
@_data_option
def token(subjects: tuple[str, ...], device: str, role: str, hours: float, data: Path | None) -> None:
    """Print an access token for each USER (or service), signed with the key of the data directory."""
    directory = _existing(data)
    issuer = TokenIssuer(directory.keys.signing_pem, directory.cluster, SystemClock())
    for subject in subjects:
        caller = (
            Caller(Role.USER, user_id=subject, device_id=device)
            if role == "user"
            else Caller(Role[role.upper()], service=subject)
        )
        click.echo(issuer.issue(caller, ttl_s=int(hours * 3600)))


@main.command()
@click.option("--registry", help="etcd://HOST:PORT[,HOST:PORT...]. Default: ask the process that runs whole here.")
@click.option("--watch", is_flag=True, help="Show it again and again, until interrupted.")
@_config_option
@_data_option
def status(registry: str | None, watch: bool, file: Path | None, data: Path | None) -> None:
    """Show the instances, their states, partitions and load. Exits with 1 if nothing runs here."""
    config = _configure(file, {"registry": registry, "data": data})
    directory = _existing(data)
    running = directory.running()
    if config.mesh.registry == EMBEDDED and running is None:
        click.echo("not running")
        sys.exit(1)
    shown = (
        _show_registry(config, directory, watch)
        if running is None
        else _show_process(config, running, directory, watch)
    )
    try:
        asyncio.run(shown)
    except TlsError as error:
        raise click.ClickException(str(error)) from error
    except HitherError as error:
        raise click.ClickException(f"{error.reason}: {error.message}") from error
    except KeyboardInterrupt:
        pass


@main.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory for certificates and keys.",
)
@click.option(
    "--cluster", help=f"The cluster. Default: that of the authority in --out; {DEFAULT_CLUSTER} for a new one."
)
@click.option("--host", "hosts", multiple=True, help="Name or address to be reached at. Default: as before; loopback.")
@click.option("--days", type=click.IntRange(1, MOST_DAYS), default=DEFAULT_DAYS, show_default=True, help="Their life.")
def certs(names: tuple[str, ...], out: Path, cluster: str | None, hosts: tuple[str, ...], days: int) -> None:
    """Make (or renew) a certificate for each NAME: a service, edge, hither, admin, or admin-WHO. For development: the key of
    the authority lies beside them.
    """
    try:
        written = write_certificates(out, names, cluster=cluster, hosts=hosts, days=days)
    except CertsError as error:
        raise click.ClickException(str(error)) from error
    for path in written:
        click.echo(path)


@main.command()
@click.option(
    "--partitions",
    type=click.IntRange(min=1),
    default=PARTITIONS_APART,
    show_default=True,
    help="Partitions of the cluster, for the life of its data.",
)
@_data_option
def init(partitions: int, data: Path | None) -> None:
    """Make the data directory of a cluster whose services run apart, and print the cluster's id. Again, it changes nothing."""
    config = _configure(None, {"data": data})
    try:
        directory = DataDirectory(Path(config.process.data))
        directory.fix_partitions(partitions)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(directory.cluster)


main.add_command(plan)


async def _show_registry(config: Config, directory: DataDirectory, watch: bool) -> None:
    partitions = directory.partitions() or config.process.partitions or PARTITIONS_APART
    async with open_registry(config.mesh, directory.cluster, SystemClock()) as registry:
        answers = watch_registry(registry, directory.cluster, partitions)
        await _show(f"registry  {config.mesh.registry}", answers, watch)


async def _show_process(config: Config, running: Running, directory: DataDirectory, watch: bool) -> None:
    issuer = TokenIssuer(directory.keys.signing_pem, directory.cluster, SystemClock())
    admin = issuer.issue(Caller(Role.ADMIN, service="hither-status"), ttl_s=_STATUS_TOKEN_S)
    where = f"address   {running.url}   gRPC {running.grpc_address}   pid {running.pid}"
    await _show(where, watch_process(running.grpc_address, admin, open_credentials(config.tls)), watch)


async def _show(where: str, answers: AsyncIterator[GetStatusResponse], watch: bool) -> None:
    async for answer in answers:
        if watch:
            click.clear()
        click.echo(render_status(where, answer))
        if not watch:
            return


def _run(config: Config, process: Coroutine[None, None, None]) -> None:
    configure_logging(config.process.log_level, config.process.log_json)
    try:
        uvloop.run(process)
    except (ConfigError, DataDirectoryBusy, OSError) as error:
        raise click.ClickException(str(error)) from error
    except HitherError as error:
        raise click.ClickException(f"{error.reason}: {error.message}") from error


def _configure(file: Path | None, given: Mapping[str, object]) -> Config:
    """The configuration, with the options that were given on the command line."""
    overrides: dict[str, dict[str, object]] = {"process": {}, "mesh": {}}
    for key, value in given.items():
        if value is not None:
            overrides["mesh" if key in _MESH_KEYS else "process"][key] = (
                str(value) if isinstance(value, Path) else value
            )
    try:
        return load_config(file, os.environ, overrides)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error


def _existing(data: Path | None) -> DataDirectory:
    config = _configure(None, {"data": data})
    path = Path(config.process.data)
    if not (path / "cluster-id").exists():
        raise click.ClickException(f"{path} is no data directory: `hither up --data {path}` makes one")
    return DataDirectory(path)


if __name__ == "__main__":
    main()
