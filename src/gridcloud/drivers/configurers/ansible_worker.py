"""The process that runs Ansible, so that it can be ended at any time: ``python -m …ansible_worker FOLDER``.

``FOLDER`` is ansible-runner's private folder, with ``order.json`` in it. Each event becomes one line of JSON on
standard output; a last line tells the exit code. When standard input ends, whoever started us is gone: the playbook
is ended and the folder, which may hold secrets, removed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import ansible_runner

__all__ = ["main"]

TOLD = ("msg", "stdout", "stderr", "exception", "module_stdout", "module_stderr", "censored")
LONGEST = 4000
EVENTS = frozenset(
    {
        "playbook_on_play_start", "playbook_on_task_start", "playbook_on_handler_task_start", "playbook_on_stats",
        "runner_on_ok", "runner_on_failed", "runner_on_skipped", "runner_on_unreachable",
        "runner_item_on_ok", "runner_item_on_failed",
    }
)  # fmt: skip


def main() -> None:
    """Run the playbooks of the order one after another; stop at the first that fails."""
    folder = Path(sys.argv[1])
    order = json.loads((folder / "order.json").read_text(encoding="utf-8"))
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what Ansible prints itself is not part of the protocol
    ended = threading.Event()
    threading.Thread(target=_watch, args=(ended,), daemon=True).start()

    def tell(**words: Any) -> None:
        output.write(json.dumps(words, default=str) + "\n")
        output.flush()

    try:
        for playbook in order["playbooks"]:
            run = ansible_runner.run(
                private_data_dir=str(folder),
                playbook=playbook,
                envvars=order["environment"],
                settings={"pexpect_timeout": 0.5, "suppress_env_files": True},
                event_handler=lambda event: _handle(event, tell),
                cancel_callback=ended.is_set,
                rotate_artifacts=1,
                quiet=True,
            )
            tell(event="end", playbook=playbook, code=run.rc, status=run.status, said=_last_lines(run))
            if run.rc != 0 or ended.is_set():
                break
    finally:
        if ended.is_set():
            shutil.rmtree(folder, ignore_errors=True)


def _watch(ended: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    ended.set()


def _handle(event: dict[str, Any], tell: Any) -> bool:
    kind = event.get("event")
    data: dict[str, Any] = event.get("event_data") or {}
    if kind in EVENTS:
        result: dict[str, Any] = data.get("res") or {}
        told = {name: str(result[name])[-LONGEST:] for name in TOLD if result.get(name)}
        tell(
            event=kind,
            play=data.get("play") or data.get("name"),
            task=data.get("task"),
            host=data.get("host"),
            ignored=bool(data.get("ignore_errors")),
            changed=bool(result.get("changed")),
            item=str(data.get("item_label") or result.get("_ansible_item_label") or "")[:200],
            result=told,
            processed=data.get("processed"),
        )
    return False  # nothing of it is to be kept on disk


def _last_lines(run: Any) -> list[str]:
    try:
        lines = run.stdout.read().splitlines()
    except (OSError, ansible_runner.exceptions.AnsibleRunnerException):
        return []
    return [line for line in lines if line.strip()][-20:]


if __name__ == "__main__":
    main()
