"""The images' recipe and the compose file, linted: there may be no Docker engine here to build and run them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from serve.config import load
from tests.deploy.chart import ROOT
from tests.user_store.redis_server import INSTALL, RedisServer, find_binary

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "compose-spec.json").read_text())


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}")
    assert hadolint, "run: make setup"
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_images_run_without_root_and_say_how_they_are(target: str) -> None:
    assert re.search(rf"^FROM runtime AS {target}$", DOCKERFILE, re.MULTILINE)
    runtime = DOCKERFILE.split("AS runtime", 1)[1]
    assert re.search(r"^USER (\d+):\d+$", runtime, re.MULTILINE)
    assert not re.search(r"^USER (root|0)", runtime, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*CMD \["palate", "probe"\]$', runtime, re.MULTILINE)


def test_what_is_copied_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied <= allowed
    assert all((ROOT / name).exists() for name in allowed)


def test_the_compose_file_follows_its_schema() -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(COMPOSE)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate({"services": {"palate": {"imag": "x"}}})


def test_services_are_hardened_and_give_no_secret_away() -> None:
    volumes = set(COMPOSE["volumes"])
    for name, service in COMPOSE["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["mem_limit"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|KEY|AUTH", variable):
                assert value.startswith("${"), (name, variable)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in volumes or (DEPLOY / source).exists(), (name, source)


def test_palate_would_take_the_configuration() -> None:
    assert load(DEPLOY / "compose-config.yaml").store.spool


@pytest.mark.redis
def test_redis_takes_its_configuration(tmp_path: Path) -> None:
    binary = find_binary()
    if binary is None:
        pytest.skip(f"no redis-server here; install it with: {' '.join(INSTALL)}")
    password = tmp_path / "password.conf"
    password.write_text('requirepass "hush"\n')
    config = (DEPLOY / "redis.conf").read_text().replace("/run/redis/password.conf", str(password))
    settings = {}
    for line in config.splitlines():
        name, value = line.split(maxsplit=1)
        if name not in ("dir", "port", "save"):
            settings[name] = value
    server = RedisServer(binary, tmp_path, settings)
    server.start()
    try:
        assert server.command("PING").startswith("-NOAUTH")
    finally:
        server.stop()
