"""What the evaluation asks of a running server: plain and personal answers, questions, feedback. OpenAI's API and ours.

Knows nothing of people's tastes; concurrency is bounded here.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from serve.errors import EngineUnavailable

TIMEOUT_S = 600.0
RESTART_S = 300.0  # that an engine may take to be there again
LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for an answer."""

    prompt: str
    seed: int
    user: str | None = None
    best_of: int = 1
    instruction: str | None = None  # put before the conversation as a system message
    is_halving: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """One answer, with what the server says about it."""

    text: str
    num_tokens: int  # computed for it, all candidates together
    report: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0  # from sending the request to the whole answer


@dataclass(frozen=True, slots=True)
class Question:
    """Answers that the server would like a person to choose from."""

    id: str
    prompt: str
    answers: tuple[str, ...]


class Client:
    """A running server, used through HTTP alone."""

    def __init__(self, http: httpx.AsyncClient, model: str, max_tokens: int, temperature: float, concurrency: int):
        self._http = http
        self._model = model
        self._max_tokens = max_tokens
        self._temperature = temperature
        self._turns = asyncio.Semaphore(concurrency)

    async def answer(self, asked: Asked) -> Served:
        """Ask for one answer; without a user it is the base model's."""
        messages = [{"role": "user", "content": asked.prompt}]
        if asked.instruction is not None:
            messages.insert(0, {"role": "system", "content": asked.instruction})
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "max_tokens": self._max_tokens,
            "temperature": self._temperature,
            "seed": asked.seed,
        }
        if asked.user is None:
            body["palate"] = {"off": True}
        else:
            body["user"] = asked.user
            body["palate"] = {"best_of": asked.best_of, "halving": asked.is_halving}
        reply, seconds = await self._timed("POST", "/v1/chat/completions", json=body)
        report = reply.get("palate") or {}
        tokens = int(report.get("candidate_tokens") or reply["usage"]["completion_tokens"])
        text = reply["choices"][0]["message"]["content"] or ""
        return Served(text, tokens, report, seconds)

    async def answers(self, asked: list[Asked]) -> list[Served]:
        """Ask for many answers at once, in order."""
        return list(await asyncio.gather(*map(self.answer, asked)))

    async def question(self, user: str) -> Question | None:
        """Ask what the server would like to know next; None if nothing."""
        reply = await self._request("GET", f"/v1/users/{user}/questions", params={"limit": 1})
        rows = reply["data"]
        if not rows:
            return None
        return Question(rows[0]["id"], rows[0]["prompt"], tuple(rows[0]["candidates"]))

    async def answer_question(self, user: str, question: Question, preferred: int) -> None:
        """Say which of a question's answers the person prefers."""
        body = {"kind": "comparison", "user": user, "question_id": question.id, "value": preferred}
        await self._post("/v1/feedback", body)

    async def compare(self, user: str, prompt: str, answers: list[str], preferred: int) -> None:
        """Say which of some texts the person prefers."""
        body = {"kind": "comparison", "user": user, "prompt": prompt, "candidates": answers, "value": preferred}
        await self._post("/v1/feedback", body)

    async def forget(self, user: str) -> None:
        """Delete everything about a person."""
        async with self._turns:
            reply = await self._http.delete(f"/v1/users/{user}")
        if reply.status_code not in (httpx.codes.OK, httpx.codes.NO_CONTENT, httpx.codes.NOT_FOUND):
            raise EngineUnavailable(f"DELETE /v1/users/{user}: {reply.status_code} {reply.text[:300]}")

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._request("POST", path, json=body)

    async def _request(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        return (await self._timed(method, path, **content))[0]

    async def _timed(self, method: str, path: str, **content: Any) -> tuple[dict[str, Any], float]:
        async with self._turns:
            first = time.perf_counter()
            while True:
                begin = time.perf_counter()
                reply = await self._http.request(method, path, **content)
                seconds = time.perf_counter() - begin
                is_restarting = reply.status_code == httpx.codes.SERVICE_UNAVAILABLE  # nothing was done
                if not is_restarting or time.perf_counter() - first > RESTART_S:
                    break
                await asyncio.sleep(LOOK_S)
        if reply.status_code != httpx.codes.OK:
            raise EngineUnavailable(f"{method} {path}: {reply.status_code} {reply.text[:300]}")
        return reply.json(), seconds
