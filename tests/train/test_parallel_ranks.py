"""Several processes with a slice of the batch each compute what one process computes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import on_ranks, process_group
from torch import Tensor, nn

from drcl import functional
from drcl.encoder import Encoder
from drcl.metrics import mean_average_precision
from drcl.prior import Prior
from drcl.train.ranks import Ranks
from drcl.train.samples import Samples

CLASSES, DIM, WIDTH, LAM = 4, 12, 5, 0.9
# 11 and 7 go evenly into neither 2 nor 4 ranks; with 3 and 1 some ranks have no row.
BATCHES = (16, 11, 7, 3, 1)
LABELS = ("ids", "some unlabelled", "multi-hot")
DTYPES = (torch.float64, torch.float32)
CASES = list(itertools.product(BATCHES, LABELS, DTYPES))


def whole_batch(batch: int, labels: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Features, targets and permutation of the whole batch, the same in every process."""
    generator = torch.Generator().manual_seed(batch)
    features = torch.randn(batch, WIDTH, generator=generator, dtype=dtype)
    targets = torch.randint(CLASSES, (batch,), generator=generator)
    if labels == "some unlabelled":
        targets[:: 2 if batch > 1 else 1] = -1
    if labels == "multi-hot":
        targets = torch.eye(CLASSES, dtype=dtype)[targets]
        targets[:, 0] = (torch.arange(batch) % 3 == 0).to(dtype)
    return features, targets, torch.randperm(batch, generator=generator)


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(1)
    return Encoder(WIDTH, dim=DIM, hidden=(8,)).to(dtype)


def gradients(module: nn.Module) -> Tensor:
    parts = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.cat([part.flatten() for part in parts]).double()


def consistency_step(ranks: Ranks | None, case: tuple[int, str, torch.dtype]) -> list[Tensor]:
    """Loss and its parts, and the encoder's gradients, of one step of encoder training."""
    features, targets, permutation = whole_batch(*case)
    encoder = network(case[2])
    # Made anew in this dtype: a basis that is orthonormal to float32 only would set the limit.
    prior = Prior(Prior.orthogonal(DIM, CLASSES, norm=2.0).weight.to(case[2]))
    if ranks is None:
        parts = functional.reversible_consistency_loss(
            encoder(features), targets, prior, q=0.3, lam=LAM, permutation=permutation
        )
    else:
        own = ranks.rows(len(features))
        mixed, rows = ranks.mix(encoder(features[own]), targets[own], permutation, CLASSES, LAM)
        parts = functional.reversible_consistency_loss(
            mixed, rows, prior, q=0.3, process_group=ranks.group
        )
    parts.total.backward()
    if ranks is not None:
        ranks.sum_gradients(encoder.parameters())
    return [torch.stack(parts).detach().double(), gradients(encoder)]


def prior_step(ranks: Ranks | None, case: tuple[int, str, torch.dtype]) -> list[Tensor]:
    """The same of one step of prior learning, where W is trained too."""
    features, targets, _ = whole_batch(*case)
    module = nn.ParameterList([Prior.orthogonal(DIM, CLASSES).weight.to(case[2]).clone()])
    module.append(nn.Parameter(torch.zeros(1)))  # has no gradient anywhere
    encoder = network(case[2])
    if ranks is not None:
        own = ranks.rows(len(features))
        targets = ranks.targets(targets[own], len(features))
        features = features[own]
    out = functional.prior_similarity(encoder(features), module[0], targets, q=0.3)
    loss, score = out.loss, out.score
    if ranks is not None:
        labelled = targets >= 0 if targets.ndim == 1 else targets.sum(dim=1) > 0
        loss, score = (ranks.mean(value, labelled.sum()) for value in (loss, score))
    loss.backward()
    if ranks is not None:
        ranks.sum_gradients([*module.parameters(), *encoder.parameters()])
    assert module[1].grad is None
    values = torch.stack([loss.detach(), score.detach()]).double()
    return [values, gradients(module), gradients(encoder)]


def judgement(ranks: Ranks | None, case: tuple[int, str, torch.dtype]) -> list[Tensor]:
    """mAP of the batch within itself."""
    samples = Samples(*whole_batch(*case)[:2]).labelled()
    if len(samples.features) == 0:
        return []
    count = len(samples.features)
    own = slice(None) if ranks is None else ranks.rows(count)
    embeddings = network(case[2])(samples.features[own]).detach()
    if ranks is None:
        found = mean_average_precision(
            embeddings, embeddings, samples.targets, samples.targets, exclude_self=True
        )
    else:
        embeddings = ranks.gather(embeddings, count)
        found = ranks.mean_average_precision(embeddings, samples.targets)
    return [torch.tensor(found, dtype=torch.float64), embeddings.double()]


STEPS = (consistency_step, prior_step, judgement)


def everything(ranks: Ranks | None) -> list[Tensor]:
    return [part for case in CASES for step in STEPS for part in step(ranks, case)]


def only_here(ranks: Ranks) -> Tensor:
    """A parameter that the last rank alone has a gradient for."""
    parameter = nn.Parameter(torch.zeros(2))
    if ranks.rank == ranks.world - 1:
        parameter.grad = torch.ones(2)
    ranks.sum_gradients([parameter])
    assert parameter.grad is not None
    return parameter.grad


def on_rank(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    with process_group(rank, world, folder):
        ranks = Ranks.of()
        torch.save([*everything(ranks), only_here(ranks)], f"{folder}/{rank}.pt")


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What every rank has found, in the order of :func:`everything`."""
    folder: Path = tmp_path_factory.mktemp(f"world-{request.param}")
    on_ranks(on_rank, request.param, request.param, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.fixture(scope="module")
def expected() -> list[list[list[Tensor]]]:
    """The same from one process: case × step × values."""
    return [[step(None, case) for step in STEPS] for case in CASES]


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    # Sums in another order, and for few rows another of the loss's two algorithms (B×B or D×D):
    # some 100 roundings of values around 1.
    return (
        {"rtol": 1e-11, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 2e-6}
    )


@pytest.mark.slow
def test_losses_gradients_and_map_are_those_of_one_process(found, expected):
    for rank, values in enumerate(found):
        values = iter(values)
        for case, steps in zip(CASES, expected, strict=True):
            for step, wanted in zip(STEPS, steps, strict=True):
                for want in wanted:
                    torch.testing.assert_close(
                        next(values),
                        want,
                        **tolerance(case[2]),
                        msg=lambda text, at=(rank, case, step.__name__): f"{at}: {text}",
                    )


@pytest.mark.slow
def test_ranks_have_bit_identical_gradients(found):
    for values in zip(*found, strict=True):
        assert all(torch.equal(values[0], other) for other in values[1:])


@pytest.mark.slow
def test_a_gradient_that_one_rank_has_reaches_all(found):
    assert all(values[-1].tolist() == [1.0, 1.0] for values in found)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9, 1024])
@pytest.mark.parametrize("world", [1, 2, 4, 7])
def test_shares_follow_one_another_and_differ_by_a_row_at_most(count, world):
    shares = [Ranks(None, rank, world).shard(count) for rank in range(world)]  # type: ignore[arg-type]
    assert [row for share in shares for row in range(count)[share]] == list(range(count))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_without_a_process_group_the_error_says_how_to_get_one():
    with pytest.raises(ValueError, match="torchrun"):
        Ranks.of()
