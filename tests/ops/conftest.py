"""Small batches in both forms: what is left of a choice by operations where calls are free."""

from __future__ import annotations

import pytest

from drcl.ops import reversible_consistency


@pytest.fixture(autouse=True)
def no_stages_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise every batch of a test would take B×B matrices, being small."""
    monkeypatch.setattr(reversible_consistency, "STAGES", 0)
