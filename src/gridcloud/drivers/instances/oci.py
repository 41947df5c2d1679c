"""Virtual machines of Oracle's cloud.

Machines are found again by their tags, made once by Oracle's retry tokens, and watched with one listing for all.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from gridcloud.drivers.instances.oci_choices import Choices
from gridcloud.drivers.instances.oci_disks import Disks
from gridcloud.drivers.instances.oci_network import PARTS, Network
from gridcloud.drivers.instances.oci_settings import OCISettings
from gridcloud.drivers.instances.oci_shapes import price_shape, wanted_images
from gridcloud.drivers.oracle import ENDED, Wire, gather, is_ours, make_once
from gridcloud.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    NotFound,
    Rejected,
    TimedOut,
    Transient,
)
from gridcloud.instances import cloud, first_boot
from gridcloud.instances.bootstraps import dials
from gridcloud.instances.choosing import PricedShape, choose_image, choose_locations, choose_shapes
from gridcloud.instances.driver import Context
from gridcloud.instances.model import (
    SHARED,
    Discovery,
    Finding,
    Found,
    Handle,
    Holding,
    Observation,
    Offer,
    Phase,
    Request,
    Spec,
    Step,
)
from gridcloud.settings import ProviderSettings

__all__ = ["OCIDriver"]

INSTALLATION = "gridcloud-installation"
PROVIDER = "gridcloud-provider"
INSTANCE = "gridcloud-instance"
NAMED = "gridcloud-"
"""What a machine's name begins with; its instance's id follows."""
LARGEST_METADATA = 32000
"""Bytes of metadata that a machine may be given, its user data in base64 included."""
OFFER_SECONDS = 9.0
LEAVING_SECONDS = 40.0
"""How long the removal of the network waits for machines that are on their way out."""
ENDING = ENDED | {"STOPPED", "STOPPING"}


class OCIDriver(cloud.CloudDriver):
    """Machines of one compartment and region. ``observe`` is one listing, with two more calls for each new machine."""

    Settings: ClassVar[type[ProviderSettings]] = OCISettings

    def __init__(self, settings: ProviderSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.settings: OCISettings = cast(OCISettings, settings)
        self._tags = {INSTALLATION: context.installation[:256], PROVIDER: context.provider[:256]}
        self._wire = Wire(self.settings, context.provider)
        self._choices = Choices(self._wire, self.settings, context.provider)
        name = f"gridcloud-{context.provider}"[:255]
        self._network = Network(self._wire, self.settings, {**self._tags, INSTANCE: SHARED}, name)
        self._disks = Disks(self._wire, self._tags, INSTANCE, NAMED)
        self._hosts: dict[str, str] = {}
        self._counting = asyncio.Lock()

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Choose image, shape, availability domain and network; see the contract."""
        try:
            async with asyncio.timeout(OFFER_SECONDS):
                return await self._offers(request)
        except TimeoutError as error:
            raise TimedOut(f"{self.context.provider}: Oracle did not answer in time.") from error
        except NotFound as error:
            raise InvalidSettings(error.message, remedy=error.remedy) from error

    async def make(self, spec: Spec, user_data: str, host_key: str) -> Handle:
        """Launch the machine, unless one for this id is there; see the contract."""
        choice = spec.offer.choice
        if not {"shape", "image", "disk"} <= set(choice):
            raise InvalidRequest(
                f"{self.context.provider}: the offer for {spec.id} is not one of this driver's."
            )
        try:
            compartment = await self._choices.compartment()
            if not self.settings.instances:
                return await self._make(spec, compartment, user_data)
            async with self._counting:
                return await self._make(spec, compartment, user_data)
        except NotFound as error:
            self._choices.forget()
            raise Forbidden(error.message, remedy=error.remedy) from error

    async def look(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Look at all machines with one listing; see the contract."""
        try:
            compartment = await self._choices.compartment()
            await self._check_compartment(compartment, *handles.values())
            listed = await self._wire.pages("compute", "list_instances", compartment)
        except NotFound as error:
            # May not be seen any more: nothing is known, and surely not that it is gone.
            raise Transient(error.message, remedy=error.remedy) from error
        machines = {one.id: one for one in listed}
        seen = await gather(*(self._observe(id_, handle, machines) for id_, handle in handles.items()))
        return dict(zip(handles, seen, strict=True))

    async def remove(self, instance_id: str, handle: Handle | None) -> None:
        """Terminate the machine with its boot volume; see the contract."""
        try:
            compartment = await self._choices.compartment()
            await self._check_compartment(compartment, *([handle] if handle else []))
            if instance_id == SHARED:
                await self._remove_network(compartment)
                return
            for machine in await self._machines(compartment, instance_id):
                await self._terminate(machine.id)
            if handle is not None:
                await self._terminate_handled(instance_id, handle)
            for _, volume in await self._disks.left(compartment, instance_id):
                await self._disks.delete(volume)
        except NotFound as error:
            raise Transient(
                f"It is not certain that {instance_id} is gone: {error.message}", remedy=error.remedy
            ) from error
        except Conflict as error:
            raise Transient(f"It is not certain that {instance_id} is gone: {error.message}") from error

    async def holdings(self) -> Sequence[Holding]:
        """List our machines, boot volumes and parts of the network; see the contract."""
        try:
            compartment = await self._choices.compartment()
            machines, volumes, parts = await gather(
                self._machines(compartment), self._disks.left(compartment), self._network.parts(compartment)
            )
        except NotFound as error:
            raise Transient(error.message, remedy=error.remedy) from error
        found = [
            Holding(
                instance_id=one.freeform_tags[INSTANCE],
                what="machine",
                name=one.id,
                created=one.time_created,
                handle=self._handle(one.freeform_tags[INSTANCE], one),
            )
            for one in machines
        ]
        found += [
            Holding(instance_id=owner, what="disk", name=one.id, created=one.time_created)
            for owner, one in volumes
        ]
        found += [
            Holding(instance_id=SHARED, what=PARTS[kind], name=one.id, created=one.time_created)
            for kind, one in parts
        ]
        return found

    async def check(self) -> Sequence[Finding]:
        """Try key, region, compartment, image, network, limits and prices, one after another; see the contract."""
        from gridcloud.drivers.instances.oci_check import check_account

        return await check_account(self._wire, self._choices, self.settings)

    async def close(self) -> None:
        """Close the connections."""
        await self._wire.close()

    async def images(self) -> Sequence[str]:
        """Return the names of images that a request may ask for."""
        allowed = (self.settings.image, *self.settings.images)
        there = await self._choices.images()
        return sorted({one.name for pattern in allowed for one in wanted_images(pattern, there)})

    async def discover(self) -> Discovery:
        """Return images, shapes, availability domains and subnets."""
        images, shapes, domains, networks, prices = await gather(
            self._choices.images(),
            self._choices.shapes(),
            self._choices.domains(),
            self._choices.all_networks(),
            self._choices.price_list(),
        )
        smallest = Request()
        priced = {
            name: price_shape(smallest, one, self.settings, *prices) for name, (one, _) in shapes.items()
        }
        return Discovery(
            images=tuple(Found(id=one.id, name=one.name, detail=one.choice["system"]) for one in images),
            shapes=tuple(
                Found(id=name, detail=_about(shapes[name][0]), shape=one.shape, price=one.price)
                for name, one in priced.items()
            ),
            locations=tuple(Found(id=one) for one in domains),
            networks=tuple(Found(id=id_, name=name, detail=range_) for id_, name, range_ in networks),
        )

    # Offers --------------------------------------------------------------------------------------------------

    async def _offers(self, request: Request) -> list[Offer]:
        shapes, prices = await gather(self._choices.shapes(), self._choices.price_list())
        priced = [price_shape(request, one, self.settings, *prices) for one, _ in shapes.values()]
        places: list[cloud.Place] = []
        try:
            wanted, asked = cloud.image_of(self.settings, request, self.context.provider)
            domains = choose_locations(request, await self._choices.domains())
            images = await self._images(request, priced, wanted, asked)
        except InvalidRequest as error:
            return [self._never(request, priced, str(error))]
        for place in await self._choices.places(domains):
            steps = (
                Step(
                    step="location", chosen=place.domain, why="asked for" if request.location else "available"
                ),
                place.step,
            )
            places.append(cloud.Place(place.domain, steps, {"subnet": place.subnet}))
        first = next(iter(images.values()))[1] if images else Step(step="image", chosen=wanted, why="")
        built = cloud.build_offers(
            request,
            self.settings,
            self.context.provider,
            [one for one in priced if one.shape.name in images or not images],
            places,
            wanted,
            first,
        )
        offers = [
            self._with_image(offer, *images[offer.shape.name])
            for offer in built
            if offer.possible and offer.location in shapes[offer.shape.name][1]
        ]
        if not offers:
            return (
                built[:1]
                if not built[0].possible
                else [self._never(request, priced, "no domain has the shape")]
            )
        shortages = await self._choices.shortages(offers)
        return [
            offer.model_copy(update={"available": not why, "why_not": why})
            for offer, why in zip(offers, shortages, strict=True)
        ]

    async def _images(
        self, request: Request, priced: Sequence[PricedShape], wanted: str, asked: bool
    ) -> dict[str, tuple[str, Step]]:
        """Return the image for each of the best shapes that have one: an image is made for some shapes only."""
        best = choose_shapes(request, priced, self.settings.shapes, most=6)
        if not best:
            return {}
        shapes = {one.shape.name: one.shape for one in best}
        names = list(shapes)
        lists = await gather(*(self._choices.images(name) for name in names))
        found: dict[str, tuple[str, Step]] = {}
        for name, there in zip(names, lists, strict=True):
            fitting = wanted_images(wanted, there, gpu=bool(shapes[name].gpus))
            if fitting:
                by_id = wanted in {one.id for one in fitting}
                image, step = choose_image(wanted if by_id else "*", fitting, asked)
                why = step.why.replace(", *", f", {wanted}")
                found[name] = (image.id, step.model_copy(update={"why": why}))
        if not found:
            # Names what is near it, and what of it is there for no shape that fits.
            image, _ = choose_image(wanted, await self._choices.images(), asked)
            raise InvalidRequest(f"The image {image.name} runs on none of {', '.join(names)}.")
        return found

    def _with_image(self, offer: Offer, image: str, step: Step) -> Offer:
        steps = (step, *(one for one in offer.steps if one.step != "image"))
        choice = {**offer.choice, "image": image}
        return offer.model_copy(update={"image": step.chosen, "steps": steps, "choice": choice})

    def _never(self, request: Request, priced: Sequence[PricedShape], why: str) -> Offer:
        step = Step(step="image", chosen="", why="")
        built = cloud.build_offers(request, self.settings, self.context.provider, priced, (), "", step)
        return built[0].model_copy(update={"why_not": why})

    # Machines ------------------------------------------------------------------------------------------------

    async def _make(self, spec: Spec, compartment: str, user_data: str) -> Handle:
        machines = await self._machines(compartment)
        for machine in machines:
            if machine.freeform_tags[INSTANCE] == spec.id:
                return self._handle(spec.id, machine)
        if self.settings.instances and len(machines) >= self.settings.instances:
            raise NoCapacity(
                f"{self.context.provider}: {len(machines)} machines are held, no more may be.",
                remedy="See 'instances' of the provider.",
            )
        return await self._launch(spec, compartment, user_data)

    async def _launch(self, spec: Spec, compartment: str, user_data: str) -> Handle:
        named = spec.offer.choice.get("subnet", "")
        subnet = named or await self._network.subnet(compartment)
        try:
            machine = await self._launch_in(spec, compartment, subnet, user_data)
        except (NotFound, InvalidRequest, Conflict):
            if named or await self._stands(subnet):
                raise
            # The network went with what was the last machine until now.
            self._network.forget()
            subnet = await self._network.subnet(compartment)
            machine = await self._launch_in(spec, compartment, subnet, user_data)
        return self._handle(spec.id, machine)

    async def _stands(self, subnet: str) -> bool:
        try:
            there = await self._wire.call("network", "get_subnet", subnet)
        except NotFound:
            return False
        return str(there.lifecycle_state) == "AVAILABLE"

    async def _launch_in(self, spec: Spec, compartment: str, subnet: str, user_data: str) -> Any:
        from oci.core import models

        choice, tags = spec.offer.choice, {**self._tags, INSTANCE: spec.id}
        encoded = base64.b64encode(user_data.encode()).decode()
        if len(encoded) + len("user_data") > LARGEST_METADATA:
            raise InvalidSettings(
                f"{self.context.provider}: 'boot_script' is too long: {len(encoded)} bytes of user data.",
                remedy=f"Oracle takes {LARGEST_METADATA} bytes at most; use a configurer.",
            )
        details = models.LaunchInstanceDetails(
            availability_domain=spec.offer.location,
            compartment_id=compartment,
            display_name=f"{NAMED}{spec.id}",
            shape=choice["shape"],
            source_details=models.InstanceSourceViaImageDetails(
                image_id=choice["image"], boot_volume_size_in_gbs=choice["disk"]
            ),
            create_vnic_details=models.CreateVnicDetails(
                subnet_id=subnet, assign_public_ip=self.settings.public_address, freeform_tags=tags
            ),
            freeform_tags=tags,
            metadata={"user_data": encoded},
            # The user data holds the host key: whoever can make a program on the machine fetch an address
            # does not get it without the header that version 2 of the service asks for.
            instance_options=models.InstanceOptions(are_legacy_imds_endpoints_disabled=True),
            agent_config=models.LaunchInstanceAgentConfigDetails(
                is_monitoring_disabled=True, is_management_disabled=True, are_all_plugins_disabled=True
            ),
        )
        if "ocpus" in choice:
            details.shape_config = models.LaunchInstanceShapeConfigDetails(
                ocpus=choice["ocpus"], memory_in_gbs=choice["memory"]
            )
        if spec.offer.spot:
            details.preemptible_instance_config = models.PreemptibleInstanceConfigDetails(
                preemption_action=models.TerminatePreemptionAction(preserve_boot_volume=False)
            )
        return await make_once(self._wire, "compute", "launch_instance", details, spec.id)

    async def _machines(self, compartment: str, instance_id: str = "") -> list[Any]:
        """Return our machines that are there and not on their way out."""
        tags = {**self._tags, INSTANCE: instance_id} if instance_id else self._tags
        listed = await self._wire.pages("compute", "list_instances", compartment)
        return [
            one
            for one in listed
            if is_ours(one, tags) and INSTANCE in one.freeform_tags and one.lifecycle_state not in ENDED
        ]

    async def _terminate(self, machine: str) -> None:
        try:
            await self._wire.call("compute", "terminate_instance", machine, preserve_boot_volume=False)
        except NotFound as error:
            await self._wire.see_gone(error, "compute", "get_instance", machine)

    async def _terminate_handled(self, instance_id: str, handle: Handle) -> None:
        """Terminate what the handle names, which a listing may not show yet."""
        try:
            machine = await self._wire.call("compute", "get_instance", handle.data["id"])
        except NotFound:
            return
        ours = is_ours(machine, {**self._tags, INSTANCE: instance_id})
        if ours and machine.lifecycle_state not in ENDED:
            await self._terminate(machine.id)

    async def _remove_network(self, compartment: str) -> None:
        """Remove the network once no machine of ours is left. Oracle itself refuses it while one is in it."""
        until = asyncio.get_running_loop().time() + LEAVING_SECONDS
        while True:
            listed = await self._wire.pages("compute", "list_instances", compartment)
            states = [one.lifecycle_state for one in listed if is_ours(one, self._tags)]
            if held := [state for state in states if state not in ENDED]:
                raise Transient(f"{self.context.provider}: {len(held)} machines are still in the network.")
            try:
                await self._network.remove(compartment)
                return
            except Transient:
                if "TERMINATING" not in states or asyncio.get_running_loop().time() >= until:
                    raise
            await asyncio.sleep(0.5)

    async def _check_compartment(self, compartment: str, *handles: Handle) -> None:
        """Raise InvalidSettings where the name is now another compartment's, or the credentials another tenancy's: what
        is not to be seen there need not be gone."""
        for handle in handles:
            made_in = handle.data.get("compartment", compartment)
            if made_in != compartment:
                self._choices.forget()
                await self._wire.close()  # and reads the configuration anew, which may have been put right
                raise InvalidSettings(
                    f"{self.context.provider}: the compartment {self.settings.compartment} is now {compartment}; "
                    f"its machines are in {made_in}.",
                    remedy="Put Oracle's configuration file right; another compartment is an entry of its own.",
                )

    # Observing -----------------------------------------------------------------------------------------------

    async def _observe(self, instance_id: str, handle: Handle, machines: Mapping[str, Any]) -> Observation:
        machine = machines.get(handle.data["id"])
        if machine is None:
            try:  # a listing may lag behind a launch
                machine = await self._wire.call("compute", "get_instance", handle.data["id"])
            except NotFound:
                return Observation(phase=Phase.GONE, detail="Oracle has it no longer")
        state = str(machine.lifecycle_state)
        if state in ENDED:
            spot = machine.preemptible_instance_config is not None
            why = "; Oracle may have taken it back" if spot else ""
            return Observation(phase=Phase.GONE, detail=f"it is {state.lower()}{why}")
        if state in ENDING:
            return Observation(phase=Phase.FAILED, detail=f"it is {state.lower()}: it shut itself down")
        if state != "RUNNING":
            return Observation(phase=Phase.PENDING, detail=f"it is {state.lower().replace('_', ' ')}")
        host = self._hosts.get(machine.id) or await self._learn(machine)
        if not host:
            known = dials(handle)
            return Observation(
                phase=Phase.RUNNING if known else Phase.PENDING,
                detail="" if known else "it has no address yet",
            )
        address = cloud.address_of(self.settings, instance_id, host, handle.data["host_key"])
        return Observation(phase=Phase.RUNNING, address=address)

    async def _learn(self, machine: Any) -> str:
        """Return the address of a machine that runs; empty: it has none yet. Tags its disk, too."""
        attachments = await self._wire.pages(
            "compute", "list_vnic_attachments", machine.compartment_id, instance_id=machine.id
        )
        for one in attachments:
            if one.lifecycle_state != "ATTACHED":
                continue
            vnic = await self._wire.call("network", "get_vnic", one.vnic_id)
            host = vnic.public_ip if self.settings.public_address else vnic.private_ip
            if vnic.is_primary and host:
                try:
                    await self._disks.tag(machine)
                except Rejected:
                    pass  # without the right to, its disk goes with it all the same
                self._hosts[machine.id] = str(host)
                return str(host)
        return ""

    def _handle(self, instance_id: str, machine: Any) -> Handle:
        key = first_boot.HostKeys(self.context.folder).key(instance_id)
        place = {"id": machine.id, "compartment": machine.compartment_id}
        return Handle(data={**place, "host_key": key.public})


def _about(words: Any) -> str:
    if words.is_flexible:
        cores, memory = words.ocpu_options, words.memory_options
        return f"flexible: {cores.min:g} to {cores.max:g} OCPUs, {memory.max_in_g_bs:g} GB at most"
    return str(words.processor_description or "")
