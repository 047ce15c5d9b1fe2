"""`palate artifacts list | show | diff | publish | rollback | history | verify`. Knows nothing of how they are made."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
import numpy as np

from router.types import Array
from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import Entry, Registry
from serve.artifacts.storage import load, verify
from serve.home import Home
from serve.models import DEFAULT_MODEL

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("list")
@JSON_OPTION
def list_command(as_json: bool) -> None:
    """List versions; the one in service is starred."""
    entries = _registry().entries()
    if as_json:
        click.echo(json.dumps([_described(entry) for entry in entries], indent=1))
        return
    for entry in entries:
        manifest = entry.manifest
        star = "*" if entry.is_in_service else " "
        origin = "shipped" if entry.is_shipped else manifest.created
        click.echo(f"{star} {manifest.version}  {manifest.model}  features {manifest.feature_space}  {origin}")


@click.command("show")
@click.argument("version", default="in-service")
@JSON_OPTION
def show_command(version: str, as_json: bool) -> None:
    """Show one version: where it comes from, what it is, how it did."""
    entry = _registry().entry(version)
    if as_json:
        click.echo(json.dumps(_described(entry), indent=1))
        return
    manifest, artifact = entry.manifest, load(entry.folder)
    population = artifact.population
    click.echo(f"{manifest.version} for {manifest.model}, {entry.folder}")
    click.echo(f"made {manifest.created} by: {manifest.command}")
    click.echo(
        f"{population.num_features} reward features over the {artifact.feature_space.num_features} of "
        f"{manifest.feature_space}, {population.num_prototypes} prototypes, flip rate {population.flip_rate:.3f}, "
        f"largest dose {artifact.max_dose} up to temperature {artifact.dose_temperature}, "
        f"tokens of at least {artifact.min_p:.0%} of the likeliest one, "
        f"repetition penalty {artifact.repetition_penalty}, tilt {artifact.tilt:.2f}"
    )
    for name in filter(None, population.attribute_names):
        click.echo(f"  {name}: {_reach(artifact, name)}")
    click.echo(f"{len(artifact.questions)} opening questions; data {manifest.data}; parents {list(manifest.parents)}")
    for name, value in manifest.metrics.items():
        click.echo(f"  {name}: {value}")


@click.command("diff")
@click.argument("old")
@click.argument("new", default="in-service")
def diff_command(old: str, new: str) -> None:
    """Compare two versions."""
    registry = _registry()
    before, after = registry.entry(old), registry.entry(new)
    first, second = load(before.folder), load(after.folder)
    rows = {
        "feature space": (first.feature_space.id, second.feature_space.id),
        "reward features": (first.population.num_features, second.population.num_features),
        "prototypes": (first.population.num_prototypes, second.population.num_prototypes),
        "flip rate": (round(first.population.flip_rate, 4), round(second.population.flip_rate, 4)),
        "largest dose": (first.max_dose, second.max_dose),
        "up to temperature": (first.dose_temperature, second.dose_temperature),
        "least share of the likeliest token": (first.min_p, second.min_p),
        "repetition penalty": (first.repetition_penalty, second.repetition_penalty),
        "tilt": (first.tilt, second.tilt),
        "attributes": (_names(first.population.attribute_names), _names(second.population.attribute_names)),
        "doses by attribute": (_doses(first), _doses(second)),
    }
    for name in sorted({*before.manifest.metrics, *after.manifest.metrics}):
        rows[name] = (before.manifest.metrics.get(name), after.manifest.metrics.get(name))
    click.echo(f"{before.manifest.version} -> {after.manifest.version}")
    for name, (left, right) in rows.items():
        click.echo(f"{' ' if left == right else '!'} {name}: {left}" + ("" if left == right else f" -> {right}"))
    if first.feature_space.id == second.feature_space.id:
        shared = np.linalg.svd(_axes(first) @ _axes(second).T, compute_uv=False)
        click.echo(f"  directions shared by both reward bases: {float((shared**2).sum()):.1f}")


@click.command("publish")
@click.argument("version")
@click.option("--force", "is_forced", is_flag=True, help="Whatever speaks against it.")
def publish_command(version: str, is_forced: bool) -> None:
    """Put a version into service that `palate evaluate release` found better than the one there."""
    manifest = _registry().publish(version, is_forced=is_forced)
    click.echo(f"{manifest.version} serves {manifest.model} now.")


@click.command("rollback")
@click.argument("model", default=DEFAULT_MODEL.name)
def rollback_command(model: str) -> None:
    """Return to the version that served before."""
    click.echo(f"{_registry().rollback(model) or 'The shipped artifact'} serves {model} again.")


@click.command("history")
@JSON_OPTION
def history_command(as_json: bool) -> None:
    """List publications and rollbacks, with what spoke against them."""
    rows = _registry().history()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        version, before = row["version"] or "the shipped artifact", row["before"] or "the shipped artifact"
        forced = f"  FORCED: {row['objection']}" if row["objection"] else ""
        click.echo(f"{row['at']}  {row['model']}  {row['action']} {version}, after {before}{forced}")


@click.command("verify")
@click.argument("version", default="in-service")
def verify_command(version: str) -> None:
    """Check every file of a version against its manifest."""
    entry = _registry().entry(version)
    click.echo(f"{entry.manifest.version}: {len(verify(entry.folder).files)} files as they should be.")


def _registry() -> Registry:
    return Registry(Home.from_env())


def _described(entry: Entry) -> dict[str, object]:
    return asdict(entry.manifest) | {
        "folder": str(entry.folder),
        "in_service": entry.is_in_service,
        "shipped": entry.is_shipped,
    }


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(filter(None, names)) or "none"


def _reach(artifact: Artifact, name: str) -> str:
    most = artifact.max_dose
    against, along = (min(dose, most) for dose in artifact.audit.get(name, (most, most)))
    return f"steers by {-against:+.2f} to {along:+.2f}" if max(against, along) > 0.0 else "judges only"


def _doses(artifact: Artifact) -> str:
    return "; ".join(f"{name} {_reach(artifact, name)}" for name in sorted(artifact.audit)) or "not audited"


def _axes(artifact: Artifact) -> Array:
    population = artifact.population
    return np.asarray(np.linalg.qr((population.basis / population.scale).T)[0].T)
