"""`palate adapt` from a store, a corpus and a tiny model to a published version; the engine's answers are made up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from serve.artifacts.adapters import FILES
from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import Registry
from serve.artifacts.storage import load, save
from serve.cli import palate
from serve.errors import ConfigurationError
from serve.home import Home
from serve.jobs.adapt import adapting
from serve.jobs.adapt.answering import Answered, Asking
from serve.jobs.adapt.command import NOBODY_WON
from serve.jobs.adapt.judging import Answers
from serve.jobs.adapt.pairs import taste_of
from serve.jobs.adapt.training import Checkpoints, Progress, Tokens, TrainingConfig, train
from serve.jobs.learning.corpus import Sample, add_part, begin
from serve.jobs.learning.prompts import Role, load_prompts, of_role
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.jobs.adapt.cases import tiny_model
from tests.serve.jobs.adapt.test_people import opposed
from tests.serve.jobs.fit.cases import fill
from user_store.sqlite_store import open_sqlite

STEPS = 4


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and a corpus of answers to eight learning prompts, whose states are noise."""
    folder = tmp_path_factory.mktemp("prepared")
    tiny_model(folder / "tiny")
    rng = np.random.default_rng(0)
    begin(folder / "corpus", {"model": "scripted-model", "layers": [1]})
    letters = list("abcdefghij")
    samples = [
        Sample(prompt.id, prompt.text, "".join(rng.permutation(letters)[:6]), i, 0.8, 6, -1.5, True)
        for prompt in of_role(load_prompts(), Role.LEARNING)[:8]
        for i in range(4)
    ]
    add_part(folder / "corpus", "part-0", samples, rng.normal(size=(len(samples), 1, 8)).astype(np.float32))
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("PALATE_HOME", str(tmp_path))
    artifact = opposed()
    save(artifact, manifest_of(artifact, data={"held_out_share": 0.2}), tmp_path / "artifacts")

    async def prepare() -> None:
        store = open_sqlite(tmp_path / "palate.db")
        await fill(store, 12, 6)
        await store.close()

    asyncio.run(prepare())
    Registry(Home(tmp_path)).publish("a1")
    return Home(tmp_path)


def names_in(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[float]], None]:
    """Set how far each adapter moves answers along its prototype's taste; 0 is as the base."""

    def set_shifts(shifts: Sequence[float]) -> None:
        async def ask(
            artifact: Artifact,
            path: str,
            adapters: Sequence[str | None],
            asking: Asking,
            progress: Callable[[int], object],
        ) -> list[Answered]:
            assert Path(path).name == "tiny"
            assert adapters[0] is None
            found = []
            for number, adapter in enumerate(adapters):
                assert adapter is None or names_in(adapter) == set(FILES)
                shape = (len(asking.prompts), asking.samples)
                features = np.random.default_rng(number).normal(size=(*shape, 3))
                if number:
                    features += shifts[number - 1] * taste_of(artifact, number - 1)
                plain = np.zeros(shape)
                found.append(Answered((), Answers(features, plain, plain + 60.0, plain, plain)))
                progress(asking.num_orders)
            return found

        monkeypatch.setattr(adapting, "ask", ask)

    return set_shifts


def run(prepared: Path, *more: str) -> Result:
    options = ["--corpus", str(prepared / "corpus"), "--model", str(prepared / "tiny"), "--device", "cpu"]
    sizes = [
        "--artifact",
        "a1",
        "--steps",
        str(STEPS),
        "--batch-size",
        "2",
        "--rank",
        "2",
        "--judges",
        "drawn",
        "--prompts",
        "20",
    ]
    return CliRunner().invoke(palate, ["adapt", *options, *sizes, *more], catch_exceptions=False)


def test_the_winner_is_published_and_the_loser_is_not_kept(
    home: Home, prepared: Path, answered: Callable[[Sequence[float]], None]
) -> None:
    answered([0.3, -0.3])
    result = run(prepared, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    won, lost = said["adapters"]
    assert (won["prototype"], won["reasons"], won["judges"]) == (0, [], "drawn")
    assert (lost["prototype"], "loses" in lost["reasons"][0]) == (1, True)
    assert won["first_loss"] == pytest.approx(np.log(2.0), abs=1e-3)
    entry = Registry(home).entry(said["version"])
    artifact, manifest = load(entry.folder), entry.manifest
    assert artifact.adapters == (str(entry.folder / "adapter-0"), None)
    assert manifest.parents == ("a1",)
    assert manifest.data["held_out_share"] == 0.2
    assert set(manifest.data["adapters"]) == {"adapter-0"}
    assert manifest.data["adapters"]["adapter-0"]["training"]["steps"] == STEPS
    assert len(manifest.data["base_model_sha256"]) == 64
    assert [row["prototype"] for row in manifest.metrics["adapters"]] == [0, 1]
    np.testing.assert_array_equal(artifact.population.means, load(Registry(home).entry("a1").folder).population.means)
    assert not list((home.path / "adapt").iterdir())
    refused = CliRunner().invoke(palate, ["evaluate", "release", said["version"]])
    assert isinstance(refused.exception, ConfigurationError)
    assert "only its adapters differ" in str(refused.exception)
    assert Registry(home).publish(said["version"]).version == said["version"]  # with the ruling, not by force


def test_adapters_of_other_prototypes_stay(
    home: Home, prepared: Path, answered: Callable[[Sequence[float]], None]
) -> None:
    answered([0.3, 0.3])
    first = json.loads(run(prepared, "--json", "--prototype", "0").stdout)["version"]
    answered([-1.0])  # of prototype 0's taste: what prototype 1 likes
    second = json.loads(run(prepared, "--json", "--artifact", first, "--prototype", "1").stdout)["version"]
    artifact = load(Registry(home).entry(second).folder)
    assert None not in artifact.adapters
    assert set(Registry(home).entry(second).manifest.data["adapters"]) == {"adapter-0", "adapter-1"}
    with pytest.raises(ConfigurationError, match="not compared with a1"):
        Registry(home).publish(second)  # it was judged as a follower of the first, which does not serve


def test_where_nobody_wins_there_is_no_version(
    home: Home, prepared: Path, answered: Callable[[Sequence[float]], None]
) -> None:
    answered([0.0, -0.5])
    result = run(prepared)
    assert result.exit_code == NOBODY_WON
    assert "No adapter won" in result.output
    assert [path.name for path in home.artifacts.iterdir() if path.is_dir()] == ["a1"]
    assert not list((home.path / "adapt").iterdir())


def test_a_killed_run_goes_on(
    home: Home, prepared: Path, answered: Callable[[Sequence[float]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered([0.3])
    whole = json.loads(run(prepared, "--json", "--prototype", "0").stdout)
    taken: list[int] = []
    ask = adapting.__dict__["ask"]

    def counting(
        model: Any,
        pairs: Sequence[Tokens],
        config: TrainingConfig,
        checkpoints: Checkpoints,
        step_done: Callable[[Progress], object],
    ) -> Progress:
        def stepped(progress: Progress) -> None:
            taken.append(progress.num_steps)
            step_done(progress)

        return train(model, pairs, config, checkpoints, stepped)

    async def killed(*_: object) -> list[Answered]:
        raise Killed

    monkeypatch.setattr(adapting, "train", counting)
    monkeypatch.setattr(adapting, "ask", killed)
    options = ["--json", "--prototype", "0", "--name", "again"]
    with pytest.raises(Killed):
        run(prepared, *options)
    assert taken == list(range(1, STEPS + 1))
    monkeypatch.setattr(adapting, "ask", ask)
    again = json.loads(run(prepared, *options, "--resume").stdout)
    assert len(taken) == STEPS  # no step was taken twice
    assert again["version"].split("-")[-1] == whole["version"].split("-")[-1]  # the same adapter


def test_held_out_people_must_be_there(home: Home, prepared: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"held-out people belong to prototype 0.*--judges drawn"):
        run(prepared, "--judges", "held-out")


def test_a_prototype_without_a_taste_is_refused(home: Home, prepared: Path) -> None:
    artifact = opposed()
    means = np.array([[0.0, 0.0, 0.05], [0.0, 0.0, -4.0]])
    dull = replace(artifact, population=replace(artifact.population, means=means, version="dull"))
    save(dull, manifest_of(dull), home.artifacts)
    with pytest.raises(ConfigurationError, match=r"Prototype 0 tells answers apart by 0\.05 logits only"):
        run(prepared, "--artifact", "dull", "--prototype", "0")
    with pytest.raises(ConfigurationError, match="No prototype of dull has 90%"):
        run(prepared, "--artifact", "dull", "--min-share", "0.9")


def test_without_texts_there_is_nothing_to_learn_from(home: Home, prepared: Path) -> None:
    arguments = ["adapt", "--artifact", "a1", "--model", str(prepared / "tiny"), "--judges", "drawn", "--device", "cpu"]
    with pytest.raises(ConfigurationError, match="no pairs for prototype 0"):
        CliRunner().invoke(palate, arguments, catch_exceptions=False)
