"""One step, and a training in flight: passes, precision, time, saving, stopping."""

from __future__ import annotations

import contextlib
import io
import math
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
import torch
from gloo import process_group
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from drcl import DRCL, Config, Prior
from drcl.encoder import Encoder, normalize
from drcl.errors import NonFiniteLoss
from drcl.losses import ReversibleConsistencyLoss
from drcl.storage.sealed import read_tensors
from drcl.train import checkpoint, interrupt, loop
from drcl.train.clock import SECTIONS
from drcl.train.consistency import encoder_phase
from drcl.train.context import Context
from drcl.train.embedding import products_in
from drcl.train.perceptron import Perceptron, suits
from drcl.train.phase import Phase
from drcl.train.prepare import prepare_training
from drcl.train.source import Batch
from drcl.train.step import CapturedStep

CLASSES = (0, 1, 2, 3)


def phase(modality="image", **settings):
    config = Config(**{**tiny.SETTINGS, **settings})
    data = prepare_training(tiny.split(), {}, CLASSES, config, {})
    network = Encoder(tiny.WIDTHS[modality], dim=16, hidden=(24,))
    prior = Prior.orthogonal(16, 4)
    return encoder_phase(modality, network, data, prior, config, Context())


def run(one, folder=None, log=None):
    return loop.run(one, Context(checkpoints=folder, progress=False, log=log))


def fit(networks=None, train=None, **settings):
    model = DRCL(networks=networks, **{**tiny.SETTINGS, **settings})
    return model.fit(train or tiny.split(image=40), progress=False)


def weights(model, name="image"):
    return torch.cat([value.flatten() for value in model.encoders[name].state_dict().values()])


# --- the encoder's passes without autograd


@pytest.mark.parametrize("hidden", [(), (24,), (24, 20), (8, 30, 9)])
def test_a_perceptron_computes_what_autograd_does(hidden):
    torch.manual_seed(0)
    network = Encoder(7, dim=16, hidden=hidden)
    literal = Encoder(7, dim=16, hidden=hidden).double()
    literal.load_state_dict(network.state_dict())
    passes = Perceptron(network)
    for rows in (12, 5, 31, 12):  # the buffers follow
        x, gradient = torch.randn(rows, 7), torch.randn(rows, 16)
        x[1] = 0 if not hidden else x[1]
        out = passes.forward(x)
        expected = literal(x.double())
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
        passes.backward(gradient)
        literal.zero_grad()
        expected.backward(gradient.double())
        for ours, theirs in zip(network.parameters(), literal.parameters(), strict=True):
            assert ours.grad is not None and theirs.grad is not None
            scale = theirs.grad.abs().max()
            assert (ours.grad - theirs.grad).abs().max() < 1e-5 * scale


def test_a_row_whose_units_are_all_off():
    network = Encoder(3, dim=4, hidden=(5,))
    with torch.no_grad():
        network.layers[0].weight.fill_(1.0)
        network.layers[0].bias.zero_()
    x = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
    passes = Perceptron(network)
    out = passes.forward(x)
    assert (out[1] == 0).all() and out[0].norm() == pytest.approx(1)
    passes.backward(torch.ones(2, 4))
    ours = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    network(x).backward(torch.ones(2, 4))
    for one, parameter in zip(ours, network.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-5, atol=1e-6)
        assert one.isfinite().all()


def test_only_the_encoder_as_it_was_built_is_passed_through_by_hand():
    class Own(Encoder):
        pass

    assert suits(Encoder(3, dim=4, hidden=(5,)))
    frozen = Encoder(3, dim=4, hidden=(5,))
    frozen.layers[0].weight.requires_grad_(False)
    for network in (
        Own(3, dim=4, hidden=(5,)),
        frozen,
        Encoder(3, dim=4).double(),
        nn.Linear(3, 4),
    ):
        assert not suits(network)


def test_autograd_trains_to_the_same_numbers(monkeypatch):
    ours = fit()
    monkeypatch.setattr("drcl.train.step.suits", lambda network: False)
    theirs = fit()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(ours.prior.weight, theirs.prior.weight, rtol=1e-3, atol=1e-5)


def test_a_frozen_layer_stays(tmp_path):
    network = Encoder(8, dim=16, hidden=(24,))
    network.layers[0].weight.requires_grad_(False)
    before = network.layers[0].weight.clone()
    model = DRCL(networks={"image": network}, **tiny.SETTINGS)
    for _ in range(2):  # the second time from the checkpoints
        model.fit(tiny.split(image=40), checkpoints=tmp_path, progress=False)
        assert torch.equal(model.encoders["image"].layers[0].weight, before)
        assert not torch.equal(model.encoders["image"].layers[2].weight, network.layers[2].weight)


# --- one forward pass for the score and the next step


def test_scoring_shares_a_forward_pass_with_the_next_epoch(monkeypatch):
    rows = []
    real = Perceptron.forward

    def forward(passes, features):
        rows.append(len(features))
        return real(passes, features)

    monkeypatch.setattr(Perceptron, "forward", forward)
    shared = fit(epochs=1)
    # 40 rows in batches of 16: 5 epochs train and score them all; four times the score's last 16
    # rows are the first 16 of the next epoch. Then one epoch of encoder training.
    assert sum(rows) == 5 * (40 + 40) - 4 * 16 + 40
    rows.clear()
    monkeypatch.setattr(loop.Training, "_reaches_ahead", lambda *_: False)
    alone = fit(epochs=1)
    assert sum(rows) == 5 * (40 + 40) + 40
    assert torch.equal(shared.prior.weight, alone.prior.weight)
    scores = [[r["score"] for r in m.history if "score" in r] for m in (shared, alone)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


# --- precision


def test_bfloat16_products_keep_float32_weights():
    plain, narrow = fit(epochs=20), fit(epochs=20, precision="bf16")
    assert all(p.dtype == torch.float32 for p in narrow.encoders["image"].parameters())
    assert not torch.equal(weights(plain), weights(narrow))
    assert narrow.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=0.03)
    x = tiny.split(seed=7)["image"][0]
    assert narrow.encode("image", x).norm(dim=1).sub(1).abs().max() < 1e-5
    assert torch.equal(weights(fit(epochs=20, precision="bf16")), weights(narrow))


def test_bfloat16_reaches_a_users_network():
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append((self.training, out.dtype))
            return out

    model = fit({"image": Spy(8, 16)}, precision="bf16")
    # In steps and scores; the last look at the output, after training, is in full precision.
    assert set(seen[:-1]) == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert model.encoders["image"].weight.dtype == torch.float32


def test_tf32_is_float32_where_there_is_none():
    assert torch.equal(weights(fit(precision="tf32")), weights(fit()))


@pytest.mark.parametrize("user", ["highest", "high", "medium"])
def test_products_on_a_gpu_leave_the_users_precision(user):
    torch.set_float32_matmul_precision(user)
    try:
        with products_in("tf32", torch.device("cuda")):
            assert torch.get_float32_matmul_precision() == "high"
        with products_in("float32", torch.device("cuda")):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == user
    finally:
        torch.set_float32_matmul_precision("highest")


def test_under_autocast_the_embeddings_have_unit_length():
    network = Encoder(8, dim=16, hidden=(24,))
    with torch.autocast("cpu", torch.bfloat16):
        out = network(torch.randn(5, 8))
    assert out.dtype == torch.float32 and torch.allclose(out.norm(dim=1), torch.ones(5))


# --- captured steps


def test_a_step_is_captured_in_a_stream_of_its_own_device(monkeypatch):
    """PyTorch's default stream for captures stays on the device of the first one."""
    captured = []

    @contextlib.contextmanager
    def graph(graph, stream=None, **options):
        captured.append(stream)
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"a stream of {device}")
    monkeypatch.setattr(torch.cuda, "graph", graph)
    training = loop.Training(phase(), Context(progress=False))
    training.step.source.device = torch.device("cuda:1")
    rows = torch.arange(16)
    CapturedStep(training.step, 16)._capture(Batch((rows,), 16), rows.flip(0))
    assert captured == ["a stream of cuda:1"]


# --- networks in DistributedDataParallel


def test_a_network_in_distributed_data_parallel(tmp_path):
    with process_group(0, 1, tmp_path):
        inner = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16))
        wrapped = fit({"image": DistributedDataParallel(inner)})
        plain = fit({"image": inner})
    torch.testing.assert_close(weights(wrapped), weights(plain))
    torch.testing.assert_close(wrapped.prior.weight, plain.prior.weight)
    loaded = DRCL.load(wrapped.save(tmp_path / "m"), networks={"image": inner})
    assert torch.equal(weights(loaded), weights(wrapped))


# --- what is not finite


@pytest.mark.parametrize("name", ["label", "consistency", "recasting"])
def test_the_part_that_is_not_finite_is_named(monkeypatch, name):
    real = ReversibleConsistencyLoss.parts
    calls = []

    def parts(*arguments, **options):
        calls.append(1)
        found = real(*arguments, **options)
        if len(calls) < 5:
            return found
        return found._replace(**{name: found.label * math.inf, "total": found.total * math.inf})

    monkeypatch.setattr(ReversibleConsistencyLoss, "parts", parts)
    symbol = {"label": "J_L", "consistency": "J_D", "recasting": "J_MSE"}[name]
    with pytest.raises(
        NonFiniteLoss,
        match=f"encoder image: loss is inf in epoch 1, batch 1 of 3: not finite is {symbol} ",
    ):
        run(phase())


def test_a_non_finite_loss_leaves_the_last_good_checkpoint(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", math.inf)
    broken = phase()
    file = tmp_path / "encoder-image.safetensors"
    real = loop.Training.begin_epoch

    def begin_epoch(training):
        if training.epoch == 3:
            training.phase.module.layers[0].weight.data.fill_(math.nan)
        real(training)

    monkeypatch.setattr(loop.Training, "begin_epoch", begin_epoch)
    with pytest.raises(NonFiniteLoss, match=r"epoch 3, batch 0 .* the network's output"):
        run(broken, tmp_path)
    tensors, about = read_tensors(file)
    assert about["epoch"] == 3 and all(
        t.isfinite().all() for t in tensors.values() if t.is_floating_point()
    )


# --- time, progress, log


def test_time_by_section():
    began = []
    outcome = run(phase(epochs=3), log=began.append)
    assert [record["epoch"] for record in began] == [0, 1, 2] and began == outcome.history
    for record in outcome.history:
        assert set(record["time"]) == set(SECTIONS)
        assert 0 < sum(record["time"].values()) <= record["seconds"]
        assert record["time"]["encoder"] > 0 and record["time"]["loss"] > 0
        assert set(record["parts"]) == {"J_L", "J_D", "J_MSE"}
        total = record["parts"]["J_L"] + 0.1 * (record["parts"]["J_D"] + record["parts"]["J_MSE"])
        assert record["loss"] == pytest.approx(total, rel=1e-5)


def test_the_bar_tells_loss_score_speed_and_time_left(monkeypatch):
    screen = io.StringIO()

    def bar(**options):
        return tqdm(**{**options, "disable": False, "file": screen, "ncols": 200, "mininterval": 0})

    monkeypatch.setattr(loop, "progress_bar", bar)
    fit()
    lines = screen.getvalue().split("\r")
    prior = [line for line in lines if line.startswith("prior image")][-1]
    for part in ("100%", "200/200", "samples/s", "epoch=5/5", "loss=", "score="):
        assert part in prior
    assert "encoder image" in lines[-1]


# --- saving and stopping


def test_saving_takes_at_most_a_hundredth_of_the_time(monkeypatch, tmp_path):
    now = [0.0]
    saved = []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "BYTES_PER_SECOND", 1e30)
    real = loop.Training.begin_epoch

    def begin_epoch(training):
        now[0] += 10.0
        real(training)

    def write(path, content):
        now[0] += 1.0
        saved.append(now[0])

    monkeypatch.setattr(loop.Training, "begin_epoch", begin_epoch)
    monkeypatch.setattr(checkpoint, "write_bytes", write)
    outcome = run(phase(epochs=100), tmp_path)
    # At once, as it is thought to cost nothing; then not before both are paid for (give or take the
    # size of the generator's state, which so small a network makes count); then every 100 s.
    assert saved[0] == 11.0 and 170 < saved[1] < 220 and 270 < saved[2] < 320
    cost = sum(record["time"]["checkpoint"] for record in outcome.history)
    assert cost == pytest.approx(len(saved)) and 0.008 * now[0] < cost <= 0.01 * now[0]


def test_the_first_save_waits_for_what_it_is_likely_to_cost(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "BYTES_PER_SECOND", 1.0)
    written = []
    monkeypatch.setattr(checkpoint, "write_bytes", lambda path, content: written.append(path))
    run(phase(epochs=4), tmp_path)
    assert not written


def test_a_finished_phase_saves_only_what_it_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", math.inf)
    file = tmp_path / "encoder-image.safetensors"
    torch.manual_seed(0)
    whole = run(phase(epochs=4), tmp_path)
    tensors, _ = read_tensors(file)
    assert sorted(tensors) == sorted(f"kept.{name}" for name in whole.state)
    torch.manual_seed(0)
    again = run(phase(epochs=4), tmp_path)
    assert all(torch.equal(again.state[name], value) for name, value in whole.state.items())
    assert [r["loss"] for r in again.history] == [r["loss"] for r in whole.history]


@pytest.mark.parametrize("where", ["begin_epoch", "end_epoch"])
def test_ctrl_c_ends_the_epoch_and_saves(monkeypatch, tmp_path, where):
    whole = fit()
    real = getattr(loop.Training, where)

    def method(training):
        if training.phase.name == "encoder" and training.epoch == 2:
            signal.raise_signal(signal.SIGINT)
        real(training)

    def run():
        model = DRCL(**tiny.SETTINGS)
        return model.fit(tiny.split(image=40), checkpoints=tmp_path, progress=False)

    monkeypatch.setattr(loop.Training, where, method)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.setattr(loop.Training, where, real)
    assert read_tensors(tmp_path / "encoder-image.safetensors")[1]["epoch"] == 3
    assert torch.equal(weights(run()), weights(whole))


def test_ctrl_c_where_no_epoch_is_left_is_not_forgotten(monkeypatch, tmp_path):
    """As while the samples of a finished training are compared with those of its checkpoint."""
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", math.inf)
    torch.manual_seed(0)
    run(phase(epochs=2), tmp_path)
    torch.manual_seed(0)
    real = checkpoint.fingerprint

    def fingerprint(phase):
        signal.raise_signal(signal.SIGINT)
        return real(phase)

    monkeypatch.setattr(loop, "fingerprint", fingerprint)
    with pytest.raises(KeyboardInterrupt):
        run(phase(epochs=2), tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_that_ends_the_reader_of_a_pipe_too_still_saves(monkeypatch):
    def write(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(tqdm, "write", write)
    with pytest.raises(KeyboardInterrupt), interrupt.interrupt_after_epoch(True) as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked()


def test_a_second_ctrl_c_stops_at_once(monkeypatch, tmp_path):
    real = loop.Training.begin_epoch

    def begin_epoch(training):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        real(training)

    monkeypatch.setattr(loop.Training, "begin_epoch", begin_epoch)
    with pytest.raises(KeyboardInterrupt):
        run(phase(), tmp_path)
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_checkpoint_ctrl_c_is_left_alone(monkeypatch):
    monkeypatch.setattr(loop.Training, "begin_epoch", lambda _: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(loop.Training, "end_epoch", lambda _: pytest.fail("not at once"))
    with pytest.raises(KeyboardInterrupt):
        run(phase())


def test_normalize_of_extreme_rows():
    rows = normalize(torch.tensor([[3e38, 4e-1], [1e-40, 0.0]]))
    assert torch.allclose(rows.norm(dim=1), torch.ones(2))


def test_a_phase_that_counts_its_epochs_otherwise_has_other_checkpoints(monkeypatch):
    """A run with the q of an older ``paper_compat`` must not be continued with this one's."""
    one = phase(paper_compat=True)
    own = checkpoint.fingerprint(one)
    assert one.schedule.first_epoch == 1 and checkpoint.fingerprint(replace(one)) == own
    monkeypatch.setattr(Phase, "schedule", one.schedule._replace(first_epoch=0))
    assert checkpoint.fingerprint(replace(one)) != own
