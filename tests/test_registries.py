"""A part that takes the name of another would replace it without a word: it is refused."""

from collections.abc import Callable

import pytest

from imgclf.data import sources
from imgclf.evaluation import pictures
from imgclf.models import cnn, registry
from imgclf.training import losses, schedules


def again(module: object, name: str) -> Callable[[], object]:
    """Another function of the same name, as somebody would write it."""

    def other() -> object:
        raise NotImplementedError

    assert hasattr(module, name), "the test names a part that is there"
    other.__name__ = name
    return other


@pytest.mark.parametrize(
    ("register", "module", "name"),
    [
        (sources.register, sources, "digits"),
        (registry.register(min_size=1, norm_layer="none"), cnn, "small_cnn"),
        (schedules.register, schedules, "_linear"),
        (losses.register, losses, "_focal"),
        (pictures.picture("Something else."), pictures, "confusion_matrix"),
    ],
)
def test_a_name_that_is_taken_is_refused(register, module, name: str):
    with pytest.raises(AssertionError, match="already"):
        register(again(module, name))
