"""The command `few-shot`: options, progress, table, JSON and plot. Knows nothing of what the models do."""

import json
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from serve.errors import ModelUnavailable
from serve.home import Home
from serve.jobs.few_shot.data import DataError, load
from serve.jobs.few_shot.evaluation import MODELS, Answers, Task, paired, results, run_seed, user_swap
from serve.jobs.few_shot.features import matrix_file
from serve.jobs.few_shot.plot import draw
from serve.jobs.few_shot.states import engine_states
from serve.models import DEFAULT_MODEL

PROTOCOL = (
    "20 % of people are tested; 20 % of texts are cold: in no training label and no shot. Shots are nested; thumbs and "
    "pairs of ratings leave up to 30 questions a person. A cold pair from ratings has two unseen texts, a cold pair "
    "from pairs.csv at least one. Every model is trained on the same labels and text features; pooled is conditioned "
    "on the context where item ids name one. Intervals resample people."
)


def _parse_shots(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        shots = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise click.BadParameter("give whole numbers separated by commas, such as 0,2,5,10,20") from error
    if shots[0] < 0:
        raise click.BadParameter("numbers of shots start at 0")
    return shots


@click.command("few-shot")
@click.option(
    "--data",
    "folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder with items.jsonl and ratings.csv or pairs.csv.",
)
@click.option(
    "--features",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Matrix (.npy) whose row i holds the features of line i of items.jsonl; default: the engine's own states.",
)
@click.option(
    "--model",
    default=DEFAULT_MODEL.name,
    show_default=True,
    help="Whose states are read where --features is not given: embedded model, folder or hub id.",
)
@click.option("--shots", default="0,2,5,10,20", show_default=True, callback=_parse_shots, help="Labels per person.")
@click.option("--seeds", "num_seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Random splits.")
@click.option("--seed", "first_seed", type=click.IntRange(min=0), default=0, show_default=True, help="First seed.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the results here.")
@click.option("--out-plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw a PNG here.")
def few_shot(
    *,
    folder: Path,
    features: Path | None,
    model: str,
    shots: tuple[int, ...],
    num_seeds: int,
    first_seed: int,
    json_path: Path | None,
    out_plot: Path | None,
) -> None:
    """Measure how well a person's taste is known after a few labels, beside the models of the literature."""
    try:
        data = load(folder)
        featurizer = matrix_file(features) if features else engine_states(model, Home.from_env())
        matrix = featurizer(data.texts)
        answers = Answers()
        with tqdm(total=5 * num_seeds, unit="step") as bar:
            for seed in range(first_seed, first_seed + num_seeds):

                def progress(step: str, seed: int = seed) -> None:
                    bar.set_description(f"seed {seed}: {step}")
                    bar.update()

                run_seed(Task(data, matrix, shots), seed, answers, progress)
    except (DataError, ModelUnavailable) as error:
        raise click.ClickException(str(error)) from error
    records = results(answers)
    differences = paired(answers)
    click.echo(_table(records, differences))
    if json_path:
        document = {"dataset": data.name, "protocol": PROTOCOL, "results": records, "differences": differences}
        document |= {"user_swap": user_swap(answers), "fits": answers.fits}
        json_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if out_plot:
        draw(records, data.name, out_plot)


def _table(records: list[dict[str, Any]], differences: list[dict[str, Any]]) -> str:
    """Return accuracy % / log-loss by shots, and what palate has over pooled and with another person's shots."""
    lines = []
    shots = sorted({record["shots"] for record in records})
    cell = {(r["model"], r["kind"], r["items"], r["shots"]): r for r in records}
    gain = {(r["against"], r["kind"], r["items"], r["shots"]): r for r in differences}
    for kind, items in dict.fromkeys((record["kind"], record["items"]) for record in records):
        people = cell["pooled", kind, items, shots[0]]["num_people"]
        lines.append(f"\n{kind}, {items} items ({people} people): accuracy % / log-loss / calibration error")
        lines.append(f"{'':16}" + "".join(f"{k:>22} shots" for k in shots))
        for model in MODELS:
            row = [cell[model, kind, items, k] for k in shots]
            lines.append(
                f"{model:16}"
                + "".join(f"{100 * r['accuracy']:13.1f} /{r['log_loss']:6.3f} /{r['ece']:5.3f}" for r in row)
            )
        for against in ("pooled", "palate_swapped"):
            for name, scale, digits in (("accuracy", 100, 1), ("log_loss", 1, 3)):
                row = [gain[against, kind, items, k] for k in shots]
                cells = [
                    f"{scale * r[name]:+.{digits}f} [{scale * r[name + '_ci'][0]:+.{digits}f},"
                    f" {scale * r[name + '_ci'][1]:+.{digits}f}]"
                    for r in row
                ]
                lines.append(f"palate - {against}, {name}: " + "  ".join(cells))
    return "\n".join(lines)
