"""Other evaluators: agreement where definitions coincide, and what the difference is elsewhere."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from drcl.metrics import average_precision, mean_average_precision, measures, retrieval_metrics


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


class TestMeasuresOfRanks:
    """Measures asked for by name, query by query; no ties, and one query finds nothing."""

    KS = (1, 7, 40, 200)
    P = 0.95

    @pytest.fixture
    def graded(self, sets: Sets) -> Tensor:
        """Gains of 0 to 3 (Q, N), those of an item that is not of the query's class 0."""
        return torch.randint(1, 4, sets.relevant.shape) * sets.relevant

    @pytest.fixture
    def found(self, sets: Sets, graded: Tensor) -> dict[str, Tensor]:
        """Our tables (Q,) under the summary's names."""
        own = partial(measures.rbp, p=self.P)
        return retrieval_metrics(
            sets.query,
            sets.gallery,
            relevance=graded.double(),
            ks=self.KS,
            measures=(*measures.MEASURES, own),
            ndcg=True,
        ).tables()

    def test_torchmetrics(self, sets: Sets, found: dict[str, Tensor]) -> None:
        peer = pytest.importorskip("torchmetrics.functional.retrieval")
        # In (0, 1]: it puts others through a sigmoid for the AUROC.
        scores = (sets.cosines.argsort(dim=1).argsort(dim=1).float() + 1) / 200

        def check(name: str, function: Any, **options: Any) -> None:
            rows = zip(scores, sets.relevant, strict=True)
            theirs = torch.stack([function(s, t, **options) for s, t in rows]).double()
            torch.testing.assert_close(found[name], theirs, rtol=0, atol=1e-6)

        check("R-precision", peer.retrieval_r_precision)
        check("AUROC", peer.retrieval_auroc)
        for k in self.KS:
            check(f"hit@{k}", peer.retrieval_hit_rate, top_k=k)
            check(f"MRR@{k}", peer.retrieval_reciprocal_rank, top_k=k)
            check(f"fall-out@{k}", peer.retrieval_fall_out, top_k=k)

    def test_pytorch_metric_learning(self, sets: Sets, found: dict[str, Tensor]) -> None:
        accuracy = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
        from pytorch_metric_learning.distances import CosineSimilarity
        from pytorch_metric_learning.utils.inference import CustomKNN

        names = {
            "r_precision": "R-precision",
            "mean_average_precision_at_r": "mAP@R",
            "precision_at_1": "hit@1",
        }
        calculator = accuracy.AccuracyCalculator(
            tuple(names), device=torch.device("cpu"), knn_func=CustomKNN(CosineSimilarity())
        )
        theirs = calculator.get_accuracy(
            sets.query, sets.query_labels, sets.gallery, sets.gallery_labels
        )
        for name, ours in names.items():  # without the query that has nothing relevant
            assert float(found[ours][1:].mean()) == pytest.approx(theirs[name], abs=1e-6), name

    def test_scikit_learn(self, sets: Sets, graded: Tensor, found: dict[str, Tensor]) -> None:
        peer = pytest.importorskip("sklearn.metrics")
        for i in range(1, 30):
            scores = sets.cosines[i].numpy()
            area = peer.roc_auc_score(sets.relevant[i].numpy(), scores)
            assert found["AUROC"][i] == pytest.approx(area, abs=1e-12)
            for k in self.KS:
                for name, gains in (("DCG", graded[i]), ("DCG_exponential", 2 ** graded[i] - 1)):
                    value = peer.dcg_score(gains[None].numpy(), scores[None], k=k)
                    assert found[f"{name}@{k}"][i] == pytest.approx(value, abs=1e-12)

    def test_pytrec_eval(self, sets: Sets, graded: Tensor, found: dict[str, Tensor]) -> None:
        peer = pytest.importorskip("pytrec_eval")
        names = {"Rprec": "R-precision", "bpref": "bpref", "recip_rank": "MRR@200"}
        judged = {
            str(i): {str(j): int(gain) for j, gain in enumerate(row)}
            for i, row in enumerate(graded.tolist())
        }
        run = {
            str(i): {str(j): score for j, score in enumerate(row)}
            for i, row in enumerate(sets.cosines.tolist())
        }
        theirs = peer.RelevanceEvaluator(judged, {*names, "success"}).evaluate(run)
        for i, values in theirs.items():
            for name, ours in names.items():
                assert found[ours][int(i)] == pytest.approx(values[name], abs=1e-12), name
            assert found["hit@1"][int(i)] == values["success_1"]

    def test_ranx(self, sets: Sets, graded: Tensor, found: dict[str, Tensor]) -> None:
        ranx = pytest.importorskip("ranx")
        judged = {
            str(i): {str(j): int(gain) for j, gain in enumerate(row) if gain}
            for i, row in enumerate(graded.tolist())
            if i
        }
        run = {
            str(i): {str(j): score for j, score in enumerate(row)}
            for i, row in enumerate(sets.cosines.tolist())
            if i
        }
        names = {"r-precision": "R-precision"}
        for k in self.KS:
            names |= {f"f1@{k}": f"F1@{k}", f"hit_rate@{k}": f"hit@{k}", f"mrr@{k}": f"MRR@{k}"}
            names |= {f"ndcg@{k}": f"nDCG@{k}", f"ndcg_burges@{k}": f"nDCG_exponential@{k}"}
            names |= {f"dcg@{k}": f"DCG@{k}", f"dcg_burges@{k}": f"DCG_exponential@{k}"}
        once = ranx.Qrels({i: dict.fromkeys(gains, 1) for i, gains in judged.items()})
        run, judged = ranx.Run(run), ranx.Qrels(judged)
        ranx.evaluate(judged, run, list(names))
        # Its RBP is a sum of gains, above 1 where they are: the same where all are 1.
        biased = f"rbp.{round(100 * self.P)}"
        ranx.evaluate(once, run, [biased])
        names[biased] = f"RBP(p={self.P})"
        for name, ours in names.items():
            for i in range(1, 30):
                value = run.scores[name][str(i)]
                assert found[ours][i] == pytest.approx(value, abs=1e-12), name
