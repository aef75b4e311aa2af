"""Other evaluators: agreement where definitions coincide, and what the difference is elsewhere."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from drcl.metrics import average_precision, mean_average_precision, retrieval_metrics


class Sets(NamedTuple):
    query: Tensor
    gallery: Tensor
    query_labels: Tensor
    gallery_labels: Tensor

    @property
    def relevant(self) -> Tensor:
        return self.query_labels[:, None] == self.gallery_labels

    @property
    def cosines(self) -> Tensor:
        return self.query @ self.gallery.T


@pytest.fixture
def sets() -> Sets:
    """Unit rows in float64; the first query finds nothing relevant."""
    rows = (torch.nn.functional.normalize(torch.randn(n, 16).double(), dim=1) for n in (30, 200))
    query_labels, gallery_labels = torch.randint(5, (30,)), torch.randint(5, (200,))
    query_labels[0] = 5
    return Sets(*rows, query_labels, gallery_labels)


class TestScikitLearn:
    @pytest.fixture
    def sklearn(self) -> Any:
        return pytest.importorskip("sklearn.metrics")

    def test_average_precision_and_ndcg(self, sklearn: Any, sets: Sets) -> None:
        found = retrieval_metrics(*sets, ndcg=True, ks=(9, None))
        assert found.ndcg is not None
        for i in range(1, 30):
            relevant, scores = sets.relevant[i].numpy(), sets.cosines[i].numpy()
            expected = sklearn.average_precision_score(relevant, scores)
            assert found.average_precision[i, 1] == pytest.approx(expected, rel=1e-12)
            expected = sklearn.ndcg_score(relevant[None].astype(float), scores[None], k=9)
            assert found.ndcg[i, 0] == pytest.approx(expected, rel=1e-12)

    def test_tied_items_are_one_step_of_its_average_precision(self, sklearn: Any) -> None:
        """Every tied item gets the precision at the end of its group: pessimistic here."""
        x, labels = torch.ones(2, 1), torch.tensor([0, 1])
        assert sklearn.average_precision_score([1, 0], [1.0, 1.0]) == 0.5
        assert average_precision(x[:1], x, labels[:1], labels) == 1.0
        assert average_precision(x[:1], x, labels[:1], labels, ties="average") == 0.75

    def test_ndcg_over_tied_items_is_the_average(self, sklearn: Any) -> None:
        query, gallery = torch.ones(20, 1), torch.randint(4, (60, 1)).float()
        gains = torch.randint(3, (20, 60))
        options = {"relevance": lambda rows: gains[rows], "metric": "dot", "ndcg": True}
        found = retrieval_metrics(query, gallery, ks=(7, None), ties="average", **options)
        assert found.ndcg is not None
        scores = gallery[:, 0].expand(20, 60).numpy()
        for column, k in enumerate((7, None)):
            for i in range(20):
                expected = sklearn.ndcg_score(gains[i : i + 1].numpy(), scores[i : i + 1], k=k)
                assert found.ndcg[i, column] == pytest.approx(expected, rel=1e-12)

    def test_nothing_relevant_is_nan_or_0_with_a_warning(self, sklearn: Any) -> None:
        with pytest.warns(UserWarning, match="No positive class"):
            assert sklearn.average_precision_score([0, 0], [1.0, 2.0]) == 0.0
        x = torch.eye(2)
        assert average_precision(x[:1], x, torch.tensor([9]), torch.arange(2)) == 0.0


class TestTorchmetrics:
    @pytest.fixture
    def retrieval(self) -> Any:
        return pytest.importorskip("torchmetrics.retrieval")

    def peer(self, metric: Any, sets: Sets, scores: Tensor) -> float:
        indexes = torch.arange(30)[:, None].expand(30, 200)
        return float(metric(scores.flatten(), sets.relevant.flatten(), indexes.flatten()))

    def places(self, sets: Sets) -> Tensor:
        """Scores of the same order, above zero and exact in the float32 that it casts to."""
        return sets.cosines.argsort(dim=1).argsort(dim=1).float() + 1

    @pytest.mark.parametrize("k", [None, 20])
    @pytest.mark.parametrize(("action", "rule"), [("neg", "zero"), ("skip", "skip")])
    def test_every_measure(
        self, retrieval: Any, sets: Sets, k: int | None, action: str, rule: str
    ) -> None:
        ours = retrieval_metrics(*sets, ks=(k,), ndcg=True, no_relevant=rule).summary()
        at = "all" if k is None else k
        for name, peer in (
            (f"mAP@{at}", retrieval.RetrievalMAP),
            (f"recall@{at}", retrieval.RetrievalRecall),
            (f"precision@{at}", retrieval.RetrievalPrecision),
            (f"nDCG@{at}", retrieval.RetrievalNormalizedDCG),
            ("MRR", retrieval.RetrievalMRR),
        ):
            value = self.peer(peer(empty_target_action=action, top_k=k), sets, self.places(sets))
            assert value == pytest.approx(ours[name], abs=1e-6), name

    def test_scores_of_0_or_less_lose_their_relevance(self, retrieval: Any, sets: Sets) -> None:
        """So raw cosines give another number: here the item found first counts for nothing."""
        scores, relevant = torch.tensor([-0.1, -0.5]), torch.tensor([True, False])
        one = torch.zeros(2, dtype=torch.int64)
        for name in ("RetrievalMAP", "RetrievalMRR", "RetrievalRecall", "RetrievalPrecision"):
            assert getattr(retrieval, name)(top_k=1)(scores, relevant, indexes=one) == 0.0
            assert getattr(retrieval, name)(top_k=1)(scores + 1, relevant, indexes=one) == 1.0
        gallery = scores[:, None]
        found = retrieval_metrics(
            torch.ones(1, 1), gallery, torch.zeros(1), torch.arange(2), ks=(1,), metric="dot"
        )
        assert set(found.summary().values()) == {1.0}
        raw = self.peer(retrieval.RetrievalMAP(), sets, sets.cosines.float())
        dropped = [  # what the rule says, from its definition
            float(((torch.arange(len(hits)) + 1) / hits).sum() / max(len(hits), 1))
            for scores, relevant in zip(sets.cosines, sets.relevant, strict=True)
            for order in [scores.argsort(descending=True)]
            for hits in [(relevant & (scores > 0))[order].nonzero()[:, 0] + 1]
        ]
        assert raw == pytest.approx(sum(dropped) / 30, abs=1e-6)
        assert abs(raw - mean_average_precision(*sets)) > 1e-2

    def test_precision_beyond_the_gallery(self, retrieval: Any) -> None:
        """It divides by k; here k above N means N, as its ``adaptive_k`` does."""
        scores, relevant = torch.tensor([2.0, 1.0]), torch.tensor([True, False])
        one = torch.zeros(2, dtype=torch.int64)
        assert retrieval.RetrievalPrecision(top_k=4)(scores, relevant, indexes=one) == 0.25
        adaptive = retrieval.RetrievalPrecision(top_k=4, adaptive_k=True)
        assert adaptive(scores, relevant, indexes=one) == 0.5
        x = torch.eye(2)
        found = retrieval_metrics(x[:1], x, torch.zeros(1), torch.arange(2), ks=(4,))
        assert found.precision.item() == 0.5


class TestPytorchMetricLearning:
    """Its calculator, with an exact search where the search is not what is looked at."""

    def peer(self, name: str, k: int | None, sets: Sets, faiss: bool = False) -> float:
        accuracy = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
        from pytorch_metric_learning.distances import CosineSimilarity
        from pytorch_metric_learning.utils.inference import CustomKNN, FaissKNN

        search = FaissKNN() if faiss else CustomKNN(CosineSimilarity())
        device = torch.device("cpu")
        calculator = accuracy.AccuracyCalculator((name,), k=k, device=device, knn_func=search)
        query, gallery = sets.query.float(), sets.gallery.float()
        found = calculator.get_accuracy(query, sets.query_labels, gallery, sets.gallery_labels)
        return float(found[name])

    def test_whole_rankings_without_queries_that_have_nothing_relevant(self, sets: Sets) -> None:
        found = self.peer("mean_average_precision", None, sets)
        assert found == pytest.approx(mean_average_precision(*sets, no_relevant="skip"), abs=1e-5)
        assert found * 29 / 30 == pytest.approx(mean_average_precision(*sets), abs=1e-5)

    def test_at_k_is_divided_by_all_relevant_items(self, sets: Sets) -> None:
        options: dict[str, Any] = {"k": 20, "no_relevant": "skip"}
        found = self.peer("mean_average_precision", 20, sets)
        value = mean_average_precision(*sets, divisor="relevant", **options)
        assert found == pytest.approx(value, abs=1e-5)
        assert mean_average_precision(*sets, **options) > 2 * found

    def test_labels_are_compared_in_float32(self) -> None:
        """There these two classes are one."""
        x, labels = torch.eye(2), torch.tensor([2**24, 2**24 + 1])
        sets = Sets(x, x, labels, labels.flip(0))
        assert self.peer("precision_at_1", None, sets) == 1.0
        assert retrieval_metrics(*sets, ks=(1,)).summary()["precision@1"] == 0.0

    def test_faiss_fills_up_beyond_the_gallery_with_its_last_item(self, sets: Sets) -> None:
        """faiss says −1 where there is no item left, which is taken for the place of the last."""
        pytest.importorskip("faiss")
        sets = sets._replace(query_labels=sets.gallery_labels[-1].expand(30))
        found = self.peer("mean_average_precision", 1000, sets, faiss=True)
        assert found > 1
        value = mean_average_precision(*sets, k=1000)
        assert value == mean_average_precision(*sets) < 1
        whole = self.peer("mean_average_precision", 200, sets, faiss=True)
        assert whole == pytest.approx(value, abs=1e-5)
