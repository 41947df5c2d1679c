"""Amazon EC2, and clouds that speak its API: instances are machines of one account in one region.

Credentials stay where Amazon's own tools keep them. Every machine, disk, interface and security group carries our tags,
and nothing without them is ever touched. A machine that powers itself off is terminated by Amazon.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

from gridcloud.connections.model import SSHAddress
from gridcloud.drivers.instances.ec2_check import TAGGED, examine
from gridcloud.drivers.instances.ec2_choices import Choices
from gridcloud.drivers.instances.ec2_prices import Prices
from gridcloud.drivers.instances.ec2_settings import EC2Settings
from gridcloud.drivers.instances.ec2_things import Things
from gridcloud.drivers.instances.ec2_wire import Wire, code_of
from gridcloud.errors import (
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    Transient,
)
from gridcloud.instances.bootstraps import dials
from gridcloud.instances.cloud import CloudDriver, address_of
from gridcloud.instances.driver import Context
from gridcloud.instances.model import (
    SHARED,
    Discovery,
    Finding,
    Handle,
    Holding,
    Observation,
    Offer,
    Phase,
    Request,
    Spec,
)
from gridcloud.settings import ProviderSettings

__all__ = ["EC2Driver"]

T = TypeVar("T")

APPEARING = 90
"""Seconds for which a machine that was just made may be missing from listings: they lag behind."""

PATIENCE = 1.0
"""Seconds that a look waits for launches that are under way: they come first, and what they make is then seen, too."""

_locks: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_guard = threading.Lock()


class _Lock:
    """A lock that may be forgotten when nobody holds it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class EC2Driver(CloudDriver):
    """One account in one region."""

    Settings: ClassVar[type[ProviderSettings]] = EC2Settings
    settings: EC2Settings

    def __init__(self, settings: ProviderSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._wire = Wire(self.settings, context.provider)
        self._prices = Prices(self._wire, self.settings, context.folder)
        self._choices = Choices(self._wire, self.settings, self._prices, context.provider)
        self._things = Things(self._wire, context.installation, context.provider)
        self._launching = 0
        self._launched = asyncio.Event()
        self._launched.set()

    async def offers(self, request: Request) -> Sequence[Offer]:
        """Choose image, shape, zone and subnet; see the contract."""
        return await asyncio.to_thread(self._choices.offers, request, self._things.machines)

    async def images(self) -> Sequence[str]:
        """Return the names of images that may be asked for, the newest of each pattern first."""
        return [one.name or one.id for one in (await self.discover()).images]

    async def discover(self) -> Discovery:
        """Return images, shapes with prices, zones and subnets."""
        return await asyncio.to_thread(self._choices.discover)

    async def make(self, spec: Spec, user_data: str, host_key: str) -> Handle:
        """Launch the machine, unless one for this id is there; see the contract."""
        self._launching += 1
        self._launched.clear()
        try:
            return await asyncio.to_thread(self._create, spec, user_data, host_key)
        finally:
            self._launching -= 1
            if not self._launching:
                self._launched.set()

    async def look(self, handles: Mapping[str, Handle]) -> Mapping[str, Observation]:
        """Look at all of our machines in one listing; see the contract."""
        # Fifty that are launched at once are looked at once they are, in one look instead of one for every few.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._launched.wait(), PATIENCE)
        names = [str(handle.data.get("machine")) for handle in handles.values()]
        there = await asyncio.to_thread(self._things.find, names)
        missing = [one for one in handles.values() if str(one.data.get("machine")) not in there]
        await asyncio.to_thread(self._check_account, *missing)
        return {
            instance_id: self._observation(instance_id, handle, there.get(str(handle.data.get("machine"))))
            for instance_id, handle in handles.items()
        }

    async def remove(self, instance_id: str, handle: Handle | None) -> None:
        """Terminate the machine and remove what it may have left; see the contract."""
        if instance_id == SHARED:
            await asyncio.to_thread(self._things.remove_shared)
            self._choices.forget()
        else:
            data = handle.data if handle is not None else {}
            machine = str(data.get("machine", ""))
            # Our own handle names all there is: its disk and interface go with the machine.
            if handle is not None and data.get("installation") == self.context.installation:
                there = await asyncio.to_thread(self._locked, instance_id, lambda: self._things.end(machine))
                if not there:
                    await asyncio.to_thread(self._check_account, handle)
                return
            await asyncio.to_thread(
                self._locked, instance_id, lambda: self._things.remove(instance_id, machine)
            )

    async def holdings(self) -> Sequence[Holding]:
        """List machines, disks, interfaces, spot requests and security groups that carry our tag."""
        return await asyncio.to_thread(self._things.holdings)

    async def check(self) -> Sequence[Finding]:
        """Try credentials, image, network, rights, quota and prices; see the contract."""
        return await asyncio.to_thread(
            examine, self._wire, self._choices, self._prices, self.settings, self._things.tags("check")
        )

    async def close(self) -> None:
        """Let go of the connections; see the contract."""
        await asyncio.to_thread(self._prices.close)
        await asyncio.to_thread(self._wire.close)

    # Creation ------------------------------------------------------------------------------------------------

    def _create(self, spec: Spec, user_data: str, host_key: str) -> Handle:
        if not {"subnet"} <= set(spec.offer.choice):
            raise InvalidRequest(
                f"{self.context.provider} did not make this offer.", remedy="Ask for offers again."
            )
        return self._locked(spec.id, lambda: self._launch(spec, user_data, host_key))

    def _launch(self, spec: Spec, user_data: str, host_key: str) -> Handle:
        former = [] if spec.first else self._things.machines_of(spec.id)
        lives = [one for one in former if one["State"]["Name"] not in ("shutting-down", "terminated")]
        if lives:
            return self._handle(lives[0], host_key)
        if not self.settings.instances:
            return self._handle(self._run(spec, user_data, len(former)), host_key)

        def run_if_room() -> Mapping[str, Any]:
            held = len(self._things.machines())
            if held >= self.settings.instances:
                raise NoCapacity(
                    f"{self.context.provider}: {held} machines are held, no more may be.",
                    remedy="See 'instances' of the provider.",
                )
            return self._run(spec, user_data, len(former))

        return self._handle(self._locked("", run_if_room), host_key)

    def _run(self, spec: Spec, user_data: str, former: int) -> Mapping[str, Any]:
        for last in (False, True):
            try:
                words = self._words(spec, user_data, former, self._group(again=last))
                answer = self._wire.call("run_instances", **words)
                return {**answer["Instances"][0], "OwnerId": answer.get("OwnerId", "")}
            except InvalidSettings as error:
                # What the machines share went with the last of them between our look and our call.
                if last or code_of(error) != "InvalidGroup.NotFound" or self.settings.security_groups:
                    self._choices.forget()
                    raise
            except InvalidRequest as error:
                if code_of(error) == "IdempotentParameterMismatch":
                    return self._made_before(spec.id, error)
                self._choices.forget()
                raise
            except Transient as error:
                # The answer may have been lost: what was made is found by its tag, now or by the removal.
                if code_of(error):
                    raise
                with suppress(GridcloudError):
                    return self._made_before(spec.id, error)
                raise
        raise AssertionError

    def _made_before(self, instance_id: str, error: GridcloudError) -> Mapping[str, Any]:
        for pause in (0.0, 1.0, 3.0):
            time.sleep(pause)
            for one in self._things.machines_of(instance_id):
                if one["State"]["Name"] not in ("shutting-down", "terminated"):
                    return one
        raise error

    def _group(self, again: bool) -> list[str]:
        if self.settings.security_groups:
            return list(self.settings.security_groups)
        return [
            self._locked(
                SHARED, lambda: self._things.group(self._choices.vpc, self.settings.allow_from, again)
            )
        ]

    def _words(self, spec: Spec, user_data: str, former: int, groups: list[str]) -> dict[str, Any]:
        settings, offer = self.settings, spec.offer
        tags = self._things.tags(spec.id, spec.name)
        kinds = [*TAGGED, *(["spot-instances-request"] if offer.spot else [])]
        # A token is worth one launch: what was terminated needs another one, and so does another offer, since Amazon
        # refuses a token that comes with other words.
        chosen = f"{offer.image}/{offer.shape.name}/{offer.choice['subnet']}/{offer.spot}"
        token = f"{self.context.installation}/{self.context.provider}/{spec.id}/{former}/{chosen}"
        words: dict[str, Any] = {
            "ImageId": offer.image,
            "InstanceType": offer.shape.name,
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": hashlib.sha256(token.encode()).hexdigest()[:64],
            "UserData": user_data,
            "TagSpecifications": [{"ResourceType": kind, "Tags": tags} for kind in kinds],
            "InstanceInitiatedShutdownBehavior": "terminate",
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
            "NetworkInterfaces": [
                {
                    "DeviceIndex": 0,
                    "SubnetId": offer.choice["subnet"],
                    "Groups": groups,
                    "AssociatePublicIpAddress": settings.public_address,
                    "DeleteOnTermination": True,
                }
            ],
            "BlockDeviceMappings": [self._disk(spec)],
        }
        if offer.spot:
            words["InstanceMarketOptions"] = {
                "MarketType": "spot",
                "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
            }
            # A spot machine is terminated whenever it is shut down; it takes no word on that.
            del words["InstanceInitiatedShutdownBehavior"]
        if settings.key_pair:
            words["KeyName"] = settings.key_pair
        if settings.instance_profile:
            words["IamInstanceProfile"] = {"Name": settings.instance_profile}
        return words

    def _disk(self, spec: Spec) -> dict[str, Any]:
        found = self._choices.images(spec.offer.image)
        if not found:
            raise InvalidRequest(
                f"{self.context.provider}: the image {spec.offer.image} is not there any more.",
                remedy="Ask for offers again.",
            )
        root = found[0].choice["root"]
        size = max(int(root["size"]), -(-max(self.settings.disk, spec.request.disk) // 2**30))
        ebs: dict[str, Any] = {"DeleteOnTermination": True, "VolumeType": "gp3", "Encrypted": True}
        return {"DeviceName": root["name"], "Ebs": ebs | ({"VolumeSize": size} if size else {})}

    def _locked(self, name: str, call: Callable[[], T]) -> T:
        """Call it while nobody else in this process does so for the same thing of this provider."""
        key = f"{self.context.installation}\0{self.context.provider}\0{name}"
        with _guard:
            held = _locks.get(key)
            if held is None:
                held = _locks[key] = _Lock()
        with held.lock:
            return call()

    # Observation ---------------------------------------------------------------------------------------------

    def _observation(
        self, instance_id: str, handle: Handle, machine: Mapping[str, Any] | None
    ) -> Observation:
        if machine is None:
            age = time.time() - float(handle.data.get("made", 0))
            if 0 <= age < APPEARING and not handle.data.get("seen"):
                return Observation(phase=Phase.PENDING, detail="not listed yet")
            return Observation(phase=Phase.GONE)
        state = machine["State"]["Name"]
        why = machine.get("StateReason", {}).get("Message") or machine.get("StateTransitionReason") or ""
        if state in ("terminated", "shutting-down"):
            return Observation(phase=Phase.GONE, detail=why)
        if state in ("stopping", "stopped"):
            return Observation(
                phase=Phase.FAILED, detail=f"the machine was stopped: {why or 'no reason is told'}"
            )
        address = self._address(instance_id, handle, machine)
        if state == "running" and (address is not None or dials(handle)):
            return Observation(phase=Phase.RUNNING, address=address)
        return Observation(
            phase=Phase.PENDING, detail=state if state != "running" else "it has no address yet"
        )

    def _handle(self, machine: Mapping[str, Any], host_key: str) -> Handle:
        words = {"machine": str(machine["InstanceId"]), "host_key": host_key}
        words |= {"account": str(machine.get("OwnerId") or ""), "installation": self.context.installation}
        return Handle(data={**words, "made": int(datetime.now(UTC).timestamp())})

    def _check_account(self, *handles: Handle) -> None:
        """Raise InvalidSettings where the credentials are now of another account: in it none of these is seen."""
        for made_in in {str(one.data.get("account") or "") for one in handles} - {""}:
            here = self._wire.account()
            if here not in ("", made_in):
                self._wire.forget_credentials()
                raise InvalidSettings(
                    f"{self.context.provider}: the credentials are of another account, {here}; "
                    f"its machines are in {made_in}.",
                    remedy="Put them right where Amazon's tools keep them; a new account is an entry of its own.",
                )

    def _address(self, instance_id: str, handle: Handle, machine: Mapping[str, Any]) -> SSHAddress | None:
        public = machine.get("PublicIpAddress") if self.settings.public_address else None
        host = public or (None if self.settings.public_address else machine.get("PrivateIpAddress"))
        if not host:
            return None
        return address_of(self.settings, instance_id, str(host), str(handle.data.get("host_key", "")))
