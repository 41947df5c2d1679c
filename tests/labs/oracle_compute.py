"""The machines of `tests.labs.oracle`: shapes, images, instances, boot volumes, and what refuses them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Any

from oci.core import models

from tests.labs.oracle_tenancy import Call, Refusal, Route, Tenancy, Thing, not_found

__all__ = ["IMAGES", "ROUTES", "SHAPES", "free_hosts", "used"]


def _fixed(name: str, ocpus: int, memory: int, gpus: int = 0, gpu: str = "") -> dict[str, Any]:
    words = {"shape": name, "ocpus": ocpus, "memoryInGBs": memory, "gpus": gpus, "isFlexible": False}
    quota = (
        f"{'bm' if name.startswith('BM') else 'vm'}-{name.split('.', 1)[1].lower().replace('.', '-')}-count"
    )
    return {**words, "gpuDescription": gpu or None, "quotaNames": [quota]}


def _flexible(name: str, family: str, ocpus: int, memory: int, most_each: int = 64) -> dict[str, Any]:
    return {
        "shape": name,
        "ocpus": 1,
        "memoryInGBs": 16,
        "gpus": 0,
        "isFlexible": True,
        "ocpuOptions": {"min": 1, "max": ocpus},
        "memoryOptions": {
            "minInGBs": 1,
            "maxInGBs": memory,
            "defaultPerOcpuInGBs": 16,
            "minPerOcpuInGBs": 1,
            "maxPerOcpuInGBs": most_each,
        },
        "quotaNames": [f"{family}-core-count", f"{family}-memory-count"],
    }


SHAPES = (
    _flexible("VM.Standard.E4.Flex", "standard-e4", 114, 1760),
    _flexible("VM.Standard.E5.Flex", "standard-e5", 126, 2098),
    _flexible("VM.Standard.A1.Flex", "standard-a1", 80, 512),
    _fixed("VM.Standard2.1", 1, 15),
    _fixed("VM.GPU2.1", 12, 72, 1, "NVIDIA® Tesla® P100"),
    _fixed("VM.GPU.A10.1", 15, 240, 1, "NVIDIA® A10"),
    _fixed("VM.GPU3.2", 12, 180, 2, "NVIDIA® Tesla® V100"),
    _fixed("BM.GPU.H100.8", 112, 2048, 8, "NVIDIA® H100"),
)

IMAGES = (
    ("Canonical-Ubuntu-24.04-2026.08.31-0", "Canonical Ubuntu", "24.04", "x86"),
    ("Canonical-Ubuntu-24.04-2026.09.30-0", "Canonical Ubuntu", "24.04", "x86"),
    ("Canonical-Ubuntu-24.04-aarch64-2026.09.30-0", "Canonical Ubuntu", "24.04", "arm"),
    ("Canonical-Ubuntu-22.04-2026.09.30-0", "Canonical Ubuntu", "22.04", "x86"),
    ("Oracle-Linux-9.6-2026.09.16-0", "Oracle Linux", "9", "x86"),
    ("Oracle-Linux-9.6-aarch64-2026.09.16-0", "Oracle Linux", "9", "arm"),
    ("Oracle-Linux-9.6-Gen2-GPU-2026.09.16-0", "Oracle Linux", "9", "gpu"),
    ("Oracle-Linux-7.8-2020.09.23-0", "Oracle Linux", "7.8", "x86"),
    ("Oracle-Linux-7.8-Gen2-GPU-2020.09.23-0", "Oracle Linux", "7.8", "gpu"),
)
"""Name, system, version and what they run on; an image of a customer is added with `Tenancy.add`."""

ENDED = {"TERMINATED", "TERMINATING"}


def used(tenancy: Tenancy, limit: str, domain: str) -> int:
    """Return how much of a limit's resource the machines of an availability domain take."""
    total = 0.0
    for machine in tenancy.of("instance", availabilityDomain=domain):
        shape = _shape(machine.words["shape"])
        if machine.state not in ENDED and limit in shape["quotaNames"]:
            total += _amount(limit, shape, machine.words["shapeConfig"])
    return int(total)


def free_hosts(tenancy: Tenancy, shape: str, domain: str) -> float:
    """Return the OCPUs that the hosts of an availability domain have left for a shape."""
    taken = sum(
        machine.words["shapeConfig"]["ocpus"]
        for machine in tenancy.of("instance", availabilityDomain=domain, shape=shape)
        if machine.state not in ENDED
    )
    return float(tenancy.hosts.get(shape, 1_000_000) - taken)


def _amount(limit: str, shape: dict[str, Any], config: dict[str, Any]) -> float:
    if limit.endswith("-core-count"):
        return float(config["ocpus"])
    return float(config["memoryInGBs"]) if limit.endswith("-memory-count") else 1.0


def _shape(name: str) -> dict[str, Any]:
    for shape in SHAPES:
        if shape["shape"] == name:
            return shape
    raise Refusal(400, "InvalidParameter", f"Shape {name} not found.")


def _kind_of(shape: dict[str, Any]) -> str:
    return "gpu" if shape["gpus"] else "arm" if ".A1." in shape["shape"] else "x86"


def _fits(image: Thing, shape: dict[str, Any]) -> bool:
    kinds = {"gpu": {"gpu", "x86"}}.get(_kind_of(shape), {_kind_of(shape)})
    return image.hidden.get("runs_on", "x86") in kinds


def _list_shapes(call: Call) -> list[dict[str, Any]]:
    call.compartment(call.need("compartmentId"))
    domain = call.query.get("availabilityDomain")
    if domain and domain not in call.tenancy.domains:
        raise Refusal(400, "InvalidParameter", f"There is no availability domain {domain}.")
    return list(SHAPES)


def _images(call: Call) -> Iterator[Thing]:
    if not any(call.tenancy.of("image")):
        for name, system, version, runs_on in IMAGES:
            words = {"displayName": name, "operatingSystem": system, "operatingSystemVersion": version}
            more = {"createImageAllowed": True, "compartmentId": call.tenancy.id, "sizeInMBs": 47694}
            image = call.tenancy.add(
                "image", {**words, **more, "lifecycleState": "AVAILABLE"}, runs_on=runs_on
            )
            day = name.split("-")[-2].replace(".", "-")
            image.words["timeCreated"] = f"{day}T00:00:00Z"
    yield from call.tenancy.of("image")


def _list_images(call: Call) -> list[dict[str, Any]]:
    call.compartment(call.need("compartmentId"))
    shape = _shape(call.query["shape"]) if call.query.get("shape") else None
    wanted = {
        "displayName": call.query.get("displayName"),
        "operatingSystem": call.query.get("operatingSystem"),
        "lifecycleState": call.query.get("lifecycleState"),
    }
    return [
        image.words
        for image in _images(call)
        if (shape is None or _fits(image, shape))
        and all(value in (None, image.words.get(key)) for key, value in wanted.items())
    ]


def _launch(call: Call) -> dict[str, Any]:
    body, tenancy = call.body, call.tenancy
    compartment = call.compartment(body["compartmentId"])
    domain = body["availabilityDomain"]
    if domain not in tenancy.domains:
        raise not_found()
    shape = _shape(body.get("shape", ""))
    config = _config(shape, body.get("shapeConfig"))
    source = body.get("sourceDetails") or {}
    image = next((one for one in _images(call) if one.id == source.get("imageId")), None)
    if image is None:
        raise not_found()
    if not _fits(image, shape):
        raise Refusal(400, "InvalidParameter", f"Shape {shape['shape']} is not valid for image {image.id}.")
    size = source.get("bootVolumeSizeInGBs", 50)
    if not 50 <= size <= 32768:
        raise Refusal(400, "InvalidParameter", f"Boot volume size {size} must be between 50 and 32768 GB.")
    if sum(len(key) + len(value) for key, value in (body.get("metadata") or {}).items()) > 32000:
        raise Refusal(400, "InvalidParameter", "Metadata size limit exceeded.")
    if body.get("preemptibleInstanceConfig") and shape["shape"].startswith("BM."):
        raise Refusal(400, "InvalidParameter", "Preemptible instances are not supported for bare metal.")
    subnet = _subnet(call, body.get("createVnicDetails") or {}, domain)
    _refuse(tenancy, shape, config, domain)
    return _begin(call, compartment, shape, config, image, subnet).words


def _config(shape: dict[str, Any], asked: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a machine of this shape has, its vCPUs included."""
    if shape["isFlexible"]:
        if not asked or "ocpus" not in asked:
            raise Refusal(400, "InvalidParameter", f"Shape {shape['shape']} needs shapeConfig with ocpus.")
        ocpus, options, memory = asked["ocpus"], shape["ocpuOptions"], shape["memoryOptions"]
        gigabytes = asked.get("memoryInGBs", ocpus * memory["defaultPerOcpuInGBs"])
        if not options["min"] <= ocpus <= options["max"]:
            raise Refusal(400, "InvalidParameter", f"{ocpus} OCPUs are not between the shape's limits.")
        least = max(memory["minInGBs"], ocpus * memory["minPerOcpuInGBs"])
        most = min(memory["maxInGBs"], ocpus * memory["maxPerOcpuInGBs"])
        if not least <= gigabytes <= most:
            raise Refusal(400, "InvalidParameter", f"{gigabytes} GB are not between {least} and {most}.")
    elif asked:
        raise Refusal(400, "InvalidParameter", f"Shape {shape['shape']} is not flexible: no shapeConfig.")
    else:
        ocpus, gigabytes = shape["ocpus"], shape["memoryInGBs"]
    each = 1 if _kind_of(shape) == "arm" else 2
    return {"ocpus": ocpus, "memoryInGBs": gigabytes, "vcpus": int(ocpus * each), "gpus": shape["gpus"]}


def _subnet(call: Call, vnic: dict[str, Any], domain: str) -> Thing:
    subnet = call.tenancy.things.get(vnic.get("subnetId", ""))
    if subnet is None or subnet.kind != "subnet" or not subnet.lives:
        raise not_found()
    call.compartment(subnet.words["compartmentId"])
    if subnet.words.get("availabilityDomain") not in (None, domain):
        raise Refusal(400, "InvalidParameter", "The subnet is of another availability domain.")
    if subnet.words["prohibitPublicIpOnVnic"] and vnic.get("assignPublicIp"):
        raise Refusal(400, "InvalidParameter", "The subnet prohibits public addresses.")
    return subnet


def _refuse(tenancy: Tenancy, shape: dict[str, Any], config: dict[str, Any], domain: str) -> None:
    """Raise Refusal where limits, quotas or hosts do not have it."""
    for name in shape["quotaNames"]:
        wanted = used(tenancy, name, domain) + _amount(name, shape, config)
        if wanted > tenancy.limits.get(name, 1_000_000):
            raise Refusal(
                400,
                "LimitExceeded",
                f"The following service limits were exceeded: {name}. Request a service limit increase from "
                "the service limits page in the console.",
            )
        if wanted > tenancy.quotas.get(name, 1_000_000):
            raise Refusal(400, "QuotaExceeded", f"The following compartment quotas were exceeded: {name}.")
    if config["ocpus"] > free_hosts(tenancy, shape["shape"], domain):
        raise Refusal(500, "InternalError", "Out of host capacity.")


def _begin(
    call: Call, compartment: str, shape: dict[str, Any], config: dict[str, Any], image: Thing, subnet: Thing
) -> Thing:
    body, tenancy = call.body, call.tenancy
    here = {"compartmentId": compartment, "availabilityDomain": body["availabilityDomain"]}
    kept = ("displayName", "freeformTags", "metadata", "preemptibleInstanceConfig", "instanceOptions")
    machine = tenancy.add(
        "instance",
        {
            **here,
            **{key: body[key] for key in kept if key in body},
            "shape": shape["shape"],
            "shapeConfig": config,
            "region": tenancy.region,
            "imageId": image.id,
            "sourceDetails": body["sourceDetails"],
            "agentConfig": {
                key: value
                for key, value in (body.get("agentConfig") or {}).items()
                if key in {"isMonitoringDisabled", "isManagementDisabled", "areAllPluginsDisabled"}
            },
        },
    )
    machine.become("PROVISIONING", "RUNNING", tenancy.seconds)
    _begin_parts(call, machine, subnet, here)
    return machine


def _begin_parts(call: Call, machine: Thing, subnet: Thing, here: dict[str, Any]) -> None:
    """Make the card and the disk of a machine, and what ties them to it."""
    body, tenancy = call.body, call.tenancy
    vnic_asked = body.get("createVnicDetails") or {}
    public, private = tenancy.address(machine)
    assign = vnic_asked.get("assignPublicIp", not subnet.words["prohibitPublicIpOnVnic"])
    vnic = tenancy.add(
        "vnic",
        {
            **here,
            "subnetId": subnet.id,
            "isPrimary": True,
            "privateIp": private,
            "freeformTags": vnic_asked.get("freeformTags") or {},
            "lifecycleState": "AVAILABLE",
        },
    )
    if assign:
        vnic.words["publicIp"] = public
    attached = {**here, "instanceId": machine.id}
    tenancy.add(
        "vnicattachment",
        {**attached, "vnicId": vnic.id, "subnetId": subnet.id, "lifecycleState": "ATTACHED"},
    )
    name = f"{body.get('displayName', 'instance')} (Boot Volume)"
    size = (body["sourceDetails"]).get("bootVolumeSizeInGBs", 50)
    volume = tenancy.add(
        "bootvolume",
        {
            **here,
            "displayName": name,
            "sizeInGBs": size,
            "sizeInMBs": size * 1024,
            "lifecycleState": "AVAILABLE",
        },
    )
    tenancy.add(
        "bootvolumeattachment",
        {**attached, "bootVolumeId": volume.id, "lifecycleState": "ATTACHED"},
    )


def _list_instances(call: Call) -> list[dict[str, Any]]:
    compartment = call.compartment(call.need("compartmentId"))
    state, name = call.query.get("lifecycleState"), call.query.get("displayName")
    return [
        machine.words
        for machine in call.tenancy.of("instance", compartmentId=compartment)
        if state in (None, machine.state) and name in (None, machine.words.get("displayName"))
    ]


def _terminate(call: Call) -> None:
    machine = call.thing("instance")
    if not machine.lives:
        raise not_found()
    if machine.state == "TERMINATING":
        return
    machine.become("TERMINATING", "TERMINATED", call.tenancy.seconds)
    keep = call.query.get("preserveBootVolume", "false") == "true"
    release(call.tenancy, machine, keep)


def release(tenancy: Tenancy, machine: Thing, keep_volume: bool) -> None:
    """Let the parts of a machine that ends go with it."""
    until = machine.plan[0][0]
    for kind in ("vnicattachment", "bootvolumeattachment"):
        for attachment in tenancy.of(kind, instanceId=machine.id):
            attachment.words["lifecycleState"] = "DETACHING"
            attachment.plan = [(until, "DETACHED")]
            part = tenancy.things[attachment.words.get("vnicId") or attachment.words["bootVolumeId"]]
            if kind == "vnicattachment" or not keep_volume:
                part.words["lifecycleState"] = "TERMINATING"
                part.plan = [(until, "TERMINATED")]


def _act(call: Call) -> dict[str, Any]:
    machine, action = call.thing("instance"), call.need("action")
    if machine.state not in {"RUNNING", "STOPPED"}:
        raise Refusal(409, "IncorrectState", f"The instance is {machine.state}.")
    if machine.words.get("preemptibleInstanceConfig"):
        raise Refusal(409, "IncorrectState", "Preemptible instances cannot be stopped or started.")
    if action in {"STOP", "SOFTSTOP"}:
        machine.become("STOPPING", "STOPPED", call.tenancy.seconds)
    elif action in {"START", "RESET", "SOFTRESET"}:
        machine.become("STARTING", "RUNNING", call.tenancy.seconds)
    else:
        raise Refusal(400, "InvalidParameter", f"There is no action {action}.")
    return machine.words


def _list_attachments(kind: str) -> Any:
    def work(call: Call) -> list[dict[str, Any]]:
        compartment = call.compartment(call.need("compartmentId"))
        keys = ("availabilityDomain", "instanceId", "vnicId", "bootVolumeId")
        wanted = {key: call.query[key] for key in keys if key in call.query}
        if kind == "bootvolumeattachment":
            call.need("availabilityDomain")
        return [one.words for one in call.tenancy.of(kind, compartmentId=compartment, **wanted)]

    return work


def _list_volumes(call: Call) -> list[dict[str, Any]]:
    compartment = call.compartment(call.need("compartmentId"))
    domain = call.query.get("availabilityDomain")
    return [
        volume.words
        for volume in call.tenancy.of("bootvolume", compartmentId=compartment)
        if domain in (None, volume.words["availabilityDomain"])
    ]


def _change_volume(call: Call) -> dict[str, Any]:
    volume = call.thing("bootvolume")
    volume.words.update(call.body)
    return volume.words


def _delete_volume(call: Call) -> None:
    volume = call.thing("bootvolume")
    if not volume.lives:
        raise not_found()
    attached = call.tenancy.of("bootvolumeattachment", bootVolumeId=volume.id)
    if any(one.lives for one in attached):
        raise Refusal(409, "Conflict", f"The boot volume {volume.id} is attached.")
    volume.become("TERMINATED")


def _report(call: Call) -> dict[str, Any]:
    if "capacityreport" in call.user.forbidden or call.body["compartmentId"] != call.tenancy.id:
        raise not_found()
    said = []
    for asked in call.body["shapeAvailabilities"]:
        shape = _shape(asked["instanceShape"])
        each = (asked.get("instanceShapeConfig") or {}).get("ocpus") or shape["ocpus"]
        count = int(free_hosts(call.tenancy, shape["shape"], call.body["availabilityDomain"]) // each)
        status = "AVAILABLE" if count > 0 else "OUT_OF_HOST_CAPACITY"
        said.append({**asked, "availabilityStatus": status, "availableCount": max(0, min(count, 1000))})
    return {**call.body, "shapeAvailabilities": said, "timeCreated": "2026-01-01T00:00:00Z"}


def _show(*kinds: str) -> Any:
    def work(call: Call) -> dict[str, Any]:
        return call.thing(*kinds).words

    return work


def _show_image(call: Call) -> dict[str, Any]:
    return (
        next((one.words for one in _images(call) if fnmatch.fnmatchcase(one.id, call.parts["id"])), None)
        or _none()
    )


def _none() -> dict[str, Any]:
    raise not_found()


V = "/20160918"
ROUTES = (
    Route("GET", f"{V}/shapes", _list_shapes, gives=models.Shape),
    Route("GET", f"{V}/images", _list_images, gives=models.Image),
    Route("GET", f"{V}/images/{{id}}", _show_image, gives=models.Image),
    Route("POST", f"{V}/instances", _launch, takes=models.LaunchInstanceDetails, gives=models.Instance),
    Route("GET", f"{V}/instances", _list_instances, gives=models.Instance),
    Route("GET", f"{V}/instances/{{id}}", _show("instance"), gives=models.Instance),
    Route("DELETE", f"{V}/instances/{{id}}", _terminate),
    Route("POST", f"{V}/instances/{{id}}", _act, gives=models.Instance),
    Route("GET", f"{V}/vnicAttachments", _list_attachments("vnicattachment"), gives=models.VnicAttachment),
    Route("GET", f"{V}/vnics/{{id}}", _show("vnic"), gives=models.Vnic),
    Route(
        "GET",
        f"{V}/bootVolumeAttachments",
        _list_attachments("bootvolumeattachment"),
        gives=models.BootVolumeAttachment,
    ),
    Route("GET", f"{V}/bootVolumes", _list_volumes, gives=models.BootVolume),
    Route("GET", f"{V}/bootVolumes/{{id}}", _show("bootvolume"), gives=models.BootVolume),
    Route(
        "PUT",
        f"{V}/bootVolumes/{{id}}",
        _change_volume,
        takes=models.UpdateBootVolumeDetails,
        gives=models.BootVolume,
    ),
    Route("DELETE", f"{V}/bootVolumes/{{id}}", _delete_volume),
    Route(
        "POST",
        f"{V}/computeCapacityReports",
        _report,
        takes=models.CreateComputeCapacityReportDetails,
        gives=models.ComputeCapacityReport,
    ),
)
