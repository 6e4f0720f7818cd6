"""Whether all values of a long vector are numbers, in one quick pass.

Pure: tensors only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def is_finite(values: Tensor) -> bool:
    """Whether no value is infinite or not a number; the same answer on every machine, whatever its sums round to.

    One of those in the vector is in its sum as well, and a sum costs a tenth of looking at every value. A sum may also
    overflow: then every value is looked at.
    """
    return math.isfinite(float(values.sum())) or bool(torch.isfinite(values).all())
