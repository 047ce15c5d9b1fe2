"""The command `palate import`: which layout, which files, which server; what became of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click
import httpx
from tqdm import tqdm

from serve.jobs.importing.judgement import Judgement
from serve.jobs.importing.layouts import READERS, BadRow, read
from serve.jobs.importing.sending import Tally, send_all

MAX_SHOWN = 5
TIMEOUT_S = 300.0


@click.command("import")
@click.argument("layout", type=click.Choice(list(READERS)))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--server", default="http://127.0.0.1:8000", show_default=True, help="A running Palate.")
@click.option("--api-key", envvar="PALATE_API_KEY", help="Its key; better given by the environment.")
@click.option("--max-judgements", type=click.IntRange(1), help="Stop after so many.")
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 256), help="Requests at once.")
@click.option("--dry-run", is_flag=True, help="Read and count, send nothing.")
def import_command(
    layout: str,
    files: tuple[Path, ...],
    *,
    server: str,
    api_key: str | None,
    max_judgements: int | None,
    concurrency: int,
    dry_run: bool,
) -> None:
    """Bring judgements collected elsewhere into the event log, as people; a second run adds what is missing."""
    bad: list[BadRow] = []
    judgements = islice(_readable(files, layout, bad), max_judgements)
    if dry_run:
        tally = Tally()
        for judgement in judgements:
            tally.num_new += 1
            tally.people.add(judgement.user)
    else:
        tally = asyncio.run(_send(server, api_key, judgements, concurrency))
    click.echo(
        f"{tally.num_new} judgements of {len(tally.people)} people {'found' if dry_run else 'added'}, "
        f"{tally.num_duplicates} were there already, {tally.refusals.total()} refused, {len(bad)} rows not readable"
    )
    for reason, count in tally.refusals.most_common(MAX_SHOWN):
        click.echo(f"refused {count} times: {reason}", err=True)
    for row in bad[:MAX_SHOWN]:
        click.echo(f"{row.path}, row {row.number}: {row.reason}", err=True)
    if not tally.num_new and not tally.num_duplicates:
        raise SystemExit(1)


def _readable(files: tuple[Path, ...], layout: str, bad: list[BadRow]) -> Iterator[Judgement]:
    for found in read(list(files), READERS[layout]):
        if isinstance(found, BadRow):
            bad.append(found)
        else:
            yield found


async def _send(server: str, api_key: str | None, judgements: Iterator[Judgement], concurrency: int) -> Tally:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    with tqdm(unit=" judgements", desc="import", file=sys.stderr) as bar:
        async with httpx.AsyncClient(base_url=server, headers=headers, timeout=TIMEOUT_S) as http:
            return await send_all(http, judgements, concurrency, bar.update)
