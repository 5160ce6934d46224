"""How tests read a file of tensors, and what a refusal must look like."""

import numpy as np
import pytest

from privynet_jax.backbone.weights.tensor_files import open_tensors
from privynet_jax.errors import UserError


def read_all(path):
    with open_tensors(path) as tensors:
        return {name: (t.shape, t.dtype, np.array(t.load())) for name, t in tensors.items()}


def refusal(path):
    """The one line that a file is refused with, wherever in the reading that happens."""
    with pytest.raises(UserError) as error:
        read_all(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)
