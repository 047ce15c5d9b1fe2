"""`palate bench best-of`: what choosing among N costs, in the engine itself.

Two engines of the same model take turns in one run: vLLM as it is, sampling N answers; and Palate's, generating N arms
of which most are steered, measured, and chosen from, plainly or by halving. The peer that reranks in a second pass
embeds the N texts with a sentence-embedding model. Also: what the extension costs requests that use it or do not.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from router.mixture import Mixture
from serve import config as configuration
from serve.artifacts.registry import load_default
from serve.engines.best_of import generate
from serve.engines.feature_space import FeatureSpace
from serve.engines.protocol import BestOf, ChatInput, Engine, EngineArm, GenerationRequest, Output, Readout, Sampling
from serve.engines.vllm_engine import VllmEngine
from serve.engines.worker_messages import Projection
from serve.home import Home
from serve.models import resolve

PROMPT = "Tell me something about the number {number}, in plain words and at some length."
WAYS = ("bare", "best_of", "halving", "second_pass")


@dataclass(slots=True)
class Sample:
    """One way's figures over all rounds."""

    ttft_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)  # computed, all candidates together
    choosing_s: list[float] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """Summarise."""
        figures = {
            "ttft_s": statistics.median(self.ttft_s),
            "total_s": statistics.median(self.total_s),
            "tokens": statistics.mean(self.num_tokens),
            "tokens_per_s": sum(self.num_tokens) / sum(self.total_s),
        }
        if self.choosing_s:
            figures["choosing_ms"] = 1e3 * statistics.median(self.choosing_s)
        return figures


@click.command("best-of")
@click.option(
    "--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="Palate's configuration."
)
@click.option("--candidates", default="1,2,4,8,16", show_default=True, help="Numbers of candidates, comma-separated.")
@click.option("--max-tokens", default=256, show_default=True, type=click.IntRange(8, 4_096), help="Tokens an answer.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100), help="Turns each way gets.")
@click.option("--load", default="1,8,32", show_default=True, help="Concurrent requests of the throughput part.")
@click.option(
    "--embedder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of a sentence-transformers model, for the peer that reranks in a second pass.",
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures here too."
)
def best_of(
    config_path: Path | None,
    candidates: str,
    max_tokens: int,
    rounds: int,
    load: str,
    embedder: Path | None,
    json_path: Path | None,
) -> None:
    """Candidates, halving and choice against bare vLLM and a second pass."""
    config = configuration.load(config_path)
    counts, levels = ([int(part) for part in text.split(",")] for text in (candidates, load))
    report = asyncio.run(_measure(config, counts, levels, max_tokens, rounds, _embedder(embedder)))
    click.echo(render(report))
    if json_path is not None:
        json_path.write_text(json.dumps(report, indent=1))


def render(report: dict[str, Any]) -> str:
    """Render both tables."""
    titles = ("N", "way", "TTFT s", "total s", "tokens", "tok/s", "choice ms", "tokens / one", "TTFT / one's time")
    lines = ["  ".join(f"{title:>17}" for title in titles)]
    for row in report["best_of"]:
        cells = [str(row["candidates"]), row["way"]]
        cells += [f"{row['ttft_s']:.2f}", f"{row['total_s']:.2f}", f"{row['tokens']:.0f}", f"{row['tokens_per_s']:.0f}"]
        cells += [f"{row['choosing_ms']:.1f}" if "choosing_ms" in row else ""]
        cells += [f"{row['tokens_ratio']:.2f}", f"{row['ttft_share']:.2f}"]
        lines.append("  ".join(f"{cell:>17}" for cell in cells))
    lines += [
        "",
        "  ".join(f"{title:>17}" for title in ("concurrent", "plain tok/s", "extended / plain", "steered / plain")),
    ]
    for row in report["throughput"]:
        cells = [str(row["concurrency"]), f"{row['plain_tokens_per_s']:.0f}"]
        cells += [f"{row['extended_ratio']:.3f}", f"{row['steered_ratio']:.3f}"]
        lines.append("  ".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


async def _measure(
    config: configuration.Config,
    counts: list[int],
    levels: list[int],
    max_tokens: int,
    rounds: int,
    embed: Callable[[list[str]], None] | None,
) -> dict[str, Any]:
    ways = [way for way in WAYS if way != "second_pass" or embed is not None]
    samples = {(n, way): Sample() for n in counts for way in ways}
    speeds: dict[tuple[int, str], list[float]] = {}
    served = _served(config)
    async with _engine(config, None) as bare, _engine(config, served.space) as extended:
        bench = _Bench(bare, extended, served, max_tokens, embed)
        await bench.warm_up()
        total = rounds * (len(counts) * len(ways) + 3 * len(levels))
        with tqdm(total=total, desc="bench best-of", file=sys.stderr) as progress:
            for turn in range(rounds):
                for n in counts:
                    for way in ways if turn % 2 == 0 else reversed(ways):
                        await bench.answer(n, way, samples[n, way])
                        progress.update()
                for level in levels:
                    for kind in _rotated(("plain", "extended", "steered"), turn):
                        speeds.setdefault((level, kind), []).append(await bench.throughput(level, kind))
                        progress.update()
    one = samples.get((1, "bare"), samples[counts[0], "bare"]).row()
    rows = []
    for (n, way), sample in samples.items():
        row = sample.row()
        ratios = {"tokens_ratio": row["tokens"] / max_tokens, "ttft_share": row["ttft_s"] / one["total_s"]}
        rows.append({"candidates": n, "way": way, **row, **ratios})
    throughput = [
        {
            "concurrency": level,
            "plain_tokens_per_s": statistics.median(speeds[level, "plain"]),
            **{
                f"{kind}_ratio": statistics.median(
                    ours / theirs for ours, theirs in zip(speeds[level, kind], speeds[level, "plain"], strict=True)
                )
                for kind in ("extended", "steered")
            },
        }
        for level in levels
    ]
    return {
        "model": config.model.name,
        "max_tokens": max_tokens,
        "rounds": rounds,
        "best_of": rows,
        "throughput": throughput,
    }


@dataclass(frozen=True, eq=False, slots=True)
class _Served:
    """What the extended engine reads and adds."""

    space: FeatureSpace
    readout: Readout
    steered: EngineArm  # a steered candidate but for its coefficients


class _Bench:
    def __init__(
        self,
        bare: Engine,
        extended: Engine,
        served: _Served,
        max_tokens: int,
        embed: Callable[[list[str]], None] | None,
    ) -> None:
        self._bare, self._extended = bare, extended
        self._max_tokens = max_tokens
        self._embed = embed
        self._number = 0
        rng = np.random.default_rng(0)
        self._draws = rng.normal(size=(32, served.space.num_features))
        self._steered = served.steered
        size = served.readout.basis.shape[0]
        judge = Mixture(np.ones(1), rng.normal(size=(1, size)), 0.1 * np.eye(size)[None])
        self._rules = BestOf(served.readout, (judge,))

    async def warm_up(self) -> None:
        """Run everything once, unmeasured."""
        for way in ("bare", "best_of", "halving"):
            await self.answer(2, way, Sample(), max_tokens=16)

    async def answer(self, n: int, way: str, sample: Sample, max_tokens: int | None = None) -> None:
        """Answer one prompt, streaming, and note what it cost."""
        request = self._request(max_tokens or self._max_tokens)
        if way in ("bare", "second_pass"):
            sampling = Sampling(n=n, max_tokens=request.sampling.max_tokens, seed=1, ignore_eos=True)
            engine = self._bare
            request = GenerationRequest(request.request_id, sampling, chat=request.chat, is_streaming=True)
        else:
            engine = self._extended
            rules = self._rules if n > 1 else BestOf()
            if way == "halving":
                rules = BestOf(rules.readout, rules.judges, checkpoints=(24, 32, 48))
            request = GenerationRequest(
                request.request_id,
                request.sampling,
                chat=request.chat,
                is_streaming=True,
                arms=(EngineArm(), *(self._arm(index) for index in range(n - 1))),
                best_of=rules,
            )
        begin = time.perf_counter()
        first = 0.0
        num_tokens, texts = 0, [""] * n
        outputs: AsyncGenerator[Output, None] = generate(engine, request)
        async for output in outputs:
            for delta in output.deltas:
                first = first or time.perf_counter()
                num_tokens += delta.num_tokens
                texts[delta.index] += delta.text
            if output.verdict is not None:
                num_tokens = sum(output.verdict.num_tokens)
                if n > 1:
                    sample.choosing_s.append(output.verdict.choosing_s)
        if way == "second_pass" and self._embed is not None:
            chosen_at = time.perf_counter()
            await asyncio.to_thread(self._embed, texts)
            sample.choosing_s.append(time.perf_counter() - chosen_at)
        end = time.perf_counter()
        # Whoever reranks afterwards, or bare vLLM's caller who picks one, waits for whole answers.
        is_early = way == "halving" or n == 1
        sample.ttft_s.append((first if is_early else end) - begin)
        sample.total_s.append(end - begin)
        sample.num_tokens.append(num_tokens)

    async def throughput(self, concurrency: int, kind: str) -> float:
        """Return tokens per second of requests at the same time."""
        engine = self._bare if kind == "plain" else self._extended

        async def one() -> int:
            request = self._request(64)
            if kind == "steered":
                request = GenerationRequest(
                    request.request_id,
                    request.sampling,
                    chat=request.chat,
                    arms=(self._arm(0),),
                    best_of=BestOf(),
                )
            return sum([d.num_tokens async for output in generate(engine, request) for d in output.deltas])

        begin = time.perf_counter()
        counts = await asyncio.gather(*(one() for _ in range(concurrency)))
        return sum(counts) / (time.perf_counter() - begin)

    def _request(self, max_tokens: int) -> GenerationRequest:
        self._number += 1
        chat = ChatInput([{"role": "user", "content": PROMPT.format(number=self._number)}])
        return GenerationRequest(
            f"bench-{self._number}", Sampling(max_tokens=max_tokens, seed=1, ignore_eos=True), chat=chat
        )

    def _arm(self, index: int) -> EngineArm:
        return replace(self._steered, coeffs=tuple(self._draws[index]))


def _rotated(items: tuple[str, ...], turn: int) -> tuple[str, ...]:
    start = turn % len(items)
    return items[start:] + items[:start]


def _served(config: configuration.Config) -> _Served:
    """Return the shipped artifact's, or something of its size: what is in it does not change what it costs."""
    artifact = load_default(config.model.name)
    if artifact is not None:
        steered = EngineArm(
            dose=artifact.max_dose,
            min_p=artifact.min_p,
            repetition_penalty=artifact.repetition_penalty,
            tilt=artifact.tilt,
        )
        return _Served(artifact.feature_space, artifact.readout, steered)
    from transformers import AutoConfig  # noqa: PLC0415 - seconds

    model = AutoConfig.from_pretrained(resolve(config.model.id, Home.from_env()))
    size, layers = model.hidden_size, model.num_hidden_layers
    pooled = (layers // 2 - 1, (7 * layers) // 10)
    rng = np.random.default_rng(1)
    width = size * len(pooled)
    basis = (rng.normal(size=(64, width)) / width**0.5).astype(np.float32)
    projection = Projection(basis, np.zeros(width, np.float32), np.ones(width, np.float32))
    directions = rng.normal(size=(size, 64)).astype(np.float32)
    space = FeatureSpace(config.model.name, pooled, pooled[0], projection, directions, max_dose=0.25)
    steered = EngineArm(dose=space.max_dose, min_p=0.02, repetition_penalty=1.05)
    return _Served(space, Readout(np.eye(64), np.zeros(64), np.ones(64)), steered)


@asynccontextmanager
async def _engine(config: configuration.Config, space: FeatureSpace | None) -> AsyncIterator[Engine]:
    engine = VllmEngine(config.model, config.engine, resolve(config.model.id, Home.from_env()), space)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.shutdown()


def _embedder(path: Path | None) -> Callable[[list[str]], None] | None:
    if path is None:
        click.echo("no --embedder: the second-pass peer is left out", err=True)
        return None
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - seconds

    model = SentenceTransformer(str(path), device="cpu")

    def embed(texts: list[str]) -> None:
        model.encode(texts)

    return embed
