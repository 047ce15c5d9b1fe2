"""The command `palate adapt`: options, and what was found for people and programs. Knows none of the steps' insides."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from tqdm import tqdm

from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import Registry
from serve.artifacts.storage import load
from serve.home import Home
from serve.jobs.adapt.adapting import (
    Bench,
    Judged,
    choose_prototypes,
    gather_material,
    judge_adapters,
    train_adapter,
    write_version,
)
from serve.jobs.adapt.answering import Asking
from serve.jobs.adapt.people import Person, read_people
from serve.jobs.adapt.training import TrainingConfig
from serve.jobs.learning.corpus import join, load_corpus
from serve.jobs.learning.prompts import DEFAULT_PROMPTS, Role, load_prompts, of_role
from serve.jobs.store import run as run_job
from serve.jobs.store import url_option
from serve.models import resolve
from user_store.open import open_store
from user_store.redis_client import RedisOptions

NOBODY_WON = 3  # exit status, apart from the 1 and 2 of errors


@click.command("adapt")
@url_option
@click.option("--username", envvar="PALATE_STORE_USERNAME", help="Redis ACL user, if the URL has none.")
@click.option("--password", envvar="PALATE_STORE_PASSWORD", help="Its password; better given by the environment.")
@click.option("--artifact", "version", default="in-service", show_default=True, help="The version to adapt for.")
@click.option("--name", default="adapt", show_default=True, help="First part of the new version.")
@click.option("--prototype", "wanted", multiple=True, type=click.IntRange(0), help="Which; may be given several times.")
@click.option(
    "--min-share",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0.0, 1.0),
    help="Without --prototype: those with this share of people.",
)
@click.option(
    "--corpus",
    "corpus_folders",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Answers made by `palate features generate`; may be given several times.",
)
@click.option("--pairs", "per_prompt", default=6, show_default=True, type=click.IntRange(1), help="A prompt, at most.")
@click.option(
    "--judges",
    type=click.Choice(["held-out", "drawn"]),
    default="held-out",
    show_default=True,
    help="Held-out people of the store, or people drawn from the prototype's prior, which prove less.",
)
@click.option("--model", help="Folder of the model, if it is not the embedded one.")
@click.option("--device", help="Such as cpu or cuda; by default a GPU if there is one.")
@click.option("--rank", default=8, show_default=True, type=click.IntRange(1, 512))
@click.option("--alpha", default=16.0, show_default=True, type=click.FloatRange(0.0, min_open=True))
@click.option("--steps", default=60, show_default=True, type=click.IntRange(1))
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1), help="Pairs a step.")
@click.option("--beta", default=0.1, show_default=True, type=click.FloatRange(0.0, min_open=True), help="Of DPO.")
@click.option(
    "--flip-rate",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0.0, 0.5, max_open=True),
    help="Share of pairs the wrong way round.",
)
@click.option(
    "--lr", default=5e-4, show_default=True, type=click.FloatRange(0.0, min_open=True), help="At its highest."
)
@click.option("--max-tokens", default=128, show_default=True, type=click.IntRange(8, 4_096), help="Of an answer.")
@click.option("--prompts", "num_prompts", default=40, show_default=True, type=click.IntRange(2), help="To judge by.")
@click.option("--samples", default=2, show_default=True, type=click.IntRange(1, 64), help="Answers to each of those.")
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.option("--resume", "is_resuming", is_flag=True, help="Go on with the same command's killed run.")
def adapt(
    *,
    url: str,
    username: str | None,
    password: str | None,
    version: str,
    name: str,
    wanted: tuple[int, ...],
    min_share: float,
    corpus_folders: tuple[Path, ...],
    per_prompt: int,
    judges: str,
    model: str | None,
    device: str | None,
    rank: int,
    alpha: float,
    steps: int,
    batch_size: int,
    beta: float,
    flip_rate: float,
    lr: float,
    max_tokens: int,
    num_prompts: int,
    samples: int,
    seed: int,
    as_json: bool,
    is_resuming: bool,
) -> None:
    """Train adapters for prototypes; those that win on held-out people come into a new version, else exit with 3."""
    home = Home.from_env().create()
    parent = Registry(home).entry(version)
    artifact = load(parent.folder)
    prototypes = choose_prototypes(artifact, wanted, min_share)
    corpus = join([load_corpus(folder) for folder in corpus_folders]) if corpus_folders else None
    people = _people(url, RedisOptions(username=username, password=password), artifact)
    materials = [gather_material(artifact, people, corpus, number, per_prompt, judges, seed) for number in prototypes]
    bench = Bench(
        home=home,
        artifact=artifact,
        path=resolve(model or artifact.feature_space.model, home),
        device=device or _device(),
        max_tokens=max_tokens,
        config=TrainingConfig(rank, alpha, steps, batch_size, beta, flip_rate, lr, seed=seed),
        is_resuming=is_resuming,
    )
    trained = [train_adapter(material, bench) for material in materials]
    prompts = tuple(of_role(load_prompts(DEFAULT_PROMPTS), Role.FEEDBACK)[:num_prompts])
    judged = judge_adapters(trained, bench, Asking(prompts, samples, max_tokens, seed, rank))
    folder = write_version(judged, bench, parent, name, home.artifacts)
    for one in trained:
        shutil.rmtree(one.work)
    if as_json:
        rows = [one.to_json() for one in judged]
        click.echo(json.dumps({"version": folder.name if folder else None, "adapters": rows}, indent=1))
    else:
        click.echo(render(judged, folder))
    raise SystemExit(0 if folder else NOBODY_WON)


def render(judged: Sequence[Judged], folder: Path | None) -> str:
    """Lay out what was found for people."""
    lines = []
    for one in judged:
        found, progress = one.found, one.trained.progress
        lines += [
            f"prototype {one.prototype}: {len(one.trained.material.pairs)} pairs, loss {progress.losses[0]:.3f} -> "
            f"{one.to_json()['last_loss']:.3f}; {found.num_judges} judges ({found.judges}), {found.num_prompts} "
            "prompts, 95 % intervals",
            f"  win rate             {found.win_rate}",
            f"  gain, deviations     {found.gain}",
            f"  the base's best of {one.found.num_samples}: {found.best_of_base:+.4f}",
            f"  log-probability      {found.logprob_change}",
            f"  tokens               {found.tokens[0]:.1f} -> {found.tokens[1]:.1f}",
            f"  repeating, refusing  {found.degenerate[0]:.1%} -> {found.degenerate[1]:.1%}, "
            f"{found.refusals[0]:.1%} -> {found.refusals[1]:.1%}",
            "  It wins." if not one.reasons else "  It is not kept:",
            *(f"  - {reason}" for reason in one.reasons),
        ]
    if folder is None:
        return "\n".join([*lines, "No adapter won; there is no new version."])
    told = f"`palate artifacts publish {folder.name}` puts it into service; engines need engine.max_loras of 1 or more."
    return "\n".join([*lines, told, str(folder)])


def _people(url: str, options: RedisOptions, artifact: Artifact) -> list[Person]:
    async def read() -> list[Person]:
        store = await open_store(url, options)
        try:
            with tqdm(unit=" people", desc="read", file=sys.stderr) as bar:
                return await read_people(store, artifact, bar.update)
        finally:
            await store.close()

    return run_job(read())


def _device() -> str:
    import torch  # noqa: PLC0415 - seconds

    return "cuda" if torch.cuda.is_available() else "cpu"
