from pathlib import Path

import pytest

from services.certs import write_certificates
from services.config import Config, ConfigError, load_config


def test_without_anything_the_defaults_hold() -> None:
    assert load_config(None, {}, {}) == Config()


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "hither.toml"
    file.write_text('[process]\nport = 1\nhost = "::1"\nlog_level = "debug"\n[edge]\nframes_per_s = 7.0\n')
    config = load_config(
        file, {"HITHER_PROCESS_PORT": "2", "HITHER_PROCESS_HOST": "127.0.0.2"}, {"process": {"port": 3}}
    )
    assert (config.process.port, config.process.host, config.process.log_level) == (3, "127.0.0.2", "debug")
    assert config.edge.frames_per_s == 7.0


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"HITHER_EDGE_FRAMES_PER_HOUR": "1"}, "no setting frames_per_hour"),
        ({"HITHER_KITCHEN_SINK": "1"}, "no section kitchen"),
        ({"HITHER_PROCESS_PORT": "many"}, "process: "),
    ],
)
def test_what_no_setting_knows_is_refused_by_name(environment: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(None, environment, {})


def test_a_file_with_an_unknown_section_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "hither.toml"
    file.write_text("[kitchen]\nsink = 1\n")
    with pytest.raises(ConfigError, match="kitchen"):
        load_config(file, {}, {})


def test_variables_of_others_are_left_alone() -> None:
    assert load_config(None, {"PATH": "/bin", "HITHER_REQUIRE_SERVERS": "1"}, {}) == Config()


def test_passwords_are_masked_where_settings_are_shown() -> None:
    environment = {
        "HITHER_ENGINES_DIRECTORY": "postgresql+asyncpg://hither:hunter2@db:5432/hither",
        "HITHER_ENGINES_BUS": "redis://:hunter2@cache:6379/0",
        "HITHER_MESH_REGISTRY_PASSWORD": "hunter2",
    }
    shown = load_config(None, environment, {}).shown()
    assert "hunter2" not in str(shown)
    assert shown["engines"]["directory"] == "postgresql+asyncpg://hither:***@db:5432/hither"
    assert shown["mesh"]["registry_password"] == "***"
    assert shown["engines"]["log"] == "embedded"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("kafka://hither:hunter2@a:1,b:2?ca=/ca.pem", "kafka://hither:***@a:1,b:2?ca=/ca.pem"),
        ("cassandra://hither:hunter2@a:1/hither?ca=/ca.pem", "cassandra://hither:***@a:1/hither?ca=/ca.pem"),
        ("kafka://hither:p@hunter2/x@a:1", "kafka://hither:***@a:1"),
        ("kafka://us@er:hunter2@a:1", "kafka://us@er:***@a:1"),
        ("redis://a:1?password=hunter2&db=1", "redis://a:1?password=***&db=1"),
        ("redis://:hunter2@a:1 redis://:hunter2@b:1", "redis://:***@a:1 redis://:***@b:1"),
        ("kafka://a:1,b:2?prefix=x", "kafka://a:1,b:2?prefix=x"),
    ],
)
def test_a_password_is_masked_however_it_is_written(url: str, shown: str) -> None:
    config = load_config(None, {"HITHER_ENGINES_LOG": url}, {})

    assert config.shown()["engines"]["log"] == shown


def test_certificates_are_given_whole(tmp_path: Path) -> None:
    file = tmp_path / "hither.toml"
    file.write_text('[tls]\nca = "/pki/ca.pem"\ncert = "/pki/edge.pem"\n')

    with pytest.raises(ConfigError, match="tls: ca, cert and key go together"):
        load_config(file, {}, {})
    assert load_config(file, {"HITHER_TLS_KEY": "/pki/edge.key"}, {}).tls.is_set


def test_the_settings_that_are_shown_name_the_key_file_and_hold_no_key(tmp_path: Path) -> None:
    write_certificates(tmp_path, ["edge"])
    key = tmp_path / "edge.key"
    config = load_config(
        None,
        {"HITHER_TLS_CA": f"{tmp_path}/ca.pem", "HITHER_TLS_CERT": f"{tmp_path}/edge.pem", "HITHER_TLS_KEY": str(key)},
        {},
    )

    shown = str(config.shown())

    assert str(key) in shown
    assert key.read_text().splitlines()[1] not in shown
