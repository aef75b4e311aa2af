"""The permutation test and Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from drcl.metrics.statistics import holm, sign_flip_test


@pytest.mark.parametrize("count", [5, 9])
def test_small_samples_are_tested_exactly_as_scipy_does(count):
    differences = np.random.default_rng(count).normal(0.3, 1, count)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert sign_flip_test(differences) == pytest.approx(expected, abs=1e-12)


def test_large_samples_are_drawn_and_agree_with_the_t_test():
    differences = np.random.default_rng(0).normal(0.4, 1, 40)
    assert sign_flip_test(differences) == pytest.approx(
        stats.ttest_1samp(differences, 0).pvalue, abs=0.005
    )


def test_without_a_difference_p_is_uniform():
    draw = np.random.default_rng(1)
    values = [sign_flip_test(draw.normal(size=8)) for _ in range(600)]
    for level in (0.05, 0.25, 0.5):
        # Four standard errors of a share of 600.
        assert np.mean(np.array(values) <= level) == pytest.approx(
            level, abs=4 * np.sqrt(level * (1 - level) / 600)
        )


def test_equal_differences_are_the_least_likely():
    assert sign_flip_test([0.1] * 6) == 2 / 2**6
    assert sign_flip_test([0.0] * 6) == 1.0


@pytest.mark.parametrize("bad", [[], [float("nan"), 1.0], [[1.0]]])
def test_what_is_no_list_of_numbers_is_refused(bad):
    with pytest.raises(ValueError, match="differences: expected a list of numbers"):
        sign_flip_test(bad)


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, and none below one before it.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
