"""What is said while images are decoded, where no terminal shows a bar."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from imgclf.progress import decoding_bar


def seconds(*told: float) -> Iterator[float]:
    """A clock that shows these times, one after the other."""
    return iter(told)


def test_a_log_has_a_line_soon_one_every_half_minute_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str],
):
    clock = seconds(5.0, 6.9, 7.0, 36.9, 37.0, 66.0, 70.0, 71.5)
    with decoding_bar(lambda: next(clock)) as decoded:
        for done in (0, 100, 200, 29_000, 30_000, 44_000, 50_000):
            decoded(done, 50_000)
    assert capsys.readouterr().out.splitlines() == [
        "decoding images: 200 of 50,000",
        "decoding images: 30,000 of 50,000",
        "decoding images: 50,000 of 50,000",
        "decoded 50,000 images in 66.5 s; later runs find them so",
    ]


def test_nothing_is_said_of_what_is_soon_done(capsys: pytest.CaptureFixture[str]):
    clock = seconds(5.0, 6.0, 6.9)
    with decoding_bar(lambda: next(clock)) as decoded:
        for done in (0, 160):
            decoded(done, 160)
    with decoding_bar():  # all lie in the cache
        pass
    assert capsys.readouterr().out == ""


def test_decoding_that_is_broken_off_is_not_called_done(capsys: pytest.CaptureFixture[str]):
    clock = seconds(5.0, 9.0)
    with suppress(KeyboardInterrupt), decoding_bar(lambda: next(clock)) as decoded:
        decoded(0, 160)
        decoded(80, 160)
        raise KeyboardInterrupt
    assert capsys.readouterr().out == "decoding images: 80 of 160\n"
