"""A corpus with known structure: states that carry the length and the person of texts, and noise."""

from __future__ import annotations

import numpy as np

from serve.jobs.learning.corpus import Corpus, Sample
from serve.jobs.learning.prompts import Role, load_prompts

LAYERS = (10, 14)
H = 12
WORDS = ("house", "time", "people", "I'm", "you", "because", "perhaps", "and", "the", "of", "is", "water", "good")


def make_corpus(num_prompts: int = 24, samples: int = 8, seed: int = 0) -> Corpus:
    """Make answers to learning and other prompts, whose states are linear in length and first-person share."""
    rng = np.random.default_rng(seed)
    prompts = load_prompts()
    learning = [prompt for prompt in prompts if prompt.role is Role.LEARNING][: num_prompts - 6]
    others = [prompt for prompt in prompts if prompt.role is not Role.LEARNING][:6]
    mixing = np.random.default_rng(99).normal(size=(2, len(LAYERS) * H))  # one model, whatever the seed
    rows, states = [], []
    for prompt in (*learning, *others):
        topic = 0.5 * rng.normal(size=len(LAYERS) * H)
        for i in range(samples):
            length, share = int(rng.integers(20, 80)), rng.uniform(0.0, 0.5)
            words = [("I'm" if rng.random() < share else str(rng.choice(WORDS))) for _ in range(length)]
            text = " ".join(words).capitalize() + "."
            rows.append(Sample(prompt.id, prompt.text, text, i, 0.8, length, -1.5, True))
            signal = np.array([(length - 50) / 20, (share - 0.25) / 0.15]) @ mixing
            states.append(signal + topic + 0.3 * rng.normal(size=len(LAYERS) * H))
    array = np.array(states, np.float32).reshape(len(rows), len(LAYERS), H)
    return Corpus({"model": "toy", "layers": list(LAYERS)}, tuple(rows), array)
