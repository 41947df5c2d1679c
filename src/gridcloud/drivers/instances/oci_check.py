"""Try an account in Oracle's cloud, for the `oci` driver, step by step as a person would."""

from __future__ import annotations

import fnmatch
from collections.abc import Awaitable, Callable, Sequence

from gridcloud.drivers.instances.oci_choices import Choices
from gridcloud.drivers.instances.oci_settings import OCISettings
from gridcloud.drivers.instances.oci_shapes import wanted_images
from gridcloud.drivers.oracle import Wire
from gridcloud.errors import GridcloudError, InvalidSettings
from gridcloud.instances.choosing import choose_image
from gridcloud.instances.model import Finding

__all__ = ["check_account"]

GUIDE = "See docs/guide/oracle.md."


async def check_account(wire: Wire, choices: Choices, settings: OCISettings) -> Sequence[Finding]:
    """Return what was found; after the first three, on which all else rests, the others are tried whatever comes."""

    async def key() -> str:
        tenancy = await wire.tenancy()
        names = await wire.pages("identity", "list_region_subscriptions", tenancy)
        region, there = await wire.region(), sorted(one.region_name for one in names)
        if region not in there:
            raise InvalidSettings(
                f"The tenancy is not subscribed to the region {region}.",
                remedy=f"Set 'region' to one of: {', '.join(there)}.",
            )
        return f"The key is accepted; the region is {region}."

    async def compartment() -> str:
        return f"The compartment is {await choices.compartment()}."

    async def domains() -> str:
        return f"Availability domains: {', '.join(await choices.domains())}."

    async def image() -> str:
        images = await choices.images()
        fitting = wanted_images(settings.image, images)
        chosen, _ = choose_image("*" if fitting else settings.image, fitting or images)
        return f"The image is {chosen.name}."

    async def network() -> str:
        if not settings.network:
            ranges = ", ".join(settings.allow_from)
            return f"A network is made with the first machine; SSH is let in from {ranges}."
        names = ", ".join(one.name or one.id for one in await choices.networks())
        return f"Machines are put in {names}."

    async def prices() -> str:
        rates, gpus = await choices.ask_price_list()
        if not rates:
            raise InvalidSettings(
                "Oracle's price list names no shape that is known.", remedy="Set 'rates' or 'prices'."
            )
        return f"The price list names {len(rates)} flexible shapes and {len(gpus)} GPUs."

    findings = []
    for subject, look in (("key", key), ("compartment", compartment), ("location", domains)):
        findings.append(await _find(subject, look))
        if not findings[-1].ok:
            return findings

    async def limits() -> str | Finding:
        return await _limits(choices, settings)

    rest = [("image", image), ("network", network), ("limits", limits)]
    rest += [("prices", prices)] if settings.price_list else []
    return findings + [await _find(subject, look) for subject, look in rest]


async def _limits(choices: Choices, settings: OCISettings) -> str | Finding:
    """Return in words what the service limits leave for the first few shapes that may be taken."""
    shapes = await choices.shapes()
    allowed = [
        name for name in shapes if any(fnmatch.fnmatchcase(name, pattern) for pattern in settings.shapes)
    ]
    if not allowed:
        raise InvalidSettings(
            f"No shape is called {', '.join(settings.shapes)}.",
            remedy=f"There are: {', '.join(sorted(shapes))}.",
        )
    domain = (await choices.domains())[0]
    said = [line for name in allowed[:5] for line in await choices.limits(domain, name)]
    if said:
        return f"{len(allowed)} shapes may be taken; {'; '.join(said[:8])}."
    return Finding(
        subject="limits",
        ok=True,
        known=False,
        message=f"{len(allowed)} shapes may be taken; their limits may not be read, so that a launch tells in the end.",
        remedy="Have a policy say: Allow group … to read resource-availability in tenancy.",
    )


async def _find(subject: str, look: Callable[[], Awaitable[str | Finding]]) -> Finding:
    try:
        said = await look()
        if isinstance(said, Finding):
            return said
        return Finding(subject=subject, ok=True, message=said)
    except GridcloudError as error:
        return Finding(subject=subject, ok=False, message=error.message, remedy=error.remedy or GUIDE)
