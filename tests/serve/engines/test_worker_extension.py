"""The extended engine against the plain one: nobody else's output changes by a bit, nothing leaks, nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from serve.engines.steering_request import KEY, SteeringRequest
from serve.engines.worker_messages import SENT, Projection, Reading, WorkerConfig
from tests.serve.engines.conftest import EngineStarter, SteppedEngine

pytestmark = [
    pytest.mark.engine,
    # vLLM and what it imports warn about their own future.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

LAYERS, H, D, BLOCK_SIZE = (14, 21), 576, 3, 32
SETTINGS = {"block_size": BLOCK_SIZE, "max_num_batched_tokens": 64}  # prompts of more than 64 tokens come in chunks
PROMPTS = {
    "france": "The capital of France is",
    "robot": "Once upon a time there was a little robot who",
    "bread": "To bake bread at home you need flour, water, salt and yeast. " * 8 + "First of all,",
}
RNG = np.random.default_rng(20261121)
DIRECTIONS = RNG.standard_normal((H, D)).astype(np.float32)
CONFIG = WorkerConfig(LAYERS, LAYERS[0], DIRECTIONS, max_dose=0.3, version="v1")
UP, DOWN = SteeringRequest((1.0, 0.5, 0.0), 0.3, pool=True), SteeringRequest((-1.0, 0.0, 0.5), 0.3, pool=True)
POOLED = SteeringRequest(pool=True)
NEXT_TURN = "\n\nNow tell me more about the second point."


@dataclass(frozen=True)
class PlainRun:
    """What the engine without the extension says."""

    alone: dict[str, list[int]]
    batched: dict[str, list[int]]


def run_batch(
    engine: SteppedEngine, robot: SteeringRequest | None, bread: SteeringRequest | None
) -> dict[str, list[int]]:
    return engine.run(
        france=(PROMPTS["france"], None), robot=(PROMPTS["robot"], robot), bread=(PROMPTS["bread"], bread)
    )


@pytest.fixture(scope="module")
def plain(start_engine: EngineStarter, default_model: str) -> PlainRun:
    engine = start_engine(default_model, None, **SETTINGS)
    alone = {name: engine.run(alone=(prompt, None))["alone"] for name, prompt in PROMPTS.items()}
    return PlainRun(alone, run_batch(engine, None, None))


@pytest.fixture(scope="module")
def shared_engine(plain: PlainRun, start_engine: EngineStarter, default_model: str) -> SteppedEngine:
    return start_engine(default_model, list(LAYERS), **SETTINGS)


@pytest.fixture
def engine(shared_engine: SteppedEngine) -> Iterator[SteppedEngine]:
    """The extended engine, empty and configured; afterwards nobody may still hold a row."""
    shared_engine.llm.reset_prefix_cache()
    shared_engine.configure(replace(CONFIG, max_finished=0))  # drops what a failed test left
    shared_engine.configure(CONFIG)
    rejected = shared_engine.stats()["num_rejected"]
    yield shared_engine
    assert shared_engine.stats() == {
        "num_live": 0,
        "num_rows_used": 0,
        "num_finished": 0,
        "num_rejected": rejected,
    }


def test_unsteered_requests_are_bit_identical(engine: SteppedEngine, plain: PlainRun) -> None:
    for name, prompt in PROMPTS.items():
        assert engine.run(alone=(prompt, None))["alone"] == plain.alone[name]
    assert run_batch(engine, None, None) == plain.batched


def test_each_request_of_a_batch_gets_its_own(engine: SteppedEngine, plain: PlainRun) -> None:
    batch = engine.run(
        france=(PROMPTS["france"], None),
        up=(PROMPTS["robot"], UP),
        down=(PROMPTS["robot"], DOWN),
        pooled=(PROMPTS["robot"], POOLED),
        bread=(PROMPTS["bread"], None),
    )
    assert batch["france"] == plain.batched["france"]
    assert batch["bread"] == plain.batched["bread"]
    assert batch["pooled"] == plain.batched["robot"]
    assert len({tuple(batch[name]) for name in ("up", "down", "pooled")}) == 3
    # The others' steering makes no difference to one's own. (A batch of another size may: it sums in another order.)
    again = engine.run(
        france=(PROMPTS["france"], DOWN),
        up=(PROMPTS["robot"], UP),
        down=(PROMPTS["robot"], None),
        pooled=(PROMPTS["robot"], UP),
        bread=(PROMPTS["bread"], DOWN),
    )
    assert again["up"] == again["pooled"] == batch["up"]
    assert again["down"] == plain.batched["robot"]
    engine.llm.collective_rpc("free_states", args=(list(batch),))


def test_the_first_token_is_the_prompts_own(engine: SteppedEngine, plain: PlainRun) -> None:
    """It comes from the last token of the prompt, which is never steered."""
    assert engine.run(up=(PROMPTS["france"], UP))["up"][0] == plain.alone["france"][0]
    engine.llm.collective_rpc("free_states", args=(["up"],))


def converse(engine: SteppedEngine, name: str, steering: SteeringRequest | None) -> list[int]:
    """Have one long turn; return the conversation with the next question."""
    prompt = engine.tokens(PROMPTS["bread"])
    engine.add(name, prompt, steering, max_tokens=100, ignore_eos=True)
    engine.drain()
    answer = list(engine.texts[name].outputs[0].token_ids)
    return prompt + answer + engine.tokens(NEXT_TURN)


def cached_and_said(engine: SteppedEngine, name: str, prompt: list[int]) -> tuple[int, list[tuple[int, float]]]:
    """Ask unsteered; return the tokens found in the cache, and the answer's tokens with their log-probabilities."""
    engine.add(name, prompt, None, max_tokens=8, ignore_eos=True, logprobs=0)
    engine.drain()
    output = engine.texts[name].outputs[0]
    said = [(token, at[token].logprob) for token, at in zip(output.token_ids, output.logprobs, strict=True)]
    return engine.texts[name].num_cached_tokens, said


def full_blocks(num_tokens: int) -> int:
    return num_tokens // BLOCK_SIZE * BLOCK_SIZE


def never_steered(engine: SteppedEngine, conversation: list[int]) -> tuple[int, list[tuple[int, float]]]:
    """Ask with a cache that holds the first prompt from an unsteered request, and nothing else."""
    engine.llm.reset_prefix_cache()
    engine.add("first", PROMPTS["bread"], None, max_tokens=1)
    engine.drain()
    return cached_and_said(engine, "never-steered", conversation)


def test_nobody_reads_steered_blocks(engine: SteppedEngine) -> None:
    num_prompt_tokens = len(engine.tokens(PROMPTS["bread"]))
    steered = converse(engine, "turn-1", replace(UP, pool=False))
    # The same conversation from somebody else: the first prompt's blocks are shared, the answer's are not.
    stranger = cached_and_said(engine, "stranger", steered)
    assert stranger[0] == full_blocks(num_prompt_tokens)
    assert stranger == never_steered(engine, steered)  # to the last bit


def test_a_steered_next_turn_is_a_shared_prompt(engine: SteppedEngine) -> None:
    steered = converse(engine, "turn-1", replace(UP, pool=False))
    engine.run(**{"turn-2": (steered, replace(UP, pool=False))})
    shared = cached_and_said(engine, "stranger", steered)
    assert shared[0] == full_blocks(len(steered))
    engine.llm.reset_prefix_cache()
    engine.run(first=(PROMPTS["bread"], None), second=(steered, None))
    assert cached_and_said(engine, "never-steered", steered) == shared


def test_several_steered_turns_leave_nothing_behind(engine: SteppedEngine) -> None:
    prompts = [engine.tokens(PROMPTS["bread"])]
    for turn in range(3):
        name = f"turn-{turn}"
        engine.add(name, prompts[-1], replace(UP, pool=False), max_tokens=70, ignore_eos=True)
        engine.drain()
        answer = list(engine.texts[name].outputs[0].token_ids)
        prompts.append(prompts[-1] + answer + engine.tokens(NEXT_TURN))
    stranger = cached_and_said(engine, "stranger", prompts[-1])
    engine.llm.reset_prefix_cache()
    for turn, prompt in enumerate(prompts[:-1]):  # the same prompts from somebody whom nobody ever steered
        engine.add(f"plain-{turn}", prompt, None, max_tokens=1)
        engine.drain()
    assert cached_and_said(engine, "never-steered", prompts[-1]) == stranger  # hits and, to the last bit, answers


def test_blocks_of_unsteered_answers_stay_shared(engine: SteppedEngine) -> None:
    unsteered = converse(engine, "turn-1", None)
    num_answered = len(unsteered) - len(engine.tokens(NEXT_TURN))
    cached, _ = cached_and_said(engine, "stranger", unsteered)
    assert cached == full_blocks(num_answered - 1)  # the last token of an answer is never computed


def test_without_private_blocks_the_trap_is_real(engine: SteppedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were steered blocks hashed like others, a stranger would read them and say something else."""
    monkeypatch.setattr("serve.engines.steering_scheduler.may_be_steered", lambda _: False)
    steered = converse(engine, "turn-1", replace(UP, pool=False))
    trapped, said = cached_and_said(engine, "stranger", steered)
    assert trapped > full_blocks(len(engine.tokens(PROMPTS["bread"])))
    assert never_steered(engine, steered)[1] != said


def test_states_are_read_while_generating_and_after(engine: SteppedEngine) -> None:
    engine.add("a", PROMPTS["france"], POOLED, max_tokens=10, ignore_eos=True)
    engine.add("b", PROMPTS["robot"], UP, max_tokens=10, ignore_eos=True)
    engine.step(5)
    early = engine.read("a", "b", "nobody")
    assert early.version == "v1"
    assert 0 < early.counts["a"] < 9
    assert set(early.values) == {"a", "b"}
    assert early.values["a"].shape == (len(LAYERS), H)
    engine.drain()
    late = engine.read("a", "b")
    assert late.counts == {"a": 9, "b": 9}  # the tenth token is never fed back
    assert not np.allclose(late.values["a"], early.values["a"])
    engine.llm.collective_rpc("free_states", args=(["a", "b"],))
    assert engine.read("a", "b").counts == {}


def test_children_of_one_request_are_apart(engine: SteppedEngine) -> None:
    engine.add("r", PROMPTS["robot"], UP, n=3, temperature=1.0, seed=7, max_tokens=12, ignore_eos=True)
    engine.drain()
    children = ["0_r", "1_r", "2_r"]
    states = engine.read(*children)
    assert list(states.counts.values()) == [11, 11, 11]
    assert len({states.values[child].tobytes() for child in children}) == 3
    engine.llm.collective_rpc("free_states", args=(children,))


def test_an_aborted_request_gives_everything_back(engine: SteppedEngine) -> None:
    engine.add("loser", PROMPTS["france"], UP, max_tokens=100, ignore_eos=True)
    engine.add("winner", PROMPTS["robot"], UP, max_tokens=20, ignore_eos=True)
    engine.step(6)
    assert engine.stats()["num_rows_used"] == 2
    engine.llm.abort_request(["loser"])
    engine.llm.collective_rpc("free_states", args=(["loser"],))
    engine.step()
    assert engine.stats()["num_rows_used"] == 1
    engine.drain()
    assert engine.stats() == {**engine.stats(), "num_live": 0, "num_rows_used": 0, "num_finished": 1}
    engine.llm.collective_rpc("free_states", args=(["winner"],))


def test_what_was_finished_is_kept_for_a_bounded_while(engine: SteppedEngine) -> None:
    engine.configure(replace(CONFIG, max_finished=2))
    for name in ("a", "b", "c"):
        engine.run(**{name: (PROMPTS["france"], POOLED)})
    assert list(engine.read("a", "b", "c").counts) == ["b", "c"]
    engine.configure(replace(CONFIG, max_finished=0))


def test_features_are_the_projection_of_the_states(engine: SteppedEngine) -> None:
    engine.run(a=(PROMPTS["france"], POOLED))
    pooled = engine.read("a").values["a"].ravel()
    width = len(LAYERS) * H
    projection = Projection(
        RNG.standard_normal((D, width)).astype(np.float32),
        RNG.standard_normal(width).astype(np.float32),
        RNG.uniform(0.5, 2, width).astype(np.float32),
    )
    engine.configure(replace(CONFIG, projection=projection, version="v2"))
    features = engine.read("a")
    assert features.version == "v2"
    expected = projection.basis @ ((pooled - projection.mean) / projection.scale)
    np.testing.assert_allclose(features.values["a"], expected, rtol=1e-4, atol=1e-2)
    engine.llm.collective_rpc("free_states", args=(["a"],))


@pytest.mark.parametrize(
    "fields", [{"coeffs": [1.0] * (D + 1)}, {"coeffs": ["x"]}, {"coeffs": [float("nan")] * D}, {"unknown": 1}]
)
def test_a_request_that_cannot_be_served_as_asked_is_counted(
    engine: SteppedEngine, plain: PlainRun, fields: object
) -> None:
    from vllm import SamplingParams

    before = engine.stats()["num_rejected"]
    params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True, extra_args={KEY: fields})
    engine.llm.add_request("bad", PROMPTS["france"], params)
    engine.drain()
    assert list(engine.texts["bad"].outputs[0].token_ids) == plain.alone["france"]
    steerer = engine.llm.engine_core.engine_core.model_executor.driver_worker.worker._palate_steerer
    assert engine.stats()["num_rejected"] == before + 1
    steerer.num_rejected = before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(CONFIG, directions=DIRECTIONS[:-1]), "states 576"),
        (replace(CONFIG, steered_layer=30), "no layer 30"),
    ],
)
def test_a_configuration_of_another_model_is_refused(engine: SteppedEngine, config: WorkerConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine.configure(config)


def test_the_steered_layer_does_not_change_under_way(engine: SteppedEngine) -> None:
    engine.add("a", PROMPTS["france"], replace(UP, pool=False), max_tokens=8)
    engine.step(3)
    with pytest.raises(ValueError, match="drain"):
        engine.configure(replace(CONFIG, steered_layer=LAYERS[1]))
    engine.drain()


def test_steering_without_private_blocks_is_refused(engine: SteppedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.llm.vllm_config.scheduler_config, "scheduler_cls", None)
    with pytest.raises(ValueError, match="scheduler_cls"):
        engine.configure(CONFIG)


def test_states_leave_with_the_step_that_makes_them_due(engine: SteppedEngine) -> None:
    marked = replace(UP, marks=(3, 7))
    engine.add("marked", PROMPTS["robot"], marked, max_tokens=12, ignore_eos=True)
    engine.add("plain", PROMPTS["robot"], None, max_tokens=12, ignore_eos=True)
    sent: dict[int, Reading] = {}
    asked: dict[int, np.ndarray] = {}
    while engine.llm.has_unfinished_requests():
        for output in engine.llm.step():
            message = (output.kv_transfer_params or {}).get(SENT)
            assert message is None or output.request_id == "marked"
            if message is not None:
                reading = Reading.from_message(message)
                sent[reading.count] = reading
                if reading.count != 11:
                    asked[reading.count] = engine.read("marked").values["marked"]
    engine.step()
    asked[11] = engine.read("marked").values["marked"]
    assert sorted(sent) == [3, 7, 11]
    for count, reading in sent.items():
        assert reading.version == "v1"
        np.testing.assert_array_equal(reading.values, asked[count])
    engine.llm.collective_rpc("free_states", args=(["marked"],))
