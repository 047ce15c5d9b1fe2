"""`palate users cohorts`: which tastes a tenant's people share. Reads the store; names nobody."""

from __future__ import annotations

import json
from dataclasses import dataclass

import click

from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import find_artifact
from serve.config import load
from serve.home import Home
from serve.jobs.store import StoreUrl, run, served_url
from serve.keys import DEFAULT_TENANT
from serve.preferences import Preferences
from user_store.latent_index import Cohort, LatentIndex
from user_store.open import open_store
from user_store.redis_client import RedisOptions

MAX_ATTRIBUTES = 3


@dataclass(frozen=True, slots=True)
class CohortRow:
    """One cohort as it is printed."""

    people: int
    spread: float  # root mean square distance from the centre
    likes: dict[str, float]  # the centre's strongest named tastes, in logits per standard deviation


@click.group("users", help="Look at a tenant's people together.")
def users() -> None:
    """Group the commands."""


@users.command("cohorts")
@click.option("--url", default=served_url, type=StoreUrl(), help="The store; by default the server's.")
@click.option("--username", envvar="PALATE_STORE_USERNAME", help="Redis ACL user, if the URL has none.")
@click.option("--password", envvar="PALATE_STORE_PASSWORD", help="Its password; better given by the environment.")
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose people.")
@click.option("--number", default=8, show_default=True, type=click.IntRange(1, 1_000), help="How many cohorts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cohorts(url: str, username: str | None, password: str | None, tenant: str, number: int, as_json: bool) -> None:
    """Cluster people by taste, and say what each cluster likes."""
    artifact = find_artifact(load(), Home.from_env())
    if artifact is None:
        raise click.ClickException("nothing was learned for the configured model; nobody's taste can be read")
    preferences, population = Preferences(artifact), artifact.population

    async def find() -> list[Cohort]:
        index = LatentIndex(population.num_features, population.version)
        store = await open_store(url, RedisOptions(username, password))
        try:
            await index.build(store, preferences.latent)
            return await index.cohorts(tenant, number)
        finally:
            await index.close()
            await store.close()

    rows = [_row(cohort, artifact) for cohort in run(find())]
    if as_json:
        plain = [{"people": row.people, "spread": row.spread, "likes": row.likes} for row in rows]
        click.echo(json.dumps(plain, indent=1))
        return
    for row in rows:
        likes = ", ".join(f"{name} {weight:+.2f}" for name, weight in row.likes.items())
        click.echo(f"{row.people:>8} people  spread {row.spread:.2f}  {likes or 'no named taste'}")
    if not rows:
        click.echo(f"nobody's taste is known in tenant {tenant} under {artifact.version}")


def _row(cohort: Cohort, artifact: Artifact) -> CohortRow:
    directions = artifact.attribute_directions
    likes = {name: round(float(cohort.centre @ direction), 4) for name, direction in directions.items()}
    strongest = sorted(likes, key=lambda name: -abs(likes[name]))[:MAX_ATTRIBUTES]
    return CohortRow(len(cohort.users), round(cohort.spread, 4), {name: likes[name] for name in strongest})
