"""What a cluster of Oracle's container engine is made of: version, shape, image of the nodes, networks."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from gridcloud.clusters.model import ClusterRequest
from gridcloud.drivers.clusters.oke_settings import OKESettings
from gridcloud.drivers.oracle import Wire, find_compartment, gather
from gridcloud.drivers.oracle_shapes import cpus_of_ocpu, cut_shape, read_shape
from gridcloud.errors import InvalidRequest, InvalidSettings
from gridcloud.instances.model import Shape

__all__ = ["OKEChoices"]

GIB = 1024**3


class OKEChoices:
    """What one provider has to choose from."""

    def __init__(self, wire: Wire, settings: OKESettings, provider: str) -> None:
        self._wire = wire
        self._settings = settings
        self._provider = provider
        self._compartment = ""

    async def compartment(self) -> str:
        """Return the OCID of the compartment. Raises InvalidSettings."""
        self._compartment = self._compartment or await find_compartment(
            self._wire, self._settings.compartment, self._provider
        )
        return self._compartment

    async def domains(self) -> list[str]:
        """Return the availability domains that nodes are spread over."""
        compartment = await self.compartment()
        found = await self._wire.pages("identity", "list_availability_domains", compartment)
        return [one.name for one in found]

    async def plan(self, request: ClusterRequest) -> dict[str, Any]:
        """Return all that a cluster needs, small enough for a handle. Raises InvalidRequest, InvalidSettings."""
        networks, versions, shape = await gather(self.networks(), self.versions(), self._shape(request))
        version = self._version(request.version or self._settings.kubernetes, versions)
        name, ocpus, memory, gpus = shape
        image = await self._image(version, name, gpus)
        words = {"version": version, "shape": name, "ocpus": ocpus, "memory": memory, "image": image}
        return {**networks, **words, "nodes": request.nodes}

    async def versions(self) -> list[str]:
        """Return the versions of Kubernetes that Oracle has, the newest first, as Oracle writes them."""
        options = await self._wire.call(
            "clusters", "get_cluster_options", "all", compartment_id=await self.compartment()
        )
        return sorted(options.kubernetes_versions or (), key=_numbers, reverse=True)

    async def networks(self) -> dict[str, Any]:
        """Return the VCN and its subnets by OCID. Raises InvalidSettings when one is not there."""
        settings = self._settings
        vcn = settings.vcn
        if not vcn.startswith("ocid1.vcn."):
            named = await self._wire.pages("network", "list_vcns", await self.compartment(), display_name=vcn)
            vcn = self._only(named, "vcn", settings.vcn)
        there = await self._wire.pages("network", "list_subnets", await self.compartment(), vcn_id=vcn)

        def find(field: str, wanted: str) -> str:
            if wanted.startswith("ocid1.subnet."):
                return wanted
            return self._only([one for one in there if one.display_name == wanted], field, wanted)

        balancers = [find("load_balancer_subnets", one) for one in settings.load_balancer_subnets]
        api, node = find("api_subnet", settings.api_subnet), find("node_subnet", settings.node_subnet)
        return {"vcn": vcn, "api": [api, *balancers], "node": node}

    async def default_shape(self) -> str:
        """Return the shape of nodes for which none is asked. Raises InvalidRequest."""
        return (await self._shape(ClusterRequest()))[0]

    async def node(self, request: ClusterRequest) -> Shape:
        """Return the shape of each node. That of a flexible one tells its OCPUs and GB in its name, for prices go by
        names, and every size has its own. Raises InvalidRequest."""
        name, ocpus, memory, gpus = await self._shape(request)
        full = f"{name}:{ocpus:g}:{memory:g}" if ocpus else name
        return Shape(name=full, cpus=ocpus * cpus_of_ocpu(name), memory=int(memory * GIB), gpus=gpus)

    async def _shape(self, request: ClusterRequest) -> tuple[str, float, float, int]:
        """Return name, OCPUs, GB (both 0 where the shape is not flexible) and GPUs of a node: of the shape that is
        named, else of the smallest that has what is asked."""
        shapes = await self._wire.pages("compute", "list_shapes", await self.compartment())
        allowed = {
            one.shape: one
            for one in shapes
            if any(fnmatch.fnmatchcase(one.shape, pattern) for pattern in self._settings.shapes)
        }
        asks = bool(request.cpus or request.memory or request.gpus)
        wanted = request.shape or ("" if asks else self._settings.shape)
        if wanted and wanted not in allowed:
            names = ", ".join(sorted(allowed)[:12])
            raise InvalidRequest(
                f"{self._provider}: there is no shape {wanted!r:.80} that may be taken.",
                remedy=f"There are: {names}.",
            )
        found = []
        for one in [allowed[wanted]] if wanted else allowed.values():
            ocpus, memory = one.ocpus or 0, one.memory_in_gbs or 0
            if one.is_flexible:
                cpus = request.cpus or self._settings.cpus
                ocpus, memory = cut_shape(one, cpus, request.memory or self._settings.memory)
            shape = read_shape(one, ocpus, memory, self._settings.disk)
            if shape.cpus >= request.cpus and shape.memory >= request.memory and shape.gpus >= request.gpus:
                sizes = (ocpus, memory) if one.is_flexible else (0.0, 0.0)
                default = one.shape != self._settings.shape
                found.append(((shape.gpus, shape.cpus, default, shape.memory, one.shape), sizes))
        if not found:
            raise InvalidRequest(
                f"{self._provider}: no shape that may be taken has all that is asked of a node."
            )
        (gpus, _, _, _, name), sizes = min(found)
        return name, *sizes, gpus

    def _version(self, wanted: str, versions: list[str]) -> str:
        """Return the newest of the versions that begin with the wanted one."""
        numbers = _numbers(wanted)
        fitting = [one for one in versions if _numbers(one)[: len(numbers)] == numbers]
        if not fitting:
            there = ", ".join(one.removeprefix("v") for one in versions)
            raise InvalidRequest(
                f"{self._provider}: there is no Kubernetes {wanted!r:.40}.", remedy=f"There are: {there}."
            )
        return fitting[0]

    async def _image(self, version: str, shape: str, gpus: int) -> str:
        """Return the newest image of Oracle's for nodes of this version and kind of shape."""
        options = await self._wire.call(
            "clusters", "get_node_pool_options", "all", compartment_id=await self.compartment()
        )
        edition = "Gen2-GPU" if gpus else "aarch64" if re.search(r"\.A\d+\.", shape) else ""
        found = [
            (_numbers(one.source_name), one.image_id)
            for one in options.sources or ()
            if f"-OKE-{version.removeprefix('v')}-" in one.source_name
            and all((name in one.source_name) is (name == edition) for name in ("Gen2-GPU", "aarch64"))
        ]
        if not found:
            raise InvalidSettings(f"{self._provider}: Oracle has no image for nodes of {version} on {shape}.")
        return str(max(found)[1])

    def _only(self, found: list[Any], field: str, wanted: str) -> str:
        if len(found) == 1:
            return str(found[0].id)
        what = f"there are {len(found)}" if found else "there is no network"
        raise InvalidSettings(
            f"{self._provider}: {what} named {wanted!r:.80}.",
            remedy=f"Set '{field}' to an OCID, or mend the name.",
        )


def _numbers(text: str) -> list[int]:
    """Return the numbers in a version or a name, for comparing."""
    return [int(one) for one in re.findall(r"\d+", text)]
