"""`palate store check | rebuild | migrate | copy`: work over a whole store, with progress.

The preference model is a parameter (`store_group`), so that this module knows no mathematics; without one, `rebuild`
says so. What is done lives in `user_store.maintenance`; if it met damage, the exit status is 1. Without `--url` it is
the store the server would use.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
from tqdm import tqdm

from serve.artifacts.registry import find_artifact
from serve.config import Secrets, load
from serve.home import Home
from serve.memory import StoreAddress
from serve.preferences import Preferences
from user_store.errors import StoreError
from user_store.folding import PosteriorModel
from user_store.maintenance import Report, check, copy, rebuild
from user_store.open import check_url, migrate_store, open_store
from user_store.redis_client import RedisOptions, address_of

T = TypeVar("T")


class StoreUrl(click.ParamType[str]):
    """A URL some store understands."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what no store understands."""
        try:
            check_url(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return value


def served_url() -> str:
    """Name the store that `palate serve` would use."""
    return StoreAddress.of(load(), Secrets.from_env(), Home.from_env().create()).url


url_option = click.option(
    "--url", default=served_url, type=StoreUrl(), help="sqlite:///path or redis://…; by default the server's store."
)


def store_group(load_model: Callable[[], PosteriorModel | None] | None) -> click.Group:
    """Make the command group; `load_model` gives the preference model that `rebuild` folds events with."""

    @click.group("store", help="Check, rebuild, migrate or copy what is remembered about people.")
    @click.option("--username", envvar="PALATE_STORE_USERNAME", help="Redis ACL user, if the URL has none.")
    @click.option("--password", envvar="PALATE_STORE_PASSWORD", help="Its password; better given by the environment.")
    @click.pass_context
    def group(context: click.Context, username: str | None, password: str | None) -> None:
        context.obj = RedisOptions(username=username, password=password)

    @group.command("rebuild", help="Compute every posterior anew from the event log.")
    @url_option
    @click.pass_obj
    def rebuild_command(options: RedisOptions, url: str) -> None:
        if load_model is None:
            raise click.ClickException("no preference model is connected; run `palate store rebuild`")
        model = load_model()
        if model is None:
            raise click.ClickException("nothing was learned for the configured model; there is nothing to rebuild with")
        raise SystemExit(run(_rebuild(url, options, model)))

    for command in (check_command, migrate_command, copy_command):
        group.add_command(command)
    return group


@click.command("check", help="Read everything once and report what is damaged, missing or stale.")
@url_option
@click.pass_obj
def check_command(options: RedisOptions, url: str) -> None:
    """Report and exit with 1 if there are problems."""
    raise SystemExit(run(_check(url, options)))


@click.command("migrate", help="Lead the stored layout forward to this version.")
@url_option
@click.pass_obj
def migrate_command(options: RedisOptions, url: str) -> None:
    """Report the versions before and after."""
    before, after = run(migrate_store(url, options))
    click.echo(f"{address_of(url)}: schema {before} -> {after}" if before != after else f"schema {after} is current")


@click.command("copy", help="Copy everyone from one store into another; may be repeated.")
@click.option("--from", "source", required=True, type=StoreUrl(), help="The store to read.")
@click.option("--to", "target", required=True, type=StoreUrl(), help="The store to add to.")
@click.pass_obj
def copy_command(options: RedisOptions, source: str, target: str) -> None:
    """Report what moved, and exit with 1 if there are problems."""
    raise SystemExit(run(_copy(source, target, options)))


def run(work: Awaitable[T]) -> T:
    """Run a job; show what went wrong as one line."""

    async def awaited() -> T:
        return await work

    try:
        return asyncio.run(awaited())
    except (StoreError, ValueError) as error:
        raise click.ClickException(str(error)) from None


async def _check(url: str, options: RedisOptions) -> int:
    store = await open_store(url, options)
    try:
        health = await store.health()
        with tqdm(unit=" people", desc="check") as bar:
            report = await check(store, bar.update)
    finally:
        await store.close()
    click.echo(f"{health.backend}, schema {health.schema_version}, acknowledged writes synced: {health.durability}")
    click.echo(
        f"{report.people} people, {report.events} events ({report.withdrawn} withdrawn, {report.pending} pending)"
    )
    click.echo(
        f"{report.posteriors} posteriors, {report.stale} behind their log (the next feedback or a rebuild mends it)"
    )
    click.echo(f"{report.num_problems} problems")
    return _status(report)


async def _rebuild(url: str, options: RedisOptions, model: PosteriorModel) -> int:
    store = await open_store(url, options)
    try:
        with tqdm(unit=" people", desc="rebuild") as bar:
            report = await rebuild(store, model, bar.update, now=time.time())
    finally:
        await store.close()
    click.echo(f"{report.posteriors} posteriors rebuilt, {report.num_problems} problems")
    return _status(report)


async def _copy(source_url: str, target_url: str, options: RedisOptions) -> int:
    if address_of(source_url) == address_of(target_url):
        raise ValueError("source and target are the same store; name another with --to")
    source = await open_store(source_url, options)
    try:
        target = await open_store(target_url, options)
        try:
            with tqdm(unit=" people", desc="copy") as bar:
                report = await copy(source, target, bar.update, now=time.time())
        finally:
            await target.close()
    finally:
        await source.close()
    click.echo(f"{report.copied} people, {report.events} events copied, {report.duplicates} were there already")
    click.echo(
        f"{report.completions} completions, {report.posteriors} posteriors copied, {report.num_problems} problems"
    )
    return _status(report)


def _status(report: Report) -> int:
    """Name the problems; return what to exit with."""
    for problem in report.problems:
        click.echo(f"problem: {problem}", err=True)
    return 1 if report.num_problems else 0


def served_model() -> PosteriorModel | None:
    """Load the preference model that `palate serve` would use."""
    artifact = find_artifact(load(), Home.from_env())
    return None if artifact is None else Preferences(artifact).model


store = store_group(served_model)

if __name__ == "__main__":
    store()
