"""The verbs for programs: typed, async and sync.

`connect` finds the owner of the store: a service at a URL, the one behind the private socket, or, where none runs, this
process itself for as long as the client is open.
"""

from __future__ import annotations

from gridcloud.client.asynchronous import AsyncClient
from gridcloud.client.opening import connect_async
from gridcloud.client.process import RemoteProcess
from gridcloud.client.synchronous import Client, connect

__all__ = ["AsyncClient", "Client", "RemoteProcess", "connect", "connect_async"]
