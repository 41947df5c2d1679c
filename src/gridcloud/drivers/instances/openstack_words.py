"""OpenStack's words in ours: flavors as shapes, quotas as reasons, its errors as our errors. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import openstack.exceptions
from keystoneauth1 import exceptions as keystone

from gridcloud.drivers.instances.openstack_settings import OpenStackGPU
from gridcloud.drivers.openstack import CREDENTIALS, status_of, translate_kind
from gridcloud.errors import (
    Conflict,
    Forbidden,
    GridcloudError,
    InvalidRequest,
    InvalidSettings,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    Throttled,
    TimedOut,
    Transient,
)
from gridcloud.instances.model import Shape, format_size

__all__ = [
    "MEBIBYTE",
    "Flavor",
    "Quota",
    "explain_shortage",
    "gpus_of",
    "is_refusal",
    "shape_of",
    "translate",
]

GIBIBYTE = 1024**3
MEBIBYTE = 1024**2


@dataclass(frozen=True, slots=True)
class Flavor:
    """A flavor as OpenStack has it: memory in MiB, disk in GiB."""

    id: str
    name: str
    cpus: int
    memory: int
    disk: int
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit of the project. ``limit`` below 0: there is none."""

    what: str
    limit: int
    used: int
    unit: int = 0
    """Bytes in one; 0: things are counted."""

    @property
    def left(self) -> int:
        """How many more can be had; never below 0, and very many where there is no limit."""
        return 2**62 if self.limit < 0 else max(0, self.limit - self.used)

    def words(self, amount: int) -> str:
        """An amount of it in words."""
        return format_size(amount * self.unit) if self.unit else str(amount)


# Resource classes, PCI aliases and traits are an operator's own words: these make one a GPU.
# https://docs.openstack.org/nova/latest/admin/pci-passthrough.html, …/virtual-gpu.html
_GPU_WORDS = re.compile(
    r"(?:^|[_\W])(?:V?GPU|PGPU|NVIDIA|INSTINCT|RADEON|TESLA|QUADRO|RTX\w*|GTX\w*|GH200|GB[23]00|B[123]00|H[12]00|"
    r"A(?:2|10|16|30|40|100|800)|L(?:4|20|40S?)|T4|V100|P(?:4|40|100)|K80|M(?:10|60)|MI\d{2,3}X?)(?=$|[_\W]|\d*G)",
    re.IGNORECASE,
)
_RESOURCE = re.compile(r"resources\w*:(?:(?P<standard>VGPU|PGPU)|CUSTOM_(?P<custom>\w+))")
_TRAIT = re.compile(r"trait\w*:CUSTOM_(\w+)")
_MEMORY = re.compile(r"(?:^|[_\W])(\d{1,3})\s?G(?:I?B)?(?=$|[_\W])", re.IGNORECASE)
_NO_MODEL = re.compile(r"^(?:(?:V|P|PCI)?GPUS?[_\W]*)+", re.IGNORECASE)


def gpus_of(
    name: str, extra: Mapping[str, str], configured: Mapping[str, OpenStackGPU]
) -> tuple[int, str, int]:
    """Return a flavor's GPUs: how many, their model, the memory of each in bytes (0: not known).

    The configuration goes first; then the flavor's resources and PCI aliases say how many, and these and its
    required traits say which.
    """
    for pattern, gpu in configured.items():
        if fnmatch.fnmatchcase(name, pattern):
            return (gpu.count, gpu.model, gpu.memory) if gpu.count else (0, "", 0)
    count, words = 0, []
    for key, value in sorted(extra.items()):
        if match := _RESOURCE.fullmatch(key):
            custom = match["custom"] or ""
            if match["standard"] or _GPU_WORDS.search(custom):
                count += _number(value)
                words.append(custom)
        elif key == "pci_passthrough:alias":
            for alias, _, number in (part.strip().partition(":") for part in value.split(",")):
                if _GPU_WORDS.search(alias):
                    count += _number(number or "1")
                    words.append(alias)
    if not count:
        return 0, "", 0
    traits = [
        match[1]
        for key, value in sorted(extra.items())
        if (match := _TRAIT.fullmatch(key)) and value == "required"
    ]
    words += [trait for trait in traits if _GPU_WORDS.search(trait)]
    model = max((_model(word) for word in words), key=len, default="")
    memory = next((int(match[1]) for word in words if (match := _MEMORY.search(word))), 0)
    return count, model, memory * GIBIBYTE


def shape_of(flavor: Flavor, configured: Mapping[str, OpenStackGPU], volume: int = 0) -> Shape:
    """Return a flavor as a shape. ``volume``: size in GiB of the volume it boots from; 0: its own disk."""
    count, model, memory = gpus_of(flavor.name, flavor.extra, configured)
    return Shape(
        name=flavor.name,
        cpus=flavor.cpus,
        memory=flavor.memory * MEBIBYTE,
        disk=(volume or flavor.disk) * GIBIBYTE,
        gpus=count,
        gpu_model=model,
        gpu_memory=memory,
    )


def explain_shortage(quotas: Iterable[Quota], needs: Mapping[str, int], *, ever: bool = False) -> str:
    """Return which quotas do not leave what is needed (by the quota's name), with figures; empty when all do.

    ``ever``: even while nothing of them is used.
    """
    short = []
    for quota in quotas:
        need = needs.get(quota.what, 0)
        free = quota.limit if ever and quota.limit >= 0 else quota.left
        if need > free:
            said = f"{quota.words(free)} of {quota.words(quota.limit)} {quota.what} left" if not ever else ""
            said = said or f"{quota.words(quota.limit)} {quota.what} at most"
            short.append(f"{said}, {quota.words(need)} needed")
    return f"the project's quota: {'; '.join(short)}" if short else ""


def translate(error: Exception, cloud: str) -> GridcloudError | None:
    """Return what an error of the SDK is in our words; None where it is none of its errors. ``cloud`` names whom
    we asked."""
    if found := translate_kind(error, cloud, _said(error)):
        return found
    status = status_of(error)
    if status is None:
        known = (openstack.exceptions.SDKException, keystone.ClientException)
        return Transient(f"{cloud}: {_said(error)}") if isinstance(error, known) else None
    said = _said(error)
    for number, pattern, ours, remedy in _STATUSES:
        if number in (status, status // 100) and re.search(pattern, said, re.IGNORECASE):
            return ours(f"{cloud}: {said}", remedy=remedy)
    return Transient(f"{cloud} answered with {status}: {said}")


def is_refusal(error: Exception) -> bool:
    """Return whether an error of the SDK says that it does not know who is asking."""
    return isinstance(error, keystone.Unauthorized) or status_of(error) == 401


_QUOTA = "End something, take a smaller shape, or ask the cloud's operators for a larger quota."

_STATUSES: tuple[tuple[int, str, type[GridcloudError], str], ...] = (
    (401, "", InvalidSettings, CREDENTIALS),
    (403, "quota", QuotaExceeded, _QUOTA),
    (403, "", Forbidden, "Ask the cloud's operators for a role that may do this."),
    (404, "", NotFound, ""),
    (408, "", TimedOut, "Try again later."),
    (409, "quota", QuotaExceeded, _QUOTA),
    (409, "no more (ip addresses|ips)|no valid host|address.*exhaust", NoCapacity, "Try again later."),
    (409, "", Conflict, "Try again."),
    (413, "quota|limit", QuotaExceeded, _QUOTA),
    (429, "", Throttled, "It will be tried again, more slowly."),
    (4, "quota", QuotaExceeded, _QUOTA),
    (4, "no valid host", NoCapacity, "Try again later, or take another shape."),
    (4, "", InvalidRequest, "Look at the provider's entry, and at what was asked for."),
    (5, "quota", QuotaExceeded, _QUOTA),
    (5, "", Transient, "Try again later."),
)
"""HTTP status (or its first digit), what the answer says, ours, what to do. The first that fits is taken. Nova refuses
with 403, neutron with 409, cinder with 413."""


def _said(error: Exception) -> str:
    details = getattr(error, "details", None) or getattr(error, "message", None) or str(error)
    text = " ".join(str(details).split())
    text = re.sub(r" ?\(?Request-ID: [\w-]+\)?| \(HTTP \d+\)", "", text)
    return text[:600]


def _number(text: str) -> int:
    return int(text) if text.strip().isdecimal() else 0


def _model(word: str) -> str:
    word = _MEMORY.sub("", word)
    return " ".join(_NO_MODEL.sub("", word).replace("_", " ").replace("-", " ").split()).upper()
