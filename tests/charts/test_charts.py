"""The Helm chart as Helm itself renders and refuses it; applied to a cluster in `test_charts_applied`.

A golden file is written anew by WRITE_GOLDEN=1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gridcloud.drivers.instances.kubernetes_settings import KubernetesSettings
from gridcloud.settings import Settings
from gridcloud.settings.reading import parse_settings
from tests.docs.pages import blocks
from tests.labs.helm import helm, kept_helm, missing_for_helm

HERE = Path(__file__).parent
CHART = HERE.parents[1] / "charts" / "gridcloud"

Manifest = dict[str, Any]
Render = Callable[..., tuple[str, str]]


@pytest.fixture
def render(tmp_path: Path) -> Render:
    """Render the chart with a file of values and settings of single ones; the manifests, or "" and Helm's refusal."""
    if why := missing_for_helm():
        pytest.skip(f"NOT TESTED: {why}")
    if kept_helm() is None:
        pytest.skip("NOT TESTED: the Helm chart, until Helm is fetched: python -m tests.labs")

    def render(values: str = "small", *single: str, words: tuple[str, ...] = ()) -> tuple[str, str]:
        command = ["template", "house", str(CHART), "--namespace", "hubs", *words]
        command[3:3] = ["--values", str(HERE / "values" / f"{values}.yaml")]
        for one in single:
            command += ["--set-json" if one.partition("=")[2].startswith(("{", "[")) else "--set", one]
        done = helm(*command, folder=tmp_path)
        return ("", done.stderr) if done.returncode else (done.stdout, done.stderr)

    return render


def read(text: str) -> dict[tuple[str, str], Manifest]:
    """Manifests by kind and name."""
    documents = [one for one in yaml.safe_load_all(text) if one]
    found = {(one["kind"], one["metadata"]["name"]): one for one in documents}
    assert len(found) == len(documents)
    return found


def configuration(manifests: dict[tuple[str, str], Manifest]) -> Settings:
    """What gridcloud makes of the ConfigMap, in a pod that has its secrets."""
    text = manifests["ConfigMap", "house-gridcloud"]["data"]["config.yaml"]
    return parse_settings(text, "config.yaml", {"OIDC_SECRET": "x"})


@pytest.mark.parametrize("values", ["small", "institution", "trial"])
def test_the_chart_renders_as_it_did_and_lints(render: Render, values: str, tmp_path: Path) -> None:
    made, refused = render(values)
    assert made, refused
    golden = HERE / "golden" / f"{values}.yaml"
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(made)
    assert read(made) == read(golden.read_text())
    linted = helm("lint", "--strict", CHART, "--values", HERE / "values" / f"{values}.yaml", folder=tmp_path)
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("values", ["small", "institution", "trial"])
def test_gridcloud_takes_the_configuration_that_is_made(values: str) -> None:
    settings = configuration(read((HERE / "golden" / f"{values}.yaml").read_text()))
    assert settings.providers
    for provider in settings.providers.values():
        assert isinstance(provider, KubernetesSettings)
        assert provider.kubeconfig == "in-cluster"


def test_every_pod_is_as_the_restricted_standard_wants_it() -> None:
    manifests = read((HERE / "golden" / "institution.yaml").read_text())
    specs = [one["spec"]["template"]["spec"] for (kind, _), one in manifests.items() if kind == "Deployment"]
    assert len(specs) == 3
    for spec in specs:
        whole = spec["securityContext"]
        assert whole["runAsNonRoot"] is True
        assert whole["runAsUser"] > 0
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= set(container["resources"])


def test_no_right_in_the_whole_cluster_unless_asked(render: Render) -> None:
    wide = {"ClusterRole", "ClusterRoleBinding", "Namespace", "PriorityClass"}
    assert not wide & {kind for kind, _ in read(render("small")[0])}
    assert {"ClusterRole", "ClusterRoleBinding"} <= {
        kind for kind, _ in read(render("small", "rbac.clusterWide=true")[0])
    }
    rules = read(render("small")[0])["Role", "house-gridcloud"]["rules"]
    assert {one for rule in rules for one in rule["resources"]} == {
        "pods", "pods/exec", "resourcequotas", "limitranges", "events",
    }  # fmt: skip


def test_gpus_only_where_nodes_are_tainted_for_them() -> None:
    """DEP-06 and DEP-08: a pool with GPUs tolerates their taint, no other pool does, and its type is a label."""
    providers = configuration(read((HERE / "golden" / "institution.yaml").read_text())).providers
    cpu, a100, h100 = (providers[name] for name in ("cpu", "a100", "h100"))
    assert isinstance(cpu, KubernetesSettings)
    assert isinstance(a100, KubernetesSettings)
    assert isinstance(h100, KubernetesSettings)
    assert cpu.tolerations == ()
    assert [(one.key, one.operator) for one in a100.tolerations] == [("nvidia.com/gpu", "Exists")]
    assert [(one.key, one.value) for one in h100.tolerations] == [("gpu", "h100")]
    assert a100.node_selector == {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}
    assert h100.node_selector == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}


def test_limits_are_the_clusters_too() -> None:
    """DEP-08: the most of one session stands in the provider and in a LimitRange, which the API server enforces."""
    manifests = read((HERE / "golden" / "institution.yaml").read_text())
    (limits,) = manifests["LimitRange", "house-gridcloud"]["spec"]["limits"]
    assert limits == {"type": "Container", "max": {"cpu": "16", "memory": "64Gi"}}
    cpu = configuration(manifests).providers["cpu"]
    assert isinstance(cpu, KubernetesSettings)
    assert (cpu.cpus, cpu.memory) == (16, 64 << 30)


def test_a_session_is_reached_by_nobody() -> None:
    policy = read((HERE / "golden" / "small.yaml").read_text())["NetworkPolicy", "house-gridcloud-sessions"][
        "spec"
    ]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    names, internet = policy["egress"]
    assert {one["port"] for one in names["ports"]} == {53}
    assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(internet["to"][0]["ipBlock"]["except"])


def test_room_is_held_by_pods_that_leave_at_once() -> None:
    """DEP-05: what holds room has a priority below sessions', and so the autoscaler sees what is lacking."""
    manifests = read((HERE / "golden" / "institution.yaml").read_text())
    (name,) = (name for kind, name in manifests if kind == "PriorityClass")
    assert manifests["PriorityClass", name]["value"] < 0
    held = manifests["Deployment", "house-gridcloud-holds-h100"]["spec"]["template"]["spec"]
    assert held["priorityClassName"] == name
    assert held["terminationGracePeriodSeconds"] == 0
    assert held["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_an_older_cluster_gets_what_it_knows(render: Render) -> None:
    for version, wanted in (("1.20.2", "policy/v1beta1"), ("1.30.0", "policy/v1")):
        made, refused = render("institution", words=("--kube-version", version))
        assert read(made)["PodDisruptionBudget", "house-gridcloud-hub"]["apiVersion"] == wanted, refused
    assert "incompatible with Kubernetes" in render(words=("--kube-version", "1.19.0"))[1]


def test_the_values_of_the_guide_are_taken(render: Render, tmp_path: Path) -> None:
    said = [one for one in blocks(CHART.parents[1] / "docs/guide/helm.md") if one.language == "yaml"]
    assert len(said) == 3
    for number, block in enumerate(said):
        file = tmp_path / f"{number}.yaml"
        file.write_text("\n".join(block.lines))
        made, refused = render(words=("--values", str(file)))
        assert made, f"{block.place}: {refused}"
        text = read(made)["ConfigMap", "house-gridcloud"]["data"]["config.yaml"]
        parse_settings(text, block.place, {"CILOGON_SECRET": "x"})


REFUSED = {
    "image.tga=x": "at '/image': additional properties 'tga' not allowed",
    "image.tag=2026": "at '/image/tag': got number, want string",
    "image.repository=": "image.repository: say which image the hub has",
    "sessions.image=": "sessions.image: say which image sessions have",
    "sessions.runAsUser=0": "at '/sessions/runAsUser': minimum: got 0, want 1",
    "sessions.limit.memory=4Gi": "at '/sessions/limit/memory'",
    "sessions.pools.gpu.gpus=1": "at '/sessions/pools/gpu': additional properties 'gpus' not allowed",
    "sessions.pools.Gpu.cpus=1": "'Gpu' does not match pattern",
    "sessions.pools.cluster=null": "sessions.pools: there is no pool",
    "sessions.createNamespace=true": "name another as sessions.namespace",
    'sessions.pools.x={"placeholders":{"replicas":1,"cpu":1,"memory":"1Gi","gpus":1}}': "this pool has no GPUs",
    'config.providers={"cluster":{"driver":"fake"}}': "sessions.pools has a pool of this name",
    'config.providers={"here":{"driver":"local"}}': "local would run sessions in the hub's own pod",
    'config.profiles={"p":{"request":{"true":"cpu"}}}': "Helm reads the key on as true",
    "config.hub.port=1": "config.hub.port: this is the chart's to say",
    "config.store.url=x": "use storage.postgresql.secret",
    "secretEnvironment.KEY=word": "at '/secretEnvironment/KEY': got string, want object",
    "ingress.enabled=true": "at '/ingress/host': minLength",
    'ingress={"enabled":true,"host":"a.b"}': "at '/ingress/tlsSecret': minLength",
    'ingress={"enabled":true,"host":"a.b","tlsSecret":"c"}': "config.hub.authenticator: with an Ingress",
    "placeholders.priorityClass.value=1": "at '/placeholders/priorityClass/value': maximum",
    'networkPolicy.sessions.except=["10.0.0.0"]': "at '/networkPolicy/sessions/except/0'",
}  # fmt: skip


@pytest.mark.parametrize("value", REFUSED)
def test_a_value_that_means_nothing_is_refused(render: Render, value: str) -> None:
    made, refused = render("small", value)
    assert not made
    assert REFUSED[value] in refused
