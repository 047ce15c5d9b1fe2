"""The experiment: plain answers, feedback in steps, answers after each step, and what others would have served.

One person cares about hidden properties of text; k times they say which of some answers is best; then they are
served prompts nobody gave feedback on. Everything personal goes through the server's HTTP API.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from serve.errors import EngineUnavailable
from serve.jobs.learning.prompts import Prompt
from serve.jobs.learning.questions import repeats_itself
from serve.jobs.simulated.baselines import (
    PRIOR_VARIANCES,
    Choice,
    Embed,
    embedding_weights,
    pick,
    profile_sentence,
)
from serve.jobs.simulated.client import Asked, Client, Served
from serve.jobs.simulated.findings import Score
from serve.jobs.simulated.people import NOTHING_COMMON, Common, Judging, Meter, Person, draw_people
from serve.jobs.simulated.tastes import FAMILIES, TasteFamily

In = TypeVar("In")
Out = TypeVar("Out")
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    num_people: int = 40
    prompts_per_person: int = 10
    steps: tuple[int, ...] = (0, 1, 3, 10)  # pieces of feedback, ascending
    best_of: tuple[int, ...] = (1, 8)
    num_plain: int = 8  # plain answers a prompt
    feedback: Literal["answers", "questions"] = "questions"  # what people choose among
    num_shown: int = 4  # plain answers to choose among; a question brings its own
    tastes: TasteFamily = "known"  # to the population of the default artifact
    common: Common = NOTHING_COMMON
    is_halving: bool = False
    judging: Judging = field(default_factory=Judging)
    seed: int = 0


@dataclass(eq=False)
class Subject:
    """A person on their way through the experiment."""

    person: Person
    prompts: list[Prompt]  # to be served
    shown: list[tuple[Prompt, list[str]]]  # plain answers to choose among
    rng: np.random.Generator
    choices: list[Choice] = field(default_factory=list)


@dataclass(eq=False)
class Experiment:
    """One run; `run` does everything in order."""

    client: Client
    plan: Plan
    feedback_prompts: list[Prompt]
    evaluation_prompts: list[Prompt]
    embed: Embed | None
    progress: Progress
    plain: dict[str, list[Served]] = field(default_factory=dict)  # prompt id -> plain answers
    scores: list[Score] = field(default_factory=list)
    served: dict[tuple[str, str], str] = field(default_factory=dict)  # (person, prompt) -> the last step's answer
    seconds: dict[tuple[int, int], list[float]] = field(default_factory=dict)  # (best_of, k) -> of every answer
    shown: set[int] = field(default_factory=set)  # how many answers people chose among
    versions: set[str] = field(default_factory=set)  # of the artifacts that personal answers named
    meter: Meter = field(init=False)
    subjects: list[Subject] = field(default_factory=list)

    async def run(self) -> list[Score]:
        """Measure everything."""
        await self._gather_plain()
        self._draw_subjects()
        for subject in self.subjects:
            await self.client.forget(subject.person.id)
        self._score_without_feedback()
        before = 0
        for k in self.plan.steps:
            await self._give_feedback(before, k)
            for best_of in self.plan.best_of:
                await self._serve(k, best_of)
            if k:
                await self._serve_sentence(k)
                self._rerank(k)
            before = k
        for subject in self.subjects:
            await self.client.forget(subject.person.id)
        return self.scores

    async def teach(self) -> None:
        """Let people say what they think, and leave it at that: nobody is served, and nobody forgotten."""
        await self._gather_plain()
        self._draw_subjects()
        await self._give_feedback(0, max(self.plan.steps))

    @property
    def num_answers(self) -> int:
        """How many answers will be asked for."""
        plan = self.plan
        plain = (len(self.feedback_prompts) + len(self.evaluation_prompts)) * plan.num_plain
        served = plan.num_people * plan.prompts_per_person
        return plain + served * (len(plan.best_of) * len(plan.steps) + sum(k > 0 for k in plan.steps))

    async def _gather_plain(self) -> None:
        prompts = [one for one in (*self.feedback_prompts, *self.evaluation_prompts) if one.id not in self.plain]
        asked = [
            Asked(prompt.text, plain_seed(self.plan.seed, prompt, i))
            for prompt in prompts
            for i in range(self.plan.num_plain)
        ]
        served = await self._counted(asked)
        for number, prompt in enumerate(prompts):
            start = number * self.plan.num_plain
            self.plain[prompt.id] = served[start : start + self.plan.num_plain]
        self.meter = Meter.of(
            [one.text for answers in self.plain.values() for one in answers], FAMILIES[self.plan.tastes]
        )

    def _draw_subjects(self) -> None:
        plan = self.plan
        plain = self.meter([one.text for answers in self.plain.values() for one in answers])
        people = draw_people(plan.num_people, plain, plan.seed, plan.common)
        for number, person in enumerate(people):
            rng = np.random.default_rng([plan.seed, number])
            # Everybody is served another run of the prompts, so that each prompt is as important as any other.
            first = number * plan.prompts_per_person
            prompts = [
                self.evaluation_prompts[(first + i) % len(self.evaluation_prompts)]
                for i in range(plan.prompts_per_person)
            ]
            shown = [self._shown(rng) for _ in range(max(plan.steps))]
            self.subjects.append(Subject(person, prompts, shown, rng))

    def _shown(self, rng: np.random.Generator) -> tuple[Prompt, list[str]]:
        """Different plain answers to a prompt for feedback."""
        num = min(self.plan.num_shown, self.plan.num_plain)
        for _ in range(100):
            prompt = self.feedback_prompts[int(rng.integers(len(self.feedback_prompts)))]
            answers = self.plain[prompt.id]
            texts = [answers[i].text for i in rng.choice(len(answers), size=num, replace=False)]
            if len(set(texts)) == num and all(text.strip() for text in texts):
                return prompt, texts
        raise EngineUnavailable("The plain answers to a prompt are all the same; there is nothing to compare.")

    async def _give_feedback(self, before: int, k: int) -> None:
        for number in range(before, k):
            await gather(self.subjects, partial(self._compare, number=number))

    async def _compare(self, subject: Subject, number: int) -> None:
        person, is_early = subject.person, number < max(self.plan.steps) // 2
        question = await self.client.question(person.id) if self.plan.feedback == "questions" else None
        if question is not None:
            prompt, texts = question.prompt, list(question.answers)
        else:
            asked, texts = subject.shown[number]
            prompt = asked.text
        self.shown.add(len(texts))
        chosen = person.chooses(self.meter(texts), is_early, self.plan.judging, subject.rng)
        if question is not None:
            await self.client.answer_question(person.id, question, chosen)
        else:
            await self.client.compare(person.id, prompt, texts, chosen)
        subject.choices += [Choice(prompt, texts[chosen], text) for i, text in enumerate(texts) if i != chosen]

    async def _serve(self, k: int, best_of: int) -> None:
        served = await self._ask_for_everyone(best_of, lambda subject: None, is_personal=True)
        self.seconds[best_of, k] = [answer.seconds for answer in served.values()]
        self.versions |= {answer.report["artifact"] for answer in served.values() if answer.report.get("artifact")}
        for (subject, prompt), answer in served.items():
            number = self._plain_number(subject, prompt)
            base = self.plain[prompt.id][number]
            if k == 0:
                if answer.text != base.text:
                    raise EngineUnavailable(f"Without feedback {subject.person.id} did not get the base answer.")
                self._score("palate", best_of, 0, subject, prompt, base.text, answer.num_tokens, against=base.text)
                continue
            self._score("palate", best_of, k, subject, prompt, answer.text, answer.num_tokens)
            self.served[subject.person.id, prompt.id] = answer.text
        if k and best_of == max(self.plan.best_of):
            self._swap(k, best_of)

    async def _serve_sentence(self, k: int) -> None:
        served = await self._ask_for_everyone(
            1, lambda subject: profile_sentence(subject.choices, self.meter), is_personal=False
        )
        for (subject, prompt), answer in served.items():
            self._score("profile_sentence", 1, k, subject, prompt, answer.text, answer.num_tokens)

    async def _ask_for_everyone(
        self, best_of: int, instruction: Callable[[Subject], str | None], *, is_personal: bool
    ) -> dict[tuple[Subject, Prompt], Served]:
        keys = [(subject, prompt) for subject in self.subjects for prompt in subject.prompts]
        asked = [
            Asked(
                prompt=prompt.text,
                seed=plain_seed(self.plan.seed, prompt, self._plain_number(subject, prompt)),
                user=subject.person.id if is_personal else None,
                best_of=best_of,
                instruction=instruction(subject),
                is_halving=self.plan.is_halving,
            )
            for subject, prompt in keys
        ]
        return dict(zip(keys, await self._counted(asked), strict=True))

    async def _counted(self, asked: list[Asked]) -> list[Served]:
        async def one(request: Asked) -> Served:
            served = await self.client.answer(request)
            self.progress(1)
            return served

        return await gather(asked, one)

    def _score_without_feedback(self) -> None:
        """Score the base, the best for the average person, and a perfect judge."""
        for subject in self.subjects:
            for prompt in subject.prompts:
                texts = [one.text for one in self.plain[prompt.id]]
                tokens = sum(one.num_tokens for one in self.plain[prompt.id])
                values = self.meter(texts)
                average = np.mean([other.person.utility(values) for other in self.subjects], axis=0)
                best = texts[int(np.argmax(subject.person.utility(values)))]
                number = self._plain_number(subject, prompt)
                self._score("base", 1, 0, subject, prompt, texts[number], self.plain[prompt.id][number].num_tokens)
                self._score("uniform", len(texts), 0, subject, prompt, texts[int(np.argmax(average))], tokens)
                self._score("oracle", len(texts), 0, subject, prompt, best, tokens)

    def _rerank(self, k: int) -> None:
        """Score a reranker over sentence embeddings: for each prior variance, and report the best one."""
        if self.embed is None:
            return
        pools = {prompt.id: self.embed([one.text for one in self.plain[prompt.id]]) for prompt in self.served_prompts}
        attempts: list[list[Score]] = []
        for variance in PRIOR_VARIANCES:
            kept, self.scores = self.scores, []
            for subject in self.subjects:
                chosen = self.embed([choice.chosen for choice in subject.choices])
                rejected = self.embed([choice.rejected for choice in subject.choices])
                weights = embedding_weights(chosen, rejected, variance)
                for prompt in subject.prompts:
                    answers = self.plain[prompt.id]
                    text = answers[pick(pools[prompt.id], weights)].text
                    tokens = sum(one.num_tokens for one in answers)
                    self._score("embedding", len(answers), k, subject, prompt, text, tokens)
            attempts.append(self.scores)
            self.scores = kept
        self.scores += max(attempts, key=lambda scores: np.mean([score.gain for score in scores]))

    def _swap(self, k: int, best_of: int) -> None:
        """Score what each person would think of the answers made for another one, to the same prompts."""
        for number, subject in enumerate(self.subjects):
            for prompt in subject.prompts:
                following = [*self.subjects[number + 1 :], *self.subjects[:number]]
                for other in [other for other in following if prompt in other.prompts][:1]:
                    text = self.served[other.person.id, prompt.id]
                    self._score("swap", best_of, k, subject, prompt, text, 0)

    @property
    def served_prompts(self) -> list[Prompt]:
        """Every prompt that somebody is served."""
        return list(dict.fromkeys(prompt for subject in self.subjects for prompt in subject.prompts))

    def _plain_number(self, subject: Subject, prompt: Prompt) -> int:
        """Which plain answer is this person's base: they differ, so that no single sample is everybody's."""
        return zlib.crc32(f"{subject.person.id}/{prompt.id}".encode()) % self.plan.num_plain

    def _score(
        self,
        arm: str,
        best_of: int,
        k: int,
        subject: Subject,
        prompt: Prompt,
        text: str,
        num_tokens: int,
        against: str | None = None,
    ) -> None:
        person, plain = subject.person, self.plain[prompt.id]
        references = [one.text for one in plain] if against is None else [against]
        gain = person.utility(self.meter([text]))[0] - person.utility(self.meter(references)).mean()
        ratio = num_tokens / max(float(np.mean([one.num_tokens for one in plain])), 1.0)
        score = Score(arm, best_of, k, person.id, person.kind, float(gain), ratio, repeats_itself(text))
        self.scores.append(score)


def plain_seed(seed: int, prompt: Prompt, number: int) -> int:
    """Derive the seed of a plain answer; a person's requests use one of these too."""
    return zlib.crc32(f"{seed}/{prompt.id}/{number}".encode())


async def gather(items: Sequence[In], work: Callable[[In], Awaitable[Out]]) -> list[Out]:
    """Work on all items at once, in order; the first error ends the others."""
    tasks = [asyncio.ensure_future(work(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
