"""Kubernetes' words in ours: manifests, quantities, room, what a pod's state and a refusal mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from tests.houses import open_house

from gridcloud.connections.cluster import Cluster, translate
from gridcloud.drivers.instances.kubernetes_capacity import read_limits, read_nodes, read_quotas
from gridcloud.drivers.instances.kubernetes_manifests import (
    home_name,
    pod_name,
    render_home,
    render_pod,
    render_secret,
)
from gridcloud.drivers.instances.kubernetes_offers import Room, choose
from gridcloud.drivers.instances.kubernetes_settings import KubernetesSettings
from gridcloud.drivers.instances.kubernetes_status import has_stopped, phase_of, why_not_pulled
from gridcloud.drivers.kubernetes_pods import explain_image, label_value, worst_event
from gridcloud.drivers.kubernetes_quantities import format_cpus, parse_amount, parse_cpus
from gridcloud.errors import (
    Conflict,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NotFound,
    QuotaExceeded,
    Throttled,
    Transient,
    Untrusted,
)
from gridcloud.instances.model import Kind, Offer, Phase, Request, Shape, Spec
from gridcloud.testing.instances import HOSTILE_TEXTS

GOLDEN = Path(__file__).parent / "golden"
GiB = 1 << 30


def settings(**more: Any) -> KubernetesSettings:
    return KubernetesSettings(**({"driver": "kubernetes", "image": "team/session:2026"} | more))


def make_spec(owner: str = "ada", name: str = "", **asked: Any) -> Spec:
    request = Request(**({"cpus": 1.5, "memory": 2 * GiB} | asked))
    shape = Shape(cpus=request.cpus, memory=request.memory, gpus=request.gpus, disk=request.disk)
    choice = {"gpu_label": "NVIDIA-H100"} if request.gpus else {}
    offer = Offer(provider="k", kind=Kind.CONTAINER, shape=shape, choice=choice)
    return Spec(id="i-0123456789", owner=owner, name=name, request=request, offer=offer)


# Quantities


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("64Mi", 64 << 20), ("1Gi", GiB), ("1500M", 1500 * 10**6), ("128974848", 128974848), ("129e6", 129000000),
        ("1.5Gi", 3 * GiB // 2), ("100m", 1), ("0", 0), ("24673856Ki", 24673856 << 10), ("2Ei", 2 << 60), ("1k", 1000),
        (7, 7),
    ],
)  # fmt: skip
def test_quantities_are_read(text: str, amount: int) -> None:
    assert parse_amount(text) == amount


@pytest.mark.parametrize(
    ("text", "cpus"), [("2", 2.0), ("500m", 0.5), ("0.1", 0.1), ("1e-3", 0.001), ("250000u", 0.25)]
)
def test_cpus_are_read(text: str, cpus: float) -> None:
    assert parse_cpus(text) == pytest.approx(cpus)


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1Gib", "Gi", "1e", "1,5", "--1", "1mm", "٣"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        parse_amount(text)


@pytest.mark.parametrize(
    ("cpus", "text"),
    [(1, "1000m"), (0.5, "500m"), (0.0001, "1m"), (1.1, "1100m"), (2.7, "2700m"), (0.3, "300m")],
)
def test_cpus_are_written(cpus: float, text: str) -> None:
    assert format_cpus(cpus) == text


# Manifests


def golden(name: str, manifest: dict[str, Any]) -> None:
    """Compare with the golden file, which is YAML so that people can read it."""
    assert json.loads(json.dumps(manifest)) == yaml.safe_load((GOLDEN / f"{name}.yaml").read_text())


def test_a_pod_as_it_is_by_default() -> None:
    golden("pod-plain", render_pod(make_spec(), settings(), "house-1", 1_800_000_000))


def test_a_pod_whose_agent_dials() -> None:
    door = {
        "url": "https://hub:8443",
        "ca": "/etc/ca.pem",
        "proxy": "http://proxy:3128",
        "command": ["python3", "a b"],
    }
    pod = render_pod(make_spec(), settings(agent=door), "house-1", None)
    golden("pod-agent", pod)
    made = pod | {"metadata": pod["metadata"] | {"uid": "u-1"}}
    secret = render_secret(made, "gca_token", b"-----BEGIN")
    assert secret["stringData"] == {"token": "gca_token\n", "ca.pem": "-----BEGIN"}
    assert secret["metadata"]["ownerReferences"][0] == {
        "apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": "u-1",
    }  # fmt: skip
    assert "gca_" not in json.dumps(pod)


def test_a_pod_with_all_that_can_be_set() -> None:
    full = settings(
        images=["*"], pull="Always", image_pull_secrets=["registry"], service_account="sessions", run_as_user=2000,
        node_selector={"pool": "science"}, tolerations=[{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        priority_class="low", runtime_class="gvisor", longest="7d", home_size="20GiB",
    )  # fmt: skip
    spec = make_spec(
        owner="Ünïcode 名前\n", name="a $(b)", gpus=2, image="lab/cuda:12", disk=10 * GiB, time=3600
    )
    golden("pod-full", render_pod(spec, full, "house-1", None, "gridcloud-home-house1-abc"))


def test_a_home() -> None:
    kept = settings(home_size="20GiB", home_access="ReadWriteMany", storage_class="fast")
    golden("home", render_home("ada", kept, "house-1"))


@pytest.mark.parametrize("text", [*HOSTILE_TEXTS, "a\nb: c", "{{x}}", "", "\x1b[2J", "ada/../x"])
def test_what_people_type_reaches_notes_only(text: str) -> None:
    pod = render_pod(make_spec(owner=text, name=text), settings(), "house-1", 1)
    home = render_home(text, settings(home_size="1GiB"), "house-1")
    plain = render_pod(make_spec(), settings(), "house-1", 1)
    assert pod["spec"] == plain["spec"]
    assert pod["metadata"]["name"] == plain["metadata"]["name"]
    for made in (pod, home):
        for value in made["metadata"]["labels"].values():
            assert label_value(value) == value
        assert all(
            note.isprintable() and len(note) <= 300 for note in made["metadata"]["annotations"].values()
        )
    assert home["metadata"]["name"].removeprefix("gridcloud-home-house1-").isalnum()


def test_owners_and_installations_have_homes_of_their_own() -> None:
    names = {home_name(house, owner) for house in ("h1", "h2") for owner in ("ada", "Ada", "ada ")}
    assert len(names) == 6


@pytest.mark.parametrize("text", ["abc-", "-abc", "A", "a" * 64, "a/b", "", "a..b"])
def test_what_no_label_can_hold_becomes_a_digest(text: str) -> None:
    assert label_value(text).startswith("x")
    assert len(pod_name("house", text)) <= 63
    assert label_value(label_value(text)) == label_value(text)


# Room


def node(name: str, cpu: str = "4", memory: str = "16Gi", **more: Any) -> dict[str, Any]:
    gpus = more.get("gpus", "0")
    there = {"cpu": cpu, "memory": memory, "ephemeral-storage": "100Gi", "pods": "10", "nvidia.com/gpu": gpus}
    return {
        "metadata": {"name": name, "labels": more.get("labels", {})},
        "spec": {"taints": more.get("taints", []), "unschedulable": more.get("cordoned", False)},
        "status": {
            "allocatable": there,
            "conditions": [{"type": "Ready", "status": more.get("ready", "True")}],
        },
    }


def pod_on(name: str, requests: dict[str, str], phase: str = "Running", **more: Any) -> dict[str, Any]:
    owners = [{"kind": more["kind"]}] if "kind" in more else []
    spec: dict[str, Any] = {"nodeName": name, "containers": [{"resources": {"requests": requests}}, {}]}
    if "first" in more:
        spec["initContainers"] = [{"resources": {"requests": more["first"]}}]
    return {"metadata": {"ownerReferences": owners}, "spec": spec, "status": {"phase": phase}}


def room(
    nodes: Sequence[Any] | None,
    pods: Sequence[Any] = (),
    quotas: Sequence[Any] = (),
    ranges: Sequence[Any] = (),
    **more: Any,
) -> Room:
    chosen = settings(**more)
    known = None if nodes is None else read_nodes(nodes, pods, chosen)
    return Room("lab, namespace n", known, read_quotas(quotas, chosen), read_limits(ranges))


def quota(hard: dict[str, str], used: dict[str, str], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "team"},
        "spec": {"hard": hard} | spec,
        "status": {"hard": hard, "used": used},
    }


def test_what_is_free_is_what_pods_have_not_asked_for() -> None:
    pods = [
        pod_on("a", {"cpu": "500m", "memory": "1Gi"}, kind="DaemonSet"),
        pod_on("a", {"cpu": "1", "memory": "2Gi"}, first={"cpu": "2"}),
        pod_on("a", {"cpu": "3"}, phase="Succeeded"),
        pod_on("b", {"cpu": "9"}),
    ]
    (found,) = read_nodes([node("a")], pods, settings())
    assert (found.whole.cpus, found.whole.memory) == (3.5, 15 * GiB)
    assert (found.free.cpus, found.free.memory, found.pods) == (1.5, 13 * GiB, 8)


@pytest.mark.parametrize(
    ("more", "usable"),
    [
        ({}, True),
        ({"cordoned": True}, False),
        ({"ready": "Unknown"}, False),
        ({"taints": [{"key": "gpu", "effect": "NoSchedule"}]}, False),
        ({"taints": [{"key": "ours", "value": "x", "effect": "NoSchedule"}]}, True),
        ({"taints": [{"key": "any", "effect": "PreferNoSchedule"}]}, True),
        ({"labels": {}}, False),
    ],
)
def test_only_nodes_that_take_our_pods_count(more: dict[str, Any], usable: bool) -> None:
    chosen = settings(
        node_selector={"pool": "science"}, tolerations=[{"key": "ours", "value": "x", "effect": "NoSchedule"}]
    )
    there = node("a", **({"labels": {"pool": "science"}} | more))
    assert bool(read_nodes([there], [], chosen)) is usable


def test_an_offer_says_what_was_chosen_and_why() -> None:
    prices = settings(price_cpu="0.02", price_memory="0.005", price="1")
    (offer,) = choose(Request(cpus=2, memory=4 * GiB), prices, "k", room([node("a"), node("b")]))
    assert offer.available
    assert offer.price == Decimal("0.5600")  # half of the node's CPUs, 2 CPUs, 4 GiB
    assert [step.step for step in offer.steps] == ["image", "shape", "location", "network"]
    assert "2 of 2 nodes" in offer.steps[1].why


def test_a_full_cluster_says_where_most_is_free() -> None:
    pods = [pod_on("a", {"cpu": "3"}), pod_on("b", {"cpu": "3500m"})]
    (offer,) = choose(Request(cpus=2), settings(), "k", room([node("a"), node("b")], pods))
    assert offer.possible
    assert not offer.available
    assert offer.why_not == "of 2 nodes none has room: most is 1 CPU, 16GiB free on a"
    (waits,) = choose(Request(cpus=2), settings(queue="10m"), "k", room([node("a"), node("b")], pods))
    assert (waits.available, waits.wait) == (True, 600)


@pytest.mark.parametrize("asked", [{"cpus": 5}, {"memory": 17 * GiB}, {"gpus": 1}, {"disk": 200 * GiB}])
def test_what_no_node_ever_has_is_never_possible(asked: dict[str, Any]) -> None:
    (offer,) = choose(Request(**asked), settings(), "k", room([node("a"), node("b", cpu="2")]))
    assert not offer.possible
    assert offer.why_not
    assert (offer.shape.cpus, offer.shape.memory) == (4, 16 * GiB)


def test_each_gpu_model_is_an_offer_of_its_own() -> None:
    def labels(model: str, mebibytes: str) -> dict[str, str]:
        return {"nvidia.com/gpu.product": model, "nvidia.com/gpu.memory": mebibytes}

    nodes = [
        node("a", gpus="2", labels=labels("NVIDIA-H100", "81559")),
        node("b", gpus="4", labels=labels("NVIDIA-A100", "40960")),
        node("c"),
    ]
    offers = choose(Request(gpus=2), settings(), "k", room(nodes, [pod_on("b", {"nvidia.com/gpu": "3"})]))
    assert [(offer.shape.gpu_model, offer.available) for offer in offers] == [
        ("NVIDIA-H100", True),
        ("NVIDIA-A100", False),
    ]
    assert offers[0].choice == {"gpu_label": "NVIDIA-H100"}
    (only,) = choose(Request(gpus=1, gpu_model="h100", gpu_memory=40 * GiB), settings(), "k", room(nodes))
    assert only.shape.gpu_memory == 81559 << 20
    (never,) = choose(Request(gpus=3, gpu_model="H100"), settings(), "k", room(nodes))
    assert not never.possible


def test_quotas_are_read_before_anything_is_asked() -> None:
    full = quota({"limits.cpu": "4", "pods": "10"}, {"limits.cpu": "3", "pods": "2"})
    (offer,) = choose(Request(cpus=2), settings(), "k", room([node("a")], quotas=[full]))
    assert offer.possible
    assert not offer.available
    assert offer.why_not == "quota team (limits.cpu: 1 of 4 left, 2 asked)"
    small = quota({"requests.memory": "1Gi", "requests.nvidia.com/gpu": "0"}, {})
    for asked in (Request(memory=2 * GiB), Request(gpus=1)):
        there = room([node("a", gpus="1")], quotas=[small])
        (never,) = choose(asked, settings(), "k", there)
        assert not never.possible
        assert never.shape.memory == GiB


@pytest.mark.parametrize(
    ("scopes", "longest", "counts"),
    [
        (["BestEffort"], "0", False),
        (["NotBestEffort"], "0", True),
        (["Terminating"], "0", False),
        (["Terminating"], "1d", True),
    ],
)
def test_quotas_of_other_kinds_of_pods_do_not_count(scopes: list[str], longest: str, counts: bool) -> None:
    found = read_quotas([quota({"pods": "0"}, {}, scopes=scopes)], settings(longest=longest))
    assert bool(found) is counts


def test_limit_ranges_raise_and_bound_a_pod() -> None:
    limit = {"spec": {"limits": [{"type": "Container", "min": {"memory": "2Gi"}, "max": {"cpu": "2"}}]}}
    there = room([node("a")], ranges=[limit])
    (offer,) = choose(Request(cpus=1, memory=GiB), settings(), "k", there)
    assert (offer.available, offer.shape.memory) == (True, 2 * GiB)
    (never,) = choose(Request(cpus=3), settings(), "k", there)
    assert (never.possible, never.shape.cpus) == (False, 2)


def test_where_nodes_may_not_be_listed_it_is_tried() -> None:
    (offer,) = choose(Request(cpus=64), settings(), "k", room(None))
    assert offer.available
    assert "may not be listed" in offer.steps[1].why
    (never,) = choose(Request(cpus=64), settings(cpus=8), "k", room(None))
    assert (never.possible, never.shape.cpus) == (False, 8)


@pytest.mark.parametrize("image", ["other:1", "team/x:1 ", "-v", "ünï", "x" * 300, "../../etc"])
def test_images_that_are_not_allowed_are_refused(image: str) -> None:
    chosen = settings(images=["team/*", "gpu:1"])
    assert "allowed are: team/session:2026, team/*, gpu:1" in explain_image(image, chosen)
    assert explain_image("team/x:1", chosen) == explain_image("gpu:1", chosen) == ""


# States

NOW = datetime(2026, 1, 1, 12, 1, tzinfo=UTC)


def state(phase: str, container: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    status = {
        "phase": phase,
        "containerStatuses": [{"name": "instance", "state": container}] if container else [],
    }
    meta = {"creationTimestamp": "2026-01-01T12:00:00Z"} | more.pop("meta", {})
    return {"metadata": meta, "spec": {"nodeName": "a"}, "status": status | more}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


UNREADY = [{"type": "Ready", "status": "False"}]
UNSCHEDULABLE = [
    {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes: Insufficient cpu.",
    }
]


@pytest.mark.parametrize(
    ("pod", "phase", "words"),
    [
        (state("Pending"), Phase.PENDING, "not given a node yet"),
        (state("Pending", waiting("ContainerCreating")), Phase.PENDING, "ContainerCreating"),
        (state("Pending", waiting("ErrImagePull", "i/o timeout")), Phase.PENDING, "i/o timeout"),
        (state("Pending", waiting("ErrImagePull", "manifest unknown")), Phase.FAILED, "manifest unknown"),
        (state("Pending", waiting("ImagePullBackOff", "no")), Phase.FAILED, "ImagePullBackOff: no"),
        (state("Pending", waiting("CreateContainerConfigError")), Phase.FAILED, "CreateContainerConfigError"),
        (state("Pending", conditions=UNSCHEDULABLE), Phase.FAILED, "Insufficient cpu"),
        (state("Running", {"running": {}}), Phase.RUNNING, "runs on a"),
        (state("Running", {"running": {}}, reason="NodeLost"), Phase.RUNNING, "its node a does not answer"),
        (state("Running", {"running": {}}, conditions=UNREADY), Phase.RUNNING, "its node a does not answer"),
        (state("Running", {"terminated": {"exitCode": 0}}), Phase.GONE, "its time is over"),
        (state("Unknown"), Phase.RUNNING, "does not answer"),
        (state("Succeeded", {"terminated": {"exitCode": 0}}), Phase.GONE, "its time is over"),
        (
            state("Failed", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
            Phase.GONE,
            "more memory",
        ),
        (state("Failed", {"terminated": {"exitCode": 3}}), Phase.GONE, "exit code 3"),
        (state("Failed", reason="Evicted", message="low on memory"), Phase.GONE, "Evicted: low on memory"),
        (state("Failed", reason="DeadlineExceeded"), Phase.GONE, "longest life"),
        (state("Running", {"running": {}}, meta={"deletionTimestamp": "x"}), Phase.GONE, "removing"),
    ],
)
def test_what_a_pod_is_is_told_in_the_clusters_words(pod: Any, phase: Phase, words: str) -> None:
    seen, said = phase_of(pod, queue=10, now=NOW)
    assert seen is phase
    assert words in said


def test_a_pod_may_wait_for_a_node_as_long_as_the_queue_is() -> None:
    seen, said = phase_of(state("Pending", conditions=UNSCHEDULABLE), queue=600, now=NOW)
    assert (seen, said) == (Phase.PENDING, "waits for a node: 0/3 nodes: Insufficient cpu.")


@pytest.mark.parametrize(("seconds", "phase"), [(60, Phase.PENDING), (301, Phase.FAILED)])
def test_a_pod_may_wait_for_its_home_to_be_made(seconds: float, phase: Phase) -> None:
    why = "0/3 nodes are available: 3 pod has unbound immediate PersistentVolumeClaims."
    pod = state("Pending", conditions=[UNSCHEDULABLE[0] | {"message": why}])
    made = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    seen, said = phase_of(pod, queue=10, now=made + timedelta(seconds=seconds))
    assert seen is phase
    assert why in said


def test_the_newest_warning_is_told() -> None:
    events = [
        {"type": "Normal", "reason": "Pulled", "lastTimestamp": "3"},
        {"type": "Warning", "reason": "FailedMount", "message": "no volume", "lastTimestamp": "2"},
        {"type": "Warning", "reason": "Old", "lastTimestamp": "1"},
    ]
    assert worst_event(events) == "FailedMount: no volume"
    assert worst_event([]) == ""


def test_why_an_image_was_not_pulled_is_told_and_not_that_it_is_tried_less_often() -> None:
    said = 'Failed to pull image "none/such:1": not found'
    events = [
        {"type": "Warning", "reason": "Failed", "message": said, "lastTimestamp": "2026-01-01T00:00:01Z"},
        {"type": "Warning", "message": "Error: ImagePullBackOff", "lastTimestamp": "2026-01-01T00:00:02Z"},
    ]
    assert why_not_pulled(events) == said
    assert why_not_pulled(events[1:]) == ""


def test_a_pod_has_stopped_when_its_node_says_so() -> None:
    assert has_stopped(state("Running", {"terminated": {}}))
    assert has_stopped(state("Failed"))
    assert not has_stopped(state("Running", {"running": {}}))
    assert not has_stopped(state("Pending"))


# Refusals


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "bad", InvalidRequest),
        (401, "Unauthorized", InvalidSettings),
        (403, 'pods is forbidden: User "x" cannot create', Forbidden),
        (403, "pods x is forbidden: exceeded quota: team, requested: cpu=2", QuotaExceeded),
        (403, "maximum cpu usage per Container is 1, but limit is 2", InvalidRequest),
        (404, "not found", NotFound),
        (409, "already exists", Conflict),
        (422, "Invalid value", InvalidRequest),
        (429, "too many requests", Throttled),
        (500, "etcdserver: leader changed", Transient),
        (504, "timeout", Transient),
    ],
)
def test_what_a_refusal_means(status: int, message: str, kind: type[GridcloudError]) -> None:
    error = translate(status, json.dumps({"kind": "Status", "message": message}), "lab", "7")
    assert type(error) is kind
    if kind in (InvalidSettings, QuotaExceeded, Forbidden):
        assert error.remedy
    if kind is Throttled:
        assert error.details == {"retry_after": "7"}


def kubeconfig(tmp_path: Path, contexts: int = 1, **cluster: Any) -> str:
    there = {"server": "https://127.0.0.1:1"} | cluster
    config = {
        "clusters": [{"name": "c", "cluster": there}],
        "users": [{"name": "u", "user": {"token": "t0ken"}}],
        "contexts": [{"name": f"x{n}", "context": {"cluster": "c", "user": "u"}} for n in range(contexts)],
        "current-context": "x0",
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    return str(path)


@pytest.mark.parametrize(
    ("config", "context", "kind", "words"),
    [
        ({"insecure-skip-tls-verify": True}, "", Untrusted, "turns off the check"),
        ({"server": "http://192.0.2.1:1"}, "", Untrusted, "without encryption"),
        ({"contexts": 2}, "", InvalidSettings, "none is chosen"),
        ({}, "other", InvalidSettings, "no context 'other'"),
        ({"certificate-authority-data": "!"}, "", InvalidSettings, "cannot be"),
        ({"certificate-authority": "/nowhere"}, "", InvalidSettings, "cannot be read"),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_says_why(
    tmp_path: Path, config: dict[str, Any], context: str, kind: type[GridcloudError], words: str
) -> None:
    cluster = Cluster(kubeconfig(tmp_path, **config), context)
    with pytest.raises(kind, match=words) as caught:
        await cluster.call("GET", "/version")
    assert "t0ken" not in str(caught.value)
    await cluster.close()


async def test_a_kubeconfig_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no kubeconfig"):
        await Cluster(str(tmp_path / "none")).resolve()
    (tmp_path / "broken").write_text("a: [")
    with pytest.raises(InvalidSettings, match="cannot be read"):
        await Cluster(str(tmp_path / "broken")).resolve()


async def test_a_namespace_is_the_contexts_own(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path)
    assert await Cluster(path).resolve() == (path, "x0", "default")


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": ""},
        {"run_as_user": 0},
        {"namespace": "Not A Name"},
        {"node_selector": {"a b": "c"}},
        {"node_selector": {"a": "$(b)"}},
        {"home_size": "0"},
        {"image_pull_secrets": ["../x"]},
        {"tolerations": [{"key": "a", "color": "red"}]},
        {"privileged": True},
        {"token": "secret"},
    ],
)
def test_unsafe_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**wrong)


@pytest.mark.parametrize("changed", [{"namespace": "b"}, {"context": "x1"}, {"kubeconfig": "other"}])
async def test_an_edited_place_is_not_the_one_where_pods_are_looked_for(
    tmp_path: Path, changed: dict[str, str]
) -> None:
    entry = {
        "driver": "kubernetes",
        "image": "team/session:2026",
        "kubeconfig": kubeconfig(tmp_path),
        "namespace": "a",
    }
    async with open_house(tmp_path, {"pods": entry}) as house:
        await house.providers.remember("pods")
    if "kubeconfig" in changed:
        changed = {"kubeconfig": str(tmp_path / "other")}
    async with open_house(tmp_path, {"pods": entry | changed | {"price": 2}}) as house:
        former = (await house.providers.holder("pods")).settings
        assert (former.kubeconfig, former.context, former.namespace) == (entry["kubeconfig"], "", "a")  # type: ignore[attr-defined]
    async with open_house(tmp_path, {"pods": entry | {"price": 2, "image": "other:1"}}) as house:
        assert (await house.providers.holder("pods")).settings.price == 2
