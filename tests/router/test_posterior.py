import io
from dataclasses import replace

import numpy as np
import pytest

from router import posterior as module
from router.likelihood import concatenate, encode
from router.posterior import (
    FLIP_GRID,
    FLIP_PRIOR_STRENGTH,
    choice_probability,
    condition,
    forget,
    mixture_weights,
    prior,
    thumb_probability,
    update,
    update_many,
    with_flip_rate,
)
from router.types import Array, Comparison, Event, Population, Posterior, Ranking, Rating, Thumb
from tests.router.cases import make_population
from tests.router.chances import KINDS, chance, outcomes, sigmoid

AXIS = np.linspace(-7.0, 7.0, 71)
CELL = (AXIS[1] - AXIS[0]) ** 2


def line(flip_rate: float = 0.05) -> Population:
    """Two prototypes over one taste, with thresholds that go with it."""
    return Population(
        basis=np.eye(1),
        center=np.zeros(1),
        scale=np.ones(1),
        mixture_weights=np.array([0.7, 0.3]),
        means=np.array([[0.8], [-0.9]]),
        covariances=np.array([[[0.6]], [[0.9]]]),
        base_weights=np.array([0.3]),
        flip_rate=flip_rate,
        threshold_means=np.array([0.2, -0.1]),
        threshold_variances=np.array([0.7, 0.5]),
        threshold_covariances=np.array([[0.2], [-0.1]]),
    )


def pair(name: str, difference: Array, *, weight: float = 1.0, target: str = "", time_s: float = 0.0) -> Comparison:
    zeros = np.zeros_like(difference)
    return Comparison(event_id=name, chosen=difference, rejected=zeros, weight=weight, target=target, time_s=time_s)


def some_events(D: int, count: int, seed: int) -> list[Event]:
    """Events of every kind in turn, at random."""
    rng = np.random.default_rng(seed)
    events = []
    for index in range(count):
        options = outcomes(KINDS[index % 4], *rng.normal(size=(3, D)))
        event = options[int(rng.integers(len(options)))]
        events.append(replace(event, event_id=f"{index}", weight=1.0 if index % 3 else 0.3))
    return events


def by_quadrature(population: Population, events: list[Event]) -> tuple[Array, Array, Array, Array]:
    """Exact log evidence (K,), responsibilities (K,), means (K, 2) and covariances (K, 2, 2) for D = 1."""
    points = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), axis=-1).reshape(-1, 2)
    log_p = np.array(
        [
            sum(e.weight * np.log(chance(population, e, point[:1], point[1], population.flip_rate)) for e in events)
            for point in points
        ]
    )
    totals, means, covariances = [], [], []
    for m, S in zip(population.prior_means, population.prior_covariances, strict=True):
        away = points - m
        density = np.exp(-0.5 * np.sum(away @ np.linalg.inv(S) * away, axis=1)) / (
            2 * np.pi * np.sqrt(np.linalg.det(S))
        )
        joint = density * np.exp(log_p) * CELL
        totals.append(joint.sum())
        means.append(joint @ points / joint.sum())
        centered = points - means[-1]
        covariances.append((joint[:, None] * centered).T @ centered / joint.sum())
    shares = population.mixture_weights * np.array(totals)
    return np.log(totals), shares / shares.sum(), np.array(means), np.array(covariances)


@pytest.mark.parametrize("kind", [*KINDS, "all"])
@pytest.mark.parametrize("flip_rate", [0.0, 0.05])
def test_posterior_against_quadrature(kind: str, flip_rate: float) -> None:
    # Laplace puts the mean at the mode; for eight events of a kind that is at most .25 of a prior standard deviation
    # (.8 to .95) off. The other bounds: .15 in the covariances, .1 nats in each evidence, .03 in the responsibilities.
    population = line(flip_rate)
    rng = np.random.default_rng(3)
    kinds = KINDS if kind == "all" else (kind,) * 4
    events = []
    for index in range(8):
        options = outcomes(kinds[index % 4], *rng.normal(size=(3, 1)))
        chances = np.array([chance(population, e, np.array([0.5]), 0.3, flip_rate) for e in options])
        events.append(replace(options[rng.choice(len(options), p=chances / chances.sum())], event_id=str(index)))
    log_evidence, shares, means, covariances = by_quadrature(population, events)
    got = update_many(population, prior(population), events)
    np.testing.assert_allclose(got.latent_means, means, atol=0.2)
    np.testing.assert_allclose(got.latent_covariances, covariances, atol=0.15)
    np.testing.assert_allclose(got.log_evidence, log_evidence, atol=0.1)
    np.testing.assert_allclose(got.responsibilities, shares, atol=0.03)


def test_prior_is_the_population() -> None:
    population = line()
    empty = prior(population)
    np.testing.assert_allclose(empty.responsibilities, population.mixture_weights)
    np.testing.assert_allclose(empty.latent_means, population.prior_means)
    np.testing.assert_allclose(empty.latent_covariances, population.prior_covariances)
    assert (empty.num_events, empty.evidence.num_groups) == (0, 0)
    np.testing.assert_allclose(update_many(population, empty, []).latent_means, population.prior_means, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_order_does_not_matter(seed: int) -> None:
    population = make_population(seed, K=2, D=3)
    events = some_events(3, 40, seed)
    whole = update_many(population, prior(population), events)
    for order in (range(40), range(39, -1, -1), np.random.default_rng(seed).permutation(40)):
        single = prior(population)
        for index in order:
            single = update(population, single, events[index])
        assert_same(single, whole, 1e-3)


def assert_same(one: Posterior, two: Posterior, tolerance: float) -> None:
    assert one.num_events == two.num_events
    np.testing.assert_allclose(one.latent_means, two.latent_means, atol=tolerance)
    np.testing.assert_allclose(one.latent_covariances, two.latent_covariances, atol=tolerance)
    np.testing.assert_allclose(one.log_evidence, two.log_evidence, atol=tolerance)
    np.testing.assert_allclose(one.responsibilities, two.responsibilities, atol=tolerance)


def test_forgetting_restores() -> None:
    population = make_population(4, K=2, D=2)
    events = some_events(2, 12, 4)
    before = update_many(population, prior(population), events)
    for extra in some_events(2, 4, 5):
        named = replace(extra, event_id="extra")
        after = update(population, before, named)
        assert np.abs(after.latent_means - before.latent_means).max() > 1e-3
        assert_same(forget(population, after, "extra"), before, 1e-3)
    nothing = before
    for event in events:
        nothing = forget(population, nothing, event.event_id)
    assert_same(nothing, prior(population), 1e-3)
    with pytest.raises(ValueError, match="'gone' is not kept"):
        forget(population, before, "gone")


def test_later_feedback_on_the_same_completion_replaces_the_earlier() -> None:
    population, direction = make_population(1, D=2), np.array([1.0, 0.5])
    first = pair("first", direction, target="answer", time_s=1.0)
    later = pair("later", -direction, target="answer", time_s=2.0)
    other = pair("other", np.array([0.0, 1.0]), target="elsewhere", time_s=1.5)
    wanted = update_many(population, prior(population), [other, later])
    for events in ([first, other, later], [later, other, first], [other, first, later]):
        assert_same(update_many(population, prior(population), events), wanted, 1e-3)
        single = prior(population)
        for event in events:
            single = update(population, single, event)
        assert_same(single, wanted, 1e-3)


def test_an_event_sent_twice_counts_once() -> None:
    population, event = make_population(1, D=2), pair("e", np.array([1.0, 0.5]))
    once = update(population, prior(population), event)
    assert_same(update(population, once, event), once, 1e-3)
    assert_same(update_many(population, prior(population), [event, event]), once, 1e-3)
    turned = update(population, once, pair("e", np.array([-1.0, -0.5])))
    assert_same(turned, update(population, prior(population), pair("e", np.array([-1.0, -0.5]))), 1e-3)


def test_implicit_signals_weigh_less_and_weights_add() -> None:
    population, direction = line(), np.array([1.0])
    empty = prior(population)
    whole = update(population, empty, pair("a", direction))
    faint = update(population, empty, pair("a", direction, weight=0.1))
    parts = update_many(population, empty, [pair(f"{i}", direction, weight=0.25) for i in range(4)])
    np.testing.assert_allclose(parts.latent_means, whole.latent_means, atol=1e-3)
    moved_whole, moved_faint = whole.latent_means - empty.latent_means, faint.latent_means - empty.latent_means
    assert (moved_faint[:, 0] > 0.0).all()
    assert (moved_faint[:, 0] < 0.2 * moved_whole[:, 0]).all()


def test_tempering_is_a_weight_on_everything() -> None:
    population = make_population(2, K=2, D=2)
    events = some_events(2, 8, 1)
    halved = [replace(event, weight=0.5 * event.weight) for event in events]
    tempered = replace(population, tempering=0.5)
    one = update_many(tempered, prior(tempered), events)
    assert_same(one, update_many(population, prior(population), halved), 1e-3)


def test_someone_who_never_likes_anything_has_a_high_threshold_and_no_taste() -> None:
    population = replace(make_population(1, K=1, D=1), means=np.zeros((1, 1)))
    features = np.linspace(-2.0, 2.0, 12)
    thumbs = [
        Thumb(event_id=str(i), features=np.array([x]), reference=np.zeros(1), value=-1) for i, x in enumerate(features)
    ]
    grumpy = update_many(population, prior(population), thumbs)
    assert grumpy.latent_means[0, -1] > 1.0
    assert abs(grumpy.means[0, 0]) < 0.1
    assert thumb_probability(population, grumpy, np.array([[0.0]]))[0] < 0.25
    ratings: list[Event] = [
        Rating(event_id=str(i), features=np.array([x]), reference=np.zeros(1), level=4) for i, x in enumerate(features)
    ]
    assert update_many(population, prior(population), ratings).latent_means[0, -1] < -1.0


def test_a_ranking_of_three_says_more_than_its_best_alone() -> None:
    population = replace(make_population(1, K=1, D=1), means=np.zeros((1, 1)))
    a, b, c = np.array([[1.5], [0.0], [-1.5]])
    ranking = update(population, prior(population), Ranking(event_id="r", features=np.stack([a, b, c])))
    first = update(population, prior(population), Comparison(event_id="c", chosen=a, rejected=b))
    assert ranking.means[0, 0] > first.means[0, 0] > 0.0
    assert ranking.covariances[0, 0, 0] < first.covariances[0, 0, 0]


def test_the_posterior_narrows() -> None:
    population = make_population(0, K=2, D=3)
    belief = prior(population)
    for event in some_events(3, 16, 6):
        grown = update(population, belief, event)
        assert np.linalg.eigvalsh(grown.precision - prior(population).precision).min() > -1e-9
        belief = grown
    assert (np.linalg.det(belief.covariances) < 0.5 * np.linalg.det(population.covariances)).all()


def test_ten_thousand_events_and_contradictions_stay_finite() -> None:
    population = make_population(0, K=1, D=3)
    rng = np.random.default_rng(0)
    taste, belief = np.array([1.0, -0.5, 0.2]), prior(population)
    xs = rng.normal(size=(10_000, 3))
    signs = np.where(rng.random(10_000) < 1 / (1 + np.exp(-xs @ taste)), 1.0, -1.0)
    for start in range(0, 10_000, 1000):
        batch = [pair(f"{i}", signs[i] * xs[i], time_s=float(i)) for i in range(start, start + 1000)]
        belief = update_many(population, belief, batch)
    assert belief.num_events == 10_000
    assert belief.evidence.num_groups <= module.MAX_GROUPS
    cosine = belief.mean @ taste / np.linalg.norm(belief.mean) / np.linalg.norm(taste)
    assert cosine > 0.99
    assert np.linalg.eigvalsh(belief.covariances).max() < 0.01
    always = [pair(f"x{i}", (-1.0) ** i * np.array([40.0, 0.0, 0.0]), time_s=2e4) for i in range(600)]
    torn = update_many(population, belief, always)
    for name in ("latent_means", "latent_covariances", "log_evidence", "responsibilities"):
        assert np.isfinite(getattr(torn, name)).all()
    assert np.linalg.eigvalsh(torn.covariances).min() > 0.0


def test_folding_old_rows_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    # 300 events at once, and with at most 60 kept as rows: .2 posterior standard deviations apart.
    population = make_population(3, K=2, D=2)
    events = [replace(event, time_s=float(i)) for i, event in enumerate(some_events(2, 300, 9))]
    whole = update_many(population, prior(population), events)
    assert whole.evidence.num_groups > 300
    monkeypatch.setattr(module, "MAX_GROUPS", 60)
    monkeypatch.setattr(module, "KEPT_GROUPS", 40)
    folded = prior(population)
    for start in range(0, 300, 20):
        folded = update_many(population, folded, events[start : start + 20])
    assert folded.evidence.num_groups <= 60
    assert folded.num_events == 300
    spread = np.sqrt(np.diagonal(whole.latent_covariances, axis1=1, axis2=2))
    assert (np.abs(folded.latent_means - whole.latent_means) / spread).max() < 0.25
    np.testing.assert_allclose(folded.latent_covariances, whole.latent_covariances, rtol=0.2, atol=2e-3)
    with pytest.raises(ValueError, match="rebuild the posterior from the event log"):
        forget(population, folded, "0")


def test_with_drift_old_feedback_fades_by_half_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, direction = line(), np.array([1.0])
    drifting = replace(plain, drift_half_life_s=10.0)
    early = [pair("early", direction, time_s=0.0), pair("late", -direction, time_s=20.0)]
    faded = [pair("early", direction, weight=0.25), pair("late", -direction)]
    got = update_many(drifting, prior(drifting), early)
    assert_same(got, update_many(plain, prior(plain), faded), 1e-6)
    monkeypatch.setattr(module, "MAX_GROUPS", 20)
    monkeypatch.setattr(module, "KEPT_GROUPS", 10)
    many = [pair(f"{i}", direction, time_s=0.0) for i in range(40)]
    strong = update_many(drifting, prior(drifting), many)
    much_later = update(drifting, strong, pair("last", direction * 1e-6, time_s=1000.0))
    np.testing.assert_allclose(much_later.latent_means, drifting.prior_means, atol=1e-3)
    assert np.abs(strong.latent_means - drifting.prior_means).max() > 0.5


def test_with_drift_a_fold_of_whole_rankings_fades_from_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three choices a ranking: folding whole ones leaves fewer rows than are to be kept.
    drifting, then = replace(line(), drift_half_life_s=10.0), 1_700_000_000.0
    best_first = np.array([[2.0], [1.0], [0.0], [-1.0]])
    rankings = [Ranking(event_id=f"{i}", features=best_first, time_s=then) for i in range(12)]
    whole = update_many(drifting, prior(drifting), rankings)
    monkeypatch.setattr(module, "MAX_GROUPS", 20)
    monkeypatch.setattr(module, "KEPT_GROUPS", 10)
    folded = update_many(drifting, prior(drifting), rankings)
    assert folded.evidence.num_groups < 10
    assert folded.folded_time_s == then
    for belief in (whole, folded):
        next_moment = update(drifting, belief, pair("next", np.array([1e-6]), time_s=then))
        np.testing.assert_allclose(next_moment.latent_means, whole.latent_means, atol=0.05)


def test_serialisation_round_trip_goes_on_identically() -> None:
    population = make_population(0, K=2, D=2)
    events = some_events(2, 12, 2)
    belief = update_many(population, prior(population), events)
    file = io.BytesIO()
    np.savez(file, **belief.to_arrays())  # type: ignore[arg-type]  # numpy types its keywords as its own options
    file.seek(0)
    with np.load(file) as arrays:
        back = Posterior.from_arrays(arrays)
    assert_same(back, belief, 0.0)
    last = pair("last", np.array([0.3, 0.4]))
    assert_same(update(population, back, last), update(population, belief, last), 0.0)


def test_condition_is_update_by_rows() -> None:
    population = make_population(0, K=2, D=2)
    events = some_events(2, 12, 2)
    rows = concatenate([encode(population, event) for event in events])
    assert_same(
        condition(population, prior(population), rows, 12), update_many(population, prior(population), events), 1e-9
    )


def test_another_populations_posterior_is_refused() -> None:
    population = line()
    with pytest.raises(ValueError, match="belongs to population '0', not '1'"):
        update(replace(population, version="1"), prior(population), pair("e", np.ones(1)))


def test_a_persons_flip_rate_is_its_posterior_mean() -> None:
    # 300 comparisons by a person of strong taste; the truth by a sum over 141 x 141 tastes and every rate. The prior,
    # worth 10 labels at the population's .05, and weaker tastes that explain some of the flips shrink .2 to .154 and .3
    # to .212: what 300 such labels tell (a prior of 2 labels finds .17 and .24), not an error of approximation.
    population = replace(make_population(0, K=1, D=2), flip_rate=0.05, covariances=4.0 * np.eye(2)[None])
    axis = np.linspace(-7.0, 7.0, 141)
    tastes = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    log_prior = -0.5 * ((tastes - population.means[0]) ** 2).sum(axis=1) / 4.0
    rates = {}
    for true_rate in (0.0, 0.2, 0.3):
        rng = np.random.default_rng(8)
        xs = 2.0 * rng.normal(size=(300, 2))
        kept = (rng.random(300) < 1 / (1 + np.exp(-xs @ np.array([2.0, -1.5])))) ^ (rng.random(300) < true_rate)
        labelled = np.where(kept[:, None], xs, -xs)
        events = [pair(f"{i}", x) for i, x in enumerate(labelled)]
        belief = with_flip_rate(population, update_many(population, prior(population), events))
        rates[true_rate] = belief.flip_rate
        assert belief.num_events == 300
        chances = 1 / (1 + np.exp(-labelled @ (tastes + population.base_weights).T))
        shares = np.clip(2.0 * FLIP_GRID, 0.01, 0.99)
        evidence = [np.logaddexp.reduce(log_prior + np.log(e + (1 - 2 * e) * chances).sum(axis=0)) for e in FLIP_GRID]
        alpha, beta = 0.1 * FLIP_PRIOR_STRENGTH, 0.9 * FLIP_PRIOR_STRENGTH
        logits = (alpha - 1) * np.log(shares) + (beta - 1) * np.log1p(-shares) + np.array(evidence)
        weights = np.exp(logits - logits.max())
        assert belief.flip_rate == pytest.approx(weights @ FLIP_GRID / weights.sum(), abs=0.005)
    assert rates[0.0] < 0.05
    assert 0.1 < rates[0.2] < rates[0.3]
    assert with_flip_rate(population, prior(population)).flip_rate == pytest.approx(0.05, abs=0.02)


def test_predictions_integrate_over_the_belief() -> None:
    # The probit approximation of the logistic integral: within .02 of Monte Carlo (40,000 draws).
    population = make_population(5, K=3, D=2)
    belief = update_many(population, prior(population), some_events(2, 6, 5))
    rng, xs = np.random.default_rng(0), np.random.default_rng(1).normal(size=(8, 2))
    labels = rng.choice(3, size=40_000, p=belief.responsibilities)
    roots = np.linalg.cholesky(belief.latent_covariances)
    draws = belief.latent_means[labels] + np.einsum("nij,nj->ni", roots[labels], rng.normal(size=(40_000, 3)))
    scores = draws[:, :2] @ xs.T
    share = 2 * population.flip_rate
    for got, raw in (
        (choice_probability(population, belief, xs), scores),
        (thumb_probability(population, belief, xs), scores - draws[:, 2:]),
    ):
        np.testing.assert_allclose(got, share / 2 + (1 - share) * np.mean(1 / (1 + np.exp(-raw)), axis=0), atol=0.02)


def test_without_events_predictions_are_the_pooled_models() -> None:
    population = line()
    x = 1.7
    assert choice_probability(population, prior(population), np.array([[x]]))[0] == pytest.approx(sigmoid(0.3 * x))
    threshold = 0.7 * 0.2 - 0.3 * 0.1
    got = thumb_probability(population, prior(population), np.array([[x]]))[0]
    assert got == pytest.approx(sigmoid(0.3 * x - threshold))


def test_the_prompt_shifts_the_prototypes() -> None:
    population = line()
    belief = update(population, prior(population), pair("e", np.ones(1)))
    np.testing.assert_allclose(mixture_weights(population, belief, np.zeros(1)), belief.responsibilities)
    gated = replace(population, gating_weights=np.array([[2.0, 0.0], [0.0, 0.0]]))
    for prompt in (-1.0, 0.0, 1.5):
        odds = belief.responsibilities[0] / belief.responsibilities[1] * np.exp(2.0 * prompt)
        assert mixture_weights(gated, belief, np.array([prompt]))[0] == pytest.approx(odds / (1 + odds))
