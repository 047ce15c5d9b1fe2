"""`palate keys create | list | revoke`."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import click

from serve.home import Home
from serve.keys import DEFAULT_TENANT, ApiKey, KeyFile, Scope

SCOPES = [str(scope) for scope in Scope]
APP_SCOPES = (Scope.INFER, Scope.FEEDBACK)


@click.group("keys", help="Make, list and revoke API keys. With none, and no PALATE_API_KEY, the server is open.")
@click.pass_context
def keys(context: click.Context) -> None:
    """Open the key file."""
    context.obj = KeyFile(Home.from_env().keys)


@keys.command("create")
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose people and feedback the key reaches.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=[str(scope) for scope in APP_SCOPES],
    show_default=True,
    help="What the key may do; may be repeated.",
)
@click.option("--name", default="", help="A note for the list.")
@click.pass_obj
def create(file: KeyFile, tenant: str, scopes: tuple[str, ...], name: str) -> None:
    """Make a key and print it, this once."""
    try:
        key, text = file.create(tenant, frozenset(map(Scope, scopes)), now=time.time(), name=name)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    click.echo(text)
    click.echo(f"{key.id}: tenant {key.tenant}, {', '.join(key.scopes)}. It is shown only now.", err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_keys(file: KeyFile, as_json: bool) -> None:
    """List the keys, without their secrets."""
    kept = file.keys().values()
    if as_json:
        click.echo(json.dumps([_row(key) for key in kept], indent=1))
        return
    if not kept:
        click.echo("no keys yet: `palate keys create` makes one", err=True)
    for key in kept:
        revoked = f", revoked {_date(key.revoked_at)}" if key.revoked_at is not None else ""
        state = f"created {_date(key.created_at)}{revoked}"
        click.echo(f"{key.id}  {key.tenant}  {','.join(key.scopes)}  {state}  {key.name}".rstrip())


@keys.command("revoke")
@click.argument("key_id")
@click.pass_obj
def revoke(file: KeyFile, key_id: str) -> None:
    """Revoke a key for good; running servers notice at their next request."""
    key = file.revoke(key_id, now=time.time())
    click.echo(f"{key.id} of tenant {key.tenant} is revoked")


def _row(key: ApiKey) -> dict[str, str | list[str] | None]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "scopes": list(key.scopes),
        "name": key.name,
        "created": _date(key.created_at),
        "revoked": None if key.revoked_at is None else _date(key.revoked_at),
    }


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
