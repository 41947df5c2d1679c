"""One namespace of one cluster: the calls that the driver makes, each with its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gridcloud.drivers.instances.kubernetes_manifests import INSTANCE, OWNER
from gridcloud.drivers.kubernetes_pods import INSTALLATION, label_value
from gridcloud.drivers.kubernetes_wire import Wire
from gridcloud.errors import NotFound

__all__ = ["Namespace"]

Document = dict[str, Any]


class Namespace(Wire):
    """A namespace in which instances are made."""

    async def make_pod(self, manifest: Document) -> Document:
        """Raises Conflict where the name is taken, QuotaExceeded, InvalidRequest, Forbidden."""
        return await self.ask("POST", self.place("pods"), manifest)

    async def pods(self, instance_id: str = "") -> list[Document]:
        """The pods of our installation, or those of one instance."""
        selector = f"{INSTALLATION}={self._installation}"
        if instance_id:
            selector += f",{INSTANCE}={label_value(instance_id)}"
        found: list[Document] = await self.list_all(self.place("pods"), {"labelSelector": selector})
        return found

    async def annotate_pod(self, name: str, uid: str, notes: Mapping[str, str]) -> None:
        """Raises NotFound, Conflict where another pod has the name."""
        body = {"metadata": {"uid": uid, "annotations": dict(notes)}}
        await self.ask("PATCH", self.place("pods", name), body)

    async def replace_secret(self, manifest: Document) -> None:
        """Make a secret, in place of one of that name. Raises Conflict, QuotaExceeded, Forbidden."""
        try:
            await self.ask("DELETE", self.place("secrets", manifest["metadata"]["name"]))
        except NotFound:
            pass
        await self.ask("POST", self.place("secrets"), manifest)

    async def claim(self, name: str) -> Document | None:
        """The claim of a home; None where there is none."""
        try:
            return await self.ask("GET", self.place("persistentvolumeclaims", name))
        except NotFound:
            return None

    async def make_claim(self, manifest: Document) -> Document:
        """Raises Conflict where the name is taken, QuotaExceeded, Forbidden."""
        return await self.ask("POST", self.place("persistentvolumeclaims"), manifest)

    async def claims(self) -> list[Document]:
        """The claims of homes of our installation."""
        selector = f"{INSTALLATION}={self._installation},{OWNER}"
        found: list[Document] = await self.list_all(
            self.place("persistentvolumeclaims"), {"labelSelector": selector}
        )
        return found

    async def all_pods(self) -> list[Document] | None:
        """The pods of all namespaces that have not ended, None where they may not be listed."""
        ended = "status.phase!=Succeeded,status.phase!=Failed"
        found: list[Document] | None = await self.list_all(
            "/api/v1/pods", {"resourceVersion": "0", "fieldSelector": ended}, or_none=True
        )
        return found

    async def quotas(self) -> list[Document] | None:
        """The namespace's quotas, None where they may not be listed."""
        found: list[Document] | None = await self.list_all(self.place("resourcequotas"), or_none=True)
        return found

    async def limit_ranges(self) -> list[Document] | None:
        """The namespace's limit ranges, None where they may not be listed."""
        found: list[Document] | None = await self.list_all(self.place("limitranges"), or_none=True)
        return found

    async def storage_class(self, name: str) -> bool | None:
        """Tell whether it exists (any default one for ""), None where that may not be read."""
        found = await self.list_all("/apis/storage.k8s.io/v1/storageclasses", or_none=True)
        if found is None:
            return None
        default = "storageclass.kubernetes.io/is-default-class"
        if name:
            return any(one["metadata"]["name"] == name for one in found)
        return any((one["metadata"].get("annotations") or {}).get(default) == "true" for one in found)
