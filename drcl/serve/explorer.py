"""The page to explore an index: one file with everything inside, or served, asking as it goes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drcl.checks import check_installed
from drcl.figures import CLASS_COLOURS
from drcl.index import Index
from drcl.report.page import environment
from drcl.report.results import BUDGET, LARGEST, PICTURE, Pictures
from drcl.serve.items import MAX_ITEMS, overview, public_record, sample, to_json

MAX_BYTES = 32_000_000  # of the embeddings in a page
_COUNTS = (6, 12, 24, 48)  # of results, to choose from
_HERE = Path(__file__).parent


def explorer_page(index: Index, title: str = "Explorer") -> str:
    """A page to explore an index: one file of HTML that needs nothing else.

    An item is chosen by name or id; the page shows what it finds in every modality, among all or in
    one class, and each item found can be the next query. A map shows all items on the two principal
    axes of their embeddings. The page computes the products itself, from the same float32 rows.

    Pictures are those of :func:`drcl.report.results.results_page`; with many of them each is made
    smaller, so that the page has 20 MB of pictures at most.

    Args:
        index: of at most 5,000 items and 32 MB of embeddings.
        title: heading of the page.

    Raises ImportError without jinja2, and ValueError for an index that is larger or has no rows:
    ``drcl serve`` shows those.

    >>> import torch
    >>> page = explorer_page(Index().add(torch.eye(3), ids=["oak", "elm", "ash"]))
    >>> page.count("elm") > 0, page.count("<script")
    (True, 2)
    """
    count, size = len(index), 4 * len(index) * (index.width or 0)
    if count == 0:
        raise ValueError("index: expected items to show, got none")
    if count > MAX_ITEMS or size > MAX_BYTES:
        raise ValueError(
            f"index: expected at most {MAX_ITEMS:,} items and {MAX_BYTES / 1e6:.0f} MB of "
            f"embeddings for one file, got {count:,} and {size / 1e6:,.0f} MB; `drcl serve` shows "
            "larger ones"
        )
    numbers = sample(index)
    records = index.records(numbers)
    with_pictures = sum(bool(record.get(PICTURE)) for record in records)
    pictures = Pictures(largest=min(LARGEST, BUDGET // max(1, with_pictures)))
    known = overview(index, numbers, records)
    for item, record in zip(known["items"], records, strict=True):
        item["record"] = public_record(record)
        item["picture"] = pictures.uri(record.get(PICTURE))
    rows = np.ascontiguousarray(index.rows(numbers).numpy(), "<f4")
    known |= {"width": index.width, "rows": base64.b64encode(rows.tobytes()).decode()}
    return _page(title, known, len(pictures.left_out), _COUNTS)[0]


def live_page(most: int) -> tuple[str, str]:
    """The page that asks its server, without anything of an index, and its header's policy.

    It asks for ``most`` results at most.
    """
    counts = [count for count in _COUNTS if count < most]
    return _page("Explorer", None, 0, [*counts, most] if most < _COUNTS[-1] else _COUNTS)


def _page(
    title: str, known: dict[str, Any] | None, left_out: int, counts: Sequence[int]
) -> tuple[str, str]:
    check_installed("the page needs {}; install it with: pip install 'drcl[report]'", "jinja2")
    script = (_HERE / "explorer.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    asks = "'self'" if known is None else "'none'"
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        f"img-src data: blob:; connect-src {asks}; base-uri 'none'; "
        "form-action 'none'"
    )
    data = to_json({"colours": CLASS_COLOURS, "known": known}).decode()
    template = environment(_HERE).get_template("explorer.html.jinja")
    page: str = template.render(
        title=title,
        policy=policy,
        script=script,
        # of what ends a script, or begins a comment in one, "<" is part
        data=data.replace("<", "\\u003c"),
        left_out=left_out,
        counts=counts,
    )
    return page, policy
