"""Settings from the environment: one line that names a bad variable, and no secret in it."""

import pytest

pytest.importorskip("fastapi", reason="the extra [service] is not installed")

from neuros_sourceweigher import service
from neuros_sourceweigher._service.settings import load_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "high"),
        ("PORT", "70000"),
        ("MAX_BODY_BYTES", "0"),
        ("MAX_SOURCES", "-1"),
        ("MAX_FEATURES", "1.5"),
        ("MAX_CONCURRENCY", "0"),
        ("QUEUE_SIZE", ""),
        ("REQUEST_TIMEOUT_S", "0"),
        ("BODY_TIMEOUT_S", "nan"),
        ("RATE_LIMIT_PER_S", "-1"),
        ("DRAIN_S", "inf"),
        ("LOG_JSON", "perhaps"),
        ("TOKEN", ""),
        ("TOKEN", "two words"),
        ("TOKEN", "é"),
        ("TOKEN_FILE", "nowhere/token"),
    ],
)
def test_a_bad_variable_is_named_in_one_line(monkeypatch, name, value):
    monkeypatch.setenv(f"SOURCEWEIGHER_{name}", value)
    with pytest.raises(ValueError, match=f"^SOURCEWEIGHER_{name}") as error:
        load_settings()
    assert "\n" not in str(error.value)
    assert len(value) < 3 or value not in str(error.value)


def test_every_bad_variable_is_named(monkeypatch):
    monkeypatch.setenv("SOURCEWEIGHER_PORT", "x")
    monkeypatch.setenv("SOURCEWEIGHER_DRAIN_S", "x")
    with pytest.raises(ValueError, match=r"SOURCEWEIGHER_PORT: .*; SOURCEWEIGHER_DRAIN_S: "):
        load_settings()


def test_variables_are_read_and_arguments_win(monkeypatch):
    monkeypatch.setenv("SOURCEWEIGHER_PORT", "81")
    monkeypatch.setenv("SOURCEWEIGHER_MAX_SOURCES", "7")
    settings = load_settings(port=82)
    assert (settings.port, settings.max_sources) == (82, 7)
    assert settings.max_concurrency >= 1


def test_the_token_may_come_from_a_file(tmp_path):
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    assert load_settings(token_file=path).secret() == b"s3cret"
    with pytest.raises(ValueError, match="exclude each other, got both"):
        load_settings(token_file=path, token=path.name)
    path.write_text("\n")
    with pytest.raises(ValueError, match="SOURCEWEIGHER_TOKEN needs printable ASCII"):
        load_settings(token_file=path)


def test_servers_find_the_application_by_name(monkeypatch, capsys):
    monkeypatch.delitem(vars(service), "app", raising=False)
    monkeypatch.setenv("SOURCEWEIGHER_MAX_SOURCES", "3")
    assert service.app.state.service.settings.max_sources == 3
    assert service.app is service.app
    del service.app
    monkeypatch.setenv("SOURCEWEIGHER_MAX_SOURCES", "x")
    with pytest.raises(SystemExit) as end:
        _ = service.app
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("neuros-sourceweigher: SOURCEWEIGHER_MAX_SOURCES")
    assert error.count("\n") == 1
    with pytest.raises(AttributeError, match="has no attribute 'application'"):
        _ = service.application
