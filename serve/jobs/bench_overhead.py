"""`palate bench overhead`: what Palate adds to bare vLLM.

Starts vLLM's own OpenAI server and Palate with the same model and settings on this machine, and sends both the same
load, taking turns, so that whatever else the machine does meets both. Reports time to the first token, time between
tokens, and the ratio of throughputs.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import httpx
import psutil
from tqdm import tqdm

from serve import config as configuration
from serve.errors import EngineUnavailable
from serve.home import Home
from serve.models import resolve

START_TIMEOUT_S = 600.0
PROMPT = "Tell me something about the number {number}, in plain words and at some length."


@dataclass(frozen=True, slots=True)
class Target:
    """A server under test."""

    name: str
    base_url: str


@dataclass(slots=True)
class Sample:
    """What one target did under one load, over all rounds."""

    ttft_s: list[float] = field(default_factory=list)
    itl_s: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)  # one a round


@click.command()
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Palate's configuration."
)
@click.option("--concurrency", default="1,8,32", show_default=True, help="Concurrent requests, comma-separated.")
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(2, 4_096), help="Tokens an answer.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100), help="Turns each server gets.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
def overhead(config_path: Path | None, concurrency: str, max_tokens: int, rounds: int, json_path: Path | None) -> None:
    """Palate against bare vLLM: TTFT, inter-token latency, throughput."""
    levels = [int(level) for level in concurrency.split(",")]
    config = configuration.load(config_path)
    with _bare_vllm(config) as bare, _palate(config, config_path) as palate:
        rows = asyncio.run(_measure(config.model.name, [bare, palate], levels, max_tokens, rounds))
    report = {"model": config.model.name, "max_tokens": max_tokens, "rounds": rounds, "results": rows}
    click.echo(render(rows))
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1))


def render(rows: list[dict[str, Any]]) -> str:
    """Render the rows as a table."""
    header = ("load", "TTFT p50 ms", "added", "p95 ms", "added", "ITL p50 ms", "added", "tok/s", "ratio")
    lines = ["  ".join(f"{title:>12}" for title in header)]
    for row in rows:
        cells = [f"{'stream' if row['stream'] else 'whole'} x{row['concurrency']}"]
        for key in ("ttft_p50_ms", "ttft_p95_ms", "itl_p50_ms"):
            cells += [_number(row["palate"].get(key)), _number(row["added"].get(key))]
        cells += [_number(row["palate"]["tokens_per_s"]), f"{row['throughput_ratio']:.3f}"]
        lines.append("  ".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


async def _measure(
    model: str, targets: list[Target], levels: list[int], max_tokens: int, rounds: int
) -> list[dict[str, Any]]:
    loads = [(is_streaming, level) for is_streaming in (True, False) for level in levels]
    samples: dict[tuple[bool, int, str], Sample] = {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=300.0, limits=limits, trust_env=False) as client:
        for target in targets:
            await _round(client, target, model, True, 4, 4, max_tokens, Sample())  # warm-up
        with tqdm(total=len(loads) * rounds * len(targets), desc="bench overhead", file=sys.stderr) as progress:
            for turn in range(rounds):
                for is_streaming, level in loads:
                    for target in targets if turn % 2 == 0 else reversed(targets):
                        sample = samples.setdefault((is_streaming, level, target.name), Sample())
                        num_requests = max(level, 4) if level > 1 else 4
                        await _round(client, target, model, is_streaming, level, num_requests, max_tokens, sample)
                        progress.update()
    return [
        _row(
            is_streaming,
            level,
            samples[is_streaming, level, targets[0].name],
            samples[is_streaming, level, targets[1].name],
        )
        for is_streaming, level in loads
    ]


async def _round(
    client: httpx.AsyncClient,
    target: Target,
    model: str,
    is_streaming: bool,
    concurrency: int,
    num_requests: int,
    max_tokens: int,
    sample: Sample,
) -> None:
    numbers = iter(range(num_requests))
    begin = time.perf_counter()

    async def worker() -> int:
        num_tokens = 0
        for number in numbers:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": PROMPT.format(number=number)}],
                "max_tokens": max_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": is_streaming,
            }
            if is_streaming:
                num_tokens += await _stream_one(client, target, body, sample)
            else:
                response = await client.post(f"{target.base_url}/v1/chat/completions", json=body)
                num_tokens += response.raise_for_status().json()["usage"]["completion_tokens"]
        return num_tokens

    counts = await asyncio.gather(*(worker() for _ in range(concurrency)))
    sample.tokens_per_s.append(sum(counts) / (time.perf_counter() - begin))


async def _stream_one(client: httpx.AsyncClient, target: Target, body: dict[str, Any], sample: Sample) -> int:
    sent_at = last_at = time.perf_counter()
    num_tokens = 0
    async with client.stream("POST", f"{target.base_url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            delta = json.loads(line[6:])["choices"][0]["delta"]
            if not delta.get("content"):
                continue
            now = time.perf_counter()
            (sample.itl_s if num_tokens else sample.ttft_s).append(now - (last_at if num_tokens else sent_at))
            last_at = now
            num_tokens += 1
    return body["max_tokens"] if num_tokens else 0  # ignore_eos: every answer has max_tokens; some tokens have no text


def _row(is_streaming: bool, level: int, bare: Sample, palate: Sample) -> dict[str, Any]:
    figures = {"bare": _figures(bare), "palate": _figures(palate)}
    added = {
        key: figures["palate"][key] - figures["bare"][key]
        for key in ("ttft_p50_ms", "ttft_p95_ms", "itl_p50_ms")
        if key in figures["bare"]
    }
    ratios = [ours / theirs for ours, theirs in zip(palate.tokens_per_s, bare.tokens_per_s, strict=True)]
    return {
        "stream": is_streaming,
        "concurrency": level,
        **figures,
        "added": added,
        "throughput_ratio": statistics.median(ratios),
        "throughput_ratios": ratios,
    }


def _figures(sample: Sample) -> dict[str, float]:
    figures = {"tokens_per_s": statistics.median(sample.tokens_per_s)}
    if sample.ttft_s:
        cuts = statistics.quantiles(sample.ttft_s, n=20, method="inclusive")
        figures |= {"ttft_p50_ms": statistics.median(sample.ttft_s) * 1e3, "ttft_p95_ms": cuts[-1] * 1e3}
        figures["itl_p50_ms"] = statistics.median(sample.itl_s) * 1e3
    return figures


@contextmanager
def _bare_vllm(config: configuration.Config) -> Iterator[Target]:
    port = _free_port()
    engine, model = config.engine, config.model
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", resolve(model.id, Home.from_env()), "--served-model-name", model.name]
    command += ["--max-num-seqs", str(engine.max_num_seqs), "--disable-uvicorn-access-log"]
    command += [] if engine.compile else ["--enforce-eager"]
    command += ["--max-model-len", str(model.max_model_len)] if model.max_model_len else []
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": str(engine.cpu_kv_cache_gib),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    with _process("bare vLLM", command, environment, f"http://127.0.0.1:{port}/health"):
        yield Target("bare", f"http://127.0.0.1:{port}")


@contextmanager
def _palate(config: configuration.Config, config_path: Path | None) -> Iterator[Target]:
    port = _free_port()
    command = [sys.executable, "-m", "serve", "serve", "--port", str(port), "--host", "127.0.0.1"]
    command += ["--config", str(config_path)] if config_path else []
    with _process("Palate", command, dict(os.environ), f"http://127.0.0.1:{port}/ready"):
        yield Target("palate", f"http://127.0.0.1:{port}")


@contextmanager
def _process(name: str, command: list[str], environment: dict[str, str], ready_url: str) -> Iterator[None]:
    click.echo(f"starting {name}", err=True)
    process = subprocess.Popen(  # noqa: S603 - a command line made here
        command, env=environment, stdout=subprocess.DEVNULL, stderr=sys.stderr, start_new_session=True
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise EngineUnavailable(f"{name} did not start.")
            try:
                if httpx.get(ready_url, timeout=2.0, trust_env=False).status_code == httpx.codes.OK:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        yield
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in children:
            if child.is_running():
                child.kill()


def _free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
