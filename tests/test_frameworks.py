"""Training with FSDP2, Lightning and accelerate is that of a plain loop of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import on_ranks, process_group
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from drcl.losses import ReversibleConsistencyLoss
from drcl.metrics import mean_average_precision
from drcl.prior import Prior

WIDTH, DIM, CLASSES, BATCH = 6, 12, 4, 16


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, DIM)).double()


def criterion(group: Any = None) -> ReversibleConsistencyLoss:
    torch.manual_seed(2)
    # Made anew in float64: a basis that is orthonormal to float32 only would set the limit.
    prior = Prior(Prior.orthogonal(DIM, CLASSES).weight.double())
    return ReversibleConsistencyLoss(prior, process_group=group)


def rows(count: int = BATCH) -> tuple[Tensor, Tensor]:
    """Features around a centre for each class, and ids."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.arange(count) % CLASSES
    centres = 2 * torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return centres[ids] + noise, ids


def steps(net: nn.Module, loss: nn.Module, batches: Any) -> list[float]:
    """A plain loop over the batches: the loss of every step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    values = []
    for x, ids in batches:
        optimizer.zero_grad()
        value = loss(net(x), ids, q=0.3)
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values


def on_two_ranks(rank: int, folder: str) -> None:
    """Half of the rows each, every parameter sharded between the two."""
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    with process_group(rank, 2, folder):
        group = torch.distributed.group.WORLD
        found: dict[str, Any] = {}
        x, ids = rows()
        own = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
        for name in ("whole batch", "mean of ranks"):
            net = network()
            fully_shard(net[0])
            fully_shard(net)
            whole = name == "whole batch"
            loss = criterion(group if whole else None)
            value = loss(net(x[own]), ids[own], q=0.3)
            # FSDP averages the gradients over the ranks; those of the whole batch are summed.
            (value * 2 if whole else value).backward()
            found[name] = [p.grad.full_tensor() for p in net.parameters()]
            found[name].append(value.detach())
            torch.optim.SGD(net.parameters(), lr=0.05).step()
            found[f"{name}, stepped"] = [p.full_tensor().detach() for p in net.parameters()]
        torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("fsdp")
    on_ranks(on_two_ranks, 2, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
class TestFSDP2:
    def one_process(self, parts: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Gradients of the mean over the parts of the batch, parameters after a step, losses."""
        net, loss = network(), criterion()
        x, ids = rows()
        values = [
            loss(net(part), own, q=0.3)
            for part, own in zip(x.chunk(parts), ids.chunk(parts), strict=True)
        ]
        torch.stack(values).mean().backward()
        gradients = [p.grad.clone() for p in net.parameters()]
        torch.optim.SGD(net.parameters(), lr=0.05).step()
        return gradients, [p.detach() for p in net.parameters()], [v.detach() for v in values]

    @pytest.mark.parametrize(("name", "parts"), [("whole batch", 1), ("mean of ranks", 2)])
    def test_gradient_and_step_are_those_of_one_process(
        self, found: Any, name: str, parts: int
    ) -> None:
        gradients, stepped, values = self.one_process(parts)
        assert max(float(g.abs().max()) for g in gradients) > 1e-3
        for rank, results in enumerate(found):
            *sharded, value = results[name]
            for got, want in zip(sharded, gradients, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)
            for got, want in zip(results[f"{name}, stepped"], stepped, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)
            want = values[rank] if parts == 2 else values[0]
            torch.testing.assert_close(value, want, rtol=1e-11, atol=1e-13)

    def test_the_mean_of_ranks_is_another_loss(self, found: Any) -> None:
        """The similarity term compares pairs of rows; those of two ranks are in neither part."""
        whole, parts = found[0]["whole batch"], found[0]["mean of ranks"]
        assert not torch.allclose(whole[0], parts[0], rtol=1e-3)


class TestLightning:
    @pytest.fixture
    def lightning(self) -> Any:
        return pytest.importorskip("pytorch_lightning")

    def module(self, lightning: Any) -> Any:
        class Training(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.criterion = network(), criterion()
                self.losses: list[float] = []
                self.found: list[float] = []

            def training_step(self, batch: Any, index: int) -> Tensor:
                x, ids = batch
                loss = self.criterion(self.net(x), ids, q=0.3)
                self.losses.append(loss.item())
                return loss

            def validation_step(self, batch: Any, index: int) -> None:
                x, ids = batch
                embeddings = self.net(x)
                value = mean_average_precision(embeddings, embeddings, ids, ids, exclude_self=True)
                self.found.append(value)
                self.log("mAP", value)

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.net.parameters(), lr=0.05)

        return Training()

    def trainer(self, lightning: Any, folder: Path) -> Any:
        return lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_two_epochs_and_a_checkpoint(self, lightning: Any, tmp_path: Path) -> None:
        data = TensorDataset(*rows(48))
        loader, whole = DataLoader(data, batch_size=BATCH), DataLoader(data, batch_size=48)
        module, trainer = self.module(lightning), self.trainer(lightning, tmp_path)
        trainer.fit(module, loader, whole)

        net, loss = network(), criterion()
        values, judged = [], []
        x, ids = rows(48)
        for _ in range(2):
            values += steps(net, loss, loader)
            embeddings = net(x)
            judged.append(
                mean_average_precision(embeddings, embeddings, ids, ids, exclude_self=True)
            )
        assert module.losses == values and len(values) == 6
        assert module.found == judged
        assert float(trainer.callback_metrics["mAP"]) == pytest.approx(judged[-1], rel=1e-6)
        assert values[3] != values[0]

        path = tmp_path / "two.ckpt"
        trainer.save_checkpoint(path)
        again = self.module(lightning)
        with torch.no_grad():
            for parameter in again.parameters():
                parameter.zero_()
        found = self.trainer(lightning, tmp_path).validate(
            again, whole, ckpt_path=str(path), verbose=False
        )
        for (name, got), want in zip(
            again.state_dict().items(), module.state_dict().values(), strict=True
        ):
            assert torch.equal(got, want), name
        assert found[0]["mAP"] == pytest.approx(judged[-1], rel=1e-6)


class TestAccelerate:
    @pytest.mark.parametrize("prepared", ["network", "network and loss"])
    def test_steps_are_those_of_a_plain_loop(self, prepared: str) -> None:
        accelerate = pytest.importorskip("accelerate")
        loader = DataLoader(TensorDataset(*rows(48)), batch_size=BATCH)
        plain = network()
        expected = steps(plain, criterion(), loader)

        accelerator = accelerate.Accelerator(cpu=True)
        net, loss = network(), criterion()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
        if prepared == "network and loss":
            loss = accelerator.prepare(loss)
        values = []
        for x, ids in loader:
            optimizer.zero_grad()
            value = loss(net(x), ids, q=0.3)
            accelerator.backward(value)
            optimizer.step()
            values.append(value.item())
        assert values == expected
        unwrapped = accelerator.unwrap_model(net)
        for got, want in zip(unwrapped.parameters(), plain.parameters(), strict=True):
            assert torch.equal(got, want)
        assert any(
            not torch.equal(new, old)
            for new, old in zip(plain.parameters(), network().parameters(), strict=True)
        )
