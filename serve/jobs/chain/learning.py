"""The chain's learning: fit, look for directions, adapt, each by the product's own command. Knows no server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.errors import ConfigurationError
from serve.home import Home
from serve.jobs.chain.stages import Stages, command

SAMPLES = 4  # answers to each learning prompt, that adapters learn from
TRAINING = ("--pairs", "1", "--steps", "12", "--batch-size", "8", "--lr", "2e-3")
JUDGING = ("--prompts", "48", "--samples", "1")
NOBODY_WON = 3


@dataclass(frozen=True)
class Learned:
    """What was learned."""

    version: str  # the fitted version, with the adapters that won
    adapters: tuple[str, ...] = ()  # how each did, or why there is none


def learn(home: Home, stages: Stages) -> Learned:
    """Fit, and look for directions."""
    with stages.timed("fit"):
        _, printed = command("fit", "--url", home.store_url)
    fitted = Path(printed.splitlines()[-1]).name
    with stages.timed("steer"):
        found = str(home.path / "discovered.json")
        command("steer", "discover", "--url", home.store_url, "--version", fitted, "--json", found)
    return Learned(fitted)


def adapt(fitted: str, home: Home, stages: Stages, max_tokens: int) -> Learned:
    """Train adapters for a fitted version; without one that wins, it goes on as it is."""
    tokens, answers = ("--max-tokens", str(max_tokens)), str(home.path / "answers")
    with stages.timed("answers"):
        command("features", "generate", "--role", "learning", "--samples", str(SAMPLES), *tokens, "--out", answers)
    with stages.timed("adapt"):
        source = ("--url", home.store_url, "--artifact", fitted, "--corpus", answers)
        try:
            _, printed = command("adapt", *source, *TRAINING, *JUDGING, *tokens, "--json", accepted=(0, NOBODY_WON))
        except ConfigurationError as error:  # too few of a prototype are held out, say
            return Learned(fitted, (str(error),))
    outcome = json.loads(printed)
    return Learned(outcome["version"] or fitted, tuple(_told(row) for row in outcome["adapters"]))


def _told(row: dict[str, Any]) -> str:
    """Say how an adapter did."""
    rate, gain = row["win_rate"], row["gain"]
    told = (
        f"prototype {row['prototype']}, {row['pairs']} pairs: win rate {rate['mean']:.2f} "
        f"[{rate['low']:.2f}, {rate['high']:.2f}], gain {gain['mean']:.2f} [{gain['low']:.2f}, {gain['high']:.2f}]"
    )
    return "; ".join([told, *row["reasons"]])
