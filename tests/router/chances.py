"""The probability of one event, written out in the plainest way: the oracle beside which the likelihood is held."""

import itertools
import math

import numpy as np

from router.types import Array, Choice, Comparison, Event, Population, Ranking, Rating, Thumb


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -700.0 else 0.0


def chance(population: Population, event: Event, w: Array, threshold: float, flip_rate: float) -> float:
    """P(event | taste w (D,), threshold), where a flipped label is any of the outcomes alike."""
    share, taste = 2.0 * flip_rate, w + population.base_weights
    match event:
        case Comparison():
            return flip_rate + (1.0 - share) * sigmoid(float((event.chosen - event.rejected) @ taste))
        case Thumb():
            score = float((event.features - event.reference) @ taste) - threshold
            return flip_rate + (1.0 - share) * sigmoid(event.value * score)
        case Choice():
            rewards = [math.exp(float(row @ taste)) for row in (event.chosen, *event.rejected)]
            return share / len(rewards) + (1.0 - share) * rewards[0] / sum(rewards)
        case Ranking():
            rewards = [math.exp(float(row @ taste)) for row in event.features]
            stages = [(rewards[i] / sum(rewards[i:]), len(rewards) - i) for i in range(len(rewards) - 1)]
            return math.prod(share / n + (1.0 - share) * p for p, n in stages)
        case Rating():
            score = float((event.features - event.reference) @ taste) - threshold
            above = [1.0, *(sigmoid(score - cut) for cut in population.rating_cuts), 0.0]
            p = above[event.level] - above[event.level + 1]
            return share / (len(above) - 1) + (1.0 - share) * p
        case _:
            raise TypeError(event)


def outcomes(kind: str, a: Array, b: Array, c: Array) -> list[Event]:
    """Every label that could have been given to these responses (D,), so that their probabilities sum to one."""
    match kind:
        case "comparison":
            pairs = ((a, b), (b, a))
            return [Comparison(event_id=f"c{i}", chosen=x, rejected=y) for i, (x, y) in enumerate(pairs)]
        case "thumb":
            return [Thumb(event_id=f"t{v}", features=a, reference=b, value=v) for v in (-1, 1)]
        case "choice":
            ways = ((a, b, c), (b, a, c), (c, a, b))
            return [Choice(event_id=f"o{i}", chosen=x, rejected=np.stack(rest)) for i, (x, *rest) in enumerate(ways)]
        case "rating":
            return [Rating(event_id=f"s{level}", features=a, reference=b, level=level) for level in range(5)]
        case _:
            orders = itertools.permutations((a, b, c))
            return [Ranking(event_id=f"r{i}", features=np.stack(order)) for i, order in enumerate(orders)]


KINDS = ("comparison", "choice", "ranking", "thumb", "rating")
