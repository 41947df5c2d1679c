"""Write what is in an image as a bill of materials (CycloneDX 1.5, JSON). Runs within it, on the standard library.

Nothing in it changes from one build of the same packages to the next.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

__all__ = ["main"]


def main() -> None:
    """Write the file that the first argument names."""
    components = sorted([*_debian(), *_python()], key=lambda one: one["purl"])
    document = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}
    Path(sys.argv[1]).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _debian() -> list[dict[str, str]]:
    words = ["dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n"]
    listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found = []
    for line in listed.splitlines():
        name, version, architecture = line.split(" ")
        escaped = version.replace(":", "%3A").replace("+", "%2B")
        found.append(_component(name, version, f"pkg:deb/debian/{name}@{escaped}?arch={architecture}"))
    return found


def _python() -> list[dict[str, str]]:
    found = {}
    for one in metadata.distributions():
        name = one.metadata["Name"].lower().replace("_", "-").replace(".", "-")
        found[name] = _component(name, one.version, f"pkg:pypi/{name}@{one.version.replace('+', '%2B')}")
    return list(found.values())


def _component(name: str, version: str, purl: str) -> dict[str, str]:
    return {"type": "library", "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    main()
