"""`palate artifacts make`: an artifact from a corpus of a model's own answers and simulated people who judge them.

What a fresh install knows before anybody gave feedback: a feature space, a reward basis with named attributes, a prior
over tastes, and opening questions. Uses learning prompts alone, so that evaluations on the others stay honest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from router.basis import BasisConfig
from router.population import FeatureLayout, FitConfig, FitReport, fit_population, plain_layout
from router.types import Population
from serve.artifacts.artifact import Artifact
from serve.artifacts.making import Origin, save_new
from serve.engines.feature_space import FeatureSpace
from serve.engines.steering_request import MAX_TILT
from serve.errors import ConfigurationError
from serve.jobs.learning.attributes import ATTRIBUTES
from serve.jobs.learning.corpus import Corpus, join, load_corpus
from serve.jobs.learning.generate import numbers
from serve.jobs.learning.people import PeopleConfig, draw_tastes, judge, utilities
from serve.jobs.learning.prompts import Prompt, Role
from serve.jobs.learning.properties import PROPERTIES
from serve.jobs.learning.questions import choose_questions
from serve.jobs.learning.spaces import (
    Index,
    SpaceConfig,
    explained,
    make_space,
    numbered,
    probe,
    project,
    within_prompts,
)
from serve.jobs.learning.text import Array, Standard, measure
from serve.jobs.learning.tokens import ModelVocabulary, Vocabulary, token_features

PROBE_RIDGE = 100.0  # best of 10 to 1,000 on held-out prompts


@dataclass(frozen=True)
class MakeConfig:
    """How a default artifact is made."""

    space: SpaceConfig = field(default_factory=SpaceConfig)
    people: PeopleConfig = field(default_factory=PeopleConfig)
    rank: int = 10  # directions of taste besides the named ones
    max_dose: float = 0.2
    dose_temperature: float = 0.8
    min_p: float = 0.02
    repetition_penalty: float = 1.05
    tilt: float = 0.32
    num_questions: int = 64
    num_answers: int = 4  # to choose from in each
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Measured:
    """A corpus with its features and what was measured of its texts; the learning prompts' answers come by `rows`."""

    corpus: Corpus
    rows: Index  # of learning prompts
    features: Array  # (n, P)
    attributes: Array  # (n, A)
    properties: Array  # (n, B)


@click.command("make")
@click.option(
    "--corpus",
    "corpus_folders",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Answers made by `palate features generate`; may be given several times.",
)
@click.option("--out", "parent", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where to.")
@click.option("--name", default="default", show_default=True, help="First part of the version.")
@click.option("--features", "num_features", default=320, show_default=True, type=click.IntRange(2), help="P.")
@click.option(
    "--read", "read_layers", default="0,10,14,21", show_default=True, help="Layers whose states are features."
)
@click.option("--steer", "steered_layer", default=21, show_default=True, type=click.IntRange(0), help="Steered layer.")
@click.option("--rank", default=10, show_default=True, type=click.IntRange(0), help="Directions besides the named.")
@click.option("--people", default=2000, show_default=True, type=click.IntRange(20), help="Simulated people.")
@click.option("--events", default=40, show_default=True, type=click.IntRange(2), help="Judgements of each.")
@click.option("--max-dose", default=0.2, show_default=True, type=click.FloatRange(0.0, 1.0), help="Fluent up to here.")
@click.option(
    "--dose-temperature",
    default=0.8,
    show_default=True,
    type=click.FloatRange(0.1, 2.0),
    help="Up to this sampling temperature.",
)
@click.option(
    "--min-p",
    default=0.02,
    show_default=True,
    type=click.FloatRange(0.0, 1.0),
    help="Steered answers draw no token less likely than this share of the likeliest one.",
)
@click.option(
    "--repetition-penalty",
    default=1.05,
    show_default=True,
    type=click.FloatRange(1.0, 2.0),
    help="On tokens that a steered answer has already; 1 for none.",
)
@click.option(
    "--tilt",
    default=0.32,
    show_default=True,
    type=click.FloatRange(0.0, MAX_TILT),
    help="Root mean square of what steered answers' logits are moved by, in nats; 0 for nothing.",
)
@click.option("--seed", default=0, show_default=True)
def make(
    corpus_folders: tuple[Path, ...],
    parent: Path,
    name: str,
    num_features: int,
    read_layers: str,
    steered_layer: int,
    rank: int,
    people: int,
    events: int,
    max_dose: float,
    dose_temperature: float,
    min_p: float,
    repetition_penalty: float,
    tilt: float,
    seed: int,
) -> None:
    """Make an artifact from a corpus and simulated people."""
    config = MakeConfig(
        space=SpaceConfig(tuple(numbers(read_layers, int)), steered_layer, num_features, max_dose),
        people=PeopleConfig(num_people=people, num_events=events),
        rank=rank,
        max_dose=max_dose,
        dose_temperature=dose_temperature,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        tilt=tilt,
        seed=seed,
    )
    corpus = join([load_corpus(folder) for folder in corpus_folders])
    vocabulary = ModelVocabulary(corpus.recipe["model"]) if tilt else None
    artifact, metrics = make_artifact(corpus, config, vocabulary)
    data = {"people": "simulated", "recipe": corpus.recipe, **asdict(config.people)}
    click.echo(save_new(artifact, name, Origin(data=data, metrics=metrics), parent))


def make_artifact(
    corpus: Corpus, config: MakeConfig, vocabulary: Vocabulary | None = None
) -> tuple[Artifact, dict[str, Any]]:
    """Make the artifact and say how well it reads; without the model's vocabulary it tilts no logits."""
    rows = learning_rows(corpus)
    space = make_space(corpus, rows, config.space)
    projected = project(corpus, space)
    if vocabulary is not None:
        space = with_tokens(space, corpus, rows, projected[rows], vocabulary)
    measured = measure_corpus(corpus, rows, projected)
    rng = np.random.default_rng(config.seed)
    prompts = numbered(corpus.prompt_numbers()[rows])
    features, properties = measured.features[rows], measured.properties[rows]
    cared = np.hstack([properties, measured.attributes[rows]])  # (n, A)
    salience = np.repeat([1.0, config.people.salience_of_named], [len(PROPERTIES), len(ATTRIBUTES)])
    liking = utilities(cared, draw_tastes(config.people.num_people, salience, config.people.dense_share, rng))  # (U, n)
    table = judge(features, prompts, liking, config.people, rng)
    layout = named_layout(features, measured.attributes[rows], prompts)
    layout = with_taste_rows(layout, features, liking, prompts, config.rank)
    # The rows are given: what simulated people like is known without noise, which no feedback could tell as well.
    fitting = FitConfig(BasisConfig(rank=0), num_prototypes=(1, 2, 4), em_iterations=10)
    population, report = fit_population(table, layout, fitting, config.seed)
    population = without_base(population)
    shown = within_prompts(population.features(features), prompts)
    response = np.asarray(np.cov(shown, rowvar=False), np.float64)
    artifact = Artifact(
        population,
        space,
        response,
        max_dose=config.max_dose,
        dose_temperature=config.dose_temperature,
        min_p=config.min_p,
        repetition_penalty=config.repetition_penalty,
        tilt=0.0 if vocabulary is None else config.tilt,
    )
    samples = [corpus.samples[i] for i in rows]
    questions = choose_questions(artifact, samples, features, config.num_questions, config.num_answers, rng)
    return replace(artifact, questions=questions), _metrics(measured, report)


def learning_rows(corpus: Corpus) -> Index:
    """Return the answers to learning prompts, ascending. Raises ConfigurationError if there are none."""
    roles = [Prompt(sample.prompt_id, sample.prompt).role for sample in corpus.samples]
    rows = np.flatnonzero([role is Role.LEARNING for role in roles])
    if not len(rows):
        raise ConfigurationError("The corpus holds no answers to learning prompts.")
    return rows


def with_tokens(
    space: FeatureSpace, corpus: Corpus, rows: Index, features: Array, vocabulary: Vocabulary
) -> FeatureSpace:
    """Add what tokens say of the features, from some of a corpus' answers, `rows`, with their features (n, P)."""
    samples = [corpus.samples[i] for i in rows]
    answers = [vocabulary.encode(sample.text, is_finished=sample.is_finished) for sample in samples]
    found = token_features(answers, features, corpus.prompt_numbers()[rows], vocabulary)
    return replace(space, token_features=found)


def measure_corpus(corpus: Corpus, rows: Index, features: Array) -> Measured:
    """Measure every text; what is usual comes from the learning prompts' answers."""
    texts = [sample.text for sample in corpus.samples]
    attributes, properties = measure(texts, ATTRIBUTES), measure(texts, PROPERTIES)
    return Measured(
        corpus,
        rows,
        features,
        Standard.of(attributes[rows])(attributes),
        Standard.of(properties[rows])(properties),
    )


def named_layout(features: Array, attributes: Array, prompts: Index) -> FeatureLayout:
    """Return the plain layout with probes of the named attributes as given rows, of unit variance over answers."""
    layout = plain_layout(features)
    probes = probe(within_prompts(features, prompts), within_prompts(attributes, prompts), PROBE_RIDGE)  # (A, P)
    rows = probes * layout.scale
    spread = (((features - layout.center) / layout.scale) @ rows.T).std(axis=0)
    kept = np.flatnonzero(spread > 1e-6)  # what no answer shows cannot be asked for
    names = tuple(ATTRIBUTES[i].name for i in kept)
    return replace(layout, fixed_rows=rows[kept] / spread[kept, None], names=names)


def with_taste_rows(layout: FeatureLayout, features: Array, liking: Array, prompts: Index, rank: int) -> FeatureLayout:
    """Add the `rank` directions in which people's readable likings (U, n) differ most beyond the named ones.

    Each has unit variance within a prompt.
    """
    inputs = within_prompts((features - layout.center) / layout.scale, prompts)  # (n, P)
    rewards = probe(inputs * layout.scale, within_prompts(liking.T, prompts), PROBE_RIDGE) * layout.scale  # (U, P)
    root = np.linalg.cholesky(inputs.T @ inputs / len(inputs) + 1e-12 * np.eye(inputs.shape[1]))
    named, _ = np.linalg.qr((layout.fixed_rows @ root).T)  # (P, A)
    shown = rewards @ root  # differences counted as they show in texts
    _, _, axes = np.linalg.svd(shown - shown @ named @ named.T, full_matrices=False)
    rows = np.linalg.solve(root.T, axes[:rank].T).T
    return replace(layout, fixed_rows=np.vstack([layout.fixed_rows, rows]), names=(*layout.names, *[""] * len(rows)))


def without_base(population: Population) -> Population:
    """Drop the shared reward, the last row: simulated people share none, and what was fitted is noise."""
    crossed = population.threshold_covariances
    return replace(
        population,
        basis=population.basis[:-1],
        means=population.means[:, :-1],
        covariances=population.covariances[:, :-1, :-1],
        base_weights=np.zeros(population.num_features - 1),
        threshold_covariances=None if crossed is None else crossed[:, :-1],
        attribute_names=population.attribute_names[:-1],
    )


def _metrics(measured: Measured, report: FitReport) -> dict[str, Any]:
    """Say how much of each property the features explain within prompts, on prompts not used."""
    prompts = measured.corpus.prompt_numbers()
    others = np.setdiff1d(np.arange(len(prompts)), measured.rows)
    metrics: dict[str, Any] = {"log_evidence": round(report.log_evidence, 4)}
    if len(others) < 2:
        return metrics
    features = within_prompts(measured.features, prompts)
    for family, names, values in (
        ("attributes", ATTRIBUTES, measured.attributes),
        ("properties", PROPERTIES, measured.properties),
    ):
        centred = within_prompts(values, prompts)
        probes = probe(features[measured.rows], centred[measured.rows], PROBE_RIDGE)
        found = explained(centred[others], features[others] @ probes.T)
        metrics[f"r2_{family}"] = {one.name: round(float(r2), 3) for one, r2 in zip(names, found, strict=True)}
    return metrics
