"""The command line: `hither up`, `hither token`, `hither status`, `hither certs`."""

import asyncio
import os
import sys
from pathlib import Path

import click
import uvloop

from discovery.clock import SystemClock
from discovery.errors import HitherError
from discovery.rpc.call import Caller, Role
from discovery.rpc.telemetry import configure_logging
from discovery.rpc.tls import TlsError, open_credentials
from services.app import run_whole
from services.certs import DEFAULT_CLUSTER, DEFAULT_DAYS, MOST_DAYS, CertsError, write_certificates
from services.config import Config, ConfigError, load_config
from services.data_directory import DataDirectory, DataDirectoryBusy
from services.directory.tokens import TokenIssuer
from services.status import fetch_status, render_status

_data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data directory. Default: .hither, or HITHER_PROCESS_DATA.",
)


@click.group()
@click.version_option(package_name="hither")
def main() -> None:
    """Messages, presence and whereabouts between people who know each other."""


@main.command()
@click.option("--host", help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one. Default: 8080.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Loopback port for gRPC. Default: a free one.")
@click.option("--behind-tls-proxy", is_flag=True, default=None, help="Something in front of --host speaks TLS.")
@click.option(
    "--config", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Settings, as TOML."
)
@_data_option
def up(
    host: str | None,
    port: int | None,
    grpc_port: int | None,
    behind_tls_proxy: bool | None,
    file: Path | None,
    data: Path | None,
) -> None:
    """Run everything in one process, on embedded engines."""
    given = {
        "host": host,
        "port": port,
        "grpc_port": grpc_port,
        "behind_tls_proxy": behind_tls_proxy,
        "data": data and str(data),
    }
    config = _configure(file, {key: value for key, value in given.items() if value is not None})
    configure_logging(config.process.log_level, config.process.log_json)
    try:
        uvloop.run(run_whole(config, announce=lambda url: click.echo(f"hither is ready at {url}")))
    except (ConfigError, DataDirectoryBusy, OSError) as error:
        raise click.ClickException(str(error)) from error


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
@_data_option
def status(data: Path | None) -> None:
    """Show the instances of the running process, their state and their partitions. Exits with 1 if none runs."""
    directory = _existing(data)
    running = directory.running()
    if running is None:
        click.echo("not running")
        sys.exit(1)
    admin = TokenIssuer(directory.keys.signing_pem, directory.cluster, SystemClock()).issue(
        Caller(Role.ADMIN, service="hither-status"), ttl_s=60
    )
    try:
        credentials = open_credentials(_configure(None, {}).tls)
        answer = asyncio.run(fetch_status(running.grpc_address, admin, credentials))
    except TlsError as error:
        raise click.ClickException(str(error)) from error
    except HitherError as error:
        raise click.ClickException(f"{running.grpc_address}: {error.reason} {error.message}") from error
    click.echo(render_status(running, answer))


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


def _configure(file: Path | None, overrides: dict[str, object]) -> Config:
    try:
        return load_config(file, os.environ, overrides)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error


def _existing(data: Path | None) -> DataDirectory:
    config = _configure(None, {} if data is None else {"data": str(data)})
    path = Path(config.process.data)
    if not (path / "cluster-id").exists():
        raise click.ClickException(f"{path} is no data directory: `hither up --data {path}` makes one")
    return DataDirectory(path)
