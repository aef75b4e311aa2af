"""Two hosts find what one finds, also over a slow link, and send what the formulas say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import network
import pytest
import torch
import work
from gloo import ROOT

from drcl.benchmarks.studies import traffic

SCRIPT = str(Path(work.__file__).resolve())
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SLOW = 0.02, 10e6  # seconds that a packet travels, bits a second
# The headers of a packet: TCP's with a time stamp, IP's and, on a veth, Ethernet's.
FAST_HEADER, SLOW_HEADER = 32 + 20 + 14, 32 + 20
# What gloo adds to the content: 48 bytes to a message, and to each two that announce it.
MARGIN = 0.03

Found = list[tuple[dict[str, torch.Tensor], dict[str, list[int]]]]


def prepared(folder: Path, *what: str) -> list[str]:
    """The command for both hosts, each of which has data of its own in its folder."""
    data = work.whole()
    for rank, name in enumerate(network.ADDRESSES):
        (folder / name).mkdir()
        torch.save((work.piece(data, rank, 2), data), folder / name / "data.pt")
    return [sys.executable, SCRIPT, str(folder), *what]


def loaded(folder: Path) -> Found:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def on_two_hosts(folder: Path, *what: str, **plan: Any) -> Found:
    """What the rank of each host finds and sends."""
    if reason := network.why_not():
        pytest.skip(f"two hosts cannot be imitated here: {reason}")
    command = prepared(folder, *what)
    ended = network.on_two_hosts(folder, commands=command, environment=ENVIRONMENT, **plan)
    said = [(folder / name / "stderr").read_text() for name in network.ADDRESSES]
    assert [ended[name]["code"] for name in network.ADDRESSES] == [0, 0], said
    return loaded(folder)


def on_one_host(folder: Path, *what: str) -> Found:
    """The same by two ranks of this host."""
    command = prepared(folder, *what)
    ranks = []
    for rank, name in enumerate(network.ADDRESSES):
        about = {"RANK": str(rank), "HOST_FOLDER": str(folder / name), "WORLD_SIZE": "2"}
        about |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533", "GLOO_SOCKET_IFNAME": "lo"}
        ranks.append(subprocess.Popen(command, env={**os.environ, **ENVIRONMENT, **about}))
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    return loaded(folder)


def sends(found: Found, header: int) -> list[dict[str, int]]:
    """The bytes of content that each rank sends for a loss, a step and a ranking."""
    contents = []
    for _, counts in found:
        content = {name: size - header * packets for name, (size, packets) in counts.items()}
        for name in ("loss", "ranking"):
            content[name] -= content["nothing"]
        if "epochs 3" in content:
            several = content.pop("epochs 3") - content.pop("epochs 1")
            content["step"] = several // (2 * work.STEPS)
        del content["nothing"]
        contents.append(content)
    return contents


def predictions() -> dict[str, float]:
    """The same by the formulas."""
    data = work.whole()
    pieces = (work.piece(data, rank, 2)["gallery_ids"] for rank in range(2))
    found = torch.stack([ids.bincount(minlength=work.CLASSES)[data["query_ids"]] for ids in pieces])
    network = work.drcl.Encoder(work.DIM, dim=work.DIM, hidden=(64,))
    parameters = sum(weights.numel() for weights in network.parameters())
    return {
        "loss": traffic.loss(work.DIM, work.CLASSES, ranks=2),
        "ranking": traffic.ranking(work.QUERIES, int(found.max()), ranks=2),
        "step": traffic.step(work.BATCH, work.DIM, work.CLASSES, parameters, ranks=2),
    }


def assert_as_predicted(found: Found, header: int) -> None:
    predicted = predictions()
    for content in sends(found, header):
        for name, size in content.items():
            assert predicted[name] <= size <= (1 + MARGIN) * predicted[name], (name, content)


def assert_same_bits(ours: Found, others: Found) -> None:
    for (found, _), (other, _) in zip(ours, others, strict=True):
        assert found.keys() == other.keys()
        assert [name for name in found if not torch.equal(found[name], other[name])] == []


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return on_two_hosts(tmp_path_factory.mktemp("two"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("loss in float64", torch.float64, 1e-14), ("loss", torch.float32, 1e-6)],
)
def test_the_loss_and_its_gradient_are_those_of_one_process(found, name, dtype, tolerance):
    whole = work.loss(work.whole(), None, dtype)
    parts, gradient = whole[:4], whole[4:]
    assert all(torch.equal(rank[name][:4], found[0][0][name][:4]) for rank, _ in found)
    torch.testing.assert_close(found[0][0][name][:4], parts, rtol=tolerance, atol=tolerance)
    together = torch.cat([rank[name][4:] for rank, _ in found])
    # Of the largest entry: the small ones are differences of such.
    assert (together - gradient).abs().max() <= 10 * tolerance * gradient.abs().max()


@pytest.mark.slow
def test_a_gallery_in_pieces_is_ranked_as_by_one_process(found):
    whole = work.ranking(work.whole(), None)
    for rank, _ in found:
        torch.testing.assert_close(rank["ranking"], whole, rtol=1e-12, atol=0)


@pytest.mark.slow
def test_a_loss_and_a_ranking_send_what_the_formulas_say(found):
    assert_as_predicted(found, FAST_HEADER)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return on_two_hosts(tmp_path_factory.mktemp("trained"), "training")


@pytest.mark.long
def test_two_hosts_find_the_bits_of_two_ranks_on_one(trained, tmp_path):
    assert_same_bits(trained, on_one_host(tmp_path, "training"))


@pytest.mark.long
def test_slices_on_two_hosts_train_as_one_process(trained):
    one = work.trained(work.whole(), epochs=4)
    assert all(torch.equal(rank["slices"], trained[0][0]["slices"]) for rank, _ in trained)
    # A step of Adam is about lr = 1e-4 even for a gradient that is all rounding.
    assert (trained[0][0]["slices"] - one).abs().max() < 4 * work.STEPS * 1e-4


@pytest.mark.long
def test_a_slow_link_changes_no_bit_and_no_byte(trained, tmp_path):
    slow = on_two_hosts(tmp_path, "training", slow=SLOW)
    assert_same_bits(slow, trained)
    assert_as_predicted(slow, SLOW_HEADER)
    assert_as_predicted(trained, FAST_HEADER)
    if "DRCL_RECORD_TRAFFIC" in os.environ:
        record(trained, slow)


def record(fast: Found, slow: Found) -> None:
    """What the documentation shows of one rank."""
    rows = []
    for name, predicted in predictions().items():
        row: dict[str, Any] = {"what": name, "predicted": predicted}
        for link, of, header in (("fast", fast, FAST_HEADER), ("slow", slow, SLOW_HEADER)):
            row[link] = sends(of, header)[0][name]
            row[f"{link} with headers"] = sends(of, 0)[0][name]
        rows.append(row)
    about = {"dim": work.DIM, "classes": work.CLASSES, "batch": work.BATCH}
    about |= {"queries": work.QUERIES, "torch": torch.__version__}
    about |= {"delay": SLOW[0], "rate": SLOW[1]}
    path = ROOT / "docs" / "tools" / "traffic.json"
    path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
