"""The benchmark registry, and its gate: what is wrong gets no number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drcl import reference
from drcl.benchmarks.suite import measure, registry, results
from drcl.benchmarks.suite.registry import (
    Contender,
    Entry,
    Problem,
    Work,
    entries,
    no_compiler,
    own_function,
    select,
    with_peer,
)
from drcl.benchmarks.suite.worker import Failed
from drcl.benchmarks.workloads import loss
from drcl.data.sets.synthetic import SHAPES
from drcl.eager import reversible_consistency as eager

CPU = torch.device("cpu")
TINY = {"B": 12, "D": 8, "C": 3, "Q": 9, "N": 30, "k": 4}


def tiny(entry: Entry) -> Entry:
    return replace(entry, sizes={name: TINY[name] for name in entry.sizes}, gate={})


def one_of_each() -> list[Entry]:
    """The first entry of every op and set of sizes that runs in milliseconds."""
    found = {}
    for entry in entries(CPU):
        if not entry.op.startswith("training"):
            found.setdefault((entry.op, tuple(entry.sizes)), tiny(entry))
    return list(found.values())


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compiling takes longer than all else here."""
    monkeypatch.setattr(registry, "no_compiler", lambda device: "a test")
    return


def test_names_are_unique_on_every_device() -> None:
    for device in ("cpu", "cuda"):
        names = [entry.name for entry in entries(torch.device(device))]
        assert len(set(names)) == len(names)


def test_all_families_and_sets_are_there() -> None:
    found = entries(CPU)
    assert {entry.op for entry in found} >= {"loss", "prior_similarity", "mixup", "map"}
    for shape in SHAPES.values():
        test_rows = shape.modalities["image"][3]
        assert any(
            entry.op == "map" and entry.sizes["Q"] == entry.sizes["N"] == test_rows
            for entry in found
        )
        assert any(
            entry.op == "loss" and entry.sizes["C"] == shape.classes and entry.sizes["B"] == 1024
            for entry in found
        )


def test_gpu_entries_stay_off_the_cpu() -> None:
    on_cpu = {entry.name for entry in entries(CPU)}
    only_gpu = {entry.name for entry in entries(torch.device("cuda"))} - on_cpu
    assert any("B=1048576" in name for name in only_gpu)
    assert any(name.endswith("tf32") for name in only_gpu)


def test_select() -> None:
    found = entries(CPU)
    quick = select(found, quick=True)
    assert 0 < len(quick) < len(found)
    assert {entry.op for entry in select(found, ["mixup", "map Q=462"])} == {"mixup", "map"}
    assert select(found, ["NUS-WIDE test"])[0].sizes["N"] == 23661
    with pytest.raises(ValueError, match=r"nothing matches 'no such'; there are\n  loss B=1024"):
        select(found, ["no such"])


@pytest.mark.parametrize("entry", one_of_each(), ids=lambda entry: entry.name)
def test_all_contenders_agree_with_the_oracle(entry: Entry) -> None:
    problem = entry.build(entry.sizes, CPU)
    assert tuple(problem.contenders) == entry.contenders
    rows = {row.contender: row for row in measure.measure(entry, CPU, limit=0.0)}
    assert not [row.reason for row in rows.values() if row.status == "wrong"]
    ours = [row for row in rows.values() if row.ours and row.status == "measured"]
    assert ours[0].ratio == 1.0
    # Of what takes several times as long as our fastest one call may be all.
    assert max(row.rounds for row in ours) >= measure.FEWEST
    for row in rows.values():
        if row.status == "skipped":
            assert row.reason and row.p50_ms is None
            continue
        assert row.rounds >= 1
        assert 0 < row.p20_ms <= row.p50_ms <= row.p80_ms
        assert row.floor_share == pytest.approx(row.floor_ms / row.p50_ms)


def test_planted_wrong_gradient_gets_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    right = eager.gradient

    def wrong(*arguments: object) -> torch.Tensor:
        return right(*arguments) * 1.001  # type: ignore[arg-type]

    entry = next(entry for entry in one_of_each() if entry.op == "loss")
    monkeypatch.setattr(eager, "gradient", wrong)
    rows = {row.contender: row for row in measure.measure(entry, CPU, limit=0.0)}
    assert rows["drcl eager"].status == "wrong"
    assert "off by 1.0e-03" in rows["drcl eager"].reason
    assert all(row.p50_ms is None and row.ratio is None for row in rows.values())
    assert rows["literal"].status == "skipped"


def test_wrong_peer_gets_no_number_and_ours_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from drcl.benchmarks.workloads import ranking_peers

    peer = replace(ranking_peers.PEERS["torch argsort"], run=lambda data: 0.5)
    monkeypatch.setitem(ranking_peers.PEERS, "torch argsort", peer)
    entry = next(entry for entry in one_of_each() if entry.op == "map")
    rows = {row.contender: row for row in measure.measure(entry, CPU, limit=0.0)}
    assert rows["torch argsort"].status == "wrong" and rows["torch argsort"].p50_ms is None
    assert rows["drcl eager"].p50_ms is not None


def test_a_peer_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from drcl.benchmarks.workloads import ranking_peers

    class NoMemory:
        def peak(self, entry: Entry, contender: str) -> float:
            raise Failed("OutOfMemoryError: CUDA out of memory\nTried to allocate")

    def fails(data: object) -> float:
        raise NotImplementedError("not on this device")

    peer = replace(ranking_peers.PEERS["torch argsort"], run=fails)
    monkeypatch.setitem(ranking_peers.PEERS, "torch argsort", peer)
    entry = next(entry for entry in one_of_each() if entry.op == "map")
    rows = {row.contender: row for row in measure.measure(entry, CPU, 0.0, NoMemory())}
    failed, ours = rows["torch argsort"], rows["drcl eager"]
    assert failed.status == "wrong" and failed.p50_ms is None
    assert failed.reason == "NotImplementedError: not on this device"
    assert ours.p50_ms is not None and ours.memory_MB is None
    assert ours.reason == "memory: OutOfMemoryError: CUDA out of memory"


OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB\nGPU 0 has")
SAID = "out of memory: CUDA out of memory. Tried to allocate 1 TiB"


def failing_at(place: str, error: Exception = OUT) -> Entry:
    """An entry whose gate, at B = 1, is passed, and that fails at B = 2 in one place."""

    def build(sizes: Mapping[str, int], device: torch.device) -> Problem:
        large = sizes["B"] == 2

        def fail(here: str, outcome: tuple[torch.Tensor, ...] = (torch.ones(1),)) -> object:
            if large and place == here:
                raise error
            return outcome

        fail("inputs")
        contenders = {
            "drcl eager": Contender(lambda: fail("ours")),
            "peer": Contender(lambda: fail("a peer")),
        }
        work = registry.Work(1.0, 1.0, (1, 1, 1))
        return Problem(contenders, lambda: (torch.ones(1),), work)

    return Entry("made up", {"B": 2}, build, ("drcl eager", "peer"), gate={"B": 1})


@pytest.mark.parametrize("place", ["inputs", "ours", "a peer", "the probe", "the oracle"])
def test_out_of_memory_is_recorded_in_the_row(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*unused: object) -> None:
        raise OUT

    entry = failing_at(place)
    if place == "the probe":
        monkeypatch.setattr(measure, "copy_probe", fail)
    if place == "the oracle":
        built = entry.build
        entry = replace(
            entry, build=lambda sizes, device: replace(built(sizes, device), oracle=fail)
        )
    ours, peer = measure.measure(entry, CPU, limit=0.0)
    if place == "a peer":
        assert ours.status == "measured" and ours.p50_ms is not None
    else:
        assert (ours.status, ours.reason, ours.p50_ms) == ("skipped", SAID, None)
    if place == "ours":
        assert (peer.status, peer.reason) == ("skipped", "nothing of ours to compare with")
    else:
        assert (peer.status, peer.reason) == ("skipped", SAID)
    assert peer.p50_ms is None


def test_another_failure_at_full_size_is_wrong() -> None:
    ours, peer = measure.measure(failing_at("ours", ValueError("no such size")), CPU, limit=0.0)
    assert (ours.status, ours.reason) == ("wrong", "ValueError: no such size")
    assert peer.status == "skipped"
    with pytest.raises(ValueError, match="no such size"):  # of building: an error of the suite's
        measure.measure(failing_at("inputs", ValueError("no such size")), CPU, limit=0.0)


def test_the_command_goes_on_to_the_next_workload(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from drcl.cli.bench import bench

    second = replace(failing_at("nowhere"), op="another")
    monkeypatch.setattr(registry, "entries", lambda device: [failing_at("inputs"), second])
    run = CliRunner().invoke(bench, ["--device", "cpu", "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    assert SAID in run.output
    (folder,) = tmp_path.iterdir()
    kept = {(row.op, row.contender): row for row in results.read(folder)}
    assert kept["made up", "drcl eager"].status == "skipped"
    assert kept["another", "drcl eager"].p50_ms is not None


LOSSES = [entry for entry in entries(torch.device("cuda")) if entry.op == "loss"]


@pytest.mark.parametrize("entry", LOSSES, ids=lambda entry: entry.name)
def test_the_probe_on_a_gpu_fills_it_or_is_the_workloads_own(entry: Entry) -> None:
    work = loss.work(*entry.sizes.values())
    m, k, n = measure.probe_shape(work, "cuda")
    tiles = -(-m // 128) * -(-n // 128)  # of the size that libraries take for large products
    assert tiles >= 2 * 132 or (m, k, n) == work.product
    assert 4 * m * n <= 2**32 and m * k * n <= 2e12


def test_missing_peer_is_a_skip_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from drcl.benchmarks.workloads import ranking_peers

    peer = replace(ranking_peers.PEERS["ranx"], module="no_such_module", package="ranx")
    monkeypatch.setitem(ranking_peers.PEERS, "ranx", peer)
    entry = next(entry for entry in one_of_each() if entry.op == "map")
    rows = {row.contender: row for row in measure.measure(entry, CPU, limit=0.0)}
    assert rows["ranx"].status == "skipped"
    assert rows["ranx"].reason == "ranx is not installed (pip install drcl[bench])"


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++ -O3")
    assert no_compiler(CPU) == "no C++ compiler (/nonexistent/c++) for torch.compile"


def test_distance() -> None:
    exact = (torch.tensor([3.0, 4.0]),)
    assert measure.distance((torch.tensor([3.0, 4.5]),), exact) == pytest.approx(0.1)
    assert measure.distance((torch.tensor([3.0, torch.nan]),), exact) == float("inf")
    assert measure.distance((torch.tensor([3.0]),), exact) == float("inf")


def test_part_of_a_workload_is_scaled_up() -> None:
    def build(sizes: object, device: torch.device) -> Problem:
        contenders = {"drcl eager": Contender(lambda: 2.0), "peer": Contender(lambda: 1.0, 0.25)}
        return Problem(contenders, tuple, registry.Work(1.0, 1.0, (1, 1, 1)))

    entry = Entry("op", {"B": 1}, build, ("drcl eager", "peer"))
    ours, peer = measure.measure(entry, CPU, limit=0.0)
    assert (ours.p50_ms, peer.p50_ms, peer.ratio) == (2000.0, 4000.0, 2.0)


def test_floor_of_the_loss_counts_what_is_left_outside_the_prior() -> None:
    from drcl.benchmarks.workloads.loss import work

    assert work(100, 50, 10).operations == 3 * 100 * 50 * 50 + 4 * 100 * 50 * 10
    assert work(100, 50, 50).operations == 4 * 100 * 50 * 50  # classes span everything
    assert registry.Work(1e9, 1e9, (1, 1, 1)).seconds(flops=1e9, bandwidth=1e8) == 10.0


def test_literal_is_the_reference() -> None:
    from drcl.benchmarks.workloads.loss import Q, batch, literal

    features, ids, prior = batch(7, 6, 3)
    rows = torch.eye(3)[ids]
    ours = literal(rows.double(), prior.weight.double(), torch.linalg.pinv(prior.weight.double()))
    total = reference.reversible_consistency(
        features.double(), rows.double(), prior.weight.double(), q=Q
    )[0]
    torch.testing.assert_close(ours(features.double()), total)


OWN = """
import torch

def loss(x, ids, weight):
    rows = torch.nn.functional.one_hot(ids, weight.shape[1]).float()
    from drcl import reference
    return reference.reversible_consistency(x, rows, weight, q=0.5, alpha=0.1, beta=0.1)[0]

def prior_similarity(x, ids, weight):
    log_s = (x @ weight).log_softmax(dim=1).gather(1, ids[:, None])
    return 2 * (1 - log_s.exp().sqrt()).mean(), log_s.exp().mean()

def mixup(x, y, permutation):
    return 0.9 * x + 0.1 * x[permutation], 0.9 * y + 0.1 * y[permutation]

def map(query, gallery, ones, others, k):
    order = (query @ gallery.T).argsort(dim=1, descending=True, stable=True)[:, :k]
    hits = ones[:, None] == others[order]
    precision = hits.cumsum(dim=1) / torch.arange(1, hits.shape[1] + 1)
    return ((precision * hits).sum(dim=1) / hits.sum(dim=1).clamp(min=1)).mean()

wrong = lambda x, *unused: x.sum() * 0 + 1
"""


@pytest.mark.parametrize("op", ["loss", "prior_similarity", "mixup", "map"])
def test_a_users_function_is_checked_and_timed(op: str, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    entry = tiny(next(entry for entry in entries(CPU) if entry.op == op))
    for name in (op, "wrong"):
        spec = f"{file}:{name}"
        entry = with_peer(entry, spec, own_function(spec))
    found = {row.contender: row for row in measure.measure(entry, CPU, 0.0)}
    right, wrong = found[f"{file}:{op}"], found[f"{file}:wrong"]
    assert right.status == "measured" and right.p50_ms, right.reason
    assert wrong.status == "wrong" and wrong.p50_ms is None


def test_a_workload_that_takes_no_functions_says_so() -> None:
    entry = next(entry for entry in entries(CPU) if entry.op == "map")
    without = replace(entry, build=lambda *_: Problem({}, tuple, Work(1, 1, (1, 1, 1))))
    problem = with_peer(without, "a.py:f", min).build({}, CPU)
    assert problem.contenders == {"a.py:f": "takes no functions"}


@pytest.mark.parametrize("spec", ["nonsense", "a.py", "a.txt:f", "a.py:", ":f"])
def test_a_peer_is_a_file_and_a_function(spec: str) -> None:
    with pytest.raises(ValueError, match=r"peer: expected FILE\.py:FUNCTION, got"):
        own_function(spec)


def test_a_peer_that_is_not_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("value = 3")
    for name in ("value", "other"):
        with pytest.raises(
            ValueError, match=rf"peer: expected a function {name} in .*own\.py, got"
        ):
            own_function(f"{tmp_path / 'own.py'}:{name}")
