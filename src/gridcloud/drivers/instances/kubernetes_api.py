"""One namespace of one cluster: the calls that the driver makes, each with its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gridcloud.connections.cluster import Cluster
from gridcloud.drivers.instances.kubernetes_manifests import INSTALLATION, INSTANCE, OWNER, label_value
from gridcloud.errors import Forbidden, NotFound, Transient

__all__ = ["Namespace"]

SECONDS = 10
"""For one call: what the driver is asked for has not much longer."""

Document = dict[str, Any]


class Namespace:
    """A namespace as our credentials reach it. ``open`` finds out what the settings leave to the kubeconfig."""

    def __init__(self, kubeconfig: str, context: str, name: str, installation: str) -> None:
        self.kubeconfig, self.context, self.name = kubeconfig, context, name
        self.cluster = ""
        self._installation = label_value(installation)
        self._cluster = Cluster(kubeconfig, context)

    async def open(self) -> None:
        """Fill in what was not given. Raises InvalidSettings, Untrusted."""
        self.kubeconfig, self.context, namespace = await self._cluster.resolve()
        self.name = self.name or namespace
        self.cluster = await self._cluster.identity()

    async def close(self) -> None:
        await self._cluster.close()

    async def version(self) -> str:
        """The version of the cluster."""
        return str((await self._ask("GET", "/version"))["gitVersion"])

    async def make_pod(self, manifest: Document) -> Document:
        """Raises Conflict where the name is taken, QuotaExceeded, InvalidRequest, Forbidden."""
        return await self._ask("POST", self._place("pods"), manifest)

    async def pod(self, name: str) -> Document:
        """Raises NotFound."""
        return await self._ask("GET", self._place("pods", name))

    async def pods(self, instance_id: str = "") -> list[Document]:
        """The pods of our installation, or those of one instance."""
        selector = f"{INSTALLATION}={self._installation}"
        if instance_id:
            selector += f",{INSTANCE}={label_value(instance_id)}"
        found: list[Document] = await self._list(self._place("pods"), {"labelSelector": selector})
        return found

    async def remove_pod(self, name: str, uid: str, grace: int) -> None:
        """Remove this very pod; nothing happens when it is gone."""
        body = {"preconditions": {"uid": uid}, "gracePeriodSeconds": grace}
        try:
            await self._ask("DELETE", self._place("pods", name), body)
        except NotFound:
            return

    async def annotate_pod(self, name: str, uid: str, notes: Mapping[str, str]) -> None:
        """Raises NotFound, Conflict where another pod has the name."""
        body = {"metadata": {"uid": uid, "annotations": dict(notes)}}
        await self._ask("PATCH", self._place("pods", name), body)

    async def replace_secret(self, manifest: Document) -> None:
        """Make a secret, in place of one of that name. Raises Conflict, QuotaExceeded, Forbidden."""
        try:
            await self._ask("DELETE", self._place("secrets", manifest["metadata"]["name"]))
        except NotFound:
            pass
        await self._ask("POST", self._place("secrets"), manifest)

    async def events(self, uid: str) -> list[Document]:
        """What the cluster noted of one pod; nothing where that may not be read."""
        query = {"fieldSelector": f"involvedObject.uid={uid}"}
        return await self._list(self._place("events"), query, or_none=True) or []

    async def claim(self, name: str) -> Document | None:
        """The claim of a home; None where there is none."""
        try:
            return await self._ask("GET", self._place("persistentvolumeclaims", name))
        except NotFound:
            return None

    async def make_claim(self, manifest: Document) -> Document:
        """Raises Conflict where the name is taken, QuotaExceeded, Forbidden."""
        return await self._ask("POST", self._place("persistentvolumeclaims"), manifest)

    async def claims(self) -> list[Document]:
        """The claims of homes of our installation."""
        selector = f"{INSTALLATION}={self._installation},{OWNER}"
        found: list[Document] = await self._list(
            self._place("persistentvolumeclaims"), {"labelSelector": selector}
        )
        return found

    async def nodes(self) -> list[Document] | None:
        """All nodes, None where they may not be listed."""
        found: list[Document] | None = await self._list(
            "/api/v1/nodes", {"resourceVersion": "0"}, or_none=True
        )
        return found

    async def all_pods(self) -> list[Document] | None:
        """The pods of all namespaces that have not ended, None where they may not be listed."""
        ended = "status.phase!=Succeeded,status.phase!=Failed"
        found: list[Document] | None = await self._list(
            "/api/v1/pods", {"resourceVersion": "0", "fieldSelector": ended}, or_none=True
        )
        return found

    async def quotas(self) -> list[Document] | None:
        """The namespace's quotas, None where they may not be listed."""
        found: list[Document] | None = await self._list(self._place("resourcequotas"), or_none=True)
        return found

    async def limit_ranges(self) -> list[Document] | None:
        """The namespace's limit ranges, None where they may not be listed."""
        found: list[Document] | None = await self._list(self._place("limitranges"), or_none=True)
        return found

    async def storage_class(self, name: str) -> bool | None:
        """Tell whether it exists (any default one for ""), None where that may not be read."""
        found = await self._list("/apis/storage.k8s.io/v1/storageclasses", or_none=True)
        if found is None:
            return None
        default = "storageclass.kubernetes.io/is-default-class"
        if name:
            return any(one["metadata"]["name"] == name for one in found)
        return any((one["metadata"].get("annotations") or {}).get(default) == "true" for one in found)

    async def exists(self) -> bool | None:
        """Tell whether the namespace is there, None where that may not be read."""
        try:
            await self._ask("GET", f"/api/v1/namespaces/{self.name}")
        except NotFound:
            return False
        except Forbidden:
            return None
        return True

    async def may(self, verb: str, resource: str, *, everywhere: bool = False) -> bool:
        """Tell whether our credentials allow this, as the cluster itself judges."""
        name, _, sub = resource.partition("/")
        wanted = {"verb": verb, "resource": name, "subresource": sub}
        if not everywhere:
            wanted["namespace"] = self.name
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted},
        }
        answer = await self._ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        return bool(answer["status"].get("allowed"))

    def _place(self, kind: str, name: str = "") -> str:
        place = f"/api/v1/namespaces/{self.name}/{kind}"
        return f"{place}/{name}" if name else place

    async def _list(self, path: str, query: Mapping[str, str] | None = None, *, or_none: bool = False) -> Any:
        found: list[Document] = []
        asked = dict(query or {})
        if "resourceVersion" not in asked:
            asked["limit"] = "500"
        try:
            while True:
                answer = await self._ask("GET", path, None, asked)
                if not str(answer.get("kind", "")).endswith("List"):
                    # What is no list must never be taken for an empty one: all our pods would be gone.
                    raise Transient(
                        f"{path} of the cluster is no list, but {str(answer.get('kind'))[:100]!r}."
                    )
                found += answer.get("items") or []
                token = answer["metadata"].get("continue")
                if not token:
                    return found
                asked["continue"] = token
        except NotFound as error:
            if "continue" in asked:  # its next part has expired meanwhile
                raise Transient(error.message, remedy="It will be tried again.") from error
            raise
        except Forbidden:
            if or_none:
                return None
            raise

    async def _ask(
        self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None
    ) -> Document:
        answer: Document = await self._cluster.call(method, path, body, query or {}, seconds=SECONDS)
        return answer
