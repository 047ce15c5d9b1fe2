"""One evaluation from judgements to results: every seed, model, kind, and number of shots.

Knows nothing of the command line or of drawing.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from router.types import Array
from serve.jobs.few_shot.data import DataError, Index, Judgements
from serve.jobs.few_shot.features import make_inputs
from serve.jobs.few_shot.metrics import calibration_error, hits, losses, person_and_text_interval, person_interval
from serve.jobs.few_shot.models import Model, Scratch
from serve.jobs.few_shot.ours import (
    CONFIG,
    REHEARSAL,
    Asked,
    Neighbours,
    Opinions,
    Palate,
    Trust,
    learn_trust,
    rehearse,
)
from serve.jobs.few_shot.peers import PerKind, SimplexMLE, VariationalEncoder
from serve.jobs.few_shot.protocol import NUM_FOLDS, Person, Split, make_split, rehearsal

MODELS = ("pooled", "palate", "simplex_mle", "vpl", "scratch", "knn")
NUM_REHEARSALS = NUM_FOLDS  # so that all training people are asked, and of all texts
Key = tuple[str, str, str, int]  # model, kind, items, shots
Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be evaluated."""

    data: Judgements
    features: Array  # (n, P)
    shots: tuple[int, ...]


@dataclass(eq=False)
class Answers:
    """Probabilities of the given answers, one array per person, the same people for every model."""

    by_key: dict[Key, list[Array]] = field(default_factory=lambda: defaultdict(list))
    swapped: dict[Key, list[Array]] = field(default_factory=lambda: defaultdict(list))
    texts: dict[tuple[str, str], list[Index]] = field(default_factory=lambda: defaultdict(list))  # kind, items: (M, 2)
    fits: list[dict[str, object]] = field(default_factory=list)


def run_seed(task: Task, seed: int, answers: Answers, progress: Progress) -> None:
    """Fit every model on one split and add everyone's answers. `progress` is told each step's name."""
    data, shots = task.data, task.shots
    split = make_split(data, max(shots), seed)
    if not any(split.test.values()):
        raise DataError(f"nobody tested has more than {max(shots)} labels; ask for fewer --shots")
    inputs = make_inputs(task.features, data.contexts, split.cold)
    trust = _rehearsed(task, split, seed)
    progress("rehearsals")
    opinions = Opinions(inputs, split, CONFIG, seed)
    pooled, palate = opinions.pooled, Palate(opinions, trust)
    progress("palate")
    models: dict[str, Model] = {"pooled": pooled, "palate": palate}
    models["simplex_mle"] = PerKind({k: SimplexMLE(inputs, pooled, *own, seed) for k, own in split.own.items()})
    progress("simplex_mle")
    models["vpl"] = PerKind({k: VariationalEncoder(inputs, pooled, *own, seed) for k, own in split.own.items()})
    progress("vpl")
    models["scratch"], models["knn"] = Scratch(inputs), Neighbours(pooled, opinions.tastes)
    for kind, people in split.test.items():
        for index, person in enumerate(people):
            other = people[(index + 1) % len(people)]
            _ask(models, kind, (person, other), shots, answers)
    progress("people")
    answers.fits.append(_describe(palate, split, seed))


def _rehearsed(task: Task, split: Split, seed: int) -> Trust:
    """Learn on the training people and the seen texts alone how far each opinion can be trusted."""
    asked: Asked = {}
    numbers = [k for k in task.shots if k > 0]
    for fold in range(NUM_REHEARSALS if numbers else 0):
        # The same people are held out whatever the number of shots; more of them have more than a few labels.
        rehearsals = {k: rehearsal(task.data, split, k, seed, fold) for k in numbers}
        held_out = rehearsals[numbers[0]]
        inputs = make_inputs(task.features, task.data.contexts, held_out.cold)
        rehearse(Opinions(inputs, held_out, REHEARSAL, seed), rehearsals, asked)
    return learn_trust(asked)


def _ask(
    models: dict[str, Model], kind: str, people: tuple[Person, Person], shots: Sequence[int], answers: Answers
) -> None:
    person, other = people
    for items, questions in (("warm", person.warm), ("cold", person.cold)):
        if len(questions):
            answers.texts[kind, items].append(questions[:, :2])
    for k in shots:
        said = {name: model.predict(kind, person.shots[:k], person.questions) for name, model in models.items()}
        swapped = models["palate"].predict(kind, other.shots[:k], person.questions)
        for items, part in (("warm", slice(len(person.warm))), ("cold", slice(len(person.warm), None))):
            if not len(person.questions[part]):
                continue
            for name, probabilities in said.items():
                answers.by_key[name, kind, items, k].append(probabilities[part])
            answers.swapped["palate", kind, items, k].append(swapped[part])


def results(answers: Answers) -> list[dict[str, object]]:
    """Return one record per model, kind, items and shots."""
    records = []
    for (model, kind, items, shots), values in answers.by_key.items():
        accuracy, low, high = _interval(answers, kind, items, [hits(value) for value in values])
        loss, loss_low, loss_high = _interval(answers, kind, items, [losses(value) for value in values])
        joined = np.concatenate(values)
        record: dict[str, object] = {"model": model, "kind": kind, "items": items, "shots": shots}
        record |= {"accuracy": accuracy, "accuracy_ci": [low, high], "log_loss": loss}
        record |= {"log_loss_ci": [loss_low, loss_high], "ece": calibration_error(joined)}
        records.append(record | {"num_people": len(values), "num_questions": len(joined)})
    return records


def paired(answers: Answers) -> list[dict[str, object]]:
    """Return what `palate` has over every other model, and over itself with another person's shots."""
    records = []
    for (model, kind, items, shots), values in answers.by_key.items():
        if model != "palate":
            records.append(_difference(answers, (kind, items, shots), model, values))
    for (_, kind, items, shots), values in answers.swapped.items():
        records.append(_difference(answers, (kind, items, shots), "palate_swapped", values))
    return records


def user_swap(answers: Answers) -> list[dict[str, object]]:
    """Return `palate` judged with another person's shots, next to pooled."""
    records = []
    for (_, kind, items, shots), values in answers.swapped.items():
        swapped, joined = np.concatenate(values), np.concatenate(answers.by_key["pooled", kind, items, shots])
        record: dict[str, object] = {"kind": kind, "items": items, "shots": shots}
        record |= {"accuracy": float(hits(swapped).mean()), "log_loss": float(losses(swapped).mean())}
        record |= {"pooled_accuracy": float(hits(joined).mean()), "pooled_log_loss": float(losses(joined).mean())}
        records.append(record)
    return records


def _difference(answers: Answers, key: tuple[str, str, int], model: str, values: list[Array]) -> dict[str, object]:
    kind, items, shots = key
    ours = answers.by_key["palate", kind, items, shots]
    accuracy = _interval(answers, kind, items, [hits(a) - hits(b) for a, b in zip(ours, values, strict=True)])
    loss = _interval(answers, kind, items, [losses(a) - losses(b) for a, b in zip(ours, values, strict=True)])
    record: dict[str, object] = {"against": model, "kind": kind, "items": items, "shots": shots}
    record |= {"accuracy": accuracy[0], "accuracy_ci": list(accuracy[1:])}
    return record | {"log_loss": loss[0], "log_loss_ci": list(loss[1:])}


def _interval(answers: Answers, kind: str, items: str, values: Sequence[Array]) -> tuple[float, float, float]:
    """Resample people, and where texts are unseen, texts: which are held out is chance."""
    if items == "warm":
        return person_interval(values)
    return person_and_text_interval(values, answers.texts[kind, items])


def _describe(palate: Palate, split: Split, seed: int) -> dict[str, object]:
    tastes = palate.opinions.tastes
    population, groups = tastes.population, tastes.report.groups
    return {
        "seed": seed,
        "num_train_people": int(split.train_people.max()) + 1,
        "num_prototypes": population.num_prototypes,
        "held_out_log_evidence": {str(K): value for K, value in tastes.report.held_out_log_evidence.items()},
        "mixture_weights": population.mixture_weights.tolist(),
        "flip_rate": population.flip_rate,
        "tempering": population.tempering,
        "group_shares": groups.shares.tolist(),
        "group_accuracy": [None if np.isnan(value) else float(value) for value in groups.accuracy],
        "worst_group": groups.worst,
        "trust": {
            f"{kind} at {k}, {'seen' if seen else 'unseen'} texts": weights.tolist()
            for (kind, k, seen), weights in palate.trust.items()
        },
    }
