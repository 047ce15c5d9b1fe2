from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from serve import config
from serve.config_reference import reference
from serve.errors import ConfigurationError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PALATE_CONFIG", raising=False)
    monkeypatch.delenv("PALATE_API_KEY", raising=False)


def test_a_file_then_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("http: {port: 9000, host: localhost}\nmodel: {id: org/some-model}\n")
    monkeypatch.setenv("PALATE_CONFIG", str(file))
    loaded = config.load(overrides={"http": {"port": 9001}, "engine": {"kind": "scripted"}})
    assert (loaded.http.port, loaded.http.host, loaded.engine.kind) == (9001, "localhost", "scripted")
    assert loaded.model.name == "some-model"


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("http: {prot: 1, port: 70000}\nengine: {kind: magic}\nunknown: 1\n")
    with pytest.raises(ConfigurationError) as raised:
        config.load(file)
    for part in ("http.prot", "http.port", "engine.kind", "unknown", str(file)):
        assert part in raised.value.message


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "\xff"])
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError):
        config.load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Cannot read"):
        config.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "tree",
    [
        {"engine": {"kind": "scripted", "num_gpus": 1}},
        {"engine": {"autoscaling": {"min_replicas": 3, "max_replicas": 2}}},
    ],
)
def test_contradictions_are_refused(tree: dict[str, dict[str, object]]) -> None:
    with pytest.raises(ConfigurationError):
        config.load(overrides=tree)


def test_secrets_come_from_the_environment_and_do_not_print(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.Secrets.from_env().api_key is None
    monkeypatch.setenv("PALATE_API_KEY", "hush")
    secrets = config.Secrets.from_env()
    assert secrets.api_key is not None
    assert secrets.api_key.get_secret_value() == "hush"
    assert "hush" not in repr(secrets)


def test_the_reference_page_is_current() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == reference(), (
        "renew it: palate config docs > docs/configuration.md"
    )


def test_the_defaults_survive_a_round_trip() -> None:
    plain = yaml.safe_load(yaml.safe_dump(config.Config().model_dump(mode="json")))
    assert config.Config.model_validate(plain) == config.Config()
