"""`palate probe`: is a server up, and does it answer? For containers' health checks and the chart's test."""

from __future__ import annotations

import os
import sys

import click
import httpx

TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 120.0


@click.command("probe")
@click.argument("url", default="http://127.0.0.1:8000")
@click.option("--answer", is_flag=True, help="Also ask for one token, with PALATE_API_KEY if it is set.")
def probe(url: str, answer: bool) -> None:
    """Ask a server whether it is ready; exit status 1 if not."""
    key = os.environ.get("PALATE_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT_S, trust_env=False) as client:
            client.get("/ready").raise_for_status()
            if answer:
                _ask(client)
    except httpx.HTTPError as error:
        click.echo(f"{url}: {error}", err=True)
        sys.exit(1)
    click.echo(f"{url} answers")


def _ask(client: httpx.Client) -> None:
    listed = client.get("/v1/models")
    listed.raise_for_status()
    body = {
        "model": listed.json()["data"][0]["id"],
        "messages": [{"role": "user", "content": "Say yes."}],
        "max_tokens": 1,
    }
    client.post("/v1/chat/completions", json=body, timeout=ANSWER_TIMEOUT_S).raise_for_status()
