"""A run directory: what ``drcl train`` writes, and every other command reads.

    config.json, prior.*, encoders/, history.*   the model, as DRCL.save writes it
    run.json                                     data set, settings, versions, seconds per phase
    metrics.json                                 mAP@all and mAP@50 of every ordered pair
    report/                                      report.html and its figures
    checkpoints/                                 only while training: what --resume continues from

``run.json`` appears when the run is finished. Until then it lies in ``checkpoints/``: an older run
in the same directory stays whole until the new one takes its place. A writer has locked the
directory (:func:`drcl.storage.files.locked`): two commands cannot lose each other's work.
"""

from drcl.errors import RunExists
from drcl.run.added import AddedModality, read_features
from drcl.run.evaluation import (
    Measured,
    embed,
    evaluation_split,
    measure,
    measure_model,
    report_data,
)
from drcl.run.folder import (
    finish_run,
    interrupted,
    is_finished,
    open_run,
    start_run,
    update_run,
    withdraw_run,
)
from drcl.run.record import Run

__all__ = [
    "AddedModality", "Measured", "Run", "RunExists", "embed", "evaluation_split", "finish_run",
    "interrupted", "is_finished", "measure", "measure_model", "open_run", "read_features",
    "report_data", "start_run", "update_run", "withdraw_run",
]  # fmt: skip
__dir__ = __all__.copy
