"""What the fork server's tests fork."""

from __future__ import annotations

import json
import os
import sys
import time

STARTED_IN = os.getpid()


def main() -> object:
    match sys.argv[1:]:
        case ["tell"]:
            told = {
                "argv": sys.argv,
                "environment": dict(os.environ),
                "directory": os.getcwd(),
                "pid": os.getpid(),
                "session": os.getsid(0),
                "imported_in": STARTED_IN,
                "files": sorted(os.listdir("/proc/self/fd")),
                "groups": open("/proc/self/cgroup").read(),  # noqa: SIM115
                "shown": open("/proc/self/environ").read(),  # noqa: SIM115
                "user": os.getuid(),
                "blocked": sys.modules.get("blocked_module", "free"),
            }
            print(json.dumps(told))
            return None
        case ["exit", code]:
            return int(code)
        case ["fail"]:
            raise RuntimeError("it failed")
        case ["sleep"]:
            print("sleeping", flush=True)
            time.sleep(600)
    return 0
