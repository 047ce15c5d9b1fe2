"""The whole experiment against a server that is made up here, through HTTP."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import httpx
import numpy as np
import pytest

from serve.errors import EngineUnavailable
from serve.jobs.learning.prompts import Prompt
from serve.jobs.learning.text import Array
from serve.jobs.simulated import client as client_module
from serve.jobs.simulated.client import Client
from serve.jobs.simulated.findings import Finding, summarise
from serve.jobs.simulated.people import Judging, Meter
from serve.jobs.simulated.protocol import Experiment, Plan

WORDS = ("the", "house", "you", "It's", "we", "(so)", '"no"', "is", "12", "of", "Paris", "old,", "go!", "said:", "red.")
PLAN = Plan(num_people=12, prompts_per_person=4, steps=(0, 2, 6), best_of=(1, 8), judging=Judging(50.0, 0.0))


def text_of(prompt: str, seed: int) -> str:
    rng = random.Random(f"{prompt}/{seed}")
    words = rng.choices(WORDS, weights=[rng.random() for _ in WORDS], k=40)
    return " ".join(words).capitalize()


@dataclass
class MadeUpServer:
    """Serves, of eight answers, the one most like what the person chose and least like what they did not."""

    is_leaky: bool = False  # answers people without feedback otherwise than the base
    choices: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    deleted: Counter[str] = field(default_factory=Counter)
    questions: int = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "DELETE":
            self.deleted[path.rsplit("/", 1)[-1]] += 1
            return httpx.Response(404)
        if path.endswith("/questions"):
            self.questions += 1
            pair = [text_of("question", self.questions), text_of("question", -self.questions)]
            row = {"id": f"q-{self.questions}", "prompt": "question", "candidates": pair}
            return httpx.Response(200, json={"data": [row]})
        body = json.loads(request.content)
        if path == "/v1/feedback":
            return self._feedback(body)
        assert path == "/v1/chat/completions"
        return self._chat(body)

    def _feedback(self, body: dict[str, object]) -> httpx.Response:
        if "question_id" in body:
            number = int(str(body["question_id"])[2:])
            candidates = [text_of("question", number), text_of("question", -number)]
        else:
            candidates = [str(text) for text in body["candidates"]]  # type: ignore[attr-defined]
        chosen = candidates.pop(int(str(body["value"])))
        self.choices.setdefault(str(body["user"]), []).append((chosen, candidates[0]))
        return httpx.Response(200, json={"id": "e"})

    def _chat(self, body: dict[str, object]) -> httpx.Response:
        messages: list[dict[str, str]] = body["messages"]  # type: ignore[assignment]
        prompt, seed, user = messages[-1]["content"], int(str(body["seed"])), str(body.get("user"))
        text, options = text_of(prompt, seed), body["palate"]
        assert isinstance(options, dict)
        num = options.get("best_of", 1)
        if user in self.choices and num > 1:
            pool = [text, *(text_of(prompt, seed + i) for i in range(1, num))]
            meter = Meter.of(pool)
            wish = sum(meter([chosen])[0] - meter([rejected])[0] for chosen, rejected in self.choices[user])
            text = pool[int(np.argmax(meter(pool) @ wish))]
        elif user != "None" and self.is_leaky:
            text += " leak"
        report = {"candidate_tokens": 40 * num} if user != "None" else {}
        return httpx.Response(
            200,
            json={
                "choices": [{"message": {"content": text}}],
                "usage": {"completion_tokens": 40},
                "palate": report,
            },
        )


async def run(server: MadeUpServer, plan: Plan, *, with_embedder: bool = True) -> tuple[Experiment, list[Finding]]:
    def embed(texts: Sequence[str]) -> Array:
        return np.array([[text.count(word) for word in WORDS] for text in texts], np.float64)

    prompts = [Prompt(f"p{i}", f"Prompt {i}") for i in range(16)]
    transport = httpx.MockTransport(server)
    async with httpx.AsyncClient(transport=transport, base_url="http://made-up") as http:
        client = Client(http, "model", max_tokens=40, temperature=0.8, concurrency=4)
        experiment = Experiment(
            client, plan, prompts[:8], prompts[8:], embed if with_embedder else None, progress=lambda _: None
        )
        await experiment.run()
    return experiment, summarise(experiment.scores)


async def test_every_arm_is_measured_at_every_step() -> None:
    server = MadeUpServer()
    experiment, findings = await run(server, PLAN)
    found = {(one.arm, one.best_of, one.k): one for one in findings}
    expected = {("base", 1, 0), ("uniform", 8, 0), ("oracle", 8, 0), ("palate", 1, 0), ("palate", 8, 0)}
    for k in (2, 6):
        expected |= {("palate", 1, k), ("palate", 8, k), ("profile_sentence", 1, k), ("embedding", 8, k)}
        expected |= {("swap", 8, k)}
    assert set(found) == expected
    assert found["palate", 8, 0].gain_sigma == 0.0
    assert found["palate", 8, 6].gain_sigma > 0.3
    assert found["palate", 8, 6].gain_sigma > found["swap", 8, 6].gain_sigma + 0.3
    assert found["palate", 8, 6].tokens_ratio == pytest.approx(8.0)
    assert found["oracle", 8, 0].gain_sigma > found["palate", 8, 6].gain_sigma
    assert all(one.num_people == PLAN.num_people for one in findings)
    assert all(len(choices) == 6 for choices in server.choices.values())
    assert set(server.deleted.values()) == {2}  # before and after
    counts = Counter(score.arm for score in experiment.scores)
    assert counts["base"] == PLAN.num_people * PLAN.prompts_per_person


async def test_people_can_teach_without_being_served_or_forgotten() -> None:
    server = MadeUpServer()
    prompts = [Prompt(f"p{i}", f"Prompt {i}") for i in range(8)]
    plan = replace(PLAN, steps=(5,), prompts_per_person=0)
    async with httpx.AsyncClient(transport=httpx.MockTransport(server), base_url="http://made-up") as http:
        experiment = Experiment(Client(http, "model", 40, 0.8, 4), plan, prompts, [], None, lambda _: None)
        await experiment.teach()
    assert [len(choices) for choices in server.choices.values()] == [5] * PLAN.num_people
    assert not server.deleted
    assert not experiment.scores


async def test_questions_of_the_server_can_be_the_feedback() -> None:
    server = MadeUpServer()
    _, findings = await run(server, replace(PLAN, feedback="questions"), with_embedder=False)
    assert server.questions == 6 * PLAN.num_people
    assert "embedding" not in {one.arm for one in findings}


async def test_an_answer_that_is_not_the_base_without_feedback_ends_the_run() -> None:
    with pytest.raises(EngineUnavailable, match="did not get the base answer"):
        await run(MadeUpServer(is_leaky=True), PLAN)


async def test_a_refusal_of_the_server_is_an_error_that_says_what_was_asked() -> None:
    def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(400, text="no such option")

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse), base_url="http://made-up") as http:
        client = Client(http, "model", 40, 0.8, 4)
        with pytest.raises(EngineUnavailable, match=r"/v1/feedback: 400 no such option"):
            await client.compare("user", "prompt", ["a", "b"], 0)


async def test_an_engine_that_is_being_restarted_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([503, 503, 200])

    def restart(_: httpx.Request) -> httpx.Response:
        return httpx.Response(next(answers, 503), json={})

    monkeypatch.setattr(client_module, "LOOK_S", 0.0)
    async with httpx.AsyncClient(transport=httpx.MockTransport(restart), base_url="http://made-up") as http:
        client = Client(http, "model", 40, 0.8, 4)
        await client.compare("user", "prompt", ["a", "b"], 0)
        assert next(answers, None) is None
        monkeypatch.setattr(client_module, "RESTART_S", 0.0)
        with pytest.raises(EngineUnavailable, match="503"):
            await client.compare("user", "prompt", ["a", "b"], 0)
