"""Words that nothing can be asked for with: told which and why, and no fault."""

from __future__ import annotations

import pytest

from gridcloud.errors import InvalidRequest
from tests.cli.conftest import Caller


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("instance", "start", "--name", "a\x1b[31mb"), "name: must be at most 300 printable characters"),
        (("instance", "start", "--project", "a\nb"), "--project: must be at most 300 printable characters"),
        (("run", "--name", "a\tb", "--", "true"), "name: must be at most 300 printable characters"),
        (("instance", "start", "--max-price", "NaN"), "--max-price: "),
        (("instance", "start", "--before-end", "a\udcffb"), "before_end.2: "),
        (("instance", "start", "--name", "\udcff"), "name: "),
    ],
)
def test_words_that_cannot_be_are_told(call: Caller, words: tuple[str, ...], said: str) -> None:
    call(*words, code=InvalidRequest("").exit_code)
    assert said in call.err
    assert "fault" not in call.err
