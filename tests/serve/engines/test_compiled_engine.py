"""Steering and measuring in the compiled model: as in the eager one, up to bfloat16's rounding."""

from __future__ import annotations

import numpy as np
import pytest

from serve.engines.steering_request import SteeringRequest
from serve.engines.worker_messages import States, WorkerConfig
from tests.serve.engines.conftest import EngineStarter, SteppedEngine

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # compilers warn about much
]

H, LAYERS = 576, (14, 21)
DIRECTIONS = np.random.default_rng(1).standard_normal((H, 1)).astype(np.float32)
CONFIG = WorkerConfig(LAYERS, LAYERS[0], DIRECTIONS, max_dose=0.3)
PROMPT = "Once upon a time there was a little robot who"
REQUESTS = {"up": SteeringRequest((1.0,), 0.3, pool=True), "pooled": SteeringRequest(pool=True)}


def run(engine: SteppedEngine) -> tuple[dict[str, list[int]], States]:
    engine.configure(CONFIG)
    said = engine.run(plain=(PROMPT, None), **{name: (PROMPT, steering) for name, steering in REQUESTS.items()})
    return said, engine.read(*REQUESTS)


def test_it_steers_and_measures(start_engine: EngineStarter, default_model: str) -> None:
    eager, eager_states = run(start_engine(default_model, list(LAYERS), block_size=32))
    engine = start_engine(default_model, list(LAYERS), block_size=32, enforce_eager=False)
    compiled, states = run(engine)
    assert compiled["plain"] == compiled["pooled"]
    assert compiled["plain"] != compiled["up"]
    for name in REQUESTS:
        if compiled[name] == eager[name]:  # rounding may tip a greedy choice; then the texts, hence the states, differ
            error = np.linalg.norm(states.values[name] - eager_states.values[name])
            assert error < 0.02 * np.linalg.norm(eager_states.values[name])
    assert any(compiled[name] == eager[name] for name in REQUESTS)
    with pytest.raises(ValueError, match="compiled model has taps"):
        engine.configure(WorkerConfig((7,), 14, DIRECTIONS, max_dose=0.3))
