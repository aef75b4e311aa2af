"""Labels of any kind, read and checked in one place.

A label array is one of

- class ids (N,): whole numbers of any dtype (also as floats or bools), as a column or, where N is
  known, as a row;
- class names (N,): strings, in composed Unicode (NFC) and without blanks at their ends;
- multi-hot rows (N, C), C > 1, of 0 and 1 (for training also of probabilities).

It may be a tensor, a list, or anything that NumPy reads: a Series or Categorical of pandas or
Polars, an Arrow or HDF5 array. NaN, None, a masked entry, pandas' NA and an empty name mark a row
as unlabelled. What an id means depends on the classes:

- With a list of classes (a prior's, a manifest's, ``classes=``) the ids in the list are the
  classes, whatever they are. −1 means unlabelled unless it is listed; any other id is an error.
- Without one, ids from 0 are classes, −1 means unlabelled, and an id below −1 is an error, such as
  PyTorch's −100. Where −1 and 1 occur and nothing else does, they are two classes.

Losses take ids and rows as tensors and look at no value on a GPU or in compiled code: there an id
that is no class makes the loss NaN. A column (B, 1) is of ids there too, unless there is one class:
then one of floats or bool is of rows, as mixing makes them, and one of integers, which may be
either, is an error.

Tensors may be of any dtype with a number an entry, of unsigned integers of 16 to 64 bits and of
8-bit floats too; packed and quantized ones are a TypeError.
"""

from drcl.labels.classes import (
    check_row_width,
    class_list,
    encode_labels,
    find_classes,
    join,
    known_ids,
    look_up,
    resolve,
)
from drcl.labels.encoded import (
    NO_CLASS,
    UNLABELLED,
    AnyArray,
    Label,
    check_targets,
    computable,
    in_range,
    is_labelled,
    target_rows,
)
from drcl.labels.parse import ParsedLabels, clean_name, parse_labels

__all__ = [
    "NO_CLASS", "UNLABELLED", "AnyArray", "Label", "ParsedLabels", "check_row_width",
    "check_targets", "class_list", "clean_name", "computable", "encode_labels", "find_classes",
    "in_range", "is_labelled", "join", "known_ids", "look_up", "parse_labels", "resolve",
    "target_rows",
]  # fmt: skip
__dir__ = __all__.copy
