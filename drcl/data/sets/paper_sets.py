"""The five sets of the paper, in the feature files the authors and their group work with.

Each table below is a whole loader: which file, and which of its arrays is which modality of which
split. Files, keys, splits and folders are those that publicly released loaders of this line of work
read (SDML, MAN, MRL and later). None of the files was at hand when this was written: the tables are
tested on small files of the same layout, never on the real ones.

Not confirmed, and to be corrected here by whoever has the file:

- XMediaNet: that cells 3, 4 and 5 are audio, 3-D and video. Cells 1 and 2 (image, text) are.
- NUS-WIDE, INRIA-Websearch and Wikipedia: that the texts' labels are those of the images. Rows are
  pairs and the released loaders use the images' labels for both, and so do these.

Labels may count from 0 or 1, and be stored as rows or columns: either is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drcl.data.assemble import ArrayAt, SamplesAt, assemble
from drcl.data.dataset import CrossModalDataset
from drcl.data.locate import find_file

Entry = tuple[str, str, str]
"""Key of the features, key of the labels, rows."""


@dataclass(frozen=True)
class Layout:
    """Where a set lies below the data folder, and split → modality → :data:`Entry`."""

    file: str
    obtain: str
    splits: dict[str, dict[str, Entry]]


def _ask_the_authors(published: str, file: str) -> str:
    """How to obtain the features of a set of which only the raw data are published."""
    return (
        f"{published}; of the features no public copy is known: ask the authors of the DRCL paper "
        f"(arXiv 2501.05686) for {file}."
    )


def _pairs(
    image: str, text: str, labels: str, parts: Sequence[str], rows: Sequence[str] = (":",) * 3
) -> dict[str, dict[str, Entry]]:
    """Images and texts that share labels, each split in a part with a prefix of its own."""
    return {
        split: {
            "image": (part + image, part + labels, row),
            "text": (part + text, part + labels, row),
        }
        for split, part, row in zip(("train", "validation", "test"), parts, rows, strict=True)
    }


WIKIPEDIA_DEEP = Layout(
    file="Wiki/wiki.mat",
    obtain=(
        "wiki.mat (deep image features, Doc2Vec texts) is tracked in the authors' repository "
        "QinYang79/DRCL on GitHub, under datasets/Wiki/."
    ),
    splits=_pairs(
        "_imgs_deep",
        "_texts_doc",
        "_imgs_labels",
        parts=("train", "test", "test"),
        rows=(":", "0:231", "231:"),
    ),
)

_XMEDIA = {  # features, labels, and how many held-out rows are the test; the rest are validation
    "image": ("I_{}_CNN", "{}ImgCat", 500),
    "text": ("T_{}_BOW", "{}TxtCat", 500),
    "audio": ("A_{}", "{}AudCat", 100),
    "3d": ("d3_{}", "{}3dCat", 50),
    "video": ("V_{}_CNN", "{}VidCat", 87),
}
XMEDIA = Layout(
    file="XMedia/XMediaFeatures.mat",
    obtain=(
        "XMediaFeatures.mat is tracked in the repository perquisite/RSHNL on GitHub; PKU XMedia "
        "itself is published by the Multimedia Information Processing Lab of Peking University."
    ),
    splits={
        split: {
            modality: (features.format(part), labels.format(part), rows.format(count))
            for modality, (features, labels, count) in _XMEDIA.items()
        }
        for split, part, rows in (
            ("train", "tr", ":"),
            ("validation", "te", "{}:"),
            ("test", "te", "0:{}"),
        )
    },
)

# Each variable is a cell array with one cell for each modality.
XMEDIANET = Layout(
    file="XMediaNet/XMediaNet5View_Doc2Vec.mat",
    obtain=_ask_the_authors(
        "PKU XMediaNet is published by the Multimedia Information Processing Lab of Peking "
        "University",
        "XMediaNet5View_Doc2Vec.mat",
    ),
    splits={
        split: {
            modality: (f"{part}{{{cell}}}", f"{part}_labels{{{cell}}}", ":")
            for cell, modality in enumerate(("image", "text", "audio", "3d", "video"), start=1)
        }
        for split, part in (("train", "train"), ("validation", "valid"), ("test", "test"))
    },
)

NUS_WIDE = Layout(
    file="NUSWIDE/nus_wide_deep_doc2vec-corr-ae.h5py",
    obtain=_ask_the_authors(
        "NUS-WIDE is published by the National University of Singapore",
        "nus_wide_deep_doc2vec-corr-ae.h5py",
    ),
    splits=_pairs("_imgs_deep", "_texts", "_imgs_labels", ("train", "valid", "test")),
)

INRIA_WEBSEARCH = Layout(
    file="INRIA-Websearch/INRIA-Websearch.mat",
    obtain=_ask_the_authors(
        "INRIA Web Queries is published by the LEAR team of Inria Grenoble", "INRIA-Websearch.mat"
    ),
    splits=_pairs("_img", "_txt", "_img_lab", ("tr", "val", "te")),
)

LAYOUTS = {
    "wikipedia-deep": WIKIPEDIA_DEEP,
    "xmedia": XMEDIA,
    "xmedianet": XMEDIANET,
    "nus-wide": NUS_WIDE,
    "inria-websearch": INRIA_WEBSEARCH,
}


def paper_set(name: str, root: Path) -> CrossModalDataset:
    """Load one of :data:`LAYOUTS` from its folder below ``root``, or from ``root`` itself.

    Raises:
        FileNotFoundError: the file is missing; the error says where to ask for it.
        ValueError: the file is damaged or lacks an array of the table.
    """
    layout = LAYOUTS[name]
    path = find_file(root, [layout.file, Path(layout.file).name], layout.obtain)
    sources = {
        split: {
            modality: SamplesAt(ArrayAt(path, features), ArrayAt(path, labels), rows)
            for modality, (features, labels, rows) in modalities.items()
        }
        for split, modalities in layout.splits.items()
    }
    return assemble(name, sources)
