"""Training with FSDP2, Lightning and accelerate is that of a plain loop of one process.

The recipes of docs/frameworks.md are run as they stand there.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from gloo import on_ranks, process_group
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from drcl import DRCL
from drcl.losses import ReversibleConsistencyLoss
from drcl.metrics import (
    RetrievalMetric,
    mean_average_precision,
    retrieval_metrics,
    retrieval_report,
)
from drcl.prior import Prior

WIDTH, DIM, CLASSES, BATCH = 6, 12, 4, 16
# What every Lightning trainer is given here.
QUIET: dict[str, Any] = {"accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0}
QUIET |= {"enable_progress_bar": False, "enable_model_summary": False}


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
        return lightning.Trainer(max_epochs=2, devices=1, default_root_dir=folder, **QUIET)

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


VALIDATED = 37  # which neither 2 nor 4 ranks divide


class IndexedRows(Dataset[tuple[Tensor, Tensor, int]]):
    """Rows with their labels and their numbers, by which what a sampler repeats is known."""

    def __init__(self) -> None:
        self.x, self.ids = rows(VALIDATED)

    def __len__(self) -> int:
        return VALIDATED

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, int]:
        return self.x[row], self.ids[row], row


def validation(lightning: Any, seen: dict[int, Tensor]) -> Any:
    """A module that logs a metric of the validation rows, and keeps their embeddings."""

    class Validated(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = network(), criterion()
            self.logged: list[float] = []

        def setup(self, stage: str) -> None:
            # Not before: the process group is made by the trainer.
            group = torch.distributed.group.WORLD if torch.distributed.is_initialized() else None
            self.metric = RetrievalMetric(ks=(3, None), process_group=group).as_torchmetrics(
                "mAP@3"
            )
            self.others = RetrievalMetric(ks=(3,), process_group=group).as_torchmetrics()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return self.criterion(self.net(batch[0]), batch[1], q=0.3)

        def validation_step(self, batch: Any, index: int) -> None:
            x, ids, places = batch
            embeddings = self.net(x)
            for place, row in zip(places.tolist(), embeddings, strict=True):
                seen.setdefault(place, row)
            for metric in (self.metric, self.others):
                metric.update(embeddings, ids, ids=places)
            self.log("mAP", self.metric, on_step=False, on_epoch=True)

        def on_validation_epoch_end(self) -> None:
            self.log_dict(self.others.compute())
            self.others.reset()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.net.parameters(), lr=0.05)

    return Validated()


def fit_and_validate(folder: str, **options: Any) -> dict[str, Any]:
    """What was logged after one epoch, and the embeddings that it was of."""
    import pytorch_lightning

    seen: dict[int, Tensor] = {}
    module = validation(pytorch_lightning, seen)
    trainer = pytorch_lightning.Trainer(
        default_root_dir=folder,
        enable_checkpointing=False,
        max_epochs=1,
        limit_train_batches=1,
        **QUIET,
        **options,
    )
    loader = DataLoader(IndexedRows(), batch_size=8)
    trainer.fit(module, loader, loader)
    logged = {name: value.clone() for name, value in trainer.callback_metrics.items()}
    assert not module.metric.metric._sides  # Lightning has reset it for the next epoch
    return {"seen": seen, "logged": logged}


def lightning_rank(rank: int, world: int, port: int, folder: str) -> None:
    """As torchrun starts it: Lightning shares the rows and makes the process group."""
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
    }
    torch.save(fit_and_validate(folder, devices=world, strategy="ddp"), f"{folder}/{rank}.pt")


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
class TestMetricInLightning:
    def assert_logged(self, seen: dict[int, Tensor], logged: dict[str, Tensor]) -> None:
        """The numbers of the function on the same embeddings in one process, to the bit."""
        assert sorted(seen) == list(range(VALIDATED))
        x = torch.stack([seen[row] for row in range(VALIDATED)])
        y = rows(VALIDATED)[1]
        means = retrieval_metrics(x, x, y, y, ks=(3,)).summary()
        expected = {"mAP": means["mAP@3"], **means}
        assert {name: float(value) for name, value in logged.items()} == expected
        assert 0.2 < means["mAP@3"] < 1

    def test_one_process(self, tmp_path: Path) -> None:
        pytest.importorskip("pytorch_lightning")
        found = fit_and_validate(str(tmp_path), devices=1)
        self.assert_logged(found["seen"], found["logged"])

    @pytest.mark.slow
    @pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.long)])
    def test_ddp_counts_repeated_rows_once(self, world: int, tmp_path: Path) -> None:
        pytest.importorskip("pytorch_lightning")
        on_ranks(lightning_rank, world, world, free_port(), str(tmp_path))
        ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
        repeated = sum(len(found["seen"]) for found in ranks) - VALIDATED
        assert repeated == -VALIDATED % world > 0
        seen: dict[int, Tensor] = {}
        for found in ranks:
            seen = found["seen"] | seen  # rank 0's of what two ranks have seen
        for found in ranks:
            self.assert_logged(seen, found["logged"])

    def test_a_metric_of_torchmetrics_outside_of_lightning(self) -> None:
        torchmetrics = pytest.importorskip("torchmetrics")
        x, y = rows(20)
        metric = RetrievalMetric(ks=(5,)).as_torchmetrics("recall@5")
        assert isinstance(metric, torchmetrics.Metric)
        for part in (slice(0, 13), slice(13, 20)):
            metric.update(x[part], y[part])
        expected = retrieval_metrics(x, x, y, y, ks=(5,)).summary()["recall@5"]
        assert metric.compute() == expected and metric.compute().dtype == torch.float64
        metric.reset()
        metric.update(x[:8], y[:8], modality="image")
        metric.update(x[8:], y[8:], modality="text")
        sides = {"image": (x[:8], y[:8]), "text": (x[8:], y[8:])}
        with pytest.raises(ValueError, match="measure: expected one of mAP@all, mAP@5, got"):
            metric.compute()
        report = RetrievalMetric(ks=(5,)).as_torchmetrics("mAP@5")
        for name, (rows_of, labels) in sides.items():
            report.update(rows_of, labels, modality=name)
        assert report.compute() == retrieval_report(sides, ks=(5,))["mAP@5"]["mean"]
        with pytest.raises(TypeError, match=r"expected update\(…\), got a call"):
            metric(x, y)


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


PAGE = (Path(__file__).resolve().parents[1] / "docs" / "frameworks.md").read_text("utf-8")
RECIPES = {
    title: code
    for title, body in re.findall(r"^##+ (.*?)\n(.*?)(?=^##|\Z)", PAGE, flags=re.S | re.M)
    for code in re.findall(r"^```python\n(.*?)^```$", body, flags=re.S | re.M)
}


def followed(title: str, **replaced: str) -> dict[str, Any]:
    """What the names of a recipe stand for at its end."""
    code = RECIPES[title]
    for old, new in replaced.items():
        assert f"@torch.{old}\n" in code
        code = code.replace(f"@torch.{old}\n", new)
    names: dict[str, Any] = {"__name__": title}
    exec(compile(code, f"docs/frameworks.md, {title}", "exec"), names)
    return names


def fsdp_recipe(rank: int, port: int, folder: str) -> None:
    """As torchrun starts it."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    torch.save(followed("FSDP2")["value"].detach(), f"{folder}/{rank}.pt")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Recorded(ModuleType):
    """A stand-in for MLflow or wandb with the functions of theirs that the recipes call."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.said: list[tuple[dict[str, float], int | None]] = []
        self.summary: dict[str, float] = {}

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start_run(self) -> Recorded:
        return self

    def init(self, *, project: str, mode: str, config: dict[str, Any]) -> Recorded:
        return self

    def log_params(self, params: dict[str, Any]) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert all(re.fullmatch(r"[\w./ -]+", name) for name in metrics)  # or MLflow refuses them
        assert all(type(value) is float for value in metrics.values())
        self.said.append((metrics, step))

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        self.said.append((data, step))


class TestRecipes:
    def test_all_are_short_and_run_here(self) -> None:
        tested = {"Lightning", "accelerate", "FSDP2", "A compiled step", "scikit-learn", "Streams"}
        assert set(RECIPES) == {*tested, "MLflow", "Weights & Biases"}
        for title, code in RECIPES.items():
            assert sum(bool(line.strip()) for line in code.splitlines()) <= 25, title

    def assert_learned(self, names: dict[str, Any], net: nn.Module, loss: nn.Module) -> None:
        """Embeddings of a class are closer to its column of the prior than at first."""
        x, y = names["features"], names["labels"]
        with torch.no_grad():
            values = [loss(one(x), y).item() for one in (net, type(net)(*map(remade, net)))]
        assert values[0] < 0.9 * values[1]

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_lightning(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("pytorch_lightning", reason="make peers installs Lightning")
        monkeypatch.chdir(tmp_path)
        torch.manual_seed(0)
        names = followed("Lightning")
        assert names["trainer"].current_epoch == 5
        self.assert_learned(names, names["module"].net, names["module"].criterion)

    def test_accelerate(self) -> None:
        pytest.importorskip("accelerate", reason="make peers installs accelerate")
        torch.manual_seed(0)
        names = followed("accelerate")
        self.assert_learned(names, names["net"], names["loss"])

    @pytest.mark.slow
    def test_fsdp(self, tmp_path: Path) -> None:
        on_ranks(fsdp_recipe, 2, free_port(), str(tmp_path))
        plain = followed("A compiled step", compile="")  # the same training in one process
        for rank in range(2):
            value = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
            torch.testing.assert_close(value, plain["values"][-1], rtol=1e-5, atol=1e-6)
        assert plain["values"][-1] < 0.9 * plain["values"][0]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "backend",
        [
            "eager",  # captures the step and compiles nothing
            pytest.param("inductor", marks=pytest.mark.long),  # compiles C++ for ten seconds
        ],
    )
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
    def test_compiled_step(self, backend: str) -> None:
        plain = followed("A compiled step", compile="")["values"]
        torch._dynamo.reset()
        compiled = followed("A compiled step", compile=f"@torch.compile(backend={backend!r})\n")
        torch.testing.assert_close(compiled["values"], plain, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_scikit_learn(self) -> None:
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
        names = followed("scikit-learn")
        search, x, y = names["search"], names["X"], names["y"]
        scores = search.cv_results_["mean_test_score"]
        assert search.best_params_ == {"halves__model__lr": 1e-2} and scores[1] > scores[0]
        best = search.best_estimator_[-1]
        assert best.model_.config.lr == 1e-2 and best.model_.config.dim == 16
        assert not names["model"].modalities  # only clones are trained
        assert search.score(x[300:], y[300:]) > 0.12  # of ten classes

    def test_streams(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        names = followed("Streams")
        model, files = names["model"], names["loader"].dataset.files
        assert [record["samples"] for record in model.history] == [120] * 6
        found = model.encode("image", names["loader"])
        whole = [value for pair in names["Shards"](files) for value in [pair[0]]]
        torch.testing.assert_close(found, model.encode("image", torch.stack(whole)))
        loaders = pytest.importorskip("torchdata.stateful_dataloader", reason="make peers has it")
        loader = loaders.StatefulDataLoader(names["Shards"](files), batch_size=20)
        again = DRCL(model.config).fit({"image": loader}, progress=False)
        assert torch.equal(again.encode("image", torch.stack(whole)), found)

    @pytest.mark.parametrize("title", ["MLflow", "Weights & Biases"])
    def test_trackers(self, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        name = {"MLflow": "mlflow", "Weights & Biases": "wandb"}[title]
        tracker = Recorded(name)
        monkeypatch.setitem(sys.modules, name, tracker)
        model = followed(title)["model"]
        # Several phases have an epoch 0; of those that are told a step, it is the epoch.
        epochs = [step if title == "MLflow" else values["epoch"] for values, step in tracker.said]
        told = [values for values, _ in tracker.said][: len(model.history)]
        assert epochs[: len(told)] == [record["epoch"] for record in model.history]
        for values, record in zip(told, model.history, strict=True):
            run = f"{record['phase']}-{record['modality']}"
            assert values[f"{run}/loss"] == record["loss"]
            assert values[f"{run}/parts/J_L"] == record["parts"]["J_L"]
            assert values[f"{run}/samples per second"] == record["samples"] / record["seconds"]
        last = tracker.summary if title != "MLflow" else tracker.said[-1][0]
        assert 0 < last["test mAP"] <= 1

    @pytest.mark.long  # starts a server of its own, which takes seconds
    def test_wandb_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("wandb", reason="wandb is not installed")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("WANDB_SILENT", "true")
        followed("Weights & Biases")
        (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
        assert all(name in file.read_bytes() for name in (b"encoder-image/loss", b"test mAP"))

    @pytest.mark.long  # takes seconds to import
    def test_mlflow_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
        model = followed("MLflow")["model"]
        (file,) = (tmp_path / "runs").rglob("encoder-image/loss")
        lines = [line.split() for line in file.read_text().splitlines()]
        history = [
            (record["epoch"], record["loss"])
            for record in model.history
            if (record["phase"], record["modality"]) == ("encoder", "image")
        ]
        assert [(int(step), float(value)) for _, value, step in lines] == history


def remade(layer: nn.Module) -> nn.Module:
    """A layer of the same size, as if it had not been trained."""
    return (
        nn.Linear(layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else layer
    )
