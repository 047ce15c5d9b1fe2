from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from serve.jobs.learning.tokens import MIN_COUNT, RIDGE, ModelVocabulary, token_features
from serve.models import DEFAULT_MODEL


class Letters:
    def encode(self, text: str, *, is_finished: bool) -> Sequence[int]:
        raise NotImplementedError

    def decode(self, token: int) -> str:
        return {3: "\ufffd", 5: "7"}.get(token, chr(ord("a") + token))


def test_a_token_says_what_its_answers_have_beyond_others_to_the_prompt() -> None:
    # Two prompts, each with an answer that holds token 0 and one that holds token 1.
    # 3 is no text, 4 is rare, 5 is a digit.
    times = MIN_COUNT - 1
    answers = [[0, 0, 0, 0, 2, 3], [1, 2, 5], [0, 0, 0, 2, 3], [1, 1, 1, 2, 5, 4]] * times
    features = np.array([[2.0, 5.0], [0.0, 5.0], [11.0, -5.0], [9.0, -5.0]] * times)
    prompts = np.array([0, 0, 1, 1] * times)
    found = token_features(answers, features, prompts, Letters())
    assert found.tokens.tolist() == [0, 1, 2]
    assert found.shares == pytest.approx(np.array([6, 4, 4]) / 19, abs=1e-6)  # token 0 counts three times an answer
    first, second, both = found.features[:, 0]
    assert first - both == pytest.approx(6 * times / (6 * times + RIDGE))
    assert second - both == pytest.approx(-4 * times / (4 * times + RIDGE))
    assert found.features[:, 1] == pytest.approx(0.0)  # what the prompts differ by is theirs
    assert found.shares @ found.features == pytest.approx(0.0, abs=1e-6)


@pytest.mark.engine
def test_the_models_own_tokens() -> None:
    vocabulary = ModelVocabulary(DEFAULT_MODEL.name)
    cut, whole = vocabulary.encode("I'm happy.", is_finished=False), vocabulary.encode("I'm happy.", is_finished=True)
    assert whole[:-1] == cut
    assert [vocabulary.decode(token) for token in whole] == ["I", "'m", " happy", ".", "<|im_end|>"]
