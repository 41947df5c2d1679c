"""Any machine you may use, from one notebook.

`gridcloud.connect()` gives the typed client; everything else is reached through it. The client is
imported at its first use, so that `import gridcloud` and `gridcloud version` stay quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gridcloud.client import connect

__all__ = ["__version__", "connect"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "connect":
        from gridcloud.client import connect

        return connect
    raise AttributeError(f"module 'gridcloud' has no attribute {name!r}")
