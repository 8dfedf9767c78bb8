import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli import main
from services.data_directory import DataDirectory, DataDirectoryBusy, Running


def test_the_cluster_and_its_keys_are_made_once(tmp_path: Path) -> None:
    first, again = DataDirectory(tmp_path / "d"), DataDirectory(tmp_path / "d")
    assert first.cluster == again.cluster
    assert first.keys == again.keys


def test_two_directories_are_two_clusters(tmp_path: Path) -> None:
    assert DataDirectory(tmp_path / "a").cluster != DataDirectory(tmp_path / "b").cluster


def test_secrets_are_their_owners_alone(tmp_path: Path) -> None:
    DataDirectory(tmp_path / "d")
    for path in (tmp_path / "d", tmp_path / "d/keys", tmp_path / "d/keys/signing.pem", tmp_path / "d/keys/resume.key"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_second_process_is_kept_off(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "d")
    script = (
        "import pathlib, sys, services.data_directory as it\n"
        "with it.DataDirectory(pathlib.Path(sys.argv[1])).exclusively(): pass"
    )
    with data.exclusively():
        other = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "d")], capture_output=True, text=True, timeout=60, check=False
        )
    assert "DataDirectoryBusy" in other.stderr
    with data.exclusively():
        pass


def test_what_runs_is_known_only_while_it_holds_the_directory(tmp_path: Path) -> None:
    data, running = DataDirectory(tmp_path / "d"), Running(1, "http://127.0.0.1:1", "127.0.0.1:2")
    with data.exclusively():
        data.announce(running)
        assert data.running() == running
    assert data.running() is None


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "d")
    with data.exclusively(), pytest.raises(DataDirectoryBusy), data.exclusively():
        pass


def test_the_number_of_partitions_is_kept(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "d")
    data.fix_partitions(4)
    data.fix_partitions(4)
    with pytest.raises(ValueError, match="4 partitions, not 16"):
        data.fix_partitions(16)


NOBODY = 65_534


@contextmanager
def only_readable(path: Path) -> Iterator[None]:
    """As a Secret is mounted: every file may be read, and nothing written, for the time of the block."""
    for each in (path, *path.rglob("*")):
        each.chmod(0o555 if each.is_dir() else 0o444)
    for parent in list(path.parents)[:3]:  # of pytest, which makes them for their owner alone
        parent.chmod(0o755)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(NOBODY)  # root may write everywhere
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
        for each in (path, *path.rglob("*")):
            each.chmod(0o700)


def test_a_directory_that_can_only_be_read_does_for_services_that_run_apart(tmp_path: Path) -> None:
    made = DataDirectory(tmp_path / "d")
    made.fix_partitions(256)
    (tmp_path / "d/keys.lock").unlink()
    with only_readable(tmp_path / "d"):
        with pytest.raises(PermissionError):
            (tmp_path / "d/probe").touch()
        data = DataDirectory(tmp_path / "d")
        data.fix_partitions(data.partitions())
        data.retract()
        assert data.running() is None
    assert (data.cluster, data.keys) == (made.cluster, made.keys)


def test_what_is_missing_in_a_directory_that_can_only_be_read_is_an_error(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path / "d")
    (tmp_path / "d/keys/resume.key").unlink()
    (tmp_path / "d/keys.lock").unlink()
    with only_readable(tmp_path / "d"):
        with pytest.raises(PermissionError):
            DataDirectory(tmp_path / "d")
        with pytest.raises(PermissionError):
            data.fix_partitions(256)


def test_a_cluster_id_may_end_in_a_newline(tmp_path: Path) -> None:
    made = DataDirectory(tmp_path / "d")
    (tmp_path / "d/cluster-id").write_text(f"{made.cluster}\n")
    assert DataDirectory(tmp_path / "d").cluster == made.cluster


def test_init_makes_a_directory_once_and_prints_its_cluster(tmp_path: Path) -> None:
    command = ["init", "--data", str(tmp_path / "d"), "--partitions", "1024"]
    first, again = CliRunner().invoke(main, command), CliRunner().invoke(main, command)
    assert first.exit_code == again.exit_code == 0
    assert first.output.strip() == again.output.strip() == DataDirectory(tmp_path / "d").cluster
    assert DataDirectory(tmp_path / "d").partitions() == 1024


def test_init_refuses_another_number_of_partitions_than_the_data_have(tmp_path: Path) -> None:
    DataDirectory(tmp_path / "d").fix_partitions(16)
    refused = CliRunner().invoke(main, ["init", "--data", str(tmp_path / "d")])
    assert refused.exit_code == 1
    assert "have 16 partitions, not 256" in refused.output
