"""`palate evaluate questions`: whether asking well beats asking at random, on real people's comparisons.

Both ways choose from the same comparisons of the same person, none of which shares a text with another one asked; what
is known is then tried on texts of which nothing was asked. Knows nothing of how informative a question is.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from router.elicitation import most_informative
from router.posterior import choice_probability, condition, prior
from router.types import Array, Posterior
from serve.errors import ModelUnavailable
from serve.home import Home
from serve.jobs.few_shot.data import DataError, Judgements, load
from serve.jobs.few_shot.features import make_inputs, matrix_file
from serve.jobs.few_shot.metrics import hits, losses, person_interval
from serve.jobs.few_shot.models import as_evidence, differences
from serve.jobs.few_shot.ours import CONFIG, Tastes
from serve.jobs.few_shot.protocol import Person, Rows, make_split
from serve.jobs.few_shot.states import engine_states
from serve.models import DEFAULT_MODEL

POOL = 20  # judgements of each kind a person's questions are made of
MAX_QUESTIONS = 10
NUM_RANDOM = 3  # random orders to average over
Curves = dict[str, list[list[Array]]]  # way of asking -> questions asked -> probabilities (M,) of each person


@click.command("questions")
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option(
    "--features",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Matrix (.npy) whose row i holds the features of line i of items.jsonl; default: the engine's own states.",
)
@click.option("--seeds", "num_seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Random splits.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the curves here.")
def questions(*, folder: Path, features: Path | None, num_seeds: int, json_path: Path | None) -> None:
    """Measure what active questions are worth against random ones."""
    curves: Curves = defaultdict(lambda: [[] for _ in range(MAX_QUESTIONS + 1)])
    try:
        data = load(folder)
        matrix = (matrix_file(features) if features else engine_states(DEFAULT_MODEL.name, Home.from_env()))(data.texts)
        for seed in range(num_seeds):
            _one_seed(data, matrix, seed, curves)
    except (DataError, ModelUnavailable) as error:
        raise click.ClickException(str(error)) from error
    records = summary(curves)
    click.echo(f"{data.name}: {len(curves['active'][0])} people. Accuracy %, log-loss; active less 10 random ones")
    for record in records:
        low, high = (100 * bound for bound in record["active_less_ten_random_ci"])
        click.echo(
            f"{record['questions']:3} questions: active {100 * record['active']:.1f} / {record['active_log_loss']:.3f}"
            f"  random {100 * record['random']:.1f} / {record['random_log_loss']:.3f}"
            f"  {100 * record['active_less_ten_random']:+.1f} [{low:+.1f}, {high:+.1f}]"
        )
    if json_path:
        document = {"dataset": data.name, "num_people": len(curves["active"][0]), "curves": records}
        json_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def summary(curves: Curves) -> list[dict[str, Any]]:
    """Return a record for each number of questions; intervals resample people."""
    ten = [hits(own) for own in curves["random"][MAX_QUESTIONS]]
    records = []
    for number, (active, random) in enumerate(zip(curves["active"], curves["random"], strict=True)):
        # Random curves hold NUM_RANDOM answers to each question, one after another.
        gains = [np.tile(hits(own), NUM_RANDOM) - best for own, best in zip(active, ten, strict=True)]
        gain, low, high = person_interval(gains)
        record: dict[str, Any] = {"questions": number}
        for name, curve in (("active", active), ("random", random)):
            record[name] = person_interval([hits(own) for own in curve])[0]
            record[f"{name}_log_loss"] = person_interval([losses(own) for own in curve])[0]
        records.append(record | {"active_less_ten_random": gain, "active_less_ten_random_ci": [low, high]})
    return records


def _one_seed(data: Judgements, matrix: Array, seed: int, curves: Curves) -> None:
    split = make_split(data, POOL, seed)
    people = split.test["pairs"]
    if not people:
        raise DataError(f"nobody has given {POOL} comparisons and one more; a person's questions are made of these")
    tastes = Tastes(make_inputs(matrix, data.contexts, split.cold), split, CONFIG, seed)
    for index, person in enumerate(tqdm(people, desc=f"seed {seed}", unit=" people")):
        pool = candidates(person, crossed=data.has_ratings)
        for number, probabilities in enumerate(ask(tastes, pool, person.warm, None)):
            curves["active"][number].append(probabilities)
        orders = [np.random.default_rng([seed, index, order]) for order in range(NUM_RANDOM)]
        asked = [ask(tastes, pool, person.warm, rng) for rng in orders]
        for number, each in enumerate(zip(*asked, strict=True)):
            curves["random"][number].append(np.concatenate(each))


def candidates(person: Person, *, crossed: bool) -> Rows:
    """Return the comparisons that can be asked, (M, 3): a person's pairs, or all of what they liked and disliked."""
    if not crossed:
        return person.shots
    liked, disliked = np.meshgrid(person.shots[:, 0], person.shots[:, 1], indexing="ij")
    return np.column_stack([liked.ravel(), disliked.ravel(), np.zeros(liked.size, dtype=np.int64)])


def ask(tastes: Tastes, pool: Rows, tried: Rows, rng: np.random.Generator | None) -> list[Array]:
    """Return the probabilities of the `tried` answers after 0, 1, … questions; the most informative without `rng`."""
    population, left = tastes.population, pool
    posterior = prior(population)
    curve = [_predict(tastes, posterior, tried)]
    for _ in range(MAX_QUESTIONS):
        if len(left):
            if rng is None:
                judge = posterior.taste.affine(1.0, population.base_weights)
                chosen = left[most_informative(judge, tastes.phi[left[:, :2]], posterior.flip_rate)]
            else:
                chosen = left[rng.integers(len(left))]
            evidence = as_evidence(tastes.phi, tastes.phi @ population.base_weights, chosen[None])
            posterior = condition(population, posterior, evidence, 1)
            left = left[~np.isin(left[:, :2], chosen[:2]).any(axis=1)]
        curve.append(_predict(tastes, posterior, tried))
    return curve


def _predict(tastes: Tastes, posterior: Posterior, rows: Rows) -> Array:
    return choice_probability(tastes.population, posterior, differences(tastes.phi, rows))
