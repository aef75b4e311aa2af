"""Training to searching on a system that lacks what Windows lacks; run by test_portable.py."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path

import another_system

another_system.become()
warnings.filterwarnings("error", category=EncodingWarning, module="drcl")  # of the code page

import numpy as np  # noqa: E402
import torch  # noqa: E402

import drcl  # noqa: E402
from drcl import backends, portable  # noqa: E402
from drcl.cli import main  # noqa: E402
from drcl.data.sets.synthetic import synthetic  # noqa: E402
from drcl.storage.files import locked, write_bytes  # noqa: E402
from drcl.train import loop  # noqa: E402

SETTINGS = ("--epochs", "2", "--prior-epochs", "1", "--dim", "16", "--hidden", "16")


def command(*arguments: object) -> None:
    print("$ drcl", *arguments)
    main.main([str(one) for one in arguments], prog_name="drcl", standalone_mode=False)


def interrupted(*arguments: object) -> None:
    """The command, ended by Ctrl-C in the middle of training."""
    real, calls = loop.Training.begin_epoch, []

    def begin_epoch(training: loop.Training) -> None:
        calls.append(training)
        if len(calls) == 3:  # in the first of two epochs of the first encoder
            signal.raise_signal(signal.SIGINT)
        real(training)

    loop.Training.begin_epoch = begin_epoch
    try:
        command(*arguments)
    except Exception as error:
        assert "--resume" in str(error), error
    else:
        raise AssertionError("the training was not interrupted")
    finally:
        loop.Training.begin_epoch = real


def scenario(folder: Path) -> None:
    os.chdir(folder)
    assert portable.fcntl is None
    assert not any(b.available for b in backends.probe_backends() if b.name in ("triton", "native"))
    interrupted("train", "synthetic", "--out", "run", *SETTINGS, "--no-report", "--no-progress")
    command("train", "synthetic", "--out", "run", "--resume", "--no-report", "--no-progress")
    assert sorted(path.name for path in Path("run").iterdir()) == [
        "config.json", "encoders", *(path.name for path in Path("run").glob("history.*")),
        "metrics.json", *(path.name for path in Path("run").glob("prior.*")), "run.json",
    ]  # fmt: skip
    model = drcl.DRCL.load("run")
    test = synthetic().test
    embedded = {name: model.encode(name, part.features) for name, part in test.items()}
    again = model.save("model")
    for _ in range(2):  # a second save meets the files of the first, which the model has read
        again = drcl.DRCL.load(again).save("model")
    same = drcl.DRCL.load("model").encode("image", test["image"].features)
    assert torch.equal(same, embedded["image"])
    for name, part in test.items():
        np.savez(f"{name}.npz", x=part.features, y=part.labels)
        np.save(f"{name}.npy", embedded[name].numpy())
    mapped = drcl.metrics.mean_average_precision(
        np.load("image.npy", mmap_mode="r"), np.load("text.npy", mmap_mode="r"),
        test["image"].labels, test["text"].labels,
    )  # fmt: skip
    held = drcl.metrics.mean_average_precision(
        embedded["image"], embedded["text"], test["image"].labels, test["text"].labels
    )
    assert mapped == held > 0
    command("score", "image.npy", "text.npy", "--labels", "image.npz:y",
            "--labels", "text.npz:y")  # fmt: skip
    command("index", "run", "text", "text.npz:x", "--out", "index", "--no-progress")
    found = drcl.Index.load("index")  # its files are mapped while they are replaced
    command("index", "run", "image", "image.npz:x", "--out", "index", "--no-progress", "--append")
    command("index", "run", "image", "image.npz:x", "--out", "index", "--no-progress",
            "--overwrite")  # fmt: skip
    assert len(found) == len(test["text"].labels)
    found.search(embedded["image"], k=3)
    command("search", "index", "0", "--k", "3")
    command("info")
    with locked(Path("index")):
        refused_to_others()
        write_bytes(Path("index", "note"), b"a\nb")
    assert Path("index", "note").read_bytes() == b"a\nb"
    assert not list(Path().rglob(f"*{portable.PARTIAL}"))


def refused_to_others() -> None:
    try:
        with locked(Path("index")):
            raise AssertionError("locked twice")
    except BlockingIOError:
        pass


signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what starts in the background
scenario(Path(sys.argv[1]))
print("α − done")  # neither letter is in the code page
