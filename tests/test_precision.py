"""PyTorch's settings for float32 products, in every legal combination: nothing of ours raises,
products have the precision that was asked for, and the settings are left as they were."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from precision_states import (
    GENERIC,
    KINDS,
    OLDER,
    State,
    fingerprint,
    settings,
    show,
    states,
)
from torch import Tensor, nn

from drcl import DRCL, Encoder, Prior, functional, metrics, use_backend
from drcl.benchmarks.suite import measure, registry
from drcl.ops import inner_products
from drcl.precision import allowed_on_gpu, network_precision, product_precision
from drcl.train.perceptron import Perceptron

CPU = torch.device("cpu")
PRODUCTS = (("cuda", "matmul"), ("mkldnn", "matmul"))
every_state = pytest.mark.parametrize(("older", "generic"), list(itertools.product(OLDER, GENERIC)))
few_or_all = pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(KINDS, id="of-each-kind"),
        *(
            pytest.param(states(*top), id="-".join(top), marks=pytest.mark.long)
            for top in itertools.product(OLDER, GENERIC)
        ),
    ],
)
of_each_kind = pytest.mark.parametrize("state", KINDS, ids=lambda state: "-".join(map(str, state)))


@pytest.fixture(scope="module", autouse=True)
def as_they_were() -> Iterator[None]:
    before = fingerprint()
    yield
    assert fingerprint() == before


@every_state
def test_blocks_set_the_precision_and_put_every_setting_back(older: str, generic: str) -> None:
    for state in states(older, generic):
        with settings(state):
            assert [show(product) for product in PRODUCTS] == [state.on_cuda, state.on_mkldnn]
            before = fingerprint()
            for block in (product_precision, network_precision):
                for precision, value in (("highest", "ieee"), ("high", "tf32")):
                    with block(precision):
                        assert [show(product) for product in PRODUCTS] == [value, value]
                        # PyTorch's own readers agree with one another
                        assert torch.get_float32_matmul_precision() == precision
                        assert torch.backends.cuda.matmul.allow_tf32 == (precision == "high")
                        if block is network_precision:
                            assert show(("cuda", "conv")) == show(("mkldnn", "rnn")) == value
                    assert fingerprint() == before, state


@every_state
def test_a_gpu_is_allowed_what_pytorch_allows_it(older: str, generic: str) -> None:
    for state in states(older, generic):
        with settings(state):
            before = fingerprint()
            found = allowed_on_gpu()
            assert fingerprint() == before
        assert (found == "highest") == (state.on_cuda != "tf32"), state
        assert (found == "medium") == (
            state.on_cuda == "tf32" and older == "medium" and not state.contradicts
        ), state


@few_or_all
def test_rankings_multiply_in_float32(chosen: list[State], monkeypatch: pytest.MonkeyPatch) -> None:
    # products of our own, which have one precision, are not by torch.mm
    monkeypatch.setattr(inner_products, "multiplies_panels", lambda: False)
    x, ids = torch.randn(12, 6), torch.arange(12) % 3
    wanted = metrics.retrieval_metrics(x, x, ids, ids, ks=(3, None))
    seen, product = set(), torch.mm

    def mm(*arguments: Tensor, out: Tensor) -> Tensor:
        seen.add(tuple(map(show, PRODUCTS)))
        return product(*arguments, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    for state in chosen:
        with settings(state):
            before = fingerprint()
            found = metrics.retrieval_metrics(x, x, ids, ids, ks=(3, None))
            assert fingerprint() == before, state
        assert torch.equal(found.average_precision, wanted.average_precision), state
    assert seen == {("ieee", "ieee")}


def near(dtype_of_products: str) -> dict[str, float]:
    """What the CPU form may differ by where the user lets the CPU multiply like this.

    Only processors with instructions for it do; on all others not a bit changes.
    """
    share = {"bf16": 2e-2, "tf32": 2e-3}.get(dtype_of_products, 0.0)
    return {"rtol": share, "atol": share}


def loss_and_gradient() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    prior, x = Prior(torch.randn(12, 3)), torch.randn(9, 12, requires_grad=True)
    ids = torch.arange(9) % 3
    loss = functional.reversible_consistency_loss(x, ids, prior, q=0.3).total
    similarity = functional.prior_similarity(x, prior, ids).loss
    assert similarity is not None
    total = loss + similarity
    return total.detach(), *torch.autograd.grad(total, x)


@few_or_all
def test_the_loss_on_a_cpu(chosen: list[State]) -> None:
    with use_backend("eager"):
        wanted = loss_and_gradient()
        for state in chosen:
            with settings(state):
                before = fingerprint()
                found = loss_and_gradient()
                assert fingerprint() == before, state
            torch.testing.assert_close(found, wanted, **near(state.on_mkldnn))


def train(precision: str, networks: dict[str, nn.Module] | None = None) -> DRCL:
    settings = {**tiny.SETTINGS, "epochs": 2, "prior_epochs": 2, "precision": precision}
    data = tiny.split()
    return DRCL(networks=networks, **settings).fit(
        {"image": data["image"]} if networks else data, progress=False
    )


@of_each_kind
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_training_and_search(state: State, precision: str) -> None:
    def outcome() -> list[Tensor]:
        model, data = train(precision), tiny.split()
        found = model.search("image", data["image"][0][:5], "text", data["text"][0], k=3)
        return [*model.encoders["image"].state_dict().values(), found.scores, found.indices]

    wanted = outcome()
    with settings(state):
        before = fingerprint()
        found = outcome()
        assert fingerprint() == before
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, **near(state.on_mkldnn))


@of_each_kind
def test_networks_multiply_in_float32_unless_told_otherwise(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    class Spy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                seen.add(show(("mkldnn", "matmul")))
            return super().forward(x)

    addmm = torch.addmm

    def spied(*arguments: Tensor, **options: Tensor) -> Tensor:
        seen.add(show(("mkldnn", "matmul")))
        return addmm(*arguments, **options)

    with settings(state):
        train("float32", {"image": Spy(8, 16)})
        if state.generic == "none":  # the eager loss calls it, too, in the user's precision
            monkeypatch.setattr("drcl.train.perceptron.torch.addmm", spied)
            Perceptron(Encoder(8, hidden=(4,), dim=3)).forward(torch.ones(2, 8))
    assert seen == {"ieee"}


@of_each_kind
def test_the_benchmarks_rows(state: State) -> None:
    def run() -> tuple[Tensor]:
        seen.append((show(("mkldnn", "matmul")), allowed_on_gpu()))
        return (torch.ones(1),)

    problem = registry.Problem(
        {"drcl eager": registry.Contender(run)},
        lambda: (torch.ones(1),),
        registry.Work(1.0, 1.0, (8, 8, 8)),
    )
    for precision, expected in (("highest", ("ieee", "highest")), ("high", ("tf32", "high"))):
        seen: list[tuple[str, str]] = []
        entry = registry.Entry(
            "made up", {"B": 1}, lambda sizes, device: problem, ("drcl eager",), precision=precision
        )
        with settings(state):
            before = fingerprint()
            rows = measure.measure(entry, CPU, limit=0.01)
            assert fingerprint() == before
        assert [row.status for row in rows] == ["measured"]
        assert set(seen) == {expected}


def test_the_most_precise_wish_holds_and_the_last_to_leave_restores() -> None:
    with settings(State("medium", "tf32")):
        before = fingerprint()
        first, second = network_precision("high"), network_precision("highest")
        first.__enter__()
        second.__enter__()
        with product_precision("high"):
            assert torch.get_float32_matmul_precision() == "highest"
        first.__exit__(None, None, None)  # as in threads: not in the order of entering
        assert torch.get_float32_matmul_precision() == "highest"
        assert show(("cuda", "conv")) == "ieee"
        second.__exit__(None, None, None)
        assert fingerprint() == before


def test_settings_come_back_after_an_error() -> None:
    for state in KINDS:
        with settings(state):
            before = fingerprint()
            with pytest.raises(ZeroDivisionError), network_precision("high"):
                raise ZeroDivisionError
            assert fingerprint() == before


# cuDNN's own settings begin with a value that cannot be set again: in a process of its own, where
# nothing has set them yet, and then with every value that can be set.
CONVOLUTIONS = """
    import itertools, torch
    from precision_states import GENERIC, ON_CUDA, State, fingerprint, settings, show, write
    from drcl.precision import network_precision

    def check():
        for generic, cuda in itertools.product(GENERIC, ON_CUDA):
            with settings(State(generic=generic, cuda=cuda)):
                before = fingerprint()
                for precision, value in (("highest", "ieee"), ("high", "tf32")):
                    with network_precision(precision):
                        for op in ("conv", "rnn"):
                            assert show(("cuda", op)) == value, (generic, cuda, op)
                    assert fingerprint() == before, (generic, cuda, precision)

    check()
    for conv, rnn in itertools.product(ON_CUDA, ON_CUDA):
        write(("cuda", "conv"), conv)
        write(("cuda", "rnn"), rnn)
        check()
    for older in (True, False):
        torch.backends.cudnn.allow_tf32 = older
        check()
        for value in ON_CUDA:
            write(("cuda", "conv"), value)
            check()
    print("all checked")
"""


def test_convolutions_and_recurrent_layers_are_put_back_too() -> None:
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(CONVOLUTIONS)],
        cwd=here.parent,
        env={**os.environ, "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "all checked\n", run.stderr
