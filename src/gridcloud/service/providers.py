"""Providers, configuration and health over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter

from gridcloud import plugins
from gridcloud.errors import GridcloudError, InvalidRequest, TimedOut
from gridcloud.instances import forgetting
from gridcloud.instances.driver import Discovering, Imaging, InstanceDriver
from gridcloud.instances.matching import describe, unnamed
from gridcloud.instances.model import Discovery, Finding, Request
from gridcloud.instances.reconciliation import Difference
from gridcloud.service.access import Admin, Asking, Caller, TheHouse
from gridcloud.service.configuration_documents import Edit, Verb
from gridcloud.service.documents import (
    Findings,
    ForgetOrder,
    ForgottenProvider,
    Health,
    Provider,
    ProviderEntry,
    Providers,
    Trouble,
)
from gridcloud.settings import ProviderSettings, provider_settings

__all__ = ["router"]

router = APIRouter(tags=["providers"])


@router.get("/providers")
async def find(caller: Asking, house: TheHouse, images: bool = False) -> Providers:
    """List the configured providers and what is wrong with any of their entries."""
    entries = house.settings().providers
    listed = await asyncio.gather(*(_describe(house, name, images, caller) for name in entries))
    return Providers(providers=list(listed), drivers=plugins.names("instances"))


@router.get("/providers/{name}/check")
async def check(name: str, caller: Admin, house: TheHouse) -> Findings:
    """Try a provider's credentials, reachability and images without starting anything."""
    try:
        driver = house.providers.get(name)
        async with asyncio.timeout(60):
            found = await _check_prices(house, driver, await driver.check())
            return Findings(findings=[_unnamed(name, one) for one in found])
    except TimeoutError:
        return Findings(findings=[Finding(subject=name, ok=False, message="It did not answer within 60 s.")])
    except GridcloudError as error:
        if error.status == 404:
            raise
        return Findings(
            findings=[
                Finding(subject=name, ok=False, message=unnamed(name, error.message), remedy=error.remedy)
            ]
        )


@router.get("/providers/{name}/discovery")
async def discover(name: str, caller: Asking, house: TheHouse) -> Discovery:
    """Return the images, shapes, locations and networks that a provider has to choose from."""
    driver = house.providers.get(name)
    if not isinstance(driver, Discovering):
        raise InvalidRequest(
            f"Provider {name!r} (driver {driver.settings.driver}) has nothing to choose from.",
            remedy="What it can give, 'gridcloud offers' shows.",
        )
    try:
        async with asyncio.timeout(30):
            return await driver.discover()
    except TimeoutError:
        raise TimedOut(f"{name} did not answer within 30 s.") from None


@router.post("/providers", status_code=201)
async def add(entry: ProviderEntry, caller: Admin, house: TheHouse) -> Provider:
    """Add a provider to the configuration file, once its entry is checked."""
    provider_settings(entry.name, entry.entry)
    added = Edit(verb=Verb.ADD, path=["providers", entry.name], value=entry.entry)
    await house.configuration.edit([added], by=caller.user)
    return await _describe(house, entry.name, False, caller)


@router.delete("/providers/{name}", status_code=204)
async def remove(name: str, caller: Admin, house: TheHouse) -> None:
    """Remove a provider from the configuration file; what it holds lives on until it ends."""
    await house.configuration.edit([Edit(verb=Verb.REMOVE, path=["providers", name])], by=caller.user)


@router.post("/providers/{name}/forget")
async def forget(name: str, order: ForgetOrder, caller: Admin, house: TheHouse) -> ForgottenProvider:
    """Ask a provider that left the configuration never again; refused while something may be left there, unless that
    is given up."""
    done = await forgetting.forget(house.instances, name, order.give_up)
    return ForgottenProvider(provider=name, given_up=list(done.given_up))


@router.get("/doctor")
async def examine(caller: Admin, house: TheHouse) -> Health:
    """Compare what every provider holds with what the store knows, and check the configuration."""
    found = [_trouble(difference) for difference in await house.examine()]
    return Health(troubles=[*_configuration(house), *found])


@router.post("/doctor/mend")
async def mend(caller: Admin, house: TheHouse) -> Health:
    """Remove what nothing accounts for."""
    await house.settle()
    found = await house.mend()
    return Health(troubles=[*_configuration(house), *(_trouble(difference) for difference in found)])


def _configuration(house: TheHouse) -> list[Trouble]:
    wrong = [
        Trouble(provider="", subject="configuration", message=problem.message, remedy=problem.remedy)
        for problem in house.settings_problems()
    ]
    told = house.office.status().warnings
    return wrong + [
        Trouble(provider="", subject="grid", message=warning, remedy="See: gridcloud grid status")
        for warning in told
    ]


def _trouble(difference: Difference) -> Trouble:
    return Trouble(
        provider=difference.provider,
        subject=difference.subject,
        message=difference.message,
        remedy=difference.remedy,
        mended=difference.mended,
        extra=difference.holding is not None,
    )


def _unnamed(name: str, finding: Finding) -> Finding:
    return finding.model_copy(update={"message": unnamed(name, finding.message)})


async def _check_prices(house: TheHouse, driver: InstanceDriver, found: Sequence[Finding]) -> list[Finding]:
    """Return what was found, and of offers whose price nobody knows: wrong where a budget counts money, which then
    refuses them."""
    counted = any(budget.money is not None for budget in house.settings().budgets.values())
    if any(one.subject == "prices" and not one.known for one in found):
        return [
            one.model_copy(update={"ok": not counted}) if one.subject == "prices" else one for one in found
        ]
    try:
        offers = await driver.offers(Request())
    except GridcloudError:  # the driver's own check tells of it
        return list(found)
    unknown = sorted({offer.shape.name or describe(offer.shape) for offer in offers if not offer.priced})
    if not unknown:
        return list(found)
    return [
        *found,
        Finding(
            subject="prices",
            ok=not counted,
            known=False,
            message=f"The price of {', '.join(unknown)} is not known"
            + ("; budgets in money refuse it." if counted else "."),
            remedy="Set 'prices' of the provider: the price per hour by shape, '*' for all, 0 where it costs nothing.",
        ),
    ]


def _price(entry: ProviderSettings) -> str:
    """Return a provider's price per hour; empty where it is not one, for each shape or part has its own."""
    own = any(name.startswith("price_") or name == "prices" for name in type(entry).model_fields)
    return "" if own and not entry.price else str(entry.price)


async def _describe(house: TheHouse, name: str, images: bool, caller: Caller) -> Provider:
    entry = house.settings().providers.get(name)
    if entry is None:
        return Provider(name=name, driver="", problem="It was just removed.")
    if isinstance(entry, GridcloudError):
        problem = str(entry) if caller.admin else "It is not set up rightly; an administrator sees why."
        return Provider(name=name, driver=str(entry.details.get("driver", "")), problem=problem)
    provider = Provider(name=name, driver=entry.driver, location=entry.location, price=_price(entry))
    try:
        driver = house.providers.get(name)
        if images and isinstance(driver, Imaging):
            async with asyncio.timeout(10):
                provider.images = list(await driver.images())
    except TimeoutError:
        provider.problem = "It did not answer within 10 s."
    except GridcloudError as error:
        provider.problem = str(error)
    return provider
