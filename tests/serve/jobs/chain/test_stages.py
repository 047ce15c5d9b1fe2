"""What surrounds the chain's stages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serve.errors import ConfigurationError
from serve.jobs.chain.stages import Stages, command, fresh_home


def test_a_fresh_home_sees_the_models_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    (tmp_path / "models" / "one").mkdir(parents=True)
    (tmp_path / "palate.db").touch()
    with fresh_home() as home:
        assert os.environ["PALATE_HOME"] == str(home.path) != str(tmp_path)
        assert [path.name for path in home.path.iterdir()] == ["models"]
        assert (home.models / "one").is_dir()
    assert os.environ["PALATE_HOME"] == str(tmp_path)
    assert not home.path.exists()
    assert (tmp_path / "models" / "one").is_dir()


def test_commands_run_in_it_and_say_why_they_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    assert command("version")[0] == 0
    with pytest.raises(ConfigurationError, match=r"palate artifacts show nothing failed: .*There is no one artifact"):
        command("artifacts", "show", "nothing")
    assert command("artifacts", "show", "nothing", accepted=(1,))[0] == 1


def test_stages_are_timed_in_order() -> None:
    stages = Stages()
    for name in ("one", "two"):
        with stages.timed(name):
            pass
    assert list(stages.seconds) == ["one", "two"]
    assert all(seconds >= 0.0 for seconds in stages.seconds.values())
