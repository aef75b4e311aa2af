"""Targets: the commands, called in this process with small data.

A good command ends with status 0; one with a fault with 1 or 2 and one line that names what is
wrong, never a traceback. A case takes some 50 ms where a model is trained or read. ``drcl report``
draws pictures and ``drcl ablate`` trains a dozen models and two baselines: seconds a case, so that
100,000 cases of these two take days.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from click.testing import CliRunner
from fuzz_training import scratch
from fuzzing import Draw, target

from drcl import Index
from drcl.cli import main

CLASSES = ("ash", "birch", "cedar")
SMALL = (
    *("--dim", "4", "--hidden", "3", "--epochs", "1", "--prior-epochs", "1"),
    *("--batch-size", "8", "--device", "cpu", "--no-progress"),
)
# Of every option good values and bad ones; an option given twice counts once more.
OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "--lam": (("1", "0.5"), ("2", "-1", "nan", "half", "")),
    "--lr": (("1e-3", "photo=0.1", "scan=1e-4"), ("0", "-1", "inf", "photo=", "moon=1", "=")),
    "--epochs": (("1", "photo=1"), ("0", "1.5", "photo=0", "x")),
    "--batch-size": (("3", "100000"), ("0", "-4", "many")),
    "--temperature": (("0.1",), ("0", "nan", "hot")),
    "--alpha": (("0",), ("-1", "inf")),
    "--seed": (("7", "-1"), ("0.5", "x")),
    "--selection": (("last", "loss"), ("best", "")),
    "--precision": (("bf16",), ("float8",)),
    "--hidden": (("5", "2,2"), ("0", "a", ",", "3.5")),
    "--device": (("cpu",), ("moon", "")),
}
OF_PRIOR: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "--dim": (("5",), ("0", "2", "1.5", "x")),
    "--prior": (("orthogonal",), ("none",)),
    "--prior-norm": (("2", "none"), ("0", "-1", "big")),
    "--preset": (("none",), ("digit",)),
}


@functools.cache
def leaves() -> Path:
    """A manifest of two unpaired modalities, a file with a third beside them, a finished run."""
    folder = scratch() / "leaves"
    folder.mkdir()
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    text = [f"classes = {json.dumps(CLASSES)}"]
    for name, width in (("photo", 3), ("scan", 2), ("smell", 2)):
        for split, rows in (("train", 7), ("validation", 4), ("test", 5)):
            y = np.arange(rows) % 3
            key = f"{name}_{split}"
            x = random.normal(size=(rows, width)) + y[:, None]
            arrays |= {f"{key}_x": x, f"{key}_y": y}
            if name != "smell":
                np.save(folder / f"{key}_x.npy", x)
                np.save(folder / f"{key}_y.npy", y)
                text += [f"[{split}.{name}]"]
                text += [f'features = "{key}_x.npy"', f'labels = "{key}_y.npy"']
    np.savez(folder / "leaves.npz", **arrays)
    (folder / "leaves.toml").write_text("\n".join(text))
    result = call("train", folder / "leaves.toml", "--out", folder / "run", *SMALL, "--no-report")
    assert result.exit_code == 0, result.output
    return folder


def call(*arguments: object):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def judge(draw: Draw, good: bool, *arguments: object) -> str:
    """Run a command, which must succeed or be refused as ``good`` says; what it printed."""
    result = call(*arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    if good:
        assert result.exit_code == 0, (arguments, result.output)
    else:
        assert result.exit_code in (1, 2), (arguments, result.output)
        assert "Error: " in result.output, result.output
    return result.output


def draw_options(
    draw: Draw, table: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
) -> tuple[bool, list[str]]:
    """Some options, one of them bad in one case of three."""
    given: list[str] = []
    known = [option for option, (values, _) in table.items() if values]
    for _ in range(draw.integer("options", 0, 2)):
        option = draw.choose("option", *known)
        if option not in given:
            given += [option, draw.choose("value", *table[option][0])]
    fault = draw.fault(*table)
    if fault:
        given += [fault, draw.choose("bad value", *table[fault][1])]
    return not fault, given


BAD_RUNS = ("nowhere", "leaves.npz", "", ".")


def draw_run(draw: Draw) -> tuple[bool, Path]:
    """The finished run, or something that is none."""
    fault = draw.fault(*BAD_RUNS)
    return not fault, leaves() / (fault or "run")


@target("drcl train", few=4)
def train(draw: Draw) -> None:
    good, options = draw_options(draw, {**OPTIONS, **OF_PRIOR})
    out = scratch() / "out"
    dataset: object = leaves() / "leaves.toml"
    fault = draw.fault("a set", "a manifest", "a folder", "no --out", "an unknown option", "data")
    if fault == "a set":
        dataset = draw.choose("set", "birds", "", "leaves.npz", "Digits")
    elif fault == "a manifest":
        dataset = leaves() / "missing.toml"
    elif fault == "a folder":
        out = leaves()
    elif fault == "an unknown option":
        options.append("--fast")
    elif fault == "data":
        dataset, options = "wikipedia", [*options, "--data", str(scratch())]
    given = [dataset, *(() if fault == "no --out" else ("--out", out)), *SMALL, "--no-report"]
    text = judge(draw, good and not fault, "train", *given, *options)
    if good and not fault:
        assert (out / "run.json").is_file() and "mAP@all" in text
        judge(draw, False, "train", *given, *options)  # it is not replaced unasked
        assert (out / "run.json").is_file()
        shutil.rmtree(out)
    elif out.name == "out":
        assert not (out / "run.json").exists()
        shutil.rmtree(out, ignore_errors=True)


SPLITS = {"--split": (("test", "validation"), ("train", ""))}


@target("drcl evaluate", few=5)
def evaluate(draw: Draw) -> None:
    fine, run = draw_run(draw)
    table = {**SPLITS, "--k": (("1", "1000000"), ("0", "-1", "1.5", "all"))}
    good, options = draw_options(draw, table)
    out = scratch() / "metrics.json"
    options += draw.choose("out", [], ["--out", str(out)])
    text = judge(draw, fine and good, "evaluate", run, *options)
    if fine and good:
        assert "mAP@all" in text
        if str(out) in options:
            means = [values["mean"] for values in json.loads(out.read_text()).values()]
            assert all(0 <= mean <= 1 for mean in means)


@target("drcl encode", few=5)
def encode(draw: Draw) -> None:
    fine, run = draw_run(draw)
    modality = draw.choose("modality", "photo", "photo", "scan", "moon", "")
    suffix = draw.choose("suffix", ".npy", ".npz", ".safetensors", ".txt", "")
    width = {"photo": 3, "scan": 2}.get(modality, 1)
    kind = draw.choose("features", "good", "good", "good", "too wide", "NaN", "1-D", "none", "text")
    x = draw.random.normal(size=(draw.integer("rows", 1, 4), width + (kind == "too wide")))
    x = x * np.nan if kind == "NaN" else x[:, 0] if kind == "1-D" else x
    file, out = scratch() / "features.npy", scratch() / f"embeddings{suffix}"
    np.save(file, x)
    if kind == "text":
        file.write_text("1 2 3")
    elif kind == "none":
        file.unlink()
    out.unlink(missing_ok=True)
    known = modality in ("photo", "scan") and suffix in (".npy", ".npz", ".safetensors")
    good = fine and known and kind == "good"
    judge(draw, good, "encode", run, modality, file, "--out", out)
    assert out.exists() == good
    if good and suffix == ".npy":
        found = np.load(out, allow_pickle=False)
        assert found.shape == (len(x), 4) and found.dtype == np.float32


@target("drcl export", few=3)
def export(draw: Draw) -> None:
    """In the format that needs no extra; the other is refused where the extra is missing."""
    fine, run = draw_run(draw)
    modality = draw.choose("modality", "photo", "scan", "moon")
    suffix = draw.choose("suffix", ".pt2", "", ".npy")
    kind = draw.choose("format", [], ["--format", "pt2"], ["--format", "onnx"], ["--format", "x"])
    space = draw.choose("space", [], ["--space", "posterior"], ["--space", "dot"])
    there, overwrite = draw.choose("there", False, True), draw.choose("overwrite", False, True)
    out = scratch() / f"encoder{suffix}"
    out.unlink(missing_ok=True)
    if there:
        out.write_bytes(b"older")
    format_given = kind[1:] or [suffix[1:]]
    known = format_given == ["pt2"] or (format_given == ["onnx"] and has_onnx())
    good = fine and known and modality != "moon" and space[1:] != ["dot"]
    good = good and (overwrite or not there)
    more = ["--overwrite"] * overwrite
    judge(draw, good, "export", run, modality, "--out", out, *kind, *space, *more)
    if good:
        assert len(out.read_bytes()) > 1000
    else:
        assert out.exists() == there and (not there or out.read_bytes() == b"older")


def has_onnx() -> bool:
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript"))


@target("drcl index", few=3)
def index(draw: Draw) -> None:
    fine, run = draw_run(draw)
    out, file, table = scratch() / "index", scratch() / "features.npy", scratch() / "table.csv"
    shutil.rmtree(out, ignore_errors=True)
    rows = draw.integer("rows", 1, 4)
    np.save(file, draw.random.normal(size=(rows, 3)))
    lines = [f"{draw.choose('id', 'é', 'x')}{n},a name" for n in range(rows)]
    table.write_text("\n".join(["id,name", *lines]))
    fault = draw.fault("modality", "append", "both", "lines", "names", "column")
    options: list[object] = draw.choose("table", [], ["--ids", table])
    if fault in ("lines", "names", "column"):
        options = ["--ids", table]
        first, row = {"lines": ("id", "a"), "names": ("a,a", "1,2"), "column": ("id", "1,2")}[fault]
        table.write_text("\n".join([first, *[row] * (rows + (fault == "lines"))]))
    options += {"append": ["--append"], "both": ["--append", "--overwrite"]}.get(fault, [])
    modality = "moon" if fault == "modality" else "photo"
    good = fine and not fault
    judge(draw, good, "index", run, modality, file, "--out", out, *options, "--no-progress")
    assert out.exists() == good
    if good:
        judge(draw, False, "index", run, "photo", file, "--out", out)
        table_of = {"--k": (("1", "99"), ("0", "few")), "--where": ((), ("name", "moon=1"))}
        fine, options = draw_options(draw, {**table_of, "--in": (("photo",), ("moon",))})
        given = draw.choose("query", f"photo={file}", f"photo={file}", "nothing", f"moon={file}")
        fine = fine and given == f"photo={file}"
        text = judge(draw, fine, "search", out, given, "--json", *options)
        assert not fine or len(json.loads(text)) == rows


@target("drcl search", few=5)
def search(draw: Draw) -> None:
    fine, run = draw_run(draw)
    source = draw.choose("source", "photo", "scan", "photo", "moon")
    other = draw.choose("target", "scan", "photo", "scan", "")
    table = {
        **SPLITS,
        "--query": (("0", "3"), ("5", "99", "-1", "x")),
        "--k": (("1", "99"), ("0", "few")),
    }
    good, options = draw_options(draw, table)
    good = good and fine and source != "moon" and other != ""
    text = judge(draw, good, "search", run, source, other, *options)
    assert not good or "rank" in text


@functools.cache
def small_index() -> Path:
    return Index().add(torch.eye(3), modality="photo").save(scratch() / "small-index")


@target("drcl explore", few=4)
def explore(draw: Draw) -> None:
    out = scratch() / "page.html"
    out.unlink(missing_ok=True)
    fault = draw.fault("folder", "there")
    if fault == "there":
        out.touch()
    folder = leaves() if fault == "folder" else small_index()
    options = draw.choose("title", [], ["--title", "<b>"])
    judge(draw, not fault, "explore", folder, "--out", out, *options)
    assert fault or "&lt;b&gt;" in out.read_text("utf-8") or not options


@target("drcl serve", few=4)
def serve(draw: Draw) -> None:
    """All but the serving itself."""
    token = scratch() / "token"
    table = {
        "--port": (("0",), ("-1", "65536", "http")),
        "--host": (("127.0.0.1", "localhost"), ("256.1.1.1", "not/a/host")),
        "--max-k": (("1", "5000"), ("0", "many")),
        "--max-rows": (("1",), ("-1",)),
        "--max-body": (("1",), ("0",)),
        "--max-waiting": (("1",), ("0",)),
        "--token-file": ((str(token),), (str(scratch() / "nowhere"), str(scratch()))),
    }
    word = draw.choose("token", "0123456789abcdef", "short", "")
    token.write_text(word)
    good, options = draw_options(draw, table)
    good = good and (len(word) == 16 or "--token-file" not in options)
    fault = draw.fault("folder", "run")
    folder = leaves() if fault == "folder" else small_index()
    more = ["--run", leaves() / "run"] if fault == "run" else []
    given = [] if "--port" in options else ["--port", "0"]
    with mock.patch("uvicorn.Server.run"):
        judge(draw, good and not fault, "serve", folder, *given, *more, *options)


@target("drcl score", few=10)
def score(draw: Draw) -> None:
    photo, labels = (leaves() / f"photo_train_{part}.npy" for part in "xy")
    sides: list[object] = [
        photo,
        draw.choose("text", photo, f"{leaves() / 'leaves.npz'}:photo_train_x"),
    ]
    relevance: list[object] = draw.choose(
        "relevance", ["--labels", labels], ["--pairs", "rows"], ["--labels", labels] * 2
    )
    table = {
        "--k": (("1", "3", "1000000"), ("0", "-1", "1.5", "all")),
        "--metric": (("dot", "euclidean"), ("hamming", "")),
        "--divisor": (("min", "relevant"), ("R",)),
        "--ties": (("average",), ("random",)),
        "--no-relevant": (("skip",), ("one half",)),
        "--interval": (("0.5", "0.95"), ("0", "1", "nan", "wide")),
        "--test": (("bootstrap",), ("t",)),
    }
    good, options = draw_options(draw, table)
    if "--k" not in options and draw.choose("a list", False, True):
        options += ["--k", "1", "2", "5"]
    options += draw.choose("itself", [], ["--exclude-self"])
    options += draw.choose("against", [], ["--against", str(photo), str(photo)])
    fault = draw.fault("no file", "another width", "no labels", "words", "both", "other rows")
    if fault == "no file":
        sides[draw.integer("side", 0, 1)] = leaves() / "moon.npy"
    elif fault == "another width":
        sides[0] = f"{leaves() / 'leaves.npz'}:scan_train_x"
    elif fault == "no labels":
        relevance = []
    elif fault == "words":
        relevance = ["--labels", leaves() / "leaves.toml"]
    elif fault == "both":
        relevance = ["--labels", labels, "--pairs", "rows"]
    elif fault == "other rows":
        relevance = ["--labels", leaves() / "photo_test_y.npy"]
    out = scratch() / "scores"
    options += draw.choose("out", [], ["--out", str(out)])
    text = judge(draw, good and not fault, "score", *sides, *relevance, *options)
    if good and not fault:
        assert "mAP@all" in text
        if str(out) in options:
            values = json.loads((out / "scores.json").read_text())["measures"]["mAP@all"]
            assert 0 <= values["mean"] <= 1
            shutil.rmtree(out)
    else:
        assert not out.exists()


@target("drcl score --run", few=6)
def score_runs(draw: Draw) -> None:
    run, qrels, out = (scratch() / name for name in ("mine.trec", "qrels.txt", "scores"))
    names = [f"d{i}" for i in range(draw.integer("items", 1, 6))]
    lines = [
        [f"q{q} Q0 {name} 1 {draw.integer('score', 0, 3)} t" for name in names]
        for q in range(draw.integer("queries", 1, 3))
    ]
    flat = [line for query in lines for line in query]
    judged = [
        f"q{q} 0 {name} {draw.integer('relevance', -1, 2)}" for q in range(2) for name in names
    ]
    table = {
        "--k": (("1", "1000000"), ("0", "1.5")),
        "--divisor": (("min", "hits"), ("R",)),
        "--no-relevant": (("zero",), ("one half",)),
        "--test": (("bootstrap",), ("t",)),
        "--metric": ((), ("dot",)),
        "--pairs": ((), ("rows",)),
    }
    good, options = draw_options(draw, table)
    options += draw.choose("against", [], ["--against", str(run)])
    fault = draw.fault("no file", "a field", "a score", "twice", "no qrels", "relevance", "a side")
    if fault == "a field":
        flat[-1] += " more"
    elif fault == "a score":
        flat[-1] = f"q0 Q0 {names[-1]} 1 {draw.choose('score', 'nan', 'x', '')} t"
    elif fault == "twice":
        flat.append(flat[0])
    elif fault == "relevance":
        judged[-1] = judged[-1].replace(" 0 ", " 0 a ")
    elif fault == "a side":
        options.append(str(run))
    run.write_text("\n".join(flat))
    qrels.write_text("\n".join(judged))
    if fault == "no file":
        run.unlink()
    options += draw.choose("out", [], ["--out", str(out)])
    options += [] if fault == "no qrels" else ["--qrels", str(qrels)]
    text = judge(draw, good and not fault, "score", "--run", run, *options)
    if good and not fault:
        assert "mAP@all" in text
        shutil.rmtree(out, ignore_errors=True)
    else:
        assert not out.exists()


@target("drcl score --explain", few=4)
def explain(draw: Draw) -> None:
    fault = draw.fault("zebra")
    name = fault or draw.choose("name", "mAP", "R@", "ranx", "")
    text = judge(draw, not fault, "score", "--explain", *([name] if name else []))
    assert fault or ("formula" in text and max(map(len, text.splitlines())) <= 80)


@target("drcl add-modality", few=4)
def add_modality(draw: Draw) -> None:
    fine, run = draw_run(draw)
    if fine:
        run = scratch() / "copy"
        shutil.rmtree(run, ignore_errors=True)  # a case may have been broken off
        shutil.copytree(leaves() / "run", run)
    name = draw.choose("name", "smell", "smell", "photo", "a/b", "")
    file = leaves() / "leaves.npz"
    fault = draw.fault("no file", "no key", "no labels", "other labels")
    features, labels = f"{file}:smell_train_x", f"{file}:smell_train_y"
    if fault == "no file":
        features = f"{file}x:smell_train_x"
    elif fault == "no key":
        labels = f"{file}:smell"
    elif fault == "no labels":
        labels = f"{file}:smell_train_x"
    elif fault == "other labels":
        labels = f"{file}:smell_test_y"
    good, options = draw_options(
        draw, {k: v for k, v in OPTIONS.items() if k not in ("--lr", "--epochs")}
    )
    options += draw.choose("test", [], ["--test", f"{file}:smell_test_x", f"{file}:smell_test_y"])
    good = good and fine and not fault and name == "smell"
    before = (run / "config.json").read_bytes() if fine else b""
    judge(
        draw,
        good,
        "add-modality",
        run,
        name,
        features,
        labels,
        *options,
        "--no-report",
        "--no-progress",
    )
    if fine:
        assert ((run / "config.json").read_bytes() == before) == (not good)
        judge(draw, True, "evaluate", run)
        shutil.rmtree(run)


@target("drcl report", few=0)
def report(draw: Draw) -> None:
    fine, run = draw_run(draw)
    judge(draw, fine, "report", run)
    assert any((run / "report").glob("*.html")) == fine


@target("drcl ablate", few=0)
def ablate(draw: Draw) -> None:
    fault = draw.fault("a set", "seeds", "an option", "the folder")
    out, dataset = scratch() / "study", str(leaves() / "leaves.toml")
    options = [*SMALL, "--seeds", "1"]
    if fault == "a set":
        dataset = "birds"
    elif fault == "seeds":
        options[-1] = draw.choose("seeds", "0", "-1", "two")
    elif fault == "an option":
        good, more = draw_options(draw, {"--prior": ((), ("learned",)), "--lam": OPTIONS["--lam"]})
        if good:
            return
        options += more
    elif fault == "the folder":
        out = leaves() / "leaves.toml"
    judge(draw, not fault, "ablate", dataset, "--out", out, *options)
    if not fault:
        assert (out / "table.json").is_file()
        shutil.rmtree(out)


@target("drcl compare", few=0)
def compare(draw: Draw) -> None:
    table = {
        "--methods": (("ridge", "ridge,logistic-train"), ("", "birds", "ridge,ridge")),
        "--seeds": (("1",), ("0", "x")),
        "--noise": (("symmetric:0.2", "asymmetric:0.1"), ("symmetric", "up:0.1", "symmetric:2")),
    }
    given = ["digits", "--no-progress", "--methods", "ridge", "--seeds", "1"]
    if draw.choose("noise", False, True):
        given += ["--noise", draw.choose("value", *table["--noise"][0])]
    fault = draw.fault("--methods", "--seeds", "--noise", "--fast")
    if fault:
        given.append(fault)
        given += [draw.choose("bad value", *table[fault][1])] if fault in table else []
    judge(draw, not fault, "compare", *given)


@target("drcl bench")
def bench(draw: Draw) -> None:
    """Naming the workloads, and what is refused; measuring them takes minutes."""
    threads = torch.get_num_threads()
    table = {
        "--only": (("mixup", "map"), ()),
        "--threads": (("1",), ("0", "-2", "all")),
        "--threshold": (("0", "0.5"), ("-1", "x")),
        "--device": (("cpu",), ("tpu", "")),
    }
    given: list[str] = []
    for option, (good, _) in table.items():
        if draw.choose(option, False, True):
            given += [option, draw.choose("value", *good)]
    fault = draw.fault("--threads", "--threshold", "--device", "--fast")
    if fault:
        given.append(fault)
        given += [draw.choose("bad value", *table[fault][1])] if fault in table else []
    judge(draw, not fault, "bench", "--list", *given)
    torch.set_num_threads(threads)


@target("drcl info")
def info(draw: Draw) -> None:
    sizes = [str(draw.integer(name, -1, 3000)) for name in "BDC"]
    loss = ["--loss", *sizes]
    extra = draw.choose("arguments", [], ["--json"], ["now"], ["--help"], loss, loss[:-1])
    right = extra in ([], ["--help"]) or (extra == loss and all(int(size) > 0 for size in sizes))
    text = judge(draw, right, "info", *extra)
    assert "backends" in text or extra


@target("drcl doctor", few=3)
def doctor(draw: Draw) -> None:
    extra = draw.choose("arguments", [], ["--json"], ["now"], ["--help"])
    text = judge(draw, extra in ([], ["--help"]), "doctor", *extra)
    assert "temporary folder" in text or extra


@target("drcl demo", few=5)
def demo(draw: Draw) -> None:
    """What is refused: a demonstration takes its seconds in a test of its own."""
    extra = draw.choose(
        "arguments", ["digits"], ["--epochs", "1"], ["--out", leaves() / "leaves.npz"]
    )
    judge(draw, False, "demo", *extra)


@target("drcl data", few=10)
def show_data(draw: Draw) -> None:
    fault = draw.fault("birds", "--data", "missing.toml")
    given = ["--data"] if fault == "--data" else []
    dataset = fault if fault and not given else draw.choose("set", "digits", "synthetic")
    text = judge(draw, not fault, "data", dataset, *given)
    assert fault or "fingerprint: " in text
