"""Features and embeddings in every form people have them in, at every place that takes them."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from gloo import process_group
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from drcl import DRCL, Config, Encoder, Prior, functional, losses, metrics, select_prior

h5py = pytest.importorskip("h5py", reason="arrays in HDF5 files need h5py")
sparse = pytest.importorskip("scipy.sparse", reason="sparse matrices need SciPy")
pandas = pytest.importorskip("pandas", reason="frames need pandas")
polars = pytest.importorskip("polars", reason="frames need Polars")

SETTINGS = {**tiny.SETTINGS, "epochs": 1, "prior_epochs": 1, "standardize": True}


def whole(seed=0):
    """tiny's samples, rounded to whole numbers that every dtype below holds."""
    return {
        name: (np.clip((x * 10 + 100).round(), 0, 255).astype(np.float32), y)
        for name, (x, y) in tiny.split(seed=seed).items()
    }


class Rows:
    """What an array of zarr is to those who only slice it."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._array[rows]


def pandas_mixed(x):
    frame = pandas.DataFrame(x.astype(np.int64), columns=[f"c{i}" for i in range(x.shape[1])])
    return frame.astype({"c0": "Int64", "c1": "Float64", "c2": np.float32})


def polars_frame(x):
    return polars.DataFrame({f"c{i}": column for i, column in enumerate(x.T)})


def hdf5(x):
    file = h5py.File.in_memory()
    return file.create_dataset("x", data=x.astype(np.float16), chunks=(7, x.shape[1]))


KINDS = {
    "half": lambda x: x.astype(np.float16),
    "uint8": lambda x: x.astype(np.uint8),
    "int64": lambda x: x.astype(np.int64),
    "big-endian": lambda x: x.astype(">f8"),
    "half tensor": lambda x: torch.from_numpy(x).half(),
    "uint8 tensor": lambda x: torch.from_numpy(x).to(torch.uint8),
    "uint16 tensor": lambda x: torch.from_numpy(x.astype(np.uint16)),
    "lists": lambda x: x.tolist(),
    "pandas": pandas.DataFrame,
    "pandas, mixed": pandas_mixed,
    "polars": polars_frame,
    "h5py": hdf5,
    "rows": Rows,
    "csr_matrix": sparse.csr_matrix,
    "coo_array": sparse.coo_array,
    "unmasked": lambda x: np.ma.masked_array(x, mask=False),
}


def model_of(train, **settings):
    return DRCL(**{**SETTINGS, **settings}).fit(train, progress=False)


@pytest.fixture(scope="module")
def plain():
    model = model_of(whole())
    return model.add_modality("audio", whole()["image"], progress=False)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_features_of_every_kind_are_the_same_features(kind, plain):
    train = {name: (kind(x), y) for name, (x, y) in whole().items()}
    test = whole(seed=7)
    model = model_of(train).add_modality("audio", train["image"], progress=False)
    for name in plain.modalities:
        ours, theirs = (one.encoders[name].state_dict() for one in (model, plain))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    prior = select_prior(train, config=Config(**SETTINGS), progress=False)
    assert torch.equal(prior.weight, plain.prior.weight)
    queries, gallery = test["image"][0], test["text"][0]
    assert torch.equal(model.encode("image", kind(queries)), plain.encode("image", queries))
    found = model.search("image", kind(queries), "text", kind(gallery), k=3)
    wanted = plain.search("image", queries, "text", gallery, k=3)
    assert torch.equal(found.indices, wanted.indices)
    loaded = {name: (kind(x), y) for name, (x, y) in test.items()}
    assert model.evaluate(loaded) == plain.evaluate(test)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_embeddings_of_every_kind_are_the_same_embeddings(kind):
    x, y = whole()["image"]
    wanted = metrics.mean_average_precision(x, x, y, y, exclude_self=True)
    assert 0.3 < wanted < 1.0
    assert metrics.mean_average_precision(kind(x), kind(x), y, y, exclude_self=True) == wanted
    chunks = [kind(x[:11]), kind(x[11:])]
    assert metrics.mean_average_precision(kind(x), chunks, y, y, exclude_self=True) == wanted
    assert metrics.mean_average_precision(x, iter(chunks), y, y, exclude_self=True) == wanted
    report = metrics.retrieval_report({"a": (kind(x), y), "b": (kind(x), y)})
    assert report == metrics.retrieval_report({"a": (x, y), "b": (x, y)})


def test_truth_values_are_zeros_and_ones(tmp_path):
    x, y = whole()["image"]
    x = np.column_stack([x, x[:, 0] > 100]).astype(np.float32)
    wanted = model_of({"image": (x, y)})
    frame = pandas.DataFrame(x).assign(last=x[:, -1] > 0).drop(columns=8)
    other = polars.DataFrame({**{f"c{i}": x[:, i] for i in range(8)}, "last": x[:, -1] > 0})
    for features in (frame, other):
        assert torch.equal(
            model_of({"image": (features, y)}).encode("image", features), wanted.encode("image", x)
        )
    np.save(tmp_path / "x.npy", x > 100)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.equal(
        model_of({"image": (mapped, y)}).encode("image", x > 100),
        model_of({"image": ((x > 100).astype(np.float32), y)}).encode("image", mapped),
    )


DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int32, torch.int64]


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_dataset_of_any_dtype_is_its_array(dtype, standardize):
    x, y = whole()["image"]
    rows, labels = torch.from_numpy(x).to(dtype), torch.from_numpy(y)
    data, arrays = TensorDataset(rows, labels), (rows.float().numpy(), y)
    ours, theirs = (
        model_of({"image": one}, standardize=standardize, lr=1e-4) for one in (data, arrays)
    )
    assert torch.equal(ours.encode("image", data), theirs.encode("image", arrays[0]))
    half = TensorDataset(rows[:20], labels[:20])
    assert torch.equal(ours.encode("image", half), theirs.encode("image", arrays[0][:20]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8, torch.bool], ids=str)
def test_a_network_of_one_s_own_gets_float32_of_a_dataset(dtype):
    x, y = whole()["image"]
    rows = torch.from_numpy(x).to(dtype)
    networks = {"image": nn.Linear(8, 16)}
    models = [
        DRCL(networks=networks, **{**SETTINGS, "standardize": False, "lr": 1e-4}).fit(
            {"image": data}, progress=False
        )
        for data in (TensorDataset(rows, torch.from_numpy(y)), (rows.float(), y))
    ]
    ours, theirs = (model.encode("image", rows) for model in models)
    assert torch.equal(ours, theirs)


def test_a_network_that_takes_no_token_ids_says_so():
    x, y = whole()["image"]
    data = TensorDataset(torch.from_numpy(x).long(), torch.from_numpy(y))
    model = DRCL(networks={"image": nn.Linear(8, 16)}, **{**SETTINGS, "standardize": False})
    with pytest.raises(TypeError, match=r"networks: Linear does not take torch\.int64.*float32"):
        model.fit({"image": data}, progress=False)


# --- what is refused


def masked(x):
    x = np.ma.masked_array(x, mask=False)
    x[7, 2] = np.ma.masked
    return x


class MaskedRows(Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, row):
        x, y = whole()["image"]
        return masked(x)[row], y[row]


def collate(samples):
    return np.ma.stack([x for x, _ in samples]), [y for _, y in samples]


def bad_features(tmp_path, x, y):
    """Name -> features, and what has to be said of them."""
    np.save(tmp_path / "x.npy", x)
    mapped = np.ma.masked_array(np.load(tmp_path / "x.npy", mmap_mode="r"), mask=masked(x).mask)
    tensor = torch.from_numpy(x)
    named = {"good": x[:, 0], "bad": ["a"] * len(x)}
    return {
        "masked": (masked(x), "row 7 is masked"),
        "masked, mapped": (mapped, "row 7 is masked"),
        "masked rows": (list(masked(x)), "row 7 is masked"),
        "masked samples": (MaskedRows(), "row 7 is masked"),
        "masked batches": (
            DataLoader(MaskedRows(), batch_size=40, collate_fn=collate),
            "row 7 is masked",
        ),
        "sparse": (tensor.to_sparse(), "to_dense"),
        "sparse rows": (tensor.to_sparse_csr(), "to_dense"),
        "meta": (tensor.to("meta"), "meta device"),
        "complex": (tensor.to(torch.complex64), "real numbers"),
        "words": (x.astype(str), "numbers"),
        "column of words": (pandas.DataFrame(named), "column 'bad'"),
        "column of words, polars": (polars.DataFrame(named), "column 'bad'"),
        "arrays in a column": (pandas.Series(list(x)), r"np\.stack"),
        "missing": (polars.DataFrame({"a": [1.0] * 9 + [None] * 31}), "NaN .* row 9"),
        "a dataset with NaN": (
            TensorDataset(tensor.where(tensor != tensor[7, 2], np.nan), torch.from_numpy(y)),
            "NaN .* row [0-7]",
        ),
        "beyond float32": (
            TensorDataset(tensor.double() * 1e300, torch.from_numpy(y)),
            "infinity in row 0",
        ),
    }


def test_bad_features_are_refused_by_name_at_every_entrance(tmp_path, plain):
    x, y = whole()["image"]
    good = whole()
    for name, (bad, said) in bad_features(tmp_path, x, y).items():
        alone = isinstance(bad, (Dataset, DataLoader))
        part = bad if alone else (bad, y)
        ways = {
            "train image.*": lambda part=part: model_of({**good, "image": part}),
            "validation image.*": lambda part=part: DRCL(**SETTINGS).fit(
                good, {"image": part}, progress=False
            ),
            "train image .*": lambda part=part: select_prior(
                {**good, "image": part}, config=Config(**SETTINGS), progress=False
            ),
            "train video.*": lambda part=part: plain.add_modality("video", part, progress=False),
            "image features.*": lambda bad=bad: plain.encode("image", bad),
            "image.*": lambda part=part: plain.evaluate({**good, "image": part}),
            "image features: .*": lambda bad=bad: plain.search("image", bad, "text", x[:, :5]),
        }
        if not alone and name not in ("missing", "arrays in a column"):
            ways["query.*"] = lambda bad=bad: metrics.mean_average_precision(bad, x, y, y)
            ways["gallery.*"] = lambda bad=bad: metrics.mean_average_precision(x, bad, y, y)
            ways["gallery: .*"] = lambda bad=bad: metrics.mean_average_precision(
                x, iter([bad]), y, y
            )
        for where, way in ways.items():
            with pytest.raises((ValueError, TypeError)) as raised:
                way()
            raised.match(f"^{where}({said})"), name
    assert plain.modalities == ("image", "text", "audio")


def test_a_batch_of_other_lengths_is_refused():
    x, y = whole()["image"]
    loader = DataLoader(
        TensorDataset(torch.from_numpy(x), torch.from_numpy(y)),
        batch_size=8,
        collate_fn=lambda samples: (x[: len(samples)], y[:3]),
    )
    with pytest.raises(ValueError, match=r"train image: expected 8 labels, .* got 3"):
        model_of({"image": loader})


def test_tensors_spread_over_processes_say_how_to_get_a_plain_one(tmp_path, plain):
    x, y = torch.eye(4, 16), torch.arange(4)
    prior = Prior.orthogonal(16, 4)
    with process_group(0, 1, tmp_path):
        mesh = init_device_mesh("cpu", (1,))
        spread, weight = (distribute_tensor(part, mesh) for part in (x, prior.weight))
        for name, call in {
            "features": lambda: functional.reversible_consistency_loss(spread, y, prior),
            "features ": lambda: functional.prior_similarity(spread, prior, y),
            "features  ": lambda: functional.mixup(spread, y, classes=4),
            "features   ": lambda: losses.ReversibleConsistencyLoss(prior)(spread, y),
            "features    ": lambda: Encoder(16, dim=4, hidden=())(spread),
            "logits": lambda: functional.generalized_cross_entropy(spread, y),
            "prior": lambda: functional.reversible_consistency_loss(x, y, weight),
            "prior ": lambda: functional.prior_similarity(x, weight, y),
            "weight": lambda: Prior(weight),
            "train image features": lambda: model_of({"image": (spread, y)}),
            "image features": lambda: plain.encode("image", spread),
            "query": lambda: metrics.mean_average_precision(spread, x, y, y),
            "gallery": lambda: metrics.mean_average_precision(x, spread, y, y),
        }.items():
            with pytest.raises(TypeError, match=rf"^{name.strip()}: .*DTensor; \.to_local\(\)"):
                call()
