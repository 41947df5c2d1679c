"""A compute driver for libcloud whose nodes are in this process: libcloud's own dummy with a memory for names.

libcloud's dummy forgets the name a node is given, takes no user data, and each of its objects has nodes of its own.
This one keeps what it is given, in accounts that all objects share, and fails as it is told.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any, ClassVar

from libcloud.common.exceptions import BaseHTTPError
from libcloud.common.types import InvalidCredsError
from libcloud.compute.base import Node, NodeImage, NodeLocation, NodeSize
from libcloud.compute.drivers.dummy import DummyNodeDriver
from libcloud.compute.types import NodeState

__all__ = ["Account", "AccountNodeDriver", "PlainNodeDriver"]


class Account:
    """What a provider holds for one key."""

    accounts: ClassVar[dict[str, Account]] = {}

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.errors: list[Exception] = []
        """Raised by the next calls of create_node, after the deed where it has ``after``."""
        self.unlisted: set[str] = set()
        """Ids of nodes that listings leave out; ``*``: they leave out all."""
        self.refused = False
        """Whether no key is taken."""
        self.most = 0
        self.lock = threading.Lock()
        self.numbers = itertools.count(1)

    @classmethod
    def of(cls, key: str) -> Account:
        """Return the account of a key."""
        return cls.accounts.setdefault(key, cls())

    def look(self) -> dict[str, str]:
        """Return the user data of running nodes by address, for a `Ground`."""
        running = [node for node in self.nodes if node.state is NodeState.RUNNING]
        return {
            node.public_ips[0]: node.extra["user_data"] for node in running if node.extra.get("user_data")
        }


class AccountNodeDriver(DummyNodeDriver):
    """Nodes with names, tags and user data."""

    name = "Account"
    features = {"create_node": ["ssh_key"]}  # noqa: RUF012 - as libcloud's drivers have it

    def __init__(self, key: str, region: str = "") -> None:
        super().__init__(key)
        self.key = key
        self.account = Account.of(key)

    def ex_account_info(self) -> dict[str, str]:
        """Return whose the nodes are, as DigitalOcean's driver does."""
        return {"uuid": f"account of {self.key}"}

    def list_nodes(self) -> list[Node]:
        """Return the account's nodes."""
        if self.account.refused:
            raise InvalidCredsError("the key has expired")
        hidden = self.account.unlisted
        return [node for node in self.account.nodes if not {"*", node.id} & hidden]

    def ex_get_node(self, node_id: str) -> Node:
        """Return a node by its id, listed or not."""
        for node in self.account.nodes:
            if node.id == node_id:
                return node
        raise Exception(f"Node {node_id!r} not found")

    def list_sizes(self, location: Any = None) -> list[NodeSize]:
        """Return sizes that say their CPUs."""
        sizes = super().list_sizes(location)
        for number, size in enumerate(sizes, 1):
            size.extra = {"cpus": number}
        return list(sizes)

    def destroy_node(self, node: Node) -> bool:
        """Forget a node."""
        with self.account.lock:
            self.account.nodes.remove(next(one for one in self.account.nodes if one.id == node.id))
        return True

    def create_node(  # type: ignore[override]  # each driver of libcloud has arguments of its own
        self,
        name: str,
        size: NodeSize,
        image: NodeImage,
        location: NodeLocation | None = None,
        ex_userdata: str = "",
        ex_metadata: dict[str, str] | None = None,
    ) -> Node:
        """Make a node that runs at once."""
        extra = {
            "user_data": ex_userdata,
            "tags": dict(ex_metadata or {}),
            "location": location and location.name,
        }
        return self._keep(name, size, image, extra)

    def _keep(self, name: str, size: NodeSize, image: NodeImage, extra: dict[str, Any]) -> Node:
        with self.account.lock:
            error = self.account.errors.pop(0) if self.account.errors else None
            if error is not None and not getattr(error, "after", False):
                raise error
            if self.account.most and len(self.account.nodes) >= self.account.most:
                raise BaseHTTPError(403, f"droplet limit reached: {self.account.most} droplet limit exceeded")
            number = next(self.account.numbers)
            address = f"198.51.100.{number}"
            running = NodeState.RUNNING
            node = Node(f"n{number}", name, running, [address], [], self, size=size, image=image, extra=extra)
            self.account.nodes.append(node)
        if error is not None:
            raise error
        return node


class PlainNodeDriver(AccountNodeDriver):
    """The same at a provider that has no tags, and tells of no node by itself."""

    ex_get_node = None  # type: ignore[assignment]
    ex_account_info = None  # type: ignore[assignment]

    def create_node(  # type: ignore[override]  # each driver of libcloud has arguments of its own
        self, name: str, size: NodeSize, image: NodeImage, user_data: str = ""
    ) -> Node:
        """Make a node that runs at once."""
        return self._keep(name, size, image, {"user_data": user_data})
