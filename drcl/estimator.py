"""DRCL as one object: fit, encode, evaluate, search, add a modality, save, load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from drcl import hub, metrics
from drcl.checks import check_count, check_option
from drcl.data import CrossModalDataset
from drcl.deploy import FrozenEncoder, freeze
from drcl.distributed import raise_together
from drcl.encoder import Encoder, normalize
from drcl.labels import Label, encode_labels, known_ids, parse_labels
from drcl.model_card import check_card, model_card
from drcl.model_files import StoredModel, check_folder, read_model, write_model
from drcl.prior import Prior
from drcl.tensors import check_finite
from drcl.train import datasets
from drcl.train.calibration import calibrate, check_output, posteriors, ranking
from drcl.train.config import SPACES, Config
from drcl.train.consistency import train_encoders
from drcl.train.context import Context
from drcl.train.embedding import apply_in_chunks
from drcl.train.networks import check_networks, check_trained, pick_device
from drcl.train.parallel import Mode, Parallel
from drcl.train.phase import Record
from drcl.train.prepare import prepare_training, takes_integers
from drcl.train.prior_learning import check_dim, choose_prior
from drcl.train.samples import Data, check_features, check_pairs
from drcl.train.standardize import Standardizer, in_chunks
from drcl.train.tensorboard import all_of, tensorboard

__all__ = ["DRCL", "SearchResult"]
__dir__ = __all__.copy


class SearchResult(NamedTuple):
    """Scores (Q, k), falling, and positions in the gallery (Q, k) int64."""

    scores: Tensor
    indices: Tensor


class DRCL:
    """Deep Reversible Consistency Learning over any number of modalities.

    Args:
        config: the settings; the default is the paper's.
        networks: modality -> ``nn.Module`` with output (B, dim), instead of the perceptron encoder.
            Each phase trains a copy of the module. A module wrapped in DistributedDataParallel is
            trained as such, each process on its own samples.
        settings: settings of :class:`Config` that override ``config``.

    Features are (N, d) arrays or tensors; labels are class ids (whole numbers from 0, −1 for
    unlabelled), class names, or multi-hot rows (N, C); :mod:`drcl.labels` has all rules. The
    classes are stored with the prior and saved with the model. Modalities need not be paired, and
    may differ in size. Instead of (features, labels), a modality may be a ``torch.utils.data``
    Dataset or DataLoader that yields such pairs. An array over an ``np.memmap`` is never copied as
    a whole, so it may be larger than memory. pandas and Polars frames, SciPy sparse matrices, and
    h5py and zarr arrays are read completely.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(60) % 3
    >>> image, text = rng.normal(size=(60, 8)) + y[:, None], rng.normal(size=(60, 5)) - y[:, None]
    >>> model = DRCL(dim=16, hidden=(32,), epochs=5, prior_epochs=5)
    >>> model = model.fit({"image": (image, y), "text": (text, y)}, progress=False)
    >>> sorted(model.evaluate({"image": (image, y), "text": (text, y)}))
    ['mAP@50', 'mAP@all']
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        networks: Mapping[str, nn.Module] | None = None,
        **settings: Any,
    ) -> None:
        self.config = dataclasses.replace(config or Config(), **settings)
        self.networks = check_networks(networks)
        self.encoders: dict[str, nn.Module] = {}
        self.standardizers: dict[str, Standardizer] = {}
        self.history: list[Record] = []
        self.temperatures: dict[str, float] = {}
        self.tried: list[dict[str, Any]] = []
        self._space = "cosine"
        self._prior: Prior | None = None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings of :attr:`config` and ``networks`` by name, as scikit-learn asks for them.

        ``deep`` changes nothing: no setting has settings.

        >>> DRCL(dim=64).get_params()["dim"]
        64
        """
        return {**vars(self.config), "networks": self.networks}

    def set_params(self, **params: Any) -> DRCL:
        """Change settings of a model that is not fitted, and return it.

        Raises ValueError for an unknown setting or one that is out of range, and RuntimeError for a
        fitted model, which keeps those it was trained with: ``sklearn.base.clone`` makes a new one.

        >>> DRCL(dim=64).set_params(lr=1e-3).config.lr
        0.001
        """
        if self.encoders:
            raise RuntimeError(
                "set_params: expected a model that is not fitted, got a fitted one; change the "
                "settings of a new one: sklearn.base.clone(model) or DRCL(model.config)"
            )
        networks = check_networks(params.pop("networks", self.networks))
        self.config = Config.from_dict({**vars(self.config), **params})
        self.networks = networks
        return self

    def __sklearn_clone__(self) -> DRCL:
        kind = type(self)
        if kind.__init__ is not DRCL.__init__:  # of further arguments nothing is known here
            raise TypeError(
                f"clone: expected a class with the arguments of DRCL, got {kind.__name__} with an "
                "__init__ of its own; give it a __sklearn_clone__ of its own as well"
            )
        return kind(self.config, networks=self.networks)

    @property
    def prior(self) -> Prior:
        """The prior that all encoders were trained against."""
        if self._prior is None:
            raise RuntimeError("this DRCL has no prior yet: call fit() first, or DRCL.load()")
        return self._prior

    @property
    def space(self) -> str:
        """What pairs are ranked by where nothing else is asked for: see :class:`Config`."""
        return self._space

    @property
    def classes(self) -> tuple[Label, ...]:
        """The class ids or names, in the order of the prior's columns."""
        return self.prior.classes

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities with a trained encoder."""
        return tuple(self.encoders)

    @torch.inference_mode(False)  # also where the caller has switched gradients off
    def fit(
        self,
        train: Mapping[str, Data],
        validation: Mapping[str, Data] | None = None,
        *,
        prior: Prior | None = None,
        classes: Iterable[Label] | None = None,
        checkpoints: str | Path | None = None,
        progress: bool = True,
        parallel: Mode | None = None,
        log_dir: str | Path | None = None,
        log: Callable[[dict[str, float], int], object] | None = None,
    ) -> DRCL:
        """Select the prior, then train every modality's encoder against it.

        Args:
            train: modality -> (features, labels) or Dataset or DataLoader, one modality or more.
                A Dataset is read once beforehand, for its labels and statistics, and shuffled as
                arrays are; a DataLoader decides its own order and batches.
            validation: the same for some or all modalities; without it the last epoch is kept.
            prior: use this prior and skip prior learning; the model takes over its classes.
            classes: the ids or names of all classes; default: those that occur in ``train``,
                sorted. See :func:`drcl.select_prior` for classes that do not occur.
            checkpoints: a folder; an interrupted run continues from it and ends bit-identical. It
                must have been written with the same settings and data (of a Dataset, labels and
                scale are compared). Saving takes about 1 % of the time; Ctrl-C finishes the epoch
                and saves first.
            progress: show a bar per phase and modality.
            parallel: divide the training among the processes of the default process group (see
                ``torch.distributed.init_process_group`` and torchrun), which all call this with the
                same arguments and all end with the same model: ``"modality"``, whole modalities on
                each, or ``"data"``, a slice of every batch on each. Checkpoints need a folder that
                all of them see.
            log_dir: a folder for TensorBoard: losses, scores, speed and times of every epoch.
            log: called after every epoch with the same values and the epoch, as
                ``log({"encoder-image/loss": 0.8, …}, 3)``: ``mlflow.log_metrics`` as it is, the
                ``log_metrics`` of any of Lightning's loggers, ``log`` of an
                ``accelerate.Accelerator``. An error that it raises ends the training. Continued
                from ``checkpoints``, each phase, a finished one too, gives the epochs since its
                last checkpoint once more. :meth:`add_modality` and :func:`drcl.auto` do not log.

        Raises ValueError for non-finite features, lengths that differ, labels outside the classes,
        fewer than two classes, more classes than ``dim``, a prior of another dimension, names that
        are not file names (letters, digits, ``_.+-``, at most 64), settings per modality that do
        not fit the modalities; TypeError for anything but features and labels;
        ``drcl.errors.NonFiniteLoss``, a FloatingPointError, when training diverges; MemoryError
        with a batch size that would fit; OSError where a checkpoint cannot be written or a mapped
        file has become shorter; RuntimeError where a loader's worker is lost, and, as
        ``drcl.errors.RankFailed``, where another process failed; ImportError for ``log_dir``
        without TensorBoard. The model is then as it was before. Source: paper, selective prior
        learning and reversible semantic consistency.

        >>> y = torch.arange(40) % 4
        >>> image = torch.eye(4)[y] + 0.1 * torch.randn(40, 4)
        >>> model = DRCL(dim=8, hidden=(16,), epochs=2, prior_epochs=2)
        >>> model.fit({"image": (image, y)}, {"image": (image, y)}, progress=False).modalities
        ('image',)
        """
        if log is not None and not callable(log):
            raise TypeError(f"log: expected a function or None, got {type(log).__name__}")
        validation = {} if validation is None else validation
        if prior is not None:
            if classes is not None:
                raise ValueError("classes: expected None beside a prior, which has its own classes")
            classes = prior.classes
            check_dim(prior, self.config)
        check_pairs(train, "train")
        team = Parallel.of(parallel)
        check_trained(self.networks, train, divided=parallel is not None)
        with raise_together(team.group):
            data = prepare_training(train, validation, classes, self.config, self.networks)
        folder = None if checkpoints is None else Path(checkpoints)
        history: list[Record] = []
        with tensorboard(log_dir) as curves:
            context = Context(self.networks, folder, progress, all_of(curves, log), team)
            if prior is None:
                prior, history = choose_prior(data, self.config, context)
            encoders, records = train_encoders(data, prior, self.config, context)
            temperatures, space = calibrate(encoders, data, prior, self.config, context)
        # Only now, with nothing left that can fail, does the model change.
        history += records
        done = prior, encoders, data.standardizers, history, space, temperatures
        self._adopt(StoredModel(self.config, *done, tried=[]))
        return self

    @torch.inference_mode(False)  # also where the caller has switched gradients off
    def add_modality(
        self,
        name: str,
        train: Data,
        validation: Data | None = None,
        *,
        network: nn.Module | None = None,
        checkpoints: str | Path | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> DRCL:
        """Train another modality against the existing prior; the other encoders stay as they are.

        Args:
            name: of the new modality.
            train, validation: (features, labels) or Dataset or DataLoader, with labels among
                :attr:`classes`.
            network, checkpoints, progress: as in :meth:`fit`.
            settings: settings of :class:`Config` for this modality only. If the model has a value
                per modality (``lr={"image": …}``), the default applies.

        Raises RuntimeError before :meth:`fit`, ValueError for a name that exists, for a model of
        :func:`drcl.auto`, or for another ``dim`` than the prior's, and what :meth:`fit` raises; the
        model is then unchanged.

        >>> y = torch.arange(40) % 4
        >>> prior = Prior.orthogonal(dim=8, classes=4)
        >>> model = DRCL(dim=8, hidden=(16,), epochs=2)
        >>> model = model.fit({"image": (torch.eye(4)[y], y)}, prior=prior, progress=False)
        >>> model.add_modality("text", (torch.eye(6)[y], y), progress=False).modalities
        ('image', 'text')
        """
        if name in self.encoders:
            raise ValueError(f"name: expected one that is not in {self.modalities}, got {name!r}")
        if self.tried:  # its prior of unit columns is no target for the paper's encoder
            raise ValueError(
                f"name: expected a model of fit(), got {name!r} for one of drcl.auto; train it "
                "with drcl.auto(…, classes=model.classes): posteriors of both can be compared"
            )
        config = dataclasses.replace(self.config.for_modality(name), **settings)
        config.check_modalities([name])
        check_dim(self.prior, config)
        networks = self.networks
        if network is not None:
            networks = networks | check_networks({name: network})
        data = prepare_training(
            {name: train},
            {} if validation is None else {name: validation},
            self.classes,
            config,
            networks,
        )
        folder = None if checkpoints is None else Path(checkpoints)
        context = Context(networks, folder, progress)
        encoders, history = train_encoders(data, self.prior, config, context)
        config = dataclasses.replace(config, space="cosine")  # the model's is chosen already
        temperatures, _ = calibrate(encoders, data, self.prior, config, context)
        # Only now, with nothing left that can fail, does the model change.
        self.networks, self.encoders[name] = networks, encoders[name]
        self.standardizers |= data.standardizers
        self.temperatures |= temperatures
        self.history += history
        return self

    def encode(
        self,
        modality: str,
        features: npt.ArrayLike | Tensor | datasets.Loadable,
        *,
        space: str | None = None,
    ) -> Tensor:
        """Embeddings float32 on the CPU, to be ranked by their inner product.

        In the space ``"cosine"`` they are the network's rows (N, dim), of unit length; in
        ``"posterior"`` the class posteriors ``softmax(xW/τ)`` (N, C), whose inner product is the
        probability that two samples are of one class. Ranking by it: Robertson, *The Probability
        Ranking Principle in IR* (1977).

        Args:
            modality: one that was trained.
            features: (N, d), finite, of any real dtype, converted to float32; or a Dataset or
                DataLoader of (features, labels). They are standardized as in training.
            space: ``"cosine"`` or ``"posterior"``; None for the model's own :attr:`space`.

        Raises ValueError for an unknown modality, another width, NaN or infinite features
        or none at all; RuntimeError before :meth:`fit`.

        >>> y = torch.arange(40) % 4
        >>> prior = Prior.orthogonal(dim=8, classes=4)
        >>> model = DRCL(dim=8, hidden=(16,), epochs=2)
        >>> model = model.fit({"image": (torch.eye(4)[y], y)}, prior=prior, progress=False)
        >>> model.encode("image", torch.eye(4)).shape
        torch.Size([4, 8])
        """
        space = self._checked(space)
        if datasets.is_loadable(features):
            return self._encode_loaded(modality, features, space)[0]
        self._encoder(modality)  # before anything is read
        x = check_features(features, f"{modality} features")
        chunks = [self._embed(modality, part) for part in in_chunks(x)]
        return self._ranked(torch.cat(chunks), modality, space)

    def _encode_loaded(
        self, modality: str, data: datasets.Loadable, space: str
    ) -> tuple[Tensor, list[Any]]:
        scaled = modality in self.standardizers
        integers = takes_integers(self._encoder(modality)) and not scaled
        found: list[Tensor] = []
        labels, seen = [], 0
        with torch.random.fork_rng(devices=[]):  # a loader may draw from it
            for features, part in datasets.read_pairs(
                datasets.in_order(data, 1024, datasets.unmasked(modality)), modality
            ):
                check_finite(features.float(), f"{modality} features", seen)
                found.append(self._embed(modality, datasets.as_input(features, integers)))
                labels.append(part)
                seen += len(part)
        if not found:
            raise ValueError(f"{modality}: expected samples, got none")
        return self._ranked(torch.cat(found), modality, space), labels

    def _ranked(self, rows: Tensor, modality: str, space: str) -> Tensor:
        """A network's output as what is ranked by inner product."""
        check_output(rows, modality)
        if space == "cosine":
            return normalize(rows)
        return posteriors(rows, self.prior, self.temperatures[modality])

    def _checked(self, space: str | None) -> str:
        return self.space if space is None else check_option("space", space, SPACES)

    def _embed(self, modality: str, rows: Tensor) -> Tensor:
        """What the network makes of checked rows, which are standardized first."""
        network, device = self._encoder(modality), pick_device(self.config.device)
        if isinstance(network, (Encoder, nn.Linear)) and rows.shape[1:] != (network.in_features,):
            raise ValueError(
                f"{modality} features: expected rows of shape ({network.in_features},), got "
                f"{tuple(rows.shape[1:])}"
            )
        if modality in self.standardizers:
            rows = self.standardizers[modality](rows)
        network.to(device)
        return apply_in_chunks(network, rows.to(device)).float().cpu()

    @torch.inference_mode(False)  # a copy for training, tracing and export, too
    def encoder(self, modality: str, *, space: str | None = None) -> FrozenEncoder:
        """A modality's encoder as a module of its own: features in, :meth:`encode`'s rows out.

        It standardizes the features, applies the network and goes over to the space, so nothing
        else of the model is needed. ``torch.jit.script``, ``torch.jit.trace``, ``torch.export``
        with any number of rows and PyTorch's ONNX exporter take it, and what they write runs
        without this package. It is a copy, on the CPU and in evaluation mode; its parameters ask
        for no gradients.

        Args:
            modality: one that was trained. A network of your own may be used as freely as it is
                written: what scripts alone scripts here.
            space: as in :meth:`encode`.

        Returns a :class:`drcl.deploy.FrozenEncoder`, (N, d) -> (N, dim) or (N, C). Its results are
        those of :meth:`encode` to the bit for the same number of rows at a time. It looks for no
        NaN: a row that is not finite gives NaN.

        Raises ValueError for an unknown modality or space; RuntimeError before :meth:`fit`.

        >>> y = torch.arange(40) % 4
        >>> prior = Prior.orthogonal(dim=8, classes=4)
        >>> model = DRCL(dim=8, hidden=(16,), epochs=2)
        >>> model = model.fit({"image": (torch.eye(4)[y], y)}, prior=prior, progress=False)
        >>> encoder = model.encoder("image")
        >>> torch.equal(encoder(torch.eye(4)), model.encode("image", torch.eye(4)))
        True
        """
        space, network = self._checked(space), self._encoder(modality)
        calibration = None
        if space == "posterior":
            calibration = self.prior.weight, self.temperatures[modality]
        return freeze(network, self.standardizers.get(modality), calibration)

    def evaluate(
        self,
        test: Mapping[str, Data],
        *,
        ks: Sequence[int] = (50,),
        no_relevant: str = "zero",
        space: str | None = None,
        process_group: ProcessGroup | None = None,
    ) -> metrics.RetrievalReport:
        """mAP@all and mAP@k of every ordered pair, ranked on the device of the training.

        Args:
            test: modality -> (features, labels) or Dataset or DataLoader.
            ks, no_relevant, process_group: as in :func:`metrics.retrieval_report`.
            space: as in :meth:`encode`.

        Returns measure -> pair of modalities, or ``"mean"`` -> value in [0, 1]. Raises what
        :meth:`encode` and :func:`metrics.retrieval_report` raise, and ValueError for labels that
        are not among :attr:`classes`. Source: the paper's evaluation, cosine ranking.

        >>> y = torch.arange(40) % 4
        >>> part = {"image": (torch.eye(4)[y], y), "text": (torch.eye(6)[y], y)}
        >>> model = DRCL(dim=8, hidden=(16,), epochs=20, prior_epochs=5, lr=1e-2)
        >>> model.fit(part, progress=False).evaluate(part, ks=())["mAP@all"]["mean"] > 0.9
        True
        """
        device, space = pick_device(self.config.device), self._checked(space)
        check_pairs(test, "test")
        embeddings = {}
        for name, data in test.items():
            where = f"test {name}"
            if datasets.is_loadable(data):
                rows, batches = self._encode_loaded(name, data, space)
                labels = datasets.join_labels(batches, where)
            else:
                rows = self.encode(name, data[0], space=space)
                labels = parse_labels(data[1], f"{where} labels", count=len(rows))
            codes = encode_labels(labels, self.classes)
            embeddings[name] = rows.to(device), labels if codes.ndim == 2 else known_ids(codes)
        return metrics.retrieval_report(
            embeddings,
            ks=ks,
            metric=ranking(space),
            no_relevant=no_relevant,
            process_group=process_group,
        )

    def search(
        self,
        source: str,
        queries: npt.ArrayLike | Tensor,
        target: str,
        gallery: npt.ArrayLike | Tensor,
        *,
        k: int = 10,
        space: str | None = None,
    ) -> SearchResult:
        """The k best items of another modality by inner product, ties by gallery index.

        The gallery is encoded in each call. To search in one more than once, encode it once into a
        :class:`drcl.Index`.

        Args:
            source, queries: the queries' modality and features (Q, d), as for :meth:`encode`.
            target, gallery: the gallery's modality and features (N, d').
            k: number of items per query; above N means N.
            space: as in :meth:`encode`.

        Returns scores (Q, k) float32, cosines or probabilities, highest first, and indices (Q, k)
        int64. Raises what :meth:`encode` raises, and ValueError for k below 1.

        >>> y = torch.arange(40) % 4
        >>> part = {"image": (torch.eye(4)[y], y), "text": (torch.eye(6)[y], y)}
        >>> model = DRCL(dim=8, hidden=(16,), epochs=20, prior_epochs=5, lr=1e-2)
        >>> model = model.fit(part, progress=False)
        >>> model.search("image", torch.eye(4), "text", torch.eye(6)[:4], k=1).indices.flatten()
        tensor([0, 1, 2, 3])
        """
        k = check_count("k", k)
        found = self.encode(source, queries, space=space)
        items = self.encode(target, gallery, space=space)
        return SearchResult(*metrics.nearest(found, items, k, metric="dot"))

    def save(self, folder: str | Path) -> Path:
        """Write prior, encoders and settings as safetensors and JSON; returns the folder.

        Saving over an older model replaces it in one step: at any moment the folder holds one
        complete model. Of your own networks only the parameters are stored; pass the modules again
        to :meth:`load`. Raises RuntimeError before :meth:`fit`, and OSError if the folder cannot
        be written, is written by another process (after five seconds) or has a link for
        ``encoders``; its old content is then still there.

        >>> import tempfile
        >>> y = torch.arange(40) % 4
        >>> model = DRCL(dim=8, hidden=(16,), epochs=2, prior_epochs=2)
        >>> model = model.fit({"image": (torch.eye(4)[y], y)}, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     DRCL.load(model.save(folder)).modalities
        ('image',)
        """
        return write_model(Path(folder), self)

    @classmethod
    def load(cls, folder: str | Path, *, networks: Mapping[str, nn.Module] | None = None) -> DRCL:
        """Read a model that :meth:`save` or ``drcl train`` wrote.

        Args:
            folder: of the model.
            networks: modules for the modalities that were trained with your own networks.

        Raises OSError if a file is missing, and ValueError, naming the file, if it is damaged or
        not a model's, or if networks do not fit. See :meth:`save` for an example.
        """
        return cls._read(Path(folder), networks)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        data: CrossModalDataset | None = None,
        license: str | None = None,
        push_to: str | None = None,
    ) -> Path:
        """:meth:`save` with a model card, and onto the Hugging Face Hub if asked.

        Returns the folder. The card, ``README.md``, says what the model embeds and how it was
        trained (settings, seed, versions), in a form that the hub understands. A card of an older
        model is replaced.

        Args:
            folder: to write to.
            data: the data set the model was trained on. The card then describes it, with its
                fingerprint (that of ``drcl data``) and, where its test split has labelled rows of
                two modalities or more, the scores of :meth:`evaluate` on it.
            license: of the model, by the hub's short name, such as ``"mit"``; None says nothing.
            push_to: ``"OWNER/NAME"`` of a repository on the hub, made private if there is none.
                Needs the package huggingface_hub, logged in (``hf auth login``). A model of
                :func:`drcl.auto` holds training rows, as its card says.

        Raises what :meth:`save` raises; ValueError or TypeError for another kind of argument, or
        for data that the model does not fit; FileExistsError where the folder is a file, or
        ``README.md`` anything but an unchanged card; ImportError, before anything is written,
        without huggingface_hub, and what that raises.

        >>> import tempfile
        >>> y = torch.arange(40) % 4
        >>> model = DRCL(dim=8, hidden=(16,), epochs=2, prior_epochs=2)
        >>> model = model.fit({"image": (torch.eye(4)[y], y)}, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     folder = model.save_pretrained(folder, license="mit")
        ...     print((folder / "README.md").read_text("utf-8")[:39])
        ...     DRCL.from_pretrained(folder).modalities
        ---
        library_name: "drcl"
        license: "mit"
        ('image',)
        """
        check_card(data, license)
        if push_to is not None and not hub.is_repository(push_to):
            raise ValueError(f"push_to: expected OWNER/NAME, got {push_to!r}")
        if push_to is not None:
            hub.client_for(hub.PUSHING)  # refused before anything is scored or written
        check_folder(Path(folder))
        card = model_card(self, data, license)
        written = write_model(Path(folder), self, card)
        if push_to is not None:
            hub.upload_model(written, push_to)
        return written

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        networks: Mapping[str, nn.Module] | None = None,
        revision: str | None = None,
    ) -> DRCL:
        """Read a model from a folder, or from the Hugging Face Hub.

        Args:
            source: a folder that :meth:`save_pretrained`, :meth:`save` or ``drcl train`` wrote; or,
                where there is no such folder, ``"OWNER/NAME"`` of a repository on the hub, which
                is kept in the cache of huggingface_hub.
            networks: as in :meth:`load`.
            revision: a branch, tag or commit of the repository.

        Raises what :meth:`load` raises, TypeError for a source that is no path, ImportError without
        huggingface_hub, and what that raises. No file is a pickle, and each is checked before it is
        used.
        """
        folder, within = hub.find_model(source, revision)
        return cls._read(folder, networks, within)

    @classmethod
    @torch.inference_mode(False)  # a loaded model can be trained further
    def _read(
        cls, folder: Path, networks: Mapping[str, nn.Module] | None, within: Path | None = None
    ) -> DRCL:
        stored = read_model(folder, check_networks(networks), within)
        model = cls(config=stored.config, networks=networks)
        model._adopt(stored)
        return model

    def _adopt(self, parts: StoredModel) -> None:
        self._prior, self.encoders = parts.prior, parts.encoders
        self.standardizers, self.history = parts.standardizers, parts.history
        self.temperatures, self._space = parts.temperatures, parts.space
        self.tried = parts.tried

    def _encoder(self, modality: str) -> nn.Module:
        if not self.encoders:
            raise RuntimeError("this DRCL has no encoders yet: call fit() first, or DRCL.load()")
        if modality not in self.encoders:
            raise ValueError(f"modality: expected one of {self.modalities}, got {modality!r}")
        return self.encoders[modality]
