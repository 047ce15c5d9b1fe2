"""The steps of `palate adapt`, in order: which prototypes, their pairs, training, judging, the new version.

Each prototype's training keeps its state in a folder named after its options and pairs, readable by the owner alone, so
that the same command can go on with a killed run. Losers are reported and never kept. Knows no command line.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from router.routing import RoutingConfig
from serve.artifacts.adapters import digest_of, folder_name
from serve.artifacts.artifact import Artifact
from serve.artifacts.making import Origin, save_new
from serve.artifacts.registry import Entry
from serve.artifacts.rulings import Ruling, fingerprint
from serve.errors import ConfigurationError
from serve.home import Home
from serve.jobs.adapt.answering import Asking, ask
from serve.jobs.adapt.checkpoints import FolderCheckpoints
from serve.jobs.adapt.judging import Finding, Limits, decide, judge
from serve.jobs.adapt.pairs import Pair, corpus_pairs, taste_of
from serve.jobs.adapt.people import (
    MIN_JUDGES,
    MIN_TEACHERS,
    Judges,
    Person,
    drawn_judges,
    held_out_judges,
    taught_pairs,
)
from serve.jobs.adapt.training import Progress, TrainingConfig, add_adapter, train
from serve.jobs.adapt.tuned import layers_above, load_model, save_adapter, tokenized, weights_digest
from serve.jobs.learning.corpus import Corpus

MIN_SPREAD = 0.2  # logits between answers: a prototype that tells them less apart has nothing to teach
MAX_PROMPT_TOKENS = 1024
RECENT = 10  # steps whose mean is reported


@dataclass(frozen=True, eq=False)
class Bench:
    """What adapters are trained with."""

    home: Home
    artifact: Artifact
    path: str  # the model's folder
    device: str
    max_tokens: int
    config: TrainingConfig
    is_resuming: bool = False


@dataclass(frozen=True, eq=False)
class Material:
    """A prototype's pairs, and who will judge its adapter."""

    prototype: int
    pairs: tuple[Pair, ...]
    num_told: int  # of them, by people; the others are the model's own answers
    judges: Judges


@dataclass(frozen=True, eq=False)
class Trained:
    """One prototype's adapter, not judged yet."""

    material: Material
    work: Path
    progress: Progress
    layers: tuple[int, ...]

    @property
    def folder(self) -> Path:
        """The adapter."""
        return self.work / "adapter"


@dataclass(frozen=True, eq=False)
class Judged:
    """One prototype's adapter and what was found of it."""

    trained: Trained
    found: Finding
    reasons: tuple[str, ...]  # why it must not serve

    @property
    def prototype(self) -> int:
        """Whose adapter it is."""
        return self.trained.material.prototype

    def to_json(self) -> dict[str, Any]:
        """Render it."""
        material, progress = self.trained.material, self.trained.progress
        return {
            "prototype": self.prototype,
            "pairs": len(material.pairs),
            "pairs_of_people": material.num_told,
            "layers": list(self.trained.layers),
            "first_loss": progress.losses[0],
            "last_loss": float(np.mean(progress.losses[-RECENT:])),
            "last_accuracy": float(np.mean(progress.accuracies[-RECENT:])),
            **self.found.to_json(),
            "reasons": list(self.reasons),
        }


def choose_prototypes(artifact: Artifact, wanted: Sequence[int], min_share: float) -> list[int]:
    """Return the prototypes to adapt to: those wanted, or those with a share of people and a taste of their own.

    Raises:
        ConfigurationError: there is none, or one that is wanted has no taste of its own.
    """
    population = artifact.population
    spreads = {
        number: float(np.sqrt(taste @ artifact.response @ taste))
        for number in wanted or range(population.num_prototypes)
        for taste in [taste_of(artifact, number)]
    }
    clear = [number for number, spread in spreads.items() if spread >= MIN_SPREAD]
    if wanted and len(clear) < len(spreads):
        faint = next(number for number in spreads if number not in clear)
        raise ConfigurationError(
            f"Prototype {faint} tells answers apart by {spreads[faint]:.2f} logits only: it has no taste of its own."
        )
    chosen = [number for number in clear if wanted or population.mixture_weights[number] >= min_share]
    if not chosen:
        raise ConfigurationError(
            f"No prototype of {artifact.version} has {min_share:.0%} of the people and a taste of its own; fit a "
            "population with several prototypes first (`palate fit`)."
        )
    return chosen


def gather_material(
    artifact: Artifact,
    people: list[Person],
    corpus: Corpus | None,
    prototype: int,
    per_prompt: int,
    judges: str,
    seed: int,
) -> Material:
    """Collect a prototype's pairs and judges.

    Raises:
        ConfigurationError: there are no pairs, or too few held-out people belong to the prototype.
    """
    rng = np.random.default_rng([seed, prototype])
    panel = (
        drawn_judges(artifact, prototype, rng)
        if judges == "drawn"
        else held_out_judges(people, prototype, RoutingConfig())
    )
    if panel is None:
        raise ConfigurationError(
            f"Fewer than {MIN_JUDGES} held-out people belong to prototype {prototype}: nobody can judge its adapter. "
            "`--judges drawn` lets people drawn from its prior judge, which proves less."
        )
    told = taught_pairs(people, prototype)
    own = corpus_pairs(corpus, artifact, prototype, per_prompt) if corpus is not None else []
    if not told and not own:
        raise ConfigurationError(
            f"There are no pairs for prototype {prototype}: give answers made by `palate features generate` with "
            f"--corpus, or keep texts (feedback.keep_texts) until {MIN_TEACHERS} people of it said something."
        )
    return Material(prototype, (*own, *told), len(told), panel)


def train_adapter(material: Material, bench: Bench) -> Trained:
    """Train one prototype's adapter, showing progress; its folder holds what a killed run found."""
    model, tokenizer = load_model(bench.path, bench.device)
    pairs = tokenized(tokenizer, material.pairs, bench.max_tokens, MAX_PROMPT_TOKENS)
    if not pairs:
        raise ConfigurationError(f"Every pair for prototype {material.prototype} has too long a prompt.")
    layers = layers_above(bench.artifact.feature_space, model.config.get_text_config().num_hidden_layers)
    told = [bench.artifact.version, material.prototype, bench.path, bench.device, asdict(bench.config)]
    said = json.dumps([told, [asdict(pair) for pair in pairs]])
    work = bench.home.path / "adapt" / hashlib.sha256(said.encode()).hexdigest()[:16]
    if not bench.is_resuming:
        shutil.rmtree(work, ignore_errors=True)
    tuned = add_adapter(model, layers, bench.config)
    checkpoints = FolderCheckpoints(work, bench.config.steps)
    with tqdm(total=bench.config.steps, unit=" steps", desc=f"prototype {material.prototype}", file=sys.stderr) as bar:

        def show(progress: Progress) -> None:
            bar.update(progress.num_steps - bar.n)
            bar.set_postfix(loss=f"{progress.losses[-1]:.3f}", right=f"{progress.accuracies[-1]:.2f}")

        progress = train(tuned, pairs, bench.config, checkpoints, show)
    trained = Trained(material, work, progress, tuple(layers))
    save_adapter(tuned, trained.folder, bench.artifact.feature_space.model)
    return trained


def judge_adapters(trained: Sequence[Trained], bench: Bench, asking: Asking) -> list[Judged]:
    """Let the base model and the adapters answer in the real engine, and judge."""
    gc.collect()  # the models that were trained
    # A forked engine would inherit the threads that trained, and wait for them.
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    total = asking.num_orders * (1 + len(trained))
    with tqdm(total=total, unit=" answers", desc="judge", file=sys.stderr) as bar:
        folders = [None, *(str(one.folder.absolute()) for one in trained)]
        base, *adapted = asyncio.run(ask(bench.artifact, bench.path, folders, asking, bar.update))
    return [
        Judged(one, found, decide(found, Limits()))
        for one, answered in zip(trained, adapted, strict=True)
        for found in [judge(base.read, answered.read, one.material.judges, asking.seed)]
    ]


def write_version(judged: Sequence[Judged], bench: Bench, parent: Entry, name: str, artifacts: Path) -> Path | None:
    """Write the parent with the adapters that won, and the ruling that it may be published; None if none won.

    Adapters that the parent had for other prototypes stay. Its population is the parent's, so nobody is read otherwise.
    """
    winners = {one.prototype: one for one in judged if not one.reasons}
    if not winners:
        return None
    artifact = bench.artifact
    had = artifact.adapters or (None,) * artifact.population.num_prototypes
    folders = tuple(
        str(winners[number].trained.folder) if number in winners else folder for number, folder in enumerate(had)
    )
    described = {
        folder_name(number): {
            "sha256": digest_of(one.trained.folder),
            "training": asdict(bench.config) | {"max_tokens": bench.max_tokens},
            **one.to_json(),
        }
        for number, one in winners.items()
    }
    before, rows = parent.manifest, [one.to_json() for one in judged]
    data = before.data | {
        "adapters": before.data.get("adapters", {}) | described,
        "base_model": before.model,
        "base_model_sha256": weights_digest(bench.path),
    }
    origin = Origin((before,), data, before.metrics | {"adapters": rows})
    folder = save_new(replace(artifact, adapters=folders), name, origin, artifacts)
    Ruling(
        candidate=folder.name,
        fingerprint=fingerprint(folder),
        against=before.version,
        is_passed=True,
        reasons=(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        metrics={"adapters": rows},
    ).save(artifacts)
    return folder
