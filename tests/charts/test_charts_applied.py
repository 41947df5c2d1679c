"""The chart on a real cluster, by Helm: every object taken by its API server, the hub up, a session in a pod.

The hub's pod runs this computer's own Python and gridcloud, mounted into an image of the lab. The lab's network has no
services and enforces no NetworkPolicy: those are validated by the API server, and their effect is not seen here.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError

import pytest
import yaml

from tests.charts.test_charts import CHART, HERE
from tests.labs.helm import helm, missing_for_helm
from tests.labs.kubernetes import SESSION_IMAGE, Cluster

pytestmark = [pytest.mark.lab, pytest.mark.needs_root, pytest.mark.timeout(400)]

ASK = """
import sys, urllib.request, urllib.error
method, url, token, body = sys.stdin.read().split("\\n", 3)
headers = {"Authorization": "token " + token, "Content-Type": "application/json"}
request = urllib.request.Request(url, body.encode() or None, headers, method=method)
try:
    with urllib.request.urlopen(request, timeout=20) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except OSError as error:
    print(0, error)
"""

Found = TypeVar("Found")

MODEL = "nvidia.com/gpu.product"


class House:
    """A release of the chart in two namespaces of its own."""

    def __init__(self, cluster: Cluster, folder: Path, proxy: Path) -> None:
        self.cluster, self.folder, self.proxy = cluster, folder, proxy
        mark = secrets.token_hex(3)
        self.namespace, self.sessions = f"hubs-{mark}", f"science-{mark}"
        self.volume = cluster.folder / f"volume-{mark}"

    def values(self) -> dict[str, Any]:
        """Values for the lab: its image, its API server's address, this computer's gridcloud."""
        places = {
            "/opt/python": sys.base_prefix,
            "/opt/packages": next(path for path in sys.path if path.endswith("site-packages")),
            "/opt/share": f"{sys.prefix}/share",
            "/opt/source": str(CHART.parents[1] / "src"),
            f"/opt/cache/gridcloud/{self.proxy.name}": str(self.proxy),
        }
        environment = {
            "KUBERNETES_SERVICE_HOST": self.cluster.gateway,
            "KUBERNETES_SERVICE_PORT": "6443",
            "PYTHONPATH": "/opt/source:/opt/packages",
            "LD_LIBRARY_PATH": "/opt/python/lib",
            "XDG_CACHE_HOME": "/opt/cache",
        }
        names = {place: f"lab-{number}" for number, place in enumerate(places)}
        repository, tag = SESSION_IMAGE.split(":")
        return {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "hub": {
                "command": ["/opt/python/bin/python3", "-m", "gridcloud"],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "256Mi"},
                    "limits": {"memory": "1Gi"},
                },
                "extraEnvironment": [{"name": name, "value": value} for name, value in environment.items()],
                "extraVolumes": [
                    {"name": names[place], "hostPath": {"path": source, "type": "Directory"}}
                    for place, source in places.items()
                ],
                "extraVolumeMounts": [
                    {"name": name, "mountPath": place, "readOnly": True} for place, name in names.items()
                ],
            },
            "sessions": {
                "namespace": self.sessions, "createNamespace": True, "image": SESSION_IMAGE, "pull": "Never",
                "guarantee": {"cpus": 0.1, "memory": "256MiB"}, "limit": {"cpus": 1, "memory": "1GiB"},
                "pools": {"gpu": {"gpu": {"modelLabel": MODEL}, "cpus": 1, "price": 1}},
            },
            "quota": {"pods": 5},
            "rbac": {"clusterWide": True},
            "podDisruptionBudget": {"hub": True, "sessions": True},
            "storage": {"existingClaim": "kept"},
        }  # fmt: skip

    def install(self, verb: str = "install", **more: Any) -> None:
        """Have Helm install or upgrade, and wait until everything is ready."""
        file = self.folder / "values.yaml"
        file.write_text(yaml.safe_dump(self.values() | more))
        try:
            self.helm(verb, "house", CHART, "--values", file, "--wait", "--timeout", "200s")
        except AssertionError as error:
            error.add_note(self.explain())
            raise

    def helm(self, *words: str | Path) -> str:
        """Run Helm as the cluster's administrator; what it prints."""
        place = ["--namespace", self.namespace, "--kubeconfig", str(self.cluster.kubeconfig)]
        done = helm(*words, *place, folder=self.folder, seconds=240)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def make_room(self) -> None:
        """Make the namespace and a volume for the hub, as an administrator of a cluster without storage would."""
        (self.volume).mkdir()
        shutil.chown(self.volume, 1000, 1000)
        self.cluster.make_namespace(self.namespace)
        of = {"accessModes": ["ReadWriteOnce"], "storageClassName": "none"}
        volume = of | {"capacity": {"storage": "1Gi"}, "hostPath": {"path": str(self.volume)}}
        name = f"kept-{self.namespace}"
        self.cluster.ask("POST", "/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": volume})
        claim = of | {"volumeName": name, "resources": {"requests": {"storage": "1Gi"}}}
        claims = f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims"
        self.cluster.ask("POST", claims, {"metadata": {"name": "kept"}, "spec": claim})

    def pods(self, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        found = self.cluster.ask("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}")
        return list(found["items"])

    def hub_pod(self) -> dict[str, Any]:
        """The hub's pod, ready."""
        selector = "app.kubernetes.io/component=hub"

        def ready() -> dict[str, Any] | None:
            for pod in self.pods(self.namespace, selector):
                states = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
                if states.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
                    return pod
            return None

        return self.until(ready, 120)

    def until(self, find: Callable[[], Found | None], seconds: float) -> Found:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if found := find():
                    return found
            except TimeoutError:
                pass  # the API server of a busy computer is slow, and asked again
            assert time.monotonic() < deadline, self.explain()
            time.sleep(0.5)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Ask the hub's pod as gridcloud's own service may; status and answer."""
        token = (self.volume / "data/hub/api-token").read_text().strip()
        url = f"http://{self.hub_pod()['status']['podIP']}:8000{path}"
        sent = "\n".join([method, url, token, "" if body is None else json.dumps(body)])
        answer = self.cluster.run_within(sys.executable, "-c", ASK, stdin=sent)
        status, _, text = answer.partition(" ")
        return int(status), text.strip()

    def start(self, *, patience: float = 0, **options: Any) -> dict[str, Any]:
        """Start a session through the hub, tried again for so many seconds; its pod, when it serves."""
        before = {pod["metadata"]["name"] for pod in self.pods(self.sessions)}
        self.ask("POST", "/hub/api/users/gridcloud")
        deadline = time.monotonic() + patience
        while True:
            status, text = self.ask("POST", "/hub/api/users/gridcloud/server", options)
            if status in (201, 202) or time.monotonic() > deadline:
                break
            time.sleep(2)
        assert status in (201, 202), text

        def ready() -> bool:
            server = json.loads(self.ask("GET", "/hub/api/users/gridcloud")[1])["servers"].get("")
            assert server, self.explain()
            return bool(server["ready"])

        self.until(ready, 120)
        (pod,) = (pod for pod in self.pods(self.sessions) if pod["metadata"]["name"] not in before)
        return pod

    def stop(self) -> None:
        """Stop the session through the hub, until its pod is gone."""
        self.ask("DELETE", "/hub/api/users/gridcloud/server")
        self.until(lambda: not self.pods(self.sessions), 60)

    def explain(self) -> str:
        """What is known when something does not come up."""
        events = [
            self.cluster.ask("GET", f"/api/v1/namespaces/{one}/events")["items"]
            for one in (self.namespace, self.sessions)
        ]
        told = [f"{one['involvedObject']['name']}: {one['message']}" for some in events for one in some]
        for pod in self.pods(self.namespace):
            name = pod["metadata"]["name"]
            try:
                told.append(self.cluster.ask("GET", f"/api/v1/namespaces/{self.namespace}/pods/{name}/log"))
            except HTTPError as error:
                told.append(str(error))
        logs = [path.read_text()[-3000:] for path in self.volume.glob("data/logs/*.log")]
        return "\n".join([*map(str, told), *logs])

    def remove(self) -> None:
        self.helm("uninstall", "house", "--ignore-not-found", "--wait")
        there = {one["metadata"]["name"] for one in self.cluster.ask("GET", "/api/v1/namespaces")["items"]}
        for namespace in there & {self.namespace, self.sessions}:
            self.cluster.ask("DELETE", f"/api/v1/namespaces/{namespace}")
        self.cluster.ask("DELETE", f"/api/v1/persistentvolumes/kept-{self.namespace}")


@pytest.fixture(scope="module")
def house(kubernetes_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The chart, installed."""
    if why := missing_for_helm():
        pytest.skip(f"NOT TESTED: {why}")
    house = House(kubernetes_cluster, tmp_path_factory.mktemp("chart"), _kept_proxy())
    house.make_room()
    try:
        house.install()
        yield house
    finally:
        house.remove()


@pytest.fixture
def free(house: House) -> Iterator[House]:
    """The same, in which the test leaves no session."""
    yield house
    house.stop()


def _kept_proxy() -> Path:
    """The folder of the hub's proxy program, fetched at first use."""
    import asyncio

    from gridcloud.spawner.proxy_program import install_proxy

    script = Path(asyncio.run(install_proxy())[1])
    return next(parent for parent in script.parents if parent.name.startswith("proxy-"))


@pytest.mark.parametrize("values", ["small", "institution", "trial"])
def test_the_api_server_takes_every_object(kubernetes_cluster: Cluster, tmp_path: Path, values: str) -> None:
    cluster = kubernetes_cluster
    words = ["template", "house", str(CHART), "--namespace", "hubs", "--kube-version", "1.20.2"]
    made = helm(*words, "--values", HERE / "values" / f"{values}.yaml", folder=tmp_path)
    documents = [one for one in yaml.safe_load_all(made.stdout) if one]
    assert documents, made.stderr
    there = {one["metadata"]["name"] for one in cluster.ask("GET", "/api/v1/namespaces")["items"]}
    for namespace in {"hubs", "science"} - there:
        cluster.make_namespace(namespace)
    for document in documents:
        if document["kind"] != "Namespace":
            place = _place(cluster, document)
            kept = cluster.ask("POST", f"{place}?dryRun=All&fieldManager=test", document)
            assert _within(document, kept), (document, kept)


def _place(cluster: Cluster, document: dict[str, Any]) -> str:
    """Where objects of this kind are made, as the API server itself tells."""
    version = document["apiVersion"]
    top = f"/apis/{version}" if "/" in version else f"/api/{version}"
    (kind,) = (
        one
        for one in cluster.ask("GET", top)["resources"]
        if one["kind"] == document["kind"] and "/" not in one["name"]
    )
    if kind["namespaced"]:
        top += f"/namespaces/{document['metadata']['namespace']}"
    return f"{top}/{kind['name']}"


def _within(given: Any, kept: Any) -> bool:
    """Whether nothing that was given was dropped as unknown; amounts may be written another way."""
    if isinstance(given, dict):
        return isinstance(kept, dict) and all(
            _within(value, kept.get(key))
            for key, value in given.items()
            if value not in ({}, [], "", None, False)
        )
    if isinstance(given, list):
        return isinstance(kept, list) and all(_within(*pair) for pair in zip(given, kept, strict=True))
    return kept is not None


def test_the_hub_comes_up_as_an_ordinary_user_with_nothing_to_write_but_its_volume(house: House) -> None:
    assert house.ask("GET", "/hub/health")[0] == 200
    assert house.ask("GET", "/_chp_healthz")[0] == 200
    logs = house.volume / "data/logs"
    assert {path.name for path in logs.iterdir()} >= {"hub.log", "proxy.log", "service.log"}
    assert logs.stat().st_uid == 1000


def test_the_hub_may_what_it_needs_and_no_more(house: House) -> None:
    user = f"system:serviceaccount:{house.namespace}:house-gridcloud"

    def may(verb: str, resource: str, namespace: str, sub: str = "") -> bool:
        asked = {"namespace": namespace, "verb": verb, "resource": resource, "subresource": sub}
        review = {"spec": {"user": user, "resourceAttributes": asked}}
        place = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(house.cluster.ask("POST", place, review)["status"]["allowed"])

    assert may("create", "pods", house.sessions)
    assert may("create", "pods", house.sessions, "exec")
    assert may("list", "nodes", "")  # rbac.clusterWide
    assert not may("create", "pods", house.namespace)
    assert not may("get", "secrets", house.sessions)
    assert not may("get", "secrets", house.namespace)
    assert not may("delete", "persistentvolumeclaims", house.sessions)


def test_a_session_outlives_the_hubs_pod_and_is_not_drained_away(free: House) -> None:
    pod = free.start(cpus=0.1, memory="256MiB")
    assert pod["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "100m", "memory": str(256 << 20)}
    assert free.ask("GET", "/user/gridcloud/api/status")[0] == 200
    name = pod["metadata"]["name"]
    eviction = {
        "apiVersion": "policy/v1beta1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": free.sessions},
    }  # fmt: skip
    with pytest.raises(HTTPError) as refused:
        free.cluster.ask("POST", f"/api/v1/namespaces/{free.sessions}/pods/{name}/eviction", eviction)
    assert refused.value.code == 429
    hub = free.hub_pod()["metadata"]
    free.cluster.ask("DELETE", f"/api/v1/namespaces/{free.namespace}/pods/{hub['name']}")
    free.until(lambda: free.hub_pod()["metadata"]["uid"] != hub["uid"], 120)
    free.until(lambda: free.ask("GET", "/user/gridcloud/api/status")[0] == 200, 60)
    (same,) = free.pods(free.sessions)
    assert same["metadata"]["uid"] == pod["metadata"]["uid"]


def test_the_cluster_refuses_more_than_the_limit(house: House) -> None:
    """DEP-08, limits enforced: by the API server, whoever asks."""
    amounts = {"cpu": "2", "memory": "64Mi"}
    container = {"name": "c", "image": SESSION_IMAGE, "resources": {"requests": amounts, "limits": amounts}}
    pod = {"metadata": {"name": "greedy"}, "spec": {"containers": [container]}}
    with pytest.raises(HTTPError) as refused:
        house.cluster.ask("POST", f"/api/v1/namespaces/{house.sessions}/pods", pod)
    assert refused.value.code == 403
    assert "maximum cpu usage per Container is 1" in refused.value.__notes__[0]


def test_gpus_are_had_on_tainted_nodes_only_and_by_their_type(free: House) -> None:
    """DEP-06, DEP-08: the node gets GPUs, their label and their taint, as a device plugin and an administrator do."""
    cluster, node = free.cluster, "/api/v1/nodes/node"
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    gpus = {"nvidia.com/gpu": "1"}
    cluster.ask("PATCH", f"{node}/status", {"status": {"capacity": gpus, "allocatable": gpus}})
    cluster.ask("PATCH", node, {"metadata": {"labels": {MODEL: "NVIDIA-H100"}}, "spec": {"taints": [taint]}})
    try:
        status, text = free.ask(
            "POST", "/hub/api/users/gridcloud/server", {"gpus": 1, "gpu_model": "A100", "cpus": 0.1}
        )
        assert status >= 400, text
        pod = free.start(gpus=1, gpu_model="H100", cpus=0.1, memory="256MiB")
        assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert pod["spec"]["nodeSelector"] == {MODEL: "NVIDIA-H100"}
        free.stop()
    finally:
        gone = {"nvidia.com/gpu": None}
        cluster.ask("PATCH", node, {"metadata": {"labels": {MODEL: None}}, "spec": {"taints": None}})
        cluster.ask("PATCH", f"{node}/status", {"status": {"capacity": gone, "allocatable": gone}})


def test_a_session_takes_the_room_that_was_held(free: House) -> None:
    """DEP-05: a placeholder leaves for a session, and waits for a node that an autoscaler would add. The new pool is
    known to the hub that runs as soon as its node has passed the ConfigMap on."""
    node = free.cluster.ask("GET", "/api/v1/nodes/node")["status"]["allocatable"]
    held = {"replicas": 1, "cpu": f"{int(node['cpu']) * 1000 - 700}m", "memory": "64Mi"}
    sessions = free.values()["sessions"] | {"pools": {"cluster": {"queue": "2m", "placeholders": held}}}
    free.install("upgrade", sessions=sessions)
    selector = "app.kubernetes.io/component=placeholder"
    (holder,) = free.pods(free.namespace, selector)
    assert holder["status"]["phase"] == "Running"
    free.start(cpus=0.9, memory="256MiB", patience=120)
    (waits,) = (pod for pod in free.pods(free.namespace, selector) if pod["status"]["phase"] == "Pending")
    assert waits["metadata"]["uid"] != holder["metadata"]["uid"]
