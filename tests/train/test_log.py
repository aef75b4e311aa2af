"""A function of the user's that is told of every epoch."""

from __future__ import annotations

import pytest
import tiny

from drcl import DRCL

TRAIN, VALIDATION = tiny.split(), tiny.split(seed=1, image=12, text=10)


def test_log_receives_the_history():
    told = []
    model = DRCL(**tiny.SETTINGS)
    model.fit(TRAIN, VALIDATION, progress=False, log=lambda *values: told.append(values))
    assert len(told) == len(model.history) == 2 * (5 + 6)
    for (values, epoch), record in zip(told, model.history, strict=True):
        run = f"{record['phase']}-{record['modality']}/"
        assert epoch == record["epoch"] and all(name.startswith(run) for name in values)
        plain = {name.removeprefix(run): value for name, value in values.items()}
        assert plain.pop("samples per second") == record["samples"] / record["seconds"]
        expected = {"loss": record["loss"]}
        expected |= {f"parts/{name}": value for name, value in record["parts"].items()}
        expected |= {f"seconds/{name}": value for name, value in record["time"].items()}
        scores = ("score", "validation_loss", "validation_map")
        expected |= {name: record[name] for name in scores if name in record}
        assert plain == expected
    assert {name for values, _ in told for name in values} >= {
        *("prior-image/score", "encoder-image/validation_map", "encoder-text/validation_loss")
    }


def test_beside_tensorboard_both_are_told(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    told = []
    model = DRCL(**tiny.SETTINGS)
    model.fit(TRAIN, progress=False, log_dir=tmp_path, log=lambda *values: told.append(values))
    assert len(told) == len(model.history)
    assert {path.name for path in tmp_path.iterdir()} == {
        name.partition("/")[0] for values, _ in told for name in values
    }


def test_its_error_ends_the_training_which_goes_on_from_the_checkpoint(tmp_path):
    settings = {**tiny.SETTINGS, "prior": "orthogonal"}
    expected = DRCL(**settings).fit(TRAIN, progress=False)

    def fail(values: dict[str, float], epoch: int) -> None:
        if epoch == 3:
            raise ConnectionError("the tracker is away")

    model = DRCL(**settings)
    with pytest.raises(ConnectionError, match="the tracker is away"):
        model.fit(TRAIN, checkpoints=tmp_path, progress=False, log=fail)
    assert not model.modalities
    epochs = []
    model.fit(
        TRAIN, checkpoints=tmp_path, progress=False, log=lambda _, epoch: epochs.append(epoch)
    )
    assert model.encode("image", TRAIN["image"][0]).equal(
        expected.encode("image", TRAIN["image"][0])
    )
    assert 3 in epochs and len(epochs) <= 12


def test_what_cannot_be_called_is_refused_before_anything_is_read():
    with pytest.raises(TypeError, match="log: expected a function or None, got str"):
        DRCL(**tiny.SETTINGS).fit(None, log="runs")
