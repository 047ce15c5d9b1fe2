"""Products with a matrix that is never built."""

from __future__ import annotations

import numpy as np
import pytest

from router.inputs import BLOCK, Inputs, covariance, is_finite
from router.types import Array

NUM = 2 * BLOCK + 7


@pytest.fixture(scope="module", params=[np.float32, np.float64])
def inputs(request: pytest.FixtureRequest) -> Inputs:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(NUM, 5)) + 3.0).astype(request.param)
    return Inputs(features, np.full(5, 3.0), rng.uniform(0.5, 2.0, size=5))


def whole(inputs: Inputs) -> Array:
    return np.asarray((inputs.features.astype(np.float64) - inputs.center) * inputs.scales)


def test_products_are_those_of_the_whole_matrix(inputs: Inputs) -> None:
    rng = np.random.default_rng(1)
    tolerance = 1e-4 if inputs.features.dtype == np.float32 else 1e-9
    matrix = whole(inputs)
    for shape in ((5,), (5, 3)):
        right = rng.normal(size=shape)
        product = inputs @ right
        assert product.dtype == inputs.features.dtype
        np.testing.assert_allclose(product, matrix @ right, rtol=0.0, atol=tolerance)
    for shape in ((NUM,), (3, NUM)):
        left = rng.normal(size=shape) / np.sqrt(NUM)
        np.testing.assert_allclose(left @ inputs, left @ matrix, rtol=0.0, atol=tolerance)
    assert inputs.mean_square_norm() == pytest.approx((matrix**2).sum(axis=1).mean(), rel=1e-6)


def test_covariance_is_that_of_the_rows(inputs: Inputs) -> None:
    np.testing.assert_allclose(covariance(inputs.features), np.cov(inputs.features, rowvar=False), atol=1e-6)


def test_one_number_that_is_none_is_found() -> None:
    features = np.zeros((NUM, 2), np.float32)
    assert is_finite(features)
    features[-1, 1] = np.inf
    assert not is_finite(features)
