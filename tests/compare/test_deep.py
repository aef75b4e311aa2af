"""Deep peers: their losses against the papers' formulas, and the loop that trains them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TOLERANCES
from torch import nn
from torch.autograd import gradcheck

from drcl.compare.deep import training
from drcl.compare.deep.acmr import modality_loss, reverse, triplets
from drcl.compare.deep.dscmr import dscmr_loss
from drcl.compare.deep.mars import Mars, mars_loss
from drcl.compare.deep.mrl import contrast, robust_clustering
from drcl.compare.deep.sdml import Sdml, sdml_loss
from drcl.compare.deep.terms import cross_entropy, distance, orthogonal, pair_likelihood
from drcl.compare.deep.training import Peer
from drcl.compare.fitted import measure
from drcl.compare.methods import METHODS
from drcl.data import CrossModalDataset, Labelled

EXACT = TOLERANCES[torch.float64]
DEEP = ("sdml", "dscmr", "mrl", "mars", "acmr")
LABELS = [[0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]  # the third row has none
SEVERAL = [[0, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]]


def rows(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def label_rows(ids):
    return torch.tensor(ids, dtype=torch.float64)


def agrees(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **EXACT)


def length(row):
    return math.sqrt(sum(v * v for v in row.tolist()))


def cosine(a, b):
    dot = sum(v * w for v, w in zip(a.tolist(), b.tolist(), strict=True))
    return dot / length(a) / length(b)


def softmax(row):
    powers = [math.exp(v) for v in row.tolist()]
    return [power / sum(powers) for power in powers]


def labelled(y):
    return [i for i, row in enumerate(y) if any(row)]


def logistic(a, b, ids, other, scale):
    """The mean negative log-likelihood of "they share a class", over all labelled pairs."""
    total, count = 0.0, 0
    for i in labelled(ids):
        for j in labelled(other):
            gamma = scale * cosine(a[i], b[j])
            shared = any(u and v for u, v in zip(ids[i], other[j], strict=True))
            total += math.log(1 + math.exp(gamma)) - shared * gamma
            count += 1
    return total / count


def entropy(scores, ids):
    total = 0.0
    for i in labelled(ids):
        chances = softmax(scores[i])
        total -= sum(math.log(p) for p, y in zip(chances, ids[i], strict=True) if y) / sum(ids[i])
    return total / len(labelled(ids))


@pytest.mark.parametrize("ids", [LABELS, SEVERAL])
def test_sdml_is_reconstruction_and_distance_from_the_labels(ids):
    x, decoded, predicted, y = rows(5, 4), rows(5, 4), rows(5, 3), label_rows(ids)
    reconstruction = sum(length(x[i] - decoded[i]) for i in range(5)) / 5
    known = labelled(ids)
    label = sum(length(predicted[i] - y[i]) for i in known) / len(known)
    agrees(sdml_loss(x, decoded, predicted, y, 0.3), 0.3 * reconstruction + 0.7 * label)
    assert gradcheck(lambda d, p: sdml_loss(x.detach(), d, p, y), (decoded, predicted))


@pytest.mark.parametrize("ids", [LABELS, SEVERAL])
def test_the_likelihood_of_pairs_is_that_of_a_logistic_model(ids):
    a, b, ya, yb = rows(5, 4), rows(4, 4), label_rows(ids), label_rows(ids[:4])
    agrees(pair_likelihood(a, b, ya, yb, 0.5), logistic(a, b, ids, ids[:4], 0.5))
    assert gradcheck(lambda a, b: pair_likelihood(a, b, ya, yb, 0.5), (a, b))


@pytest.mark.parametrize("ids", [LABELS, SEVERAL])
def test_cross_entropy_shares_a_row_among_its_classes(ids):
    scores = rows(5, 3)
    agrees(cross_entropy(scores, label_rows(ids)), entropy(scores, ids))
    assert gradcheck(lambda s: cross_entropy(s, label_rows(ids)), (scores,))


@pytest.mark.parametrize("several", [False, True])
def test_dscmr_is_labels_pairs_and_invariance(several):
    ids = [SEVERAL, SEVERAL, LABELS] if several else [LABELS, [*LABELS[:4], [1, 0, 0]], LABELS]
    embeddings, scores = [rows(5, 4) for _ in ids], [rows(5, 3) for _ in ids]
    label = alike = apart = 0.0
    for m in range(3):
        known = labelled(ids[m])
        label += sum(length(scores[m][i] - label_rows(ids[m])[i]) for i in known) / len(known)
        for n in range(m, 3):
            alike += logistic(embeddings[m], embeddings[n], ids[m], ids[n], 0.5)
            if n > m:
                apart += sum(length(embeddings[m][i] - embeddings[n][i]) for i in range(5)) / 5
    y = [label_rows(part) for part in ids]
    found = dscmr_loss(embeddings, scores, y, (0.2, 0.3))
    agrees(found, label + 0.2 * alike + 0.3 * apart)
    assert gradcheck(lambda *e: dscmr_loss(list(e[:3]), list(e[3:]), y), (*embeddings, *scores))


def test_robust_clustering_is_the_logarithm_of_the_mass_on_other_classes():
    scores, known = rows(5, 3), labelled(LABELS)
    expected = sum(math.log(1 - softmax(scores[i])[LABELS[i].index(1)]) for i in known)
    agrees(robust_clustering(scores, label_rows(LABELS)), expected / len(known))
    assert gradcheck(lambda s: robust_clustering(s, label_rows(LABELS)), (scores,))


def test_robust_clustering_weighs_rows_by_the_probability_of_their_label():
    scores = torch.tensor([[3.0, 0.0], [0.0, 3.0]], requires_grad=True)
    robust_clustering(scores, torch.tensor([[1.0, 0.0], [1.0, 0.0]])).backward()
    agreed, contested = scores.grad.abs().sum(dim=1)
    assert agreed > 15 * contested


@pytest.mark.parametrize("modalities", [2, 3])
def test_contrast_is_of_a_sample_with_itself_elsewhere(modalities):
    embeddings, tau, expected = [rows(4, 3) for _ in range(modalities)], 0.7, 0.0
    for m in range(modalities):
        for i in range(4):
            own = everything = 0.0
            for n in range(modalities):
                for j in range(4):
                    power = math.exp((embeddings[m][i] @ embeddings[n][j]).item() / tau)
                    own += power * (j == i and n != m)
                    everything += power * (j != i or n != m)
            expected -= math.log(own / everything) / 4
    agrees(contrast(embeddings, tau), expected)
    assert gradcheck(lambda *e: contrast(list(e), tau), embeddings)


@pytest.mark.parametrize("ids", [LABELS, SEVERAL])
def test_mars_is_pairs_with_the_labels_classes_and_a_part_that_says_nothing_of_them(ids):
    labels, shared, exclusive, scores = rows(5, 4), rows(5, 4), rows(5, 3), rows(5, 3)
    known = labelled(ids)
    expected = logistic(labels, shared, ids, ids, 2.0) + logistic(shared, shared, ids, ids, 2.0)
    expected += entropy(scores, ids)
    expected += 0.4 * sum(math.log(max(softmax(exclusive[i]))) for i in known) / len(known)
    given, y = (labels, shared, exclusive, scores), label_rows(ids)
    agrees(mars_loss(*given, y, 0.4), expected)
    assert gradcheck(lambda *parts: mars_loss(*parts, y, 0.4), given)


def test_the_labels_of_mars_learn_from_the_first_modality_alone():
    peer, y = Mars([5, 4], classes=3), torch.eye(3).repeat(2, 1)
    first, second = torch.randn(6, 5), torch.randn(6, 4)

    def gradient(x):
        peer.zero_grad()
        peer.loss(x, [y, y], 0.5).backward()
        return torch.cat([p.grad.flatten() for p in peer.labels.parameters()])

    before = gradient([first, second])
    assert torch.equal(gradient([first, second + 1]), before)
    assert not torch.equal(gradient([first + 1, second]), before)


@pytest.mark.parametrize("ids", [LABELS, SEVERAL])
def test_triplets_pull_what_shares_a_class_and_push_the_closest_other(ids):
    anchors, others = rows(5, 2), rows(4, 2)
    expected = 0.0
    for i in labelled(ids):
        same, different = [], []
        for j in labelled(ids[:4]):
            shared = any(u and v for u, v in zip(ids[i], ids[j], strict=True))
            (same if shared else different).append(length(anchors[i] - others[j]))
        expected += sum(same) / len(same) if same else 0.0
        expected += max(0.0, 1 - min(different)) if different else 0.0
    y = label_rows(ids)
    agrees(triplets(anchors, others, y, y[:4]), expected / len(labelled(ids)))
    assert gradcheck(lambda a, b: triplets(a, b, y, y[:4]), (anchors, others))


def test_two_modalities_are_told_apart_as_by_a_logistic_model():
    scores = [rows(4, 2), rows(4, 2)]
    expected = 0.0
    for m in range(2):
        for i in range(4):
            margin = float((scores[m][i, 0] - scores[m][i, 1]).detach())
            first = 1 / (1 + math.exp(-margin))
            expected -= math.log(first if m == 0 else 1 - first) / 4
    agrees(modality_loss(scores), expected)
    assert gradcheck(lambda *s: modality_loss(list(s)), scores)


def test_reversal_keeps_the_value_and_turns_the_gradient():
    x = rows(3, 2)
    turned = reverse(x, 0.4)
    torch.testing.assert_close(turned, x, **EXACT)
    (found,) = torch.autograd.grad((turned * turned.detach()).sum(), x)
    torch.testing.assert_close(found, -0.4 * x, **EXACT)


def test_terms_without_labelled_rows_are_zero_and_have_a_gradient():
    a, y = rows(2, 3), torch.zeros(2, 3, dtype=torch.float64)
    for value in (
        cross_entropy(a, y),
        pair_likelihood(a, a, y, y, 1.0),
        distance(a[:0], a[:0]),
        robust_clustering(a, y),
        triplets(a, a, y, y),
    ):
        assert value == 0
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, a))


def test_the_space_of_sdml_has_orthonormal_columns_and_is_not_learned():
    space = orthogonal(7, 4)
    torch.testing.assert_close(space.T @ space, torch.eye(4))
    peer = Sdml([5, 4], classes=3)
    assert "space" not in dict(peer.named_parameters())
    assert Sdml([5], classes=200).get_buffer("space").shape == (200, 200)


@pytest.mark.parametrize("width", [4, 400])
def test_reconstruction_weighs_alike_however_wide_the_features_are(width):
    peer, x = Sdml([width], classes=3), torch.randn(500, width)
    for parameter in peer.decoders.parameters():
        nn.init.zeros_(parameter)
    found = peer.loss([x], [torch.zeros(500, 3)], 0.5)
    assert found.item() == pytest.approx(0.5 * (x.square().mean(dim=1).sqrt()).mean().item())
    assert 0.4 < found < 0.55


def test_sdml_trains_each_modality_as_if_alone():
    peer = Sdml([5, 4], classes=3)
    x, y = [torch.randn(6, 5), torch.randn(6, 4)], [torch.eye(3).repeat(2, 1)] * 2
    peer.loss(x, y, 0.5).backward()
    alone = [p.grad.clone() for p in peer.encoders[0].parameters()]
    peer.zero_grad()
    peer.loss([x[0], x[1] * 3 - 1], y, 0.5).backward()
    for one, other in zip(alone, peer.encoders[0].parameters(), strict=True):
        assert torch.equal(one, other.grad)


def blobs(several=False, seed=0, modalities=3):
    draw = np.random.default_rng(seed)
    centres = {
        name: draw.normal(size=(6, width)) for name, width in {"a": 9, "b": 7, "c": 5}.items()
    }

    def split(size):
        hot = np.eye(6, dtype=np.uint8)[draw.permutation(np.arange(size) % 6)]
        if several:
            hot |= np.eye(6, dtype=np.uint8)[draw.integers(0, 6, size)]
        y = hot if several else hot.argmax(axis=1)
        return {
            name: Labelled(
                (hot @ centre + 0.7 * draw.normal(size=(size, centre.shape[1]))).astype("f4"), y
            )
            for name, centre in list(centres.items())[:modalities]
        }

    return CrossModalDataset("blobs", tuple("uvwxyz"), split(240), split(60), split(90))


@pytest.fixture
def short(monkeypatch):
    """One rate, 40 steps, two checkpoints: enough for a set as easy as these."""
    monkeypatch.setattr(training, "RATES", (1e-3,))
    monkeypatch.setattr(training, "EPOCHS", 1)
    monkeypatch.setattr(training, "LEAST_STEPS", 40)
    monkeypatch.setattr(training, "CHECKPOINTS", 2)


@pytest.mark.parametrize(
    ("name", "several"),
    [  # one class a row or several, in turn; both in the long form; mrl refuses several
        pytest.param(
            name,
            several,
            marks=pytest.mark.long if several == (i % 2 > 0) and name != "mrl" else [],
        )
        for i, name in enumerate(DEEP)
        for several in (False, True)
    ],
)
def test_deep_peers_are_far_above_chance(name, several, short):
    data = blobs(several)
    if several and name == "mrl":
        with pytest.raises(ValueError, match="mrl: expected one class a row, got several in a"):
            METHODS[name].fit(data, 0)
        return
    chance = measure(
        lambda m, x: np.random.default_rng(len(m)).normal(size=(len(x), 4)), data.test
    )["mAP@all"]["mean"]
    fitted = METHODS[name].fit(data, 0)
    found = measure(fitted.embed, data.test)["mAP@all"]["mean"]
    assert found > (0.80 if several else 0.70)
    assert chance < (0.60 if several else 0.30)
    assert "epoch" in fitted.chosen


@pytest.mark.parametrize("name", DEEP)
def test_deep_peers_follow_from_the_seed_and_leave_the_generator_alone(name, short, monkeypatch):
    monkeypatch.setattr(training, "LEAST_STEPS", 10)
    data, before = blobs(modalities=2), torch.get_rng_state()
    embed, again, other = (METHODS[name].fit(data, seed).embed for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    x = data.test["a"].features
    np.testing.assert_array_equal(embed("a", x), again("a", x))
    assert not np.array_equal(embed("a", x), other("a", x))


def test_dscmr_and_mrl_learn_from_pairs():
    assert [name for name in DEEP if METHODS[name].needs_pairs] == ["dscmr", "mrl"]


@pytest.mark.parametrize("name", DEEP)
def test_pairs_are_asked_for_where_a_method_learns_from_them(name, short):
    data = blobs(modalities=2)
    part = data.train["b"]
    data = replace(
        data, train={**data.train, "b": Labelled(part.features[:200], part.labels[:200])}
    )
    if METHODS[name].needs_pairs:
        with pytest.raises(ValueError, match=r"train: expected pairs.*{'a': 240, 'b': 200}"):
            METHODS[name].fit(data, 0)
    else:
        assert measure(METHODS[name].fit(data, 0).embed, data.test)["mAP@all"]["mean"] > 0.70


@pytest.mark.parametrize("name", DEEP)
def test_unlabelled_training_rows_are_taken(name, short):
    data = blobs(modalities=2)
    hidden = np.arange(240) % 3 > 0
    train = {m: Labelled(p.features, np.where(hidden, -1, p.labels)) for m, p in data.train.items()}
    fitted = METHODS[name].fit(replace(data, train=train), 0)
    assert measure(fitted.embed, data.test)["mAP@all"]["mean"] > 0.60


class Counting(Peer):
    """Notes the rows of its batches; learns nothing."""

    def __init__(self, seen):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(1)), seen

    def __deepcopy__(self, memo):
        return self

    def loss(self, x, y, progress):
        self.seen.append(([part[:, 0].tolist() for part in x], progress))
        return (self.weight * 0).sum()

    def embed(self, place, x):
        return x[:, :5]

    def scores(self, embeddings):
        return embeddings[:, :3].repeat(1, 2)


@pytest.mark.parametrize("pairs", [True, False])
def test_an_epoch_shows_every_row_and_pairs_stay_together(pairs, short, monkeypatch):
    monkeypatch.setattr(training, "LEAST_STEPS", 1)
    monkeypatch.setattr(training, "CHECKPOINTS", 1)
    monkeypatch.setattr(training, "standardizer", lambda part: lambda x: x)
    count, seen = 300, []
    numbers = np.arange(count, dtype="f4")
    data = blobs(modalities=2)
    y = np.arange(count) % 6
    wide = {
        m: Labelled(np.repeat(numbers[:, None], p.features.shape[1], 1), y)
        for m, p in data.train.items()
    }
    training.train(
        lambda widths, classes: Counting(seen), replace(data, train=wide), 0, pairs=pairs
    )
    firsts, seconds = ([row for (x, _) in seen for row in x[m]] for m in (0, 1))
    assert sorted(firsts) == sorted(seconds) == numbers.tolist()
    assert (firsts == seconds) == pairs and firsts != sorted(firsts)
    assert [len(x[0]) for x, _ in seen] == [100, 100, 100] and seen[-1][1] == 1.0
