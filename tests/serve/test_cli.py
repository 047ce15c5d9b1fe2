from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve import __version__, cli
from serve.config import Config
from serve.doctor import Finding, examine, render
from serve.errors import ConfigurationError
from serve.home import Home


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PALATE_CONFIG", raising=False)
    return CliRunner()


def test_help_names_every_command(run: CliRunner) -> None:
    text = run.invoke(cli.palate, ["--help"]).output
    for command in ("serve", "model", "config", "doctor", "bench", "version", "keys", "store", "users"):
        assert f"  {command} " in text
    assert "overhead" in run.invoke(cli.palate, ["bench", "--help"]).output


def test_version(run: CliRunner) -> None:
    assert run.invoke(cli.palate, ["version"]).output.strip() == __version__


def test_config_show_check_docs(run: CliRunner, tmp_path: Path) -> None:
    shown = run.invoke(cli.palate, ["config", "show", "--json"]).output
    assert Config.model_validate(json.loads(shown)) == Config()
    file = tmp_path / "c.yaml"
    file.write_text("http: {port: 8001}\n")
    assert "valid" in run.invoke(cli.palate, ["config", "check", str(file)]).output
    assert run.invoke(cli.palate, ["config", "docs"]).output.startswith("# Configuration")


def test_errors_are_one_message_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("http: {port: nowhere}\n")
    monkeypatch.setattr("sys.argv", ["palate", "config", "check", str(file)])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert raised.value.code == 1
    error = capsys.readouterr().err
    assert "http.port" in error
    assert "Traceback" not in error


def test_model_list(run: CliRunner) -> None:
    rows = json.loads(run.invoke(cli.palate, ["model", "list", "--json"]).output)
    assert rows[0]["name"] == "smollm2-135m-instruct"
    assert rows[0]["fetched"] is False
    assert "not fetched" in run.invoke(cli.palate, ["model", "list"]).output
    assert run.invoke(cli.palate, ["model", "fetch", "unknown"]).exit_code == 2


def test_doctor_names_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = Config.model_validate({"http": {"port": port}})
        findings = {finding.name: finding for finding in examine(config, Home(tmp_path))}
    assert findings["python"].is_good
    assert findings["vllm"].is_good
    assert not findings["port"].is_good
    assert "--port" in findings["port"].remedy
    assert not findings["model"].is_good
    assert findings["model"].remedy == "palate model fetch smollm2-135m-instruct"
    text = render(list(findings.values()))
    assert "FAIL port" in text
    assert "-> palate model fetch" in text


def test_doctor_exits_1_when_something_is_wrong(run: CliRunner) -> None:
    result = run.invoke(cli.palate, ["doctor", "--json"])
    assert result.exit_code == 1
    assert {row["name"] for row in json.loads(result.output)} >= {"python", "torch", "vllm", "model", "home"}
    assert Finding("x", True, "y").as_dict()["is_good"] is True


def test_a_taken_port_is_named(run: CliRunner) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run.invoke(cli.palate, ["serve", "--engine", "scripted", "--port", str(port)])
    assert isinstance(result.exception, ConfigurationError)
    assert str(port) in result.exception.message
