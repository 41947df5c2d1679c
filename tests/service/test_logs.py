"""The log: whatever others say stands on one line, and steers nothing."""

from __future__ import annotations

import io
import logging

from gridcloud.service.logs import LineFormatter


def test_what_others_say_is_one_line() -> None:
    """A borrower's last word, a name, a traceback with both in it."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(LineFormatter("%(levelname)s %(name)s: %(message)s"))
    log = logging.getLogger("gridcloud.test_logs")
    log.addHandler(handler)
    log.propagate = False
    try:
        log.error("a stream of %s: %s", "bergen", "bye\r\nWARNING gridcloud: all is well\x1b[2J\u2028\u202e")
        try:
            raise ValueError("bye\nERROR gridcloud: forged")
        except ValueError:
            log.exception("it ended")
    finally:
        log.removeHandler(handler)
    first, second, *trace = written.getvalue().splitlines()
    assert first == (
        r"ERROR gridcloud.test_logs: a stream of bergen: "
        r"bye\r\nWARNING gridcloud: all is well\x1b[2J\u2028\u202e"
    )
    assert second == "ERROR gridcloud.test_logs: it ended"
    assert trace
    assert all(line.startswith("    ") for line in trace)
    assert any("forged" in line for line in trace)
