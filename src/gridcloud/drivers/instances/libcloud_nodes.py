"""Our nodes at a provider behind libcloud: those that listings show, and those they do not show yet. Blocking."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from typing import Any

from libcloud.compute.base import Node
from libcloud.compute.types import NodeState

from gridcloud.drivers.instances.libcloud_words import Names, phase_of, translate
from gridcloud.errors import GridcloudError, InvalidSettings, Transient
from gridcloud.instances.model import Handle, Phase

__all__ = ["Nodes"]

APPEARING = 90
"""Seconds for which a node that was just made may be missing from listings: some lag behind."""

LOOK_UPS = ("ex_get_node_details", "ex_get_node", "ex_get_node_by_id")
"""Methods that ask for one node by its id, as libcloud's drivers name them."""


class Nodes:
    """The nodes of one installation. Every method is handed libcloud's driver, and may raise what that raises."""

    def __init__(self, names: Names, label: str) -> None:
        self._names = names
        self._label = label
        self._ended: set[str] = set()
        """Ids of nodes that the provider has taken our word to end."""

    def list(self, driver: Any) -> dict[str, list[Any]]:
        """Return our nodes by instance, those that are gone left out."""
        found: dict[str, list[Any]] = {}
        for node in driver.list_nodes():
            instance_id = self._names.instance_of(node)
            if instance_id and phase_of(node) is not Phase.GONE:
                found.setdefault(instance_id, []).append(node)
        return found

    def find(self, driver: Any, handles: Mapping[str, Handle]) -> dict[str, Any]:
        """Return the nodes of instances, by instance: None for one that is gone, an error where nothing is known."""
        listed = {str(node.id): node for nodes in self.list(driver).values() for node in nodes}
        return {
            instance_id: listed.get(_node_of(handle)) or self._look_up(driver, instance_id, handle)
            for instance_id, handle in handles.items()
        }

    def handle(self, node: Any, host_key: str, listed: bool, account: str) -> Handle:
        """Return the handle of a node that was just made. ``listed``: whether a listing shows it by now; ``account``:
        whose it is, where the driver tells."""
        words = {"node": str(node.id), "host_key": host_key, "installation": self._names.installation}
        return Handle(data={**words, "made": int(time.time()), "listed": listed, "account": account})

    def end(self, driver: Any, instance_id: str, handle: Handle | None) -> bool:
        """Remove the nodes of an instance, the one of the handle also when no listing shows it.

        Returns whether one was still being made. Raises Transient while it is not certain that there is none.
        """
        nodes = {str(node.id): node for node in self.list(driver).get(instance_id, ())}
        if handle is not None and _node_of(handle) not in nodes:
            found = self._look_up(driver, instance_id, handle)
            if isinstance(found, _Unlisted):
                self._end_unlisted(driver, instance_id, handle, found)
            elif isinstance(found, GridcloudError):
                raise found
            elif found is not None:
                nodes[_node_of(handle)] = found
        for name, node in nodes.items():
            try:
                driver.destroy_node(node)
            except Exception:  # it may have gone by itself, which each driver says in its own words
                if any(node.id == one.id for one in self.list(driver).get(instance_id, ())):
                    raise
            self._ended.add(name)
        return any(phase_of(node) is Phase.PENDING for node in nodes.values())

    def remain(self, driver: Any, instance_id: str, handle: Handle | None) -> bool:
        """Return whether a node of an instance is still there."""
        if self.list(driver).get(instance_id):
            return True
        if handle is None:
            return False
        found = self._look_up(driver, instance_id, handle)
        if isinstance(found, GridcloudError):
            raise found
        return found is not None

    def _look_up(self, driver: Any, instance_id: str, handle: Handle) -> Any:
        """Return a node that no listing shows; None: it is gone; an error: nothing is known."""
        try:
            node = _ask_for(driver, _node_of(handle))
        except Exception as error:  # libcloud's drivers raise plain Exception, too
            ours = translate(error, self._label)
            if isinstance(ours, InvalidSettings):
                raise
            if isinstance(ours, Transient):
                return ours
            node = None  # it says so, or cannot answer this: the listing's word stands
        if node is not None:
            there = phase_of(node) is not Phase.GONE and self._names.instance_of(node) == instance_id
            return node if there else None
        if self._may_appear(handle):
            return _Unlisted(f"{self._label}: the node {_node_of(handle)} is not listed yet.")
        return None

    def _may_appear(self, handle: Handle) -> bool:
        """Return whether it may be there though nobody shows it: made lately, by us, and never seen since."""
        ours = handle.data.get("installation") == self._names.installation
        if not ours or handle.data.get("listed") or _node_of(handle) in self._ended:
            return False
        return 0 <= time.time() - float(handle.data.get("made", 0)) < APPEARING

    def _end_unlisted(self, driver: Any, instance_id: str, handle: Handle, problem: _Unlisted) -> None:
        """End what only our handle names. That it is ours is what the handle says, which we wrote."""
        name = self._names.name(instance_id)
        node = Node(_node_of(handle), name, NodeState.UNKNOWN, [], [], driver, extra={})
        try:
            driver.destroy_node(node)
        except (
            Exception
        ) as error:  # it is not there yet, or the driver has to know more of it: its listing will tell
            raise problem from error
        self._ended.add(_node_of(handle))


class _Unlisted(Transient):
    """A node was just made, and the provider does not show it yet."""


def _ask_for(driver: Any, node_id: str) -> Any:
    """Return one node by its id; None where the driver cannot ask for one, or says that there is none."""
    if "ex_node_ids" in inspect.signature(driver.list_nodes).parameters:
        found = driver.list_nodes(ex_node_ids=[node_id])
        return next((node for node in found if str(node.id) == node_id), None)
    for name in LOOK_UPS:
        method = getattr(driver, name, None)
        if method is None:
            continue
        first, *others = inspect.signature(method).parameters.values()
        if first.name not in ("id", "node_id") or first.default is not first.empty:
            continue
        if all(one.default is not one.empty for one in others):
            return method(node_id)
    return None


def _node_of(handle: Handle) -> str:
    """Return the id of the node that a handle names."""
    return str(handle.data.get("node"))
