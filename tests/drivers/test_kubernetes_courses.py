"""The folders of a course in pods."""

from __future__ import annotations

from gridcloud.drivers.instances.kubernetes_manifests import render_pod
from gridcloud.drivers.instances.kubernetes_settings import KubernetesSettings
from gridcloud.instances.model import Folder, Kind, Offer, Request, Shape, Spec

FOLDERS = (
    Folder(source="/srv/courses/p/handout", below="p/handout", at="physics/handout"),
    Folder(source="/srv/courses/p/shared", below="p/shared", at="physics/shared", read_only=False),
)


def spec() -> Spec:
    offer = Offer(provider="pods", kind=Kind.CONTAINER, shape=Shape(cpus=1, memory=1 << 30), image="image:1")
    return Spec(id="i-one", owner="ada", request=Request(cpus=1), offer=offer, folders=FOLDERS)


def test_a_pod_has_its_courses_folders_from_the_volume_of_all_courses() -> None:
    settings = KubernetesSettings.model_validate(
        {"driver": "kubernetes", "image": "image:1", "course_claim": "courses"}
    )
    pod = render_pod(spec(), settings, "house-1", None)["spec"]
    assert {"name": "courses", "persistentVolumeClaim": {"claimName": "courses"}} in pod["volumes"]
    mounts = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "courses"]
    assert [(one["mountPath"], one["subPath"], one["readOnly"]) for one in mounts] == [
        ("/gridcloud/courses/physics/handout", "p/handout", True),
        ("/gridcloud/courses/physics/shared", "p/shared", False),
    ]


def test_a_pod_without_that_volume_has_none() -> None:
    settings = KubernetesSettings.model_validate({"driver": "kubernetes", "image": "image:1"})
    assert "courses" not in str(render_pod(spec(), settings, "house-1", None))
