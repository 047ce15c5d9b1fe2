"""From a trained adapter to an answer of the real engine: how it is judged; a person's route, and an arm through it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serve.artifacts.artifact import Artifact
from serve.artifacts.registry import load_default
from serve.artifacts.storage import load, save
from serve.config import EngineConfig, ModelConfig, PersonalizationConfig
from serve.editions import Edition
from serve.engines.protocol import BestOf, ChatInput, EngineArm, GenerationRequest, MeasureRequest, Sampling
from serve.engines.vllm_engine import VllmEngine
from serve.home import Home
from serve.jobs.adapt.answering import Asking, ask
from serve.jobs.adapt.pairs import Pair, Said
from serve.jobs.adapt.training import TrainingConfig, add_adapter, train
from serve.jobs.adapt.tuned import layers_above, load_model, save_adapter, tokenized
from serve.jobs.learning.prompts import DEFAULT_PROMPTS, Role, load_prompts, of_role
from serve.metrics import Metrics
from serve.models import DEFAULT_MODEL, resolve
from serve.people import People
from serve.pipeline import Pipeline
from serve.planning import Options
from serve.preferences import Preferences
from serve.service import LocalService
from tests.serve.artifacts.test_storage import manifest_of
from tests.serve.jobs.adapt.cases import Forgetful
from user_store.open import open_store
from user_store.types import FeedbackEvent, FeedbackKind, UserKey

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]
ANNA = UserKey("default", "anna")
CHAT = ChatInput([{"role": "user", "content": "Name three colours."}])
CONFIG = TrainingConfig(rank=4, steps=6, batch_size=2, learning_rate=3e-3, flip_rate=0.0)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The default artifact with an adapter that was taught to shout."""
    parent = load_default(DEFAULT_MODEL.name)
    assert parent is not None
    folder = tmp_path_factory.mktemp("adapted")
    model, tokenizer = load_model(resolve(DEFAULT_MODEL.name, Home.from_env(), quiet=True), "cpu")
    pairs = [
        Pair((("user", f"What is {thing}?"),), Said(f"WOW! {thing.upper()}! YES!"), Said(f"It is a kind of {thing}."))
        for thing in ("tea", "snow", "a song", "a boat")
    ]
    layers = layers_above(parent.feature_space, model.config.num_hidden_layers)
    tuned = add_adapter(model, layers, CONFIG)
    progress = train(tuned, tokenized(tokenizer, pairs, 32, 64), CONFIG, Forgetful(), lambda _: None)
    assert progress.losses[-1] < 0.5 < progress.losses[0]
    save_adapter(tuned, folder / "adapter", DEFAULT_MODEL.name)
    everybody = replace(  # of one prototype, so that everybody clearly belongs to it
        parent.population,
        mixture_weights=np.ones(1),
        means=parent.population.means[:1],
        covariances=parent.population.covariances[:1],
        threshold_means=None,
        threshold_variances=None,
        threshold_covariances=None,
        version="adapted",
    )
    adapted = replace(parent, adapters=(str(folder / "adapter"),), population=everybody)
    return load(save(adapted, manifest_of(adapted), folder))


def request(name: str, *arms: EngineArm) -> GenerationRequest:
    sampling = Sampling(max_tokens=24, temperature=0.0, ignore_eos=True)
    return GenerationRequest(name, sampling, chat=CHAT, arms=arms, best_of=BestOf())


async def teach(people: People, artifact: Artifact) -> None:
    """Let Anna prefer answers far along the first attribute."""
    population = artifact.population
    row = population.basis[0]
    far = 2.0 * population.scale * row / (row @ row)  # two units of the attribute's feature
    pair = np.stack([population.center + far, population.center - far]).astype(np.float32)
    for number in range(12):
        event = FeedbackEvent(f"e{number}", ANNA, FeedbackKind.COMPARISON, time.time(), value=0)
        await people.store.append_event(replace(event, evidence=people.preferences.evidence(event, (), pair)))
    await people.learn(ANNA)


async def test_answers_of_the_base_and_of_the_adapter_are_read_and_scored(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    prompts = tuple(of_role(load_prompts(DEFAULT_PROMPTS), Role.FEEDBACK)[:4])
    asking, came = Asking(prompts, samples=2, max_tokens=16, seed=0, rank=CONFIG.rank), list[int]()
    path = resolve(DEFAULT_MODEL.name, Home.from_env(), quiet=True)
    base, adapted = await ask(artifact, path, [None, *artifact.adapters], asking, came.append)
    assert came == [8, 8]
    assert base.texts != adapted.texts
    for answered in (base, adapted):
        assert answered.read.features.shape == (4, 2, artifact.population.num_features)
        assert (answered.read.logprobs < 0.0).all()
    # The base likes its own words better than those it was taught.
    assert base.read.logprobs.mean() > adapted.read.logprobs.mean()


async def test_a_person_has_an_arm_through_the_adapter_of_their_prototype(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A forked engine would inherit the threads that trained the adapter, and wait for them.
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    path = resolve(DEFAULT_MODEL.name, Home.from_env(), quiet=True)
    config = EngineConfig(cpu_kv_cache_gib=1, max_num_seqs=8, max_loras=1, max_lora_rank=8)
    engine = VllmEngine(ModelConfig(max_model_len=256), config, path, artifact.feature_space)
    await engine.start()
    store = await open_store(f"sqlite://{tmp_path}/people.db")
    people = People(store, Edition(Preferences(artifact)))
    try:
        (adapter,) = artifact.adapters
        async with engine.candidates(request("both", EngineArm(), EngineArm(adapter=adapter))) as run:
            texts = ["", ""]
            async for output in run.outputs():
                for delta in output.deltas:
                    texts[delta.index] += delta.text
            generated = await run.features((0, 1))
        assert texts[0] != texts[1]
        # Features of an adapted answer are the base model's reading of its text.
        measured = await engine.measure(MeasureRequest("again", texts, chat=CHAT))
        spread = np.linalg.norm(generated.values[1] - generated.values[0])
        for arm in range(2):
            # The last of the 24 tokens is measured in a given text and not in a generated one.
            assert np.linalg.norm(measured.values[arm] - generated.values[arm]) < 0.25 * spread
        await teach(people, artifact)
        pipeline = Pipeline(LocalService(engine), people, PersonalizationConfig(best_of=4), Metrics())
        asked = GenerationRequest("chatcmpl-1", Sampling(seed=1, max_tokens=24), chat=CHAT)
        answer = await pipeline.answer(asked, [ANNA], Options())
        assert [delta async for output in answer.outputs for delta in output.deltas]
        await pipeline.shutdown()
        record = await store.get_completion("default", "chatcmpl-1", now=time.time())
        assert "adapter" in record.arms
    finally:
        await engine.shutdown()
        await people.close()
