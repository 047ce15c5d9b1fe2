from dataclasses import replace

import numpy as np
import pytest

from tests.router.types.cases import D, K, evidence, posterior


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": np.array([0, 0, 2])}, "without gaps"),
        ({"groups": np.array([0, 0, 0])}, "without gaps"),
        ({"lows": np.array([0.0, np.nan])}, "lows must hold"),
        ({"highs": np.array([1.0])}, "highs must hold"),
        ({"lows": np.array([0.5, 0.0])}, "below its high"),
        ({"targets": ("",)}, "must name each"),
    ],
)
def test_evidence_refuses_what_cannot_be(change: dict[str, object], message: str) -> None:
    assert evidence().num_groups == 2
    assert evidence().has_choices
    with pytest.raises(ValueError, match=message):
        replace(evidence(), **change)  # type: ignore[arg-type]


def test_posterior_derives_moments_and_responsibilities() -> None:
    belief = posterior()
    assert belief.means[0].tolist() == [1.0, 0.5, 0.25]
    assert belief.latent_means.shape == (K, D + 1)
    assert belief.covariances[0].tolist() == np.diag([1.0, 0.5, 0.25]).tolist()
    np.testing.assert_allclose(belief.responsibilities, [2 / 3, 1 / 3])
    np.testing.assert_allclose(belief.mean, [1.0, 2 / 3, 0.5])
    draws = np.random.default_rng(0)
    which = draws.random(200_000) < 1 / 3
    sample = np.where(which[:, None], 1.0, [1.0, 0.5, 0.25]) + draws.normal(size=(200_000, D)) * np.where(
        which[:, None], 1.0, np.sqrt([1.0, 0.5, 0.25])
    )
    np.testing.assert_allclose(belief.covariance, np.cov(sample.T), atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": np.zeros((K, D))}, "shift must have shape"),
        ({"num_events": -1}, "num_events"),
        ({"flip_rate": -0.1}, "flip_rate"),
        ({"evidence": replace(evidence(), designs=np.ones((3, 2)))}, "must have 4 columns"),
    ],
)
def test_posterior_refuses_what_cannot_be(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(posterior(), **change)  # type: ignore[arg-type]
