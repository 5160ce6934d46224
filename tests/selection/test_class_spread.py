"""The spread within classes against cases worked by hand, and draws whose answer is known."""

import numpy as np
import pytest

from privynet_jax.errors import UserError
from privynet_jax.selection.class_spread import within_share


def test_a_case_worked_by_hand():
    # Classes {0, 2} and {4, 8}: about their means 2 and 8 with one degree of freedom each, so 5;
    # about 3.5 it is 35, by three degrees of freedom.
    x = np.float16([0, 4, 2, 8]).reshape(4, 1, 1, 1)
    assert within_share(x, np.array([7, 9, 7, 9])) == pytest.approx(5 / (35 / 3))


def test_classes_that_say_nothing_share_nothing_however_few_images_they_have():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 2, 2, 3))
    assert within_share(x, np.arange(3000) // 3) == pytest.approx(1, abs=0.03)
    assert within_share(x, rng.integers(0, 5, 3000)) == pytest.approx(1, abs=0.03)
    # Class means of the same spread as what is around them: half. An image alone tells nothing.
    means = rng.standard_normal((300, 2, 2, 3))
    both = x + means.repeat(10, axis=0)
    labels = np.arange(3000) // 10
    labels[-1] = 999
    assert within_share(both, labels) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("x", "labels", "told"),
    [
        (np.zeros((4, 1, 1, 2)), [0, 0, 1, 1], "do not vary"),
        (np.ones((3, 1, 1, 2)), [0, 1, 2], "no class has two images"),
    ],
)
def test_what_has_no_answer_is_refused(x, labels, told):
    with pytest.raises(UserError, match=told):
        within_share(x, np.array(labels))
