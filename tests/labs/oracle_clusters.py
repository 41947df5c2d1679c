"""Kubernetes clusters of `tests.labs.oracle`: Oracle's container engine, without any Kubernetes in it."""

from __future__ import annotations

from typing import Any

from oci.container_engine import models

from tests.labs.oracle_compute import SHAPES
from tests.labs.oracle_tenancy import Call, Refusal, Route, Tenancy, Thing, not_found

__all__ = ["ROUTES", "VERSIONS"]

VERSIONS = ("v1.30.10", "v1.31.1", "v1.31.10")
BUSY = {"CREATING", "UPDATING", "DELETING"}


def _requested(call: Call, operation: str, kind: str, thing: Thing, failure: str = "") -> None:
    """Note a work request, and name it in the answer's header."""
    request = call.tenancy.add(
        "workrequest",
        {
            "operationType": operation,
            "status": "FAILED" if failure else "SUCCEEDED",
            "compartmentId": thing.words["compartmentId"],
            "resources": [{"actionType": "CREATED", "entityType": kind, "identifier": thing.id}],
        },
        failure=failure,
    )
    call.headers["opc-work-request-id"] = request.id
    del request.words["timeCreated"]


def _busy(thing: Thing) -> None:
    if thing.state in BUSY:
        raise Refusal(409, "IncorrectState", f"The {thing.kind} {thing.id} is {thing.state}.")


def _need_subnet(call: Call, id_: str) -> None:
    subnet = call.tenancy.things.get(id_)
    if subnet is None or subnet.kind != "subnet" or not subnet.lives:
        raise not_found("subnet")


def _make_cluster(call: Call) -> None:
    body, tenancy = call.body, call.tenancy
    compartment = call.compartment(body["compartmentId"])
    if body["kubernetesVersion"] not in VERSIONS:
        raise Refusal(400, "InvalidParameter", f"Invalid kubernetesVersion: {body['kubernetesVersion']}.")
    vcn = tenancy.things.get(body["vcnId"])
    if vcn is None or vcn.kind != "vcn" or not vcn.lives:
        raise not_found("vcn")
    _need_subnet(call, (body.get("endpointConfig") or {}).get("subnetId", ""))
    repeated = _repeated(call, "cluster")
    if repeated is None:
        kept = {key: value for key, value in body.items() if key != "clusterPodNetworkOptions"}
        cluster = tenancy.add("cluster", {**kept, "compartmentId": compartment}, token=call.retry_token)
        cluster.words["metadata"] = {"timeCreated": cluster.words.pop("timeCreated")}
        cluster.become("CREATING", "ACTIVE", tenancy.seconds)
        repeated = cluster
    _requested(call, "CLUSTER_CREATE", "cluster", repeated)


def _repeated(call: Call, kind: str) -> Thing | None:
    """Return what was made with this retry token."""
    for thing in call.tenancy.of(kind):
        if call.retry_token and thing.hidden.get("token") == call.retry_token:
            if thing.state in {"DELETED", "DELETING"}:
                raise Refusal(409, "InvalidatedRetryToken", "What this retry token made is gone.")
            return thing
    return None


def _make_pool(call: Call) -> None:
    body, tenancy = call.body, call.tenancy
    compartment = call.compartment(body["compartmentId"])
    cluster = tenancy.things.get(body["clusterId"])
    if cluster is None or cluster.kind != "cluster" or not cluster.lives:
        raise not_found("cluster")
    if cluster.state != "ACTIVE":
        raise Refusal(409, "IncorrectState", f"The cluster is {cluster.state}.")
    shape = next((one for one in SHAPES if one["shape"] == body["nodeShape"]), None)
    if shape is None or (shape["isFlexible"] and "ocpus" not in (body.get("nodeShapeConfig") or {})):
        raise Refusal(400, "InvalidParameter", f"Invalid nodeShape: {body['nodeShape']}.")
    for place in body["nodeConfigDetails"]["placementConfigs"]:
        _need_subnet(call, place["subnetId"])
    repeated = _repeated(call, "nodepool")
    if repeated is None:
        _check_nodes(tenancy, body["nodeConfigDetails"]["size"])
        pool = tenancy.add("nodepool", {**body, "compartmentId": compartment}, token=call.retry_token)
        del pool.words["timeCreated"]
        pool.become("CREATING", "ACTIVE", tenancy.seconds)
        repeated = pool
    _requested(call, "NODEPOOL_CREATE", "nodepool", repeated)


def _check_nodes(tenancy: Tenancy, more: int) -> None:
    limit = tenancy.limits.get("node-count", 1000)
    if more > limit:
        raise Refusal(400, "LimitExceeded", f"The node limit {limit} was exceeded.")


def _change_pool(call: Call) -> None:
    pool = call.thing("nodepool")
    if not pool.lives:
        raise not_found("nodepool")
    _busy(pool)
    size = (call.body.get("nodeConfigDetails") or {}).get("size")
    if size is not None:
        _check_nodes(call.tenancy, size)
        pool.words["nodeConfigDetails"] = {**pool.words["nodeConfigDetails"], "size": size}
    pool.become("UPDATING", "ACTIVE", call.tenancy.seconds)
    _requested(call, "NODEPOOL_UPDATE", "nodepool", pool)


def _delete(kind: str) -> Any:
    def work(call: Call) -> None:
        thing = call.thing(kind)
        if not thing.lives:
            raise not_found(kind)
        _busy(thing)
        thing.become("DELETING", "DELETED", call.tenancy.seconds)
        _requested(call, f"{kind.upper()}_DELETE", kind, thing)

    return work


def _list(kind: str) -> Any:
    def work(call: Call) -> list[dict[str, Any]]:
        compartment = call.compartment(call.need("compartmentId"))
        cluster = call.query.get("clusterId")
        return [
            one.words
            for one in call.tenancy.of(kind, compartmentId=compartment)
            if cluster in (None, one.words.get("clusterId"))
        ]

    return work


def _show(kind: str) -> Any:
    def work(call: Call) -> dict[str, Any]:
        return call.thing(kind).words

    return work


def _options(call: Call) -> dict[str, Any]:
    call.compartment(call.need("compartmentId"))
    return {"kubernetesVersions": list(VERSIONS)}


def _pool_options(call: Call) -> dict[str, Any]:
    call.compartment(call.need("compartmentId"))
    sources = [
        {
            "sourceType": "IMAGE",
            "sourceName": f"Oracle-Linux-8.10{edition}-{day}-0-OKE-{version[1:]}-{build}",
            "imageId": f"ocid1.image.oc1..{version}{edition}{build}",
        }
        for version in VERSIONS
        for edition in ("", "-aarch64", "-Gen2-GPU")
        for day, build in (("2026.06.17", 650), ("2026.07.21", 761))
    ]
    names = [shape["shape"] for shape in SHAPES]
    return {"kubernetesVersions": list(VERSIONS), "shapes": names, "sources": sources}


def _list_errors(call: Call) -> list[dict[str, Any]]:
    request = call.thing("workrequest")
    failure = request.hidden["failure"]
    return [{"code": "Failed", "message": failure, "timestamp": "2026-01-01T00:00:00Z"}] if failure else []


def _give_access(call: Call) -> str:
    cluster = call.thing("cluster")
    if cluster.state not in {"ACTIVE", "UPDATING"}:
        raise Refusal(409, "IncorrectState", f"The cluster is {cluster.state}.")
    words = ["ce", "cluster", "generate-token", "--cluster-id", cluster.id, "--region", call.tenancy.region]
    listed = "".join(f"      - {word}\n" for word in words)
    return (
        "apiVersion: v1\nkind: Config\n"
        "clusters:\n- name: c\n  cluster: {server: 'https://203.0.113.1:6443'}\n"
        "contexts:\n- name: k\n  context: {cluster: c, user: u}\ncurrent-context: k\n"
        "users:\n- name: u\n  user:\n    exec:\n      apiVersion: client.authentication.k8s.io/v1beta1\n"
        f"      command: oci\n      args:\n{listed}"
    )


V = "/20180222"
ROUTES = (
    Route("POST", f"{V}/clusters", _make_cluster, takes=models.CreateClusterDetails),
    Route("GET", f"{V}/clusters", _list("cluster"), gives=models.ClusterSummary),
    Route("GET", f"{V}/clusters/{{id}}", _show("cluster"), gives=models.Cluster),
    Route("DELETE", f"{V}/clusters/{{id}}", _delete("cluster")),
    Route(
        "POST",
        f"{V}/clusters/{{id}}/kubeconfig/content",
        _give_access,
        takes=models.CreateClusterKubeconfigContentDetails,
    ),
    Route("POST", f"{V}/nodePools", _make_pool, takes=models.CreateNodePoolDetails),
    Route("GET", f"{V}/nodePools", _list("nodepool"), gives=models.NodePoolSummary),
    Route("GET", f"{V}/nodePools/{{id}}", _show("nodepool"), gives=models.NodePool),
    Route("PUT", f"{V}/nodePools/{{id}}", _change_pool, takes=models.UpdateNodePoolDetails),
    Route("DELETE", f"{V}/nodePools/{{id}}", _delete("nodepool")),
    Route("GET", f"{V}/clusterOptions/{{option}}", _options, gives=models.ClusterOptions),
    Route("GET", f"{V}/nodePoolOptions/{{option}}", _pool_options, gives=models.NodePoolOptions),
    Route("GET", f"{V}/workRequests/{{id}}", _show("workrequest"), gives=models.WorkRequest),
    Route("GET", f"{V}/workRequests/{{id}}/errors", _list_errors, gives=models.WorkRequestError),
)
