"""The cases of ``ops/test_numerics.py``, on the Triton kernels under their interpreter."""

from __future__ import annotations

import pytest
from kernel_testing import INTERPRETED

if not INTERPRETED:
    pytest.skip("the cases are on the CPU: for Triton's interpreter", allow_module_level=True)

from ops.test_numerics import (  # noqa: F401 (pytest collects them from here)
    backend,
    deterministic,
    test_a_prior_in_half_precision_sums_in_float32,
    test_deterministic_mode_changes_nothing,
    test_loss_at_every_scale,
    test_loss_on_degenerate_batches,
    test_mixup_up_to_the_largest_number,
    test_prior_similarity_at_every_scale,
)
