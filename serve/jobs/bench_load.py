"""`palate bench load`: more than a server can take, for long, and whether it stays small, fast and polite.

Finds the rate the server sustains (or is told), sends a multiple of it for minutes, and reports memory growth after
warm-up, statuses (200 and 429 are the good ones), and the times of what was accepted. The peer is the server's own
bound: what it takes in has at most a full house ahead of it, so the 99th percentile stays below twice the time that it
takes to answer a full house.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import httpx

from serve import config as configuration
from serve.jobs.load.memory import watched
from serve.jobs.load.progress import repeated, replaced
from serve.jobs.load.report import Run, draw, render, summarise
from serve.jobs.load.traffic import TIMEOUT_S, Mix, Traffic
from serve.jobs.simulated.server import Started, started

MOST_READINGS_S = 5.0  # between two readings of the memory
PROGRESS_S = 60.0  # between two writings of the figures so far


@click.command()
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Palate's configuration."
)
@click.option("--url", help="A server that runs already; without it, one is started and ended.")
@click.option("--pid", type=click.IntRange(1), help="With --url: its process, to watch the memory of.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Requests a second it sustains; else found.")
@click.option("--factor", default=1.5, show_default=True, type=click.FloatRange(0, min_open=True), help="Times that.")
@click.option("--minutes", default=30.0, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--warm-up", "warm_up_minutes", type=click.FloatRange(0), help="Minutes; default: a sixth of the time.")
@click.option("--step", "step_s", default=30.0, show_default=True, help="Seconds a step while finding the rate.")
@click.option("--people", default=50, show_default=True, type=click.IntRange(1), help="Different people.")
@click.option("--personal", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Share that names one.")
@click.option("--streaming", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Share that streams.")
@click.option("--thumbs", default=0.3, show_default=True, type=click.FloatRange(0, 1), help="Share that is judged.")
@click.option("--max-tokens", default=32, show_default=True, type=click.IntRange(1, 4_096), help="Tokens an answer.")
@click.option("--prompt", default=Mix().prompt, show_default=True, help="`{number}` makes each one different.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Figures, each minute.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path, dir_okay=False), help="Draw a PNG here.")
def load(
    *,
    config_path: Path | None,
    url: str | None,
    pid: int | None,
    rate: float | None,
    factor: float,
    minutes: float,
    warm_up_minutes: float | None,
    step_s: float,
    people: int,
    personal: float,
    streaming: float,
    thumbs: float,
    max_tokens: int,
    prompt: str,
    seed: int,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Hold more load than a server sustains: memory, refusals, times. Exit status 1 if something is amiss."""
    warm_up_s = 60.0 * (minutes / 6 if warm_up_minutes is None else warm_up_minutes)
    if warm_up_s >= 60.0 * minutes:
        raise click.BadParameter("must be less than --minutes", param_hint="--warm-up")
    config = configuration.load(config_path)
    mix = Mix(people, personal, streaming, thumbs, max_tokens, prompt)

    def report(run: Run) -> dict[str, Any]:
        return {**summarise(run), "factor": factor, "mix": asdict(mix)}

    def keep(run: Run) -> None:
        try:
            _write(json_path, report(run))
        except OSError as error:  # the load goes on, and what it finds is shown at its end
            click.echo(f"the figures so far cannot be written: {error}", err=True)

    pace, times = (rate, factor, step_s), (60.0 * minutes, warm_up_s)
    with nullcontext(Started(url, pid)) if url is not None else started(config) as server:
        run = asyncio.run(_held(server, config, mix, seed, pace, times, keep))
    figures = report(run)
    click.echo(render(figures))
    _write(json_path, figures)
    if plot_path is not None:
        draw(run, plot_path)
    if figures["amiss"]:
        sys.exit(1)


async def _held(
    server: Started,
    config: configuration.Config,
    mix: Mix,
    seed: int,
    pace: tuple[float | None, float, float],  # the sustained rate if known, the factor, seconds a step
    times: tuple[float, float],  # seconds to hold, and of these to warm up
    keep: Callable[[Run], None],  # hears every minute what was found so far
) -> Run:
    """Prepare, find the rate, and hold the load."""
    (sustained, factor, step_s), (seconds, warm_up_s) = pace, times
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S, limits=limits, trust_env=False) as http:
        model: str = (await http.get("/version")).raise_for_status().json()["model"]
        traffic = Traffic(http, model, mix, seed)
        click.echo(f"making {mix.people} people known", err=True)
        await traffic.prepare()
        if sustained is None:
            sustained = await traffic.capacity(config.engine.max_ongoing_requests, step_s, _say_step)
            click.echo(f"sustained: {sustained:.2f} chat requests a second", err=True)
        if not sustained:
            raise click.ClickException("nothing was answered while finding the rate: use a longer --step or --rate")
        rate = factor * sustained
        click.echo(f"holding {rate:.2f} a second for {seconds / 60:.1f} minutes", err=True)
        async with watched(server.pid, min(MOST_READINGS_S, seconds / 60)) as readings:
            whole = Run(sustained, rate, seconds, warm_up_s, [], readings, _full_house(config))

            def so_far(held_s: float) -> None:
                keep(replace(whole, seconds=held_s, observations=list(traffic.observations), is_complete=False))

            async with repeated(so_far, PROGRESS_S):
                observations = await traffic.hold(rate, seconds)
    return replace(whole, observations=observations)


def _write(path: Path | None, figures: dict[str, Any]) -> None:
    if path is not None:
        replaced(path, json.dumps(figures, indent=1))


def _say_step(concurrency: int, rate: float) -> None:
    click.echo(f"  {concurrency} at a time: {rate:.2f} a second", err=True)


def _full_house(config: configuration.Config) -> int:
    """Count the requests that may be inside at once; behind --url the configuration is taken to be the given one."""
    engine: Any = config.engine
    return int(
        engine.max_ongoing_requests * engine.num_replicas + engine.max_queued_requests * config.http.num_replicas
    )
