"""The public sets, from the real files, and the sets that need none."""

from __future__ import annotations

import numpy as np
import pytest
from reruns import outputs

from drcl.data import load, names
from drcl.data.sets.synthetic import SHAPES


def with_matlab_file(root, name):
    pytest.importorskip("scipy.io", reason="MATLAB files need SciPy")
    if not (root / name).is_file():
        pytest.skip(f"no {name} in {root}")
    return root


@pytest.fixture
def wikipedia_root(data_root):
    return with_matlab_file(data_root, "wikipedia/raw_features.mat")


@pytest.fixture
def uci_root(data_root):
    return with_matlab_file(data_root, "uci_multifeature/uci_all.mat")


def test_wikipedia_has_the_official_split(wikipedia_root):
    from scipy.io import loadmat

    data = load("wikipedia", wikipedia_root)
    raw = loadmat(wikipedia_root / "wikipedia" / "raw_features.mat")
    listed = (wikipedia_root / "wikipedia" / "testset_txt_img_cat.list").read_text().splitlines()
    categories = np.array([int(line.split("\t")[2]) for line in listed])
    for modality, letter in (("image", "I"), ("text", "T")):
        np.testing.assert_array_equal(
            data.train[modality].features, raw[f"{letter}_tr"].astype(np.float32)
        )
        held = raw[f"{letter}_te"].astype(np.float32)
        np.testing.assert_array_equal(data.validation[modality].features, held[:231])
        np.testing.assert_array_equal(data.test[modality].features, held[231:])
        assert len(data.test[modality].labels) == 462
        np.testing.assert_array_equal(data.test[modality].labels, categories[231:] - 1)
    assert data.classes[0] == "art"
    assert data.classes[-1] == "warfare"


def test_uci_keeps_its_test_rows_and_shows_them(uci_root):
    from scipy.io import loadmat

    data = load("uci", uci_root)
    raw = loadmat(uci_root / "uci_multifeature" / "uci_all.mat")
    assert data.classes == tuple("0123456789")
    for modality, short in (("fourier", "I"), ("karhunen_loeve", "T"), ("pixels", "P")):
        np.testing.assert_array_equal(
            data.test[modality].features, raw[f"{short}_te"].astype(np.float32)
        )
        np.testing.assert_array_equal(data.test[modality].labels, raw["L_te"].ravel() - 1)
        held = len(data.validation[modality].labels)
        assert abs(held - 300) <= 10
        assert held + len(data.train[modality].labels) == 1500
        assert data.pictures[modality].shape == (500, 16, 15)
    np.testing.assert_array_equal(
        data.validation["fourier"].labels, data.validation["pixels"].labels
    )


def test_uci_pictures_are_upright_numerals(uci_root):
    """A zero has a hole in its middle and a one has ink there: true only at the right shape."""
    data = load("uci", uci_root)
    labels, pictures = data.test["pixels"].labels, data.pictures["pixels"]
    middle = pictures[:, 6:10, 6:9].mean(axis=(1, 2))
    assert middle[labels == 0].mean() < 1 < 3 < middle[labels == 1].mean()


def test_uci_validation_share_and_seed(uci_root):
    small = load("uci", uci_root, validation_share=0.1)
    assert abs(len(small.validation["pixels"].labels) - 150) <= 10
    other = load("uci", uci_root, validation_share=0.1, seed=1)
    assert not np.array_equal(
        small.validation["pixels"].features, other.validation["pixels"].features
    )


UCI_WIDTHS = {"mfeat-fou": 76, "mfeat-kar": 64, "mfeat-pix": 240}


def write_uci_text(folder):
    """UCI's layout: 2000 lines of numbers between blanks; here the first is the line's number."""
    for name, width in UCI_WIDTHS.items():
        rows = np.full((2000, width), 0.25)
        rows[:, 0] = np.arange(2000)
        np.savetxt(folder / name, rows, fmt="%8.2f")


def test_uci_reads_its_own_text_files_into_a_split_that_never_changes(tmp_path):
    write_uci_text(tmp_path)
    data = load("uci", tmp_path)
    assert (data.name, data.classes) == ("uci-text", tuple("0123456789"))
    for modality, width in zip(("fourier", "karhunen_loeve", "pixels"), (76, 64, 240), strict=True):
        lines = []
        for split, each in (("train", 120), ("validation", 30), ("test", 50)):
            features, labels = data.splits[split][modality]
            assert features.shape == (10 * each, width)
            line = features[:, 0].astype(int)
            np.testing.assert_array_equal(labels, line // 200)  # 200 lines of every digit
            assert np.bincount(labels).tolist() == [each] * 10
            lines.append(line)
        np.testing.assert_array_equal(np.sort(np.concatenate(lines)), np.arange(2000))
    other = load("uci", tmp_path, seed=1)
    for split, same in (("validation", False), ("test", True)):
        first, second = (one.splits[split]["pixels"].features for one in (data, other))
        assert np.array_equal(first, second) is same


@pytest.mark.parametrize("name", UCI_WIDTHS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text + text.split("\n")[0] + "\n",
        lambda text: text.replace("0.25", "ink", 1),
        lambda text: text.replace("0.25", "\N{DIGIT ONE}é", 1),
        lambda text: "",
    ],
    ids=["truncated", "a line too many", "a word", "not ASCII", "empty"],
)
@pytest.mark.filterwarnings("ignore:.*input contained no data")
def test_a_damaged_text_file_of_uci_is_named(tmp_path, name, damage):
    write_uci_text(tmp_path)
    path = tmp_path / name
    path.write_text(damage(path.read_text()), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name}: expected 2000 lines of {UCI_WIDTHS[name]} num"):
        load("uci", tmp_path)


def test_a_byte_order_mark_changes_no_set(tmp_path):
    write_uci_text(tmp_path)
    expected = load("uci", tmp_path)
    for name in UCI_WIDTHS:
        path = tmp_path / name
        path.write_text(path.read_text(), encoding="utf-8-sig")
    found = load("uci", tmp_path)
    for modality, samples in expected.train.items():
        assert np.array_equal(found.train[modality].features, samples.features)


def test_a_missing_text_file_of_uci_is_named(tmp_path):
    write_uci_text(tmp_path)
    (tmp_path / "mfeat-kar").unlink()
    with pytest.raises(FileNotFoundError, match=r"not found: .*mfeat-kar"):
        load("uci", tmp_path)


def write_wikipedia(root, lines="id\timage\t{}\n"):
    from scipy.io import savemat

    savemat(
        root / "raw_features.mat",
        {f"{m}_{p}": np.ones((n, 3)) for m in "IT" for p, n in (("tr", 20), ("te", 240))},
    )
    for part, rows in (("train", 20), ("test", 240)):
        text = "".join(lines.format(row % 10 + 1) for row in range(rows))
        (root / f"{part}set_txt_img_cat.list").write_text(text)


def test_wikipedia_without_category_names_uses_the_numbers(tmp_path):
    pytest.importorskip("scipy.io", reason="MATLAB files need SciPy")
    write_wikipedia(tmp_path)
    data = load("wikipedia", tmp_path)
    assert data.classes == tuple(map(str, range(1, 11)))
    assert data.train["text"].labels[:3].tolist() == [0, 1, 2]


def test_wikipedia_names_a_bad_line_and_a_missing_list(tmp_path):
    pytest.importorskip("scipy.io", reason="MATLAB files need SciPy")
    write_wikipedia(tmp_path, "id\timage\n")
    with pytest.raises(ValueError, match=r"trainset_txt_img_cat\.list, line 1.*label number"):
        load("wikipedia", tmp_path)
    write_wikipedia(tmp_path, "id\timage\t1_{}\n")  # Python's int would take it for 11 to 110
    with pytest.raises(ValueError, match=r"trainset_txt_img_cat\.list, line 1.*label number"):
        load("wikipedia", tmp_path)
    (tmp_path / "trainset_txt_img_cat.list").unlink()
    with pytest.raises(FileNotFoundError, match="UC San Diego"):
        load("wikipedia", tmp_path)


def test_wikipedia_lists_must_match_the_features(tmp_path):
    pytest.importorskip("scipy.io", reason="MATLAB files need SciPy")
    write_wikipedia(tmp_path)
    path = tmp_path / "testset_txt_img_cat.list"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="validation/image: expected 240 ids, names or rows"):
        load("wikipedia", tmp_path)


@pytest.mark.parametrize("name", ["wikipedia", "uci"])
def test_a_missing_public_set_says_where_to_get_it(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"Where to get it: (.|\n)*Where to put it: "):
        load(name, tmp_path)


def test_the_data_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DRCL_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=r"elsewhere/uci_multifeature/uci_all\.mat"):
        load("uci")
    monkeypatch.delenv("DRCL_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="not found: data/uci_multifeature"):
        load("uci")


def test_digits_are_three_unpaired_modalities_without_a_shared_picture():
    sklearn = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    data = load("digits")
    sizes = [len(one.features) for one in data.train.values()]
    widths = [one.features.shape[1] for one in data.train.values()]
    assert len(sizes) == len(set(sizes)) == len(set(widths)) == 3
    total = sum(len(one.labels) for split in data.splits.values() for one in split.values())
    assert total == len(sklearn.load_digits().target)
    for split in data.splits.values():
        for _, labels in split.values():
            assert set(labels) == set(range(10))


def test_digits_pictures_are_those_of_their_rows_and_labels():
    sklearn = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    bunch = sklearn.load_digits()
    label_of = {
        image.tobytes(): label for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    data = load("digits")
    seen = set()
    for modality, pictures in data.pictures.items():
        keys = [(picture * 16).astype(np.float64).tobytes() for picture in pictures]
        assert [label_of[key] for key in keys] == data.test[modality].labels.tolist()
        assert not seen & set(keys), "a picture is in two modalities"
        seen |= set(keys)
    np.testing.assert_array_equal(
        data.test["pixels"].features.reshape(-1, 8, 8), data.pictures["pixels"]
    )
    rows = data.pictures["strokes"].sum(axis=2)
    np.testing.assert_allclose(data.test["strokes"].features[:, :8], rows, rtol=1e-6)
    brightness = np.log1p(data.pictures["spectrum"].sum(axis=(1, 2)))
    np.testing.assert_allclose(data.test["spectrum"].features[:, 0], brightness, rtol=1e-6)


def test_digits_repeat_and_reshuffle_with_the_seed():
    pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    first, again, other = load("digits"), load("digits"), load("digits", seed=1)
    np.testing.assert_array_equal(first.train["pixels"].features, again.train["pixels"].features)
    assert not np.array_equal(first.train["pixels"].features, other.train["pixels"].features)


@pytest.mark.parametrize("shape", SHAPES)
def test_synthetic_sets_have_the_shape_they_are_named_after(shape):
    data = load("synthetic", shape=shape, scale=1e-3)
    classes, modalities = SHAPES[shape]
    assert len(data.classes) == classes
    for modality, (width, *counts) in modalities.items():
        for split, count in zip(data.splits.values(), counts, strict=True):
            features, labels = split[modality]
            assert features.shape == (max(classes, round(count * 1e-3)), width)
            assert set(labels) == set(range(classes))


def test_a_full_size_synthetic_set_has_the_counts_of_the_table():
    data = load("synthetic", shape="wikipedia")
    assert [len(split["text"].labels) for split in data.splits.values()] == [2173, 231, 462]


def test_synthetic_classes_can_be_told_apart_but_not_perfectly():
    lda = pytest.importorskip("sklearn.discriminant_analysis", reason="scikit-learn is the judge")
    data = load("synthetic", shape="wikipedia", scale=0.5)
    model = lda.LinearDiscriminantAnalysis().fit(*data.train["text"])
    assert 0.5 < model.score(*data.test["text"]) < 0.98


def test_synthetic_repeats_with_its_seed():
    one, same, other = (load("synthetic", scale=0.01, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.train["image"].features, same.train["image"].features)
    assert not np.array_equal(one.train["image"].features, other.train["image"].features)


def test_synthetic_does_not_depend_on_the_number_of_threads():
    code = (
        "import hashlib, sys; from drcl.data import load; data = load('synthetic', scale=0.05)\n"
        "parts = [part for split in data.splits.values() for part in split.values()]\n"
        "print(hashlib.sha256(b''.join(part.features.tobytes() for part in parts)).hexdigest())"
    )
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    assert len(outputs(code, [dict.fromkeys(names, threads) for threads in "12"])) == 1


def test_bad_options_and_names_are_named():
    with pytest.raises(
        ValueError, match=r"shape: expected one of \('wikipedia', 'xmedia', .*got 'mnist'"
    ):
        load("synthetic", shape="mnist")
    for scale in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="expected a number > 0"):
            load("synthetic", scale=scale)
    with pytest.raises(TypeError, match="colour"):
        load("digits", colour=True)
    with pytest.raises(ValueError, match=r"name: expected digits, .*got 'mnist'") as error:
        load("mnist")
    assert all(name in str(error.value) for name in names())
