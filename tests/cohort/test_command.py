"""Words of printed commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from slant.cohort.command import option_words, path_word


@pytest.mark.parametrize(
    ("value", "default", "words"),
    [
        (2, 2, []),
        (2, None, ["--an-option", "2"]),
        (None, None, []),
        (True, False, ["--an-option"]),
        (False, None, ["--no-an-option"]),
        (Path("a b"), None, ["--an-option", "a b"]),
        (("01", "02"), (), ["--an-option", "01", "02"]),
        ("-x", None, ["--an-option=-x"]),
    ],
)
def test_options_that_are_not_at_their_defaults_are_written(value: object, default: object, words: list[str]) -> None:
    assert option_words({"an_option": value}, {"an_option": default}) == words


def test_a_path_is_not_taken_for_an_option() -> None:
    assert path_word(Path("-x")) == "./-x"
    assert path_word(Path("a/-x")) == "a/-x"
