"""Where samples come from: memory, a mapped file, a user's Dataset or DataLoader."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from gloo import on_ranks, process_group
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from drcl import DRCL, Config
from drcl.metrics import mean_average_precision
from drcl.storage.mmap import MappedRows, is_mapped
from drcl.train import checkpoint, loop, standardize
from drcl.train.prepare import prepare_training
from drcl.train.prior_learning import select_prior
from drcl.train.samples import Samples, check_features
from drcl.train.source import Resident, Streamed, make_source
from drcl.train.standardize import Moments

CPU = torch.device("cpu")


@pytest.fixture
def mapped(tmp_path):
    """A function that puts an array into a file and maps it."""

    def put(array, mode="r"):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(path, array)
        return np.load(path, mmap_mode=mode)

    return put


def fit(train, validation=None, networks=None, **settings):
    model = DRCL(networks=networks, **{**tiny.SETTINGS, **settings})
    return model.fit(train, validation, progress=False)


def assert_same(a, b):
    assert torch.equal(a.prior.weight, b.prior.weight)
    for name in a.modalities:
        ours, theirs = (model.encoders[name].state_dict() for model in (a, b))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert [r["loss"] for r in a.history] == [r["loss"] for r in b.history]


# --- mapped files


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "f2", "u2", "i8"])
def test_rows_of_a_mapped_array(mapped, dtype):
    array = np.arange(40).reshape(10, 4).astype(dtype)
    rows = check_features(mapped(array), "x")
    assert isinstance(rows, MappedRows) and rows.shape == (10, 4) and rows.ndim == 2
    expected = torch.from_numpy(array.astype(np.float32))
    assert torch.equal(rows[2:5], expected[2:5]) and rows[2:5].dtype == torch.float32
    order = torch.tensor([7, 0, 7])
    assert torch.equal(rows[order], expected[order])
    mask = torch.arange(10) % 3 == 1
    chosen = rows.select(mask)
    assert len(chosen) == 3 and torch.equal(chosen[0:9], expected[mask])
    again = replace(chosen.select(torch.tensor([False, True, True])), transform=lambda x: x + 1)
    assert torch.equal(again[torch.tensor([1, 0])], expected[[7, 4]] + 1)


def test_what_counts_as_mapped(mapped):
    array = mapped(np.zeros((6, 3)))
    assert is_mapped(array) and is_mapped(array[::2]) and is_mapped(np.asarray(array))
    assert not is_mapped(np.array(array)) and not is_mapped(torch.zeros(2, 2))


def test_changes_to_a_private_mapping_are_not_lost(mapped):
    array = mapped(np.zeros((5000, 3), dtype=np.float32), mode="c")
    array[4000] = 7
    rows = check_features(array, "x")
    assert rows[4000:4001].tolist() == [[7, 7, 7]] and (array[4000] == 7).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_bad_rows_of_a_mapped_array_are_named(mapped, monkeypatch, bad):
    monkeypatch.setattr(standardize, "CHUNK_BYTES", 64)
    array = np.zeros((40, 3))
    array[23, 1] = bad
    for features in (array, mapped(array)):
        with pytest.raises(ValueError, match=r"x: expected finite values .* in row 23"):
            check_features(features, "x")
    with pytest.raises(ValueError, match="x: expected real numbers, got complex128"):
        check_features(mapped(array + 0j), "x")
    with pytest.raises(ValueError, match=r"x: expected a non-empty array.*\(40,\)"):
        check_features(mapped(array[:, 0]), "x")


def test_a_float32_array_is_not_copied():
    array = np.ones((4, 3), dtype=np.float32)
    array.flags.writeable = False
    assert check_features(array, "x").data_ptr() == array.ctypes.data


def test_a_column_whose_deviation_is_below_single_precision_counts_as_constant():
    x = torch.zeros(100, 2)
    x[0, 0] = 1e-45
    assert Moments.of(x).standardizer().std.tolist() == [1.0, 1.0]


def test_a_standardizer_in_chunks(monkeypatch):
    x = np.random.default_rng(0).normal(3, 5, size=(1000, 7)).astype(np.float32)
    x[:, 3] = 0.1
    monkeypatch.setattr(standardize, "CHUNK_BYTES", 7 * 4 * 33)
    found = Moments.of(torch.from_numpy(x)).standardizer()
    np.testing.assert_allclose(found.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    wanted = x.std(axis=0, dtype=np.float64)
    wanted[3] = 1.0
    np.testing.assert_allclose(found.std, wanted, rtol=1e-6)


def labelled(labels):
    return labels


def unlabelled(labels):
    return np.where(np.arange(len(labels)) % 5 == 0, -1, labels)


@pytest.mark.parametrize("settings", [{}, {"standardize": True}, {"paper_compat": True}], ids=str)
@pytest.mark.parametrize("code", [labelled, unlabelled])
def test_mapped_features_train_to_the_same_bits(mapped, settings, code):
    def model(of):
        train, validation = (
            {name: (of(x), code(y)) for name, (x, y) in tiny.split(seed=seed).items()}
            for seed in (0, 3)
        )
        return fit(train, validation, **settings)

    ours, theirs = model(mapped), model(lambda x: x)
    assert_same(ours, theirs)
    for name, (x, _) in tiny.split(seed=7).items():
        assert torch.equal(ours.encode(name, mapped(x)), theirs.encode(name, x))


def test_mapped_pictures(mapped):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 16))
    x = np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype(np.float32)
    y = np.arange(40) % 4
    assert_same(
        fit({"image": (mapped(x), y)}, networks={"image": network}),
        fit({"image": (x, y)}, networks={"image": network}),
    )


@pytest.mark.long  # test_out_of_core.py has a file that is read in less time
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_features_larger_than_what_is_kept_in_memory(tmp_path):
    # 1.2 GB in a sparse file; what a training adds to the process has to stay far below.
    script = f"""
        import re, numpy as np
        from drcl import DRCL
        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
        x = np.memmap({str(tmp_path / "x")!r}, dtype=np.float32, mode="w+", shape=(150_000, 2048))
        x[::1000] = 1.0
        x.flush()
        x = np.memmap({str(tmp_path / "x")!r}, dtype=np.float32, mode="r", shape=(150_000, 2048))
        y = np.arange(150_000) % 4
        DRCL(dim=16, hidden=(8,), epochs=1, prior_epochs=1, device="cpu").fit(
            {{"a": (x[:2000], y[:2000])}}, progress=False)
        before = peak()
        model = DRCL(dim=16, hidden=(8,), epochs=1, prior_epochs=1, standardize=True, device="cpu")
        model.fit({{"a": (x, y)}}, checkpoints={str(tmp_path / "c")!r}, progress=False)
        print(peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 300, done.stdout


# --- sources


def test_a_stream_yields_what_memory_holds(mapped):
    x, y = tiny.samples("image", 37)
    resident = make_source(Samples(torch.from_numpy(x), torch.from_numpy(y)), CPU)
    streamed = make_source(Samples(MappedRows(mapped(x)), torch.from_numpy(y)), CPU)
    assert isinstance(resident, Resident) and isinstance(streamed, Streamed)
    for drop_last in (False, True):
        passes = [
            [
                (batch.rows, *source.load(*batch.parts))
                for batch in source.epoch(8, torch.Generator().manual_seed(1), drop_last)
            ]
            for source in (resident, streamed)
        ]
        assert len(passes[0]) == len(passes[1]) == (4 if drop_last else 5)
        for (n, a, b), (m, c, d) in zip(*passes, strict=True):
            assert n == m == len(a) and torch.equal(a, c) and torch.equal(b, d)
    for one, other in zip(resident.chunks(10), streamed.chunks(10), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    contents = [torch.cat([c.flatten() for c in s.content()]) for s in (resident, streamed)]
    assert torch.equal(*contents)


def test_a_stream_that_fails_or_is_left(mapped):
    x, y = tiny.samples("image", 64)

    def fail(rows):
        raise OSError("the disk is gone")

    generator = torch.Generator()
    broken = Streamed(Samples(MappedRows(mapped(x), transform=fail), torch.from_numpy(y)), CPU)
    with pytest.raises(OSError, match="the disk is gone"):
        list(broken.epoch(8, generator, False))
    source = Streamed(Samples(MappedRows(mapped(x)), torch.from_numpy(y)), CPU)
    batches = source.epoch(8, generator, False)
    next(batches)
    batches.close()  # returns: no thread is waited for that waits itself


# --- datasets and loaders


def dataset(features, labels):
    return TensorDataset(torch.from_numpy(features), torch.from_numpy(labels))


def test_a_dataset_trains_to_the_same_bits_as_its_arrays():
    train, validation = tiny.split(), tiny.split(seed=3)

    def of(split):
        return {name: dataset(*arrays) for name, arrays in split.items()}

    ours = fit(of(train), of(validation), prior_selection="validation")
    theirs = fit(train, validation, prior_selection="validation")
    assert_same(ours, theirs)
    test = tiny.split(seed=7)
    assert torch.equal(
        ours.encode("image", of(test)["image"]), theirs.encode("image", test["image"][0])
    )
    assert ours.evaluate(of(test)) == theirs.evaluate(test)
    weight = select_prior(of(train), config=Config(**tiny.SETTINGS), progress=False).weight
    assert weight.shape == ours.prior.weight.shape


def test_a_dataset_in_double_precision_is_trained_in_single():
    x, y = tiny.samples("image", 40)
    double = TensorDataset(torch.from_numpy(x).double(), torch.from_numpy(y))
    assert_same(fit({"image": dataset(x, y)}), fit({"image": double}))


def test_a_loader_keeps_its_own_batches_and_repeats_under_a_seed():
    sizes = []

    class Spy(nn.Linear):
        def forward(self, x):
            if self.training:
                sizes.append(len(x))
            return super().forward(x)

    network = Spy(8, 16)

    def run(seed):
        loader = DataLoader(dataset(*tiny.samples("image", 40)), batch_size=12, shuffle=True)
        torch.manual_seed(seed)
        state = torch.random.get_rng_state()
        model = fit({"image": loader}, networks={"image": network})
        model.encode("image", loader)
        assert torch.equal(torch.random.get_rng_state(), state)
        return model

    first = run(1)
    assert sizes == [12, 12, 12, 4] * (5 + 6)
    assert_same(run(2), first)


class Stream(IterableDataset):
    """Three samples in ten have no label."""

    def __iter__(self):
        x, y = tiny.samples("image", 40)
        yield from zip(x, np.where(np.arange(40) % 10 < 3, -1, y), strict=True)


def test_a_dataset_without_an_index():
    x, _ = next(iter(DataLoader(Stream(), batch_size=40)))
    model = fit({"image": Stream()}, {"image": Stream()})
    assert model.encode("image", Stream()).shape == (40, 16)
    assert torch.equal(model.encode("image", Stream()), model.encode("image", x))
    values = [record["validation_map"] for record in model.history if record["phase"] == "encoder"]
    x, y = tiny.samples("image", 40)
    known = np.arange(40) % 10 >= 3
    best = model.encode("image", x[known])  # an unlabelled row counts nowhere
    wanted = mean_average_precision(best, best, y[known], y[known], exclude_self=True)
    assert max(values) == pytest.approx(wanted, rel=1e-5)


class Words(Dataset):
    """Token ids, which must stay integers."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return torch.tensor([index % 4, 4 + index % 3, 9]), index % 4


def test_a_dataset_of_token_ids():
    network = nn.Sequential(nn.EmbeddingBag(10, 8), nn.Linear(8, 16))
    model = fit({"text": Words()}, networks={"text": network}, epochs=30, prior_epochs=10)
    assert model.history[-1]["loss"] < model.history[10]["loss"]
    assert model.encode("text", Words()).shape == (32, 16)


class Mapping(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"x": torch.zeros(3), "y": 0}


class Ragged(IterableDataset):
    """One row of seven numbers after two thousand of eight."""

    def __iter__(self):
        yield from ((np.ones(8), row % 4) for row in range(2048))
        yield np.ones(7), 0


def test_datasets_that_do_not_fit_are_refused_by_name():
    x, y = tiny.samples("image", 40)
    with pytest.raises(ValueError, match=r"train image: expected .* of \(features, labels\).*dict"):
        fit({"image": Mapping()})
    with pytest.raises(
        ValueError, match="train image: expected a labelled sample, got 40 unlabelled"
    ):
        fit({"image": dataset(x, y * 0 - 1), "text": tiny.samples("text", 30)})
    with pytest.raises(ValueError, match=r"train image: expected rows of one shape.* got \(7,\)"):
        fit({"image": Ragged()}, networks={"image": nn.Linear(8, 16)}, standardize=True)
    with pytest.raises(TypeError, match=r"train image: expected a TensorDataset alone"):
        fit({"image": (dataset(x, y), y)})
    with pytest.raises(ValueError, match=r"validation image labels.*row 0"):
        fit({"image": (x, y)}, {"image": dataset(x, y + 9)})
    with pytest.raises(
        ValueError, match=r"image features: expected rows of shape \(8,\) .* \(7,\)"
    ):
        fit({"image": (x, y)}, {"image": dataset(x[:, :7], y)})
    with pytest.raises(ValueError, match="train image: expected batches, got single samples"):
        fit({"image": DataLoader(dataset(x, y), batch_size=None)})
    with pytest.raises(ValueError, match="train image: expected samples, got none"):
        fit({"image": dataset(x[:0], y[:0])})


# --- one scale, whatever the source


def far(seed=0, code=labelled, **counts):
    """Features far from 0 and 1 in every column."""
    return {
        name: (x * np.linspace(1, 90, x.shape[1], dtype=np.float32) + 1000, code(y))
        for name, (x, y) in tiny.split(seed=seed, **counts).items()
    }


class Indexed(Dataset):
    """Samples one by one, as NumPy has them."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row], self.y[row]


class Flow(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        yield from zip(self.x, self.y, strict=True)


SOURCES = {
    "dataset": lambda x, y: dataset(x, y),
    "double dataset": lambda x, y: dataset(x.astype(np.float64), y),
    "samples": Indexed,
    "stream": Flow,
    "loader": lambda x, y: DataLoader(dataset(x, y), batch_size=7),
    "workers": lambda x, y: DataLoader(dataset(x, y), batch_size=7, num_workers=1),
}


@pytest.mark.parametrize(
    ("of", "code"),
    [
        pytest.param(
            of,
            code,
            id=f"{name}-{code.__name__}",
            # a worker more changes nothing about labels
            marks=pytest.mark.long if (name, code) == ("workers", unlabelled) else [],
        )
        for name, of in SOURCES.items()
        for code in (labelled, unlabelled)
    ],
)
def test_standardized_sources_have_the_scale_of_their_arrays(of, code, tmp_path):
    train, validation, test = (far(seed, code) for seed in (0, 3, 7))
    audio = tiny.samples("audio", 35)

    def trained(of):
        sets = [
            {name: of(*arrays) for name, arrays in split.items()} for split in (train, validation)
        ]
        found = fit(*sets, standardize=True, epochs=3, prior_epochs=2)
        return found.add_modality("audio", of(*audio), epochs=2, progress=False)

    ours, theirs = trained(of), trained(lambda x, y: (x, y))
    for name in theirs.modalities:
        for mine, wanted in zip(ours.standardizers[name], theirs.standardizers[name], strict=True):
            assert torch.equal(mine, wanted), name
    # One model takes rows from anywhere, also after it was saved; in other batches, products round
    # differently.
    loaded = DRCL.load(ours.save(tmp_path / "m"))
    for name, (x, y) in test.items():
        for model in (ours, loaded):
            torch.testing.assert_close(model.encode(name, of(x, y)), ours.encode(name, x))
    found = ours.evaluate({name: of(*arrays) for name, arrays in test.items()})["mAP@all"]
    assert found == pytest.approx(ours.evaluate(test)["mAP@all"], rel=1e-5)
    found = ours.search("image", of(*test["image"]), "text", of(*test["text"]), k=3)
    wanted = ours.search("image", test["image"][0], "text", test["text"][0], k=3)
    torch.testing.assert_close(found.scores, wanted.scores)


def test_a_standardized_dataset_trains_to_the_same_bits_as_its_arrays():
    train, validation = far(), far(seed=3)
    sets = [
        {name: dataset(*arrays) for name, arrays in part.items()} for part in (train, validation)
    ]
    ours, theirs = (fit(*of, standardize=True) for of in (sets, (train, validation)))
    assert_same(ours, theirs)
    config = Config(**tiny.SETTINGS, standardize=True)
    weights = [select_prior(of, config=config, progress=False).weight for of in (sets[0], train)]
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    "of",
    [dataset, lambda x, y: DataLoader(dataset(x, y), batch_size=16)],
    ids=["dataset", "loader"],
)
def test_a_dataset_of_columns_in_thousands_is_learned(of):
    """The features of the report that standardizing Datasets began with."""
    rng = np.random.default_rng(0)
    ids = np.arange(90) % 3
    x = ((rng.normal(size=(90, 8)) + 2 * ids[:, None]) * 50 + 1000).astype(np.float32)
    train = {name: of(x, ids) for name in ("a", "b")}
    model = fit(train, standardize=True, epochs=20, prior_epochs=10)
    assert model.evaluate(train)["mAP@all"]["mean"] > 0.9
    raw = fit(train, epochs=20, prior_epochs=10)
    assert raw.evaluate(train)["mAP@all"]["mean"] < 0.8


def test_statistics_do_not_depend_on_how_rows_come(monkeypatch):
    monkeypatch.setattr(standardize, "CHUNK_BYTES", 7 * 4 * 33)
    x = torch.from_numpy(np.random.default_rng(0).normal(3, 5, size=(1000, 7))).float()
    wanted = Moments.of(x).standardizer()
    for sizes in ([1] * 1000, [33] * 30 + [10], [1000], [7, 0, 400, 593]):
        moments = standardize.Moments("x")
        for rows in x.split(sizes):
            moments.add(rows)
        found = moments.standardizer()
        assert torch.equal(found.mean, wanted.mean) and torch.equal(found.std, wanted.std)


@pytest.mark.parametrize("after", [0, 4, 8])
def test_a_standardized_loader_resumes_to_the_same_bits(monkeypatch, tmp_path, after):
    """Whatever state torch's generator is in when the run is taken up again."""
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SHARE", math.inf)
    (arrays,) = far(image=40).values()

    def run(seed, folder=None):
        torch.manual_seed(seed)
        loader = DataLoader(dataset(*arrays), batch_size=12, shuffle=True)
        model = DRCL(**{**tiny.SETTINGS, "standardize": True})
        return model.fit({"image": loader}, checkpoints=folder, progress=False)

    whole = run(1)
    real, epochs = loop.Training.begin_epoch, iter(range(after))

    def interrupted(training):
        if next(epochs, None) is None:
            raise KeyboardInterrupt
        real(training)

    monkeypatch.setattr(loop.Training, "begin_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(2, tmp_path)
    monkeypatch.setattr(loop.Training, "begin_epoch", real)
    resumed = run(3, tmp_path)
    assert_same(resumed, whole)
    for mine, wanted in zip(*(m.standardizers["image"] for m in (resumed, whole)), strict=True):
        assert torch.equal(mine, wanted)


def test_a_checkpoint_of_another_scale_is_refused(tmp_path):
    (x, y), settings = tiny.samples("image", 40), {**tiny.SETTINGS, "standardize": True}
    DRCL(**settings).fit({"image": dataset(x, y)}, checkpoints=tmp_path, progress=False)
    with pytest.raises(ValueError, match="written with other settings, data"):
        DRCL(**settings).fit({"image": dataset(2 * x, y)}, checkpoints=tmp_path, progress=False)


def test_a_dataset_is_passed_over_once_beforehand():
    class Counting(Indexed):
        reads = 0

        def __getitem__(self, row):
            self.reads += 1
            return super().__getitem__(row)

    data = Counting(*tiny.samples("image", 40))
    model = fit({"image": data}, standardize=True, prior="orthogonal", epochs=3, selection="last")
    # Three epochs, and the last epoch's output is looked at once.
    assert data.reads == 40 * (1 + 3 + 1) and model.standardizers


def test_rows_of_another_width_are_not_standardized():
    network = nn.Sequential(nn.Linear(8, 16))
    x, y = tiny.samples("image", 40)
    model = fit({"image": (x, y)}, networks={"image": network}, standardize=True)
    for narrow in (x[:, :1], dataset(x[:, :1], y)):
        with pytest.raises(ValueError, match=r"expected rows of shape \(8,\).*, got \(1,\)"):
            model.encode("image", narrow)


def scale_on_rank(rank, folder, of):
    with process_group(rank, 2, folder):
        x, y = tiny.samples("image", 41)
        own = slice(0, 17) if rank == 0 else slice(17, 41)
        network = nn.parallel.DistributedDataParallel(nn.Linear(8, 16))
        part = dataset(x[own], y[own]) if of == "dataset" else (x[own], y[own])
        config = Config(**tiny.SETTINGS, standardize=True)
        found = prepare_training({"image": part}, {}, (0, 1, 2, 3), config, {"image": network})
        torch.save(tuple(found.standardizers["image"]), f"{folder}/{rank}.pt")


@pytest.mark.parametrize("of", [pytest.param("arrays", marks=pytest.mark.long), "dataset"])
def test_processes_with_samples_of_their_own_share_one_scale(of, tmp_path):
    on_ranks(scale_on_rank, 2, str(tmp_path), of)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    wanted = Moments.of(torch.from_numpy(tiny.samples("image", 41)[0])).standardizer()
    for mine, other, one in zip(ours, theirs, wanted, strict=True):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, one, rtol=1e-6, atol=0)


# --- batch normalisation and a last batch of one row


class Normalized(nn.Sequential):
    def __init__(self, sizes):
        super().__init__(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 16))
        self.sizes = sizes

    def __deepcopy__(self, memo):
        found = Normalized(self.sizes)
        found.load_state_dict(self.state_dict())
        return found

    def forward(self, x):
        if self.training and len(x) > 1:
            self.sizes.append(len(x))
        return super().forward(x)


@pytest.mark.parametrize("of", ["arrays", "mapped", *SOURCES])
def test_a_last_batch_of_one_row_joins_the_one_before(of, mapped):
    x, y = tiny.samples("image", 33)
    sizes: list[int] = []
    data = {"arrays": (x, y), "mapped": (mapped(x), y)}.get(of) or SOURCES[of](x, y)
    if of in ("loader", "workers"):
        data = DataLoader(dataset(x, y), batch_size=16, num_workers=of == "workers")
    networks = {"image": Normalized(sizes)}
    model = fit({"image": data}, networks=networks, batch_size=16, epochs=2, prior_epochs=1)
    assert sizes == [16, 17] * 3
    assert [record["samples"] for record in model.history] == [33] * 3


def test_batches_of_one_row_of_a_loader_join_in_pairs():
    sizes: list[int] = []
    loader = DataLoader(dataset(*tiny.samples("image", 5)), batch_size=1)
    fit({"image": loader}, networks={"image": Normalized(sizes)}, epochs=1, prior_epochs=1)
    assert sizes == [2, 3] * 2


def test_one_row_of_a_picture_is_enough_for_batch_normalisation():
    sizes: list[int] = []

    class Pictures(nn.Sequential):
        def forward(self, x):
            if self.training and torch.is_grad_enabled():
                sizes.append(len(x))
            return super().forward(x)

    x, y = np.random.default_rng(0).normal(size=(33, 1, 4, 4)), np.arange(33) % 4
    network = Pictures(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 16)
    )
    fit({"image": (x, y)}, networks={"image": network}, epochs=1, prior_epochs=1)
    assert sizes == [16, 16, 1] * 2


@pytest.mark.parametrize("rows, size", [(8, 1), (1, 8)])
def test_batches_too_small_for_batch_normalisation_are_refused(rows, size):
    x, y = tiny.samples("image", rows)
    with pytest.raises(ValueError, match=r"batch_size: expected batches of 2 rows .* image"):
        fit(
            {"image": (x, y), "text": tiny.samples("text", 30)},
            networks={"image": Normalized([])},
            batch_size=size,
        )
