"""No bit of a model, a checkpoint or a run folder can change unseen."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save

from drcl import DRCL, Config
from drcl.checks import check_weight
from drcl.run import AddedModality, Run, open_run, start_run
from drcl.run.record import record_content
from drcl.storage.files import write_bytes
from drcl.storage.sealed import pack, read_json, read_tensors, with_checksum, without_checksum

RUN = Run(
    "wikipedia",
    "/data",
    ("owl", "eel"),
    json.loads(json.dumps(Config(lr={"image": 1e-3}).to_dict())),
    {"torch": "2"},
    {"prior": 1.5},
    {"song": AddedModality(("s.npy", "l.npy"), None, ("s.npz:x", "s.npz:y"))},
)
WEIGHT = torch.arange(6, dtype=torch.float32).reshape(2, 3)


@pytest.fixture(scope="module")
def trained() -> DRCL:
    settings = tiny.SETTINGS | {"dim": 4, "hidden": (3,), "epochs": 1, "prior_epochs": 1}
    return DRCL(**settings, standardize=True).fit(tiny.split(), progress=False)


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    return trained.save(tmp_path / "model")


@pytest.fixture
def record(tmp_path) -> Path:
    write_bytes(tmp_path / "run.json", record_content(RUN))
    assert open_run(tmp_path) == RUN
    return tmp_path / "run.json"


def damaged(content: bytes) -> Iterator[bytes]:
    """Every single bit flipped, every truncation."""
    for position in range(len(content)):
        for bit in range(8):
            yield (
                content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]
            )
        yield content[:position]


def test_no_bit_of_a_checkpoint_changes_unseen(tmp_path):
    path = tmp_path / "image.safetensors"
    tensors = {"weight": WEIGHT, "step": torch.tensor(7)}
    content = pack(tensors, {"epoch": 3, "best": 0.25})
    seen = 0
    for changed in damaged(content):
        path.write_bytes(changed)
        try:
            found, about = read_tensors(path)
        except ValueError as error:
            assert "image.safetensors" in str(error)
            seen += 1
        else:  # a flip that means the same: blanks after the header, say
            assert about == {"epoch": 3, "best": 0.25}
            assert found.keys() == tensors.keys()
            assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert seen > 0.99 * 9 * len(content)


@pytest.mark.parametrize("name", ["config.json", "run.json"])
def test_no_bit_of_the_json_changes_unseen(folder, record, name):
    path = {"config.json": folder / "config.json", "run.json": record}[name]
    content = path.read_bytes()
    expected = without_checksum(read_json(path), path)
    for changed in islice(
        damaged(content), 0, None, 7
    ):  # one bit or more of every byte, not always the same
        path.write_bytes(changed)
        try:
            found = without_checksum(read_json(path), path)
        except ValueError as error:
            assert name in str(error)
        else:  # 1e-05 and 1E-05, a last line break that is gone
            assert found == expected and abs(len(changed) - len(content)) <= 1


def test_damage_anywhere_in_a_model_is_named(folder):
    random = np.random.default_rng(0)
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        content = path.read_bytes()
        for position in random.integers(len(content), size=12):
            changed = bytearray(content)
            changed[position] ^= 1 << random.integers(7)
            path.write_bytes(changed)
            with pytest.raises(ValueError, match=path.name.partition(".")[0]):
                DRCL.load(folder)
            path.write_bytes(content[:position])
            with pytest.raises(ValueError, match=path.name.partition(".")[0]):
                DRCL.load(folder)
        path.write_bytes(content)
    DRCL.load(folder)


def test_a_file_that_is_no_checkpoint_of_ours(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"x": WEIGHT}, path)
    with pytest.raises(ValueError, match=r"a\.safetensors: .*got one without a checksum"):
        read_tensors(path)
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}).encode()
    for size in (len(header), 2**63, 2**32):
        path.write_bytes(struct.pack("<Q", size) + header + bytes(4))
        with pytest.raises(ValueError, match=r"a\.safetensors: expected a safetensors file"):
            read_tensors(path)


def forge(path: Path, change) -> None:
    """As a stranger would: with a checksum that is right."""
    values = json.loads(path.read_text())
    del values["crc32"]
    change(values)
    path.write_text(json.dumps(with_checksum(values)))


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.update(dataset=5),
        lambda run: run.update(root=["/"]),
        lambda run: run.update(classes="owl"),
        lambda run: run.update(classes=[1, 2]),
        lambda run: run.update(settings=[]),
        lambda run: run["settings"].update(depth=3),
        lambda run: run["settings"].update(dim="16"),
        lambda run: run.update(versions={"torch": {}}),
        lambda run: run.update(seconds={"prior": "long"}),
        lambda run: run.update(added=[]),
        lambda run: run.update(added={"song": []}),
        lambda run: run.update(added={"song": {}}),
        lambda run: run.update(added={"song": {"train": ["a"]}}),
        lambda run: run.update(added={"song": {"train": ["a", 5]}}),
        lambda run: run.update(added={"song": {"train": "ab"}}),
        lambda run: run.update(added={"../song": {"train": ["a", "b"]}}),
        lambda run: run.update(more=1),
        lambda run: run["added"]["song"].update(train=None),
        lambda run: run["seconds"].update(prior=10**400),
        lambda run: run.pop("root"),
    ],
)
def test_forged_run_json(record, change):
    forge(record, change)
    with pytest.raises(ValueError, match=r"run\.json: damaged"):
        open_run(record.parent)


def test_a_number_that_no_float_can_hold_is_refused_by_name():
    for number in (10**400, -(10**400)):
        with pytest.raises(ValueError, match=r"alpha: expected a number >= 0"):
            check_weight("alpha", number)


@pytest.mark.parametrize("name", ["report", "encoders", "checkpoints"])
def test_a_run_removes_nothing_through_a_link(record, name):
    """A report is removed before a new one is written: not where a stranger's link leads."""
    mine = record.parent / "pictures"
    mine.mkdir()
    (mine / "holiday.png").write_bytes(b"mine")
    (record.parent / name).symlink_to(mine)
    with pytest.raises(ValueError, match=rf"{name}: a symbolic link"):
        open_run(record.parent)
    with pytest.raises(ValueError, match=rf"{name}: a symbolic link"):
        start_run(record.parent, RUN, overwrite=True)
    assert (mine / "holiday.png").read_bytes() == b"mine"


def networks(config) -> dict:
    return config["encoders"]["image"]["network"]


@pytest.mark.parametrize(
    "change",
    [
        lambda config: networks(config).update(in_features=10**12),
        lambda config: networks(config).update(dim=10**9, hidden=[10**9]),
        lambda config: networks(config).update(in_features=10**40),
        lambda config: networks(config).update(in_features=1.5),
        lambda config: networks(config).update(hidden="ab"),
        lambda config: networks(config).update(hidden=[]),
        lambda config: networks(config).update(hidden=[[3]]),
        lambda config: config["prior"].update(file="prior\0.safetensors"),
        lambda config: config["prior"].update(file="a" * 5000),
        lambda config: config["prior"].update(classes=[[1], [2], [3], [4]]),
        lambda config: config["prior"].update(classes=None),
        lambda config: config["settings"].update(lr={"image": "fast"}),
        lambda config: config["encoders"].update({"../x": config["encoders"]["image"]}),
        lambda config: config["encoders"].update({"\x1b[2J": config["encoders"]["image"]}),
        lambda config: config.update(history=config["prior"]["file"]),
        lambda config: config.update(settings=None),
    ],
)
def test_forged_config_json(folder, change):
    """Nothing is allocated on its word either: 10¹² input features would be terabytes."""
    forge(folder / "config.json", change)
    with pytest.raises((ValueError, OSError), match=str(folder)):
        DRCL.load(folder)


def _stored(folder, pattern: str, content: bytes, entry) -> None:
    """Put other content in the place of a part of the model, as a stranger would."""
    (old,) = folder.glob(pattern)
    digest = hashlib.sha256(content).hexdigest()[:16]
    new = old.with_name(f"{old.name.partition('.')[0]}.{digest}{old.suffix}")
    new.write_bytes(content)
    name = new.relative_to(folder).as_posix()
    forge(folder / "config.json", lambda config: entry(config, name))


@pytest.mark.parametrize(
    "change", [{"phase": "\x1b[2J"}, {"modality": []}, {"epoch": "1"}, {"seconds": None}]
)
def test_forged_history(folder, change):
    (path,) = folder.glob("history.*")
    history = json.loads(path.read_text())
    history[0] |= change
    content = json.dumps(history).encode()
    _stored(folder, "history.*", content, lambda config, name: config.update(history=name))
    with pytest.raises(ValueError, match=r"history\..*: .* got something else in entry 0"):
        DRCL.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"standardizer.mean": torch.zeros(3)},
        {"standardizer.mean": torch.zeros(3), "standardizer.std": torch.ones(3)},
    ],
)
def test_forged_standardizer(folder, change):
    (path,) = (folder / "encoders").glob("image.*")
    content = pack(read_tensors(path)[0] | change, {})
    _stored(
        folder,
        "encoders/image.*",
        content,
        lambda config, name: config["encoders"]["image"].update(file=name),
    )
    with pytest.raises(ValueError, match=r"image\..*: standardizer: expected "):
        DRCL.load(folder)


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 100_000])
def test_forged_metadata_of_a_checkpoint(tmp_path, text):
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({}, metadata={"crc32 json": f"{zlib.crc32(text.encode()):08x} {text}"}))
    with pytest.raises(ValueError, match=r"a\.safetensors: expected .* as metadata"):
        read_tensors(path)


@pytest.mark.parametrize(
    "content",
    [
        b'{"format": NaN}',
        b'{"format": 1, "x": ' + b"[" * 100_000,
        b'{"format": ' + b"9" * 5000,
        b"\xff",
    ],
    ids=["NaN", "deep", "long number", "no text"],
)
def test_json_that_python_reads_or_fails_on(folder, record, content):
    for path, read in ((folder / "config.json", DRCL.load), (record, open_run)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=path.name.replace(".", r"\.")) as caught:
            read(path.parent)
        assert len(str(caught.value)) < 1000


def test_files_without_a_checksum_are_refused_by_name(folder):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    del values["crc32"]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config\.json: checksum mismatch"):
        DRCL.load(folder)
