"""One namespace of one cluster, and the calls that whoever makes pods there needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gridcloud.connections.cluster import Cluster
from gridcloud.drivers.kubernetes_pods import label_value
from gridcloud.errors import Forbidden, NotFound, Transient

__all__ = ["Document", "Wire"]

SECONDS = 10
"""For one call: what the driver is asked for has not much longer."""

Document = dict[str, Any]


class Wire:
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
        """Let go of the cluster."""
        await self._cluster.close()

    async def version(self) -> str:
        """The version of the cluster."""
        return str((await self.ask("GET", "/version"))["gitVersion"])

    async def pod(self, name: str) -> Document:
        """Raises NotFound."""
        return await self.ask("GET", self.place("pods", name))

    async def remove_pod(self, name: str, uid: str, grace: int) -> None:
        """Remove this very pod; nothing happens when it is gone."""
        body = {"preconditions": {"uid": uid}, "gracePeriodSeconds": grace}
        try:
            await self.ask("DELETE", self.place("pods", name), body)
        except NotFound:
            return

    async def events(self, uid: str) -> list[Document]:
        """What the cluster noted of one pod; nothing where that may not be read."""
        query = {"fieldSelector": f"involvedObject.uid={uid}"}
        return await self.list_all(self.place("events"), query, or_none=True) or []

    async def nodes(self) -> list[Document] | None:
        """All nodes, None where they may not be listed."""
        found: list[Document] | None = await self.list_all(
            "/api/v1/nodes", {"resourceVersion": "0"}, or_none=True
        )
        return found

    async def exists(self) -> bool | None:
        """Tell whether the namespace is there, None where that may not be read."""
        try:
            await self.ask("GET", f"/api/v1/namespaces/{self.name}")
        except NotFound:
            return False
        except Forbidden:
            return None
        return True

    async def may(self, verb: str, resource: str, *, group: str = "", everywhere: bool = False) -> bool:
        """Tell whether our credentials allow this, as the cluster itself judges."""
        name, _, sub = resource.partition("/")
        wanted = {"verb": verb, "group": group, "resource": name, "subresource": sub}
        if not everywhere:
            wanted["namespace"] = self.name
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": wanted},
        }
        answer = await self.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        return bool(answer["status"].get("allowed"))

    def place(self, kind: str, name: str = "", group: str = "/api/v1") -> str:
        """Return the path of a kind in the namespace, or of one of them."""
        place = f"{group}/namespaces/{self.name}/{kind}"
        return f"{place}/{name}" if name else place

    async def list_all(
        self, path: str, query: Mapping[str, str] | None = None, *, or_none: bool = False
    ) -> Any:
        """Return all items of a list; ``or_none``: None where it may not be read. Raises as `ask` does."""
        found: list[Document] = []
        asked = dict(query or {})
        if "resourceVersion" not in asked:
            asked["limit"] = "500"
        try:
            while True:
                answer = await self.ask("GET", path, None, asked)
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

    async def ask(
        self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None
    ) -> Document:
        """Return the answer of the API. Raises what `Cluster.call` raises."""
        answer: Document = await self._cluster.call(method, path, body, query or {}, seconds=SECONDS)
        return answer
