"""What Ansible's events say, in lines for people, and how it ended."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from gridcloud.configurers.commands import clean_line
from gridcloud.configurers.driver import Report

__all__ = ["Story"]

_LAST_LINES = 8


class Story:
    """Takes the worker's lines one by one; afterwards tells how it ended."""

    def __init__(self, host: str, report: Report) -> None:
        self.unreachable = ""
        """What Ansible said of not reaching the machine."""
        self.failure = ""
        """The task that failed, and its words."""
        self.succeeded = False
        """Every playbook ended well."""
        self.reached = False
        """Some task ran on the machine."""
        self._host = host
        self._report = report
        self._said: list[str] = []
        self._complaints: deque[str] = deque(maxlen=_LAST_LINES)

    @property
    def last_words(self) -> str:
        """What Ansible said last, when no task explains the failure."""
        return " ".join(line.strip() for line in (self._said[-_LAST_LINES:] or self._complaints))

    def complain(self, line: str) -> None:
        """Take a line that the process wrote beside its events."""
        if told := clean_line(line):
            self._complaints.append(told)

    def tell(self, line: str) -> None:
        """Take one line of the worker."""
        try:
            event = json.loads(line)
        except ValueError:
            self.complain(line)
            return
        kind = event["event"]
        if kind == "end":
            self.succeeded = event["code"] == 0 and event["status"] == "successful"
            self._said = [clean_line(said) for said in event["said"]]
        elif kind == "playbook_on_play_start":
            self._say(f"PLAY [{event['play']}]")
        elif kind in ("playbook_on_task_start", "playbook_on_handler_task_start"):
            self._say(f"TASK [{event['task']}]")
        elif kind == "playbook_on_stats":
            self.reached = self.reached or bool(event["processed"])
        else:
            self._take_result(kind, event)

    def _take_result(self, kind: str, event: dict[str, Any]) -> None:
        words = _words(event["result"])
        item = f" ({event['item']})" if event["item"] else ""
        task = f"TASK [{event['task']}]{item}"
        if kind in ("runner_on_ok", "runner_item_on_ok"):
            told = event["result"].get("msg", "")
            self._say(f"{task} {'changed' if event['changed'] else 'ok'}", told)
        elif kind == "runner_on_skipped":
            self._say(f"{task} skipped")
        elif kind == "runner_on_unreachable":
            self.unreachable = words or "no reason was given."
            self._say(f"{task} unreachable", words)
        elif event["ignored"]:
            self._say(f"{task} failed, which the playbook ignores", words)
        else:
            self._say(f"{task} failed", words)
            if kind == "runner_on_failed":
                self.failure = (
                    f"Ansible's task {event['task']!r} failed on {self._host}: {words or 'without a word.'}"
                )

    def _say(self, what: str, words: str = "") -> None:
        first, *rest = words.splitlines() or [""]
        for line in (f"{what}: {first}" if first else what, *rest):
            if told := clean_line(line):
                self._report(told)


def _words(result: dict[str, str]) -> str:
    """Return what a task said of its failure. What `no_log` keeps back is not in the result."""
    if "censored" in result:
        return "the output is hidden by no_log."
    parts = [
        result.get(name, "").strip() for name in ("msg", "stderr", "stdout", "module_stderr", "module_stdout")
    ]
    return "\n".join(dict.fromkeys(part for part in parts if part))
