"""Training, from what a user gives to kept parameters.

`config` has the settings, `context` what else a training is given. `prepare` turns a user's data
(`samples`, `datasets`, `standardize`) into checked samples, which `source` deals out in batches.
`prior_learning` and `consistency` make a `phase` of each modality, and `loop` trains it: `step` by
step, with `checkpoint`, `interrupt`, `clock` and `tensorboard` beside it. `parallel` divides whole
modalities among processes, `ranks` divides every batch.
"""

from drcl import _later

__getattr__ = _later.names(
    __name__,
    *("calibration", "checkpoint", "clock", "config", "consistency", "context", "datasets"),
    *("embedding", "history", "interrupt", "loop", "networks", "parallel", "perceptron", "phase"),
    *("prepare", "prior_learning", "ranks", "samples", "source", "standardize", "step"),
    "tensorboard",
)
