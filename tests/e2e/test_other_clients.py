"""A client nobody here wrote: the `llm` command line, by its file of OpenAI-compatible models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.e2e.server import Server


def test_llm_chats_and_streams(server: Server, tmp_path: Path) -> None:
    models = [{"model_id": "palate", "model_name": server.model, "api_base": f"{server.base_url}/v1"}]
    (tmp_path / "extra-openai-models.yaml").write_text(yaml.safe_dump(models))
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}
    for flags in ([], ["--no-stream"]):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "llm",
                "-m",
                "palate",
                "-o",
                "temperature",
                "0",
                *flags,
                "What is the capital of France?",
            ],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.split()) >= 3
