import subprocess
import sys
from pathlib import Path

import pytest

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
