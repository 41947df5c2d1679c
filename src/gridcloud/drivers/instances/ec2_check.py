"""Look whether an account at Amazon can be used: credentials, rights, image, network, quota, prices. Starts nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gridcloud.drivers.instances.ec2_choices import Choices
from gridcloud.drivers.instances.ec2_prices import Prices
from gridcloud.drivers.instances.ec2_settings import EC2Settings
from gridcloud.drivers.instances.ec2_wire import Wire, code_of
from gridcloud.errors import GridcloudError
from gridcloud.instances.choosing import choose_image, choose_shapes
from gridcloud.instances.model import Finding, Request

__all__ = ["TAGGED", "examine"]

TAGGED = ("instance", "volume", "network-interface")
"""What a launch makes, each tagged by it."""


def examine(
    wire: Wire, choices: Choices, prices: Prices, settings: EC2Settings, tags: Sequence[Mapping[str, str]]
) -> list[Finding]:
    """Return what was found, and nothing more where the credentials are refused."""
    found = _found("credentials", lambda: _credentials(wire, settings))
    if not found.ok:
        return [found]
    parts = [
        _found("image", lambda: _image(choices, settings)),
        _found("shapes", lambda: _shapes(choices, settings)),
        _found("network", lambda: ", ".join(f"{one.id} in {one.location}" for one in choices.networks()[:6])),
    ]
    wrong = [part.subject for part in parts if not part.ok]
    if wrong:  # a launch needs them all: the same would be said again
        rights = _unknown("rights", "not tried", f"First mend what is wrong: {', '.join(wrong)}.")
    else:
        rights = _found("rights", lambda: _rights(wire, choices, settings, tags))
    return [
        found,
        *parts,
        rights,
        _found("quota", lambda: _quota(choices)),
        _found("prices", lambda: _prices(prices, settings)),
    ]


def _credentials(wire: Wire, settings: EC2Settings) -> str:
    said = wire.call("get_caller_identity", "sts")
    return f"we are {said['Arn']} in {settings.region}"


def _image(choices: Choices, settings: EC2Settings) -> str:
    _, step = choose_image(settings.image, choices.images(settings.image))
    return f"{step.chosen}: {step.why}"


def _shapes(choices: Choices, settings: EC2Settings) -> str:
    found = choices.shapes()
    best = choose_shapes(Request(), found, settings.shapes, most=1)
    if not best:
        raise GridcloudError("'shapes' allows none that is there", remedy="See: gridcloud provider discover.")
    return f"{len(found)} are there, such as {best[0].shape.name}"


def _rights(wire: Wire, choices: Choices, settings: EC2Settings, tags: Sequence[Mapping[str, str]]) -> str:
    [subnet, *_] = choices.networks()
    picture, _ = choose_image(settings.image, choices.images(settings.image))
    [best, *_] = choose_shapes(Request(), choices.shapes(), settings.shapes, most=1)
    try:
        wire.call(
            "run_instances",
            DryRun=True,
            ImageId=picture.id,
            InstanceType=best.shape.name,
            SubnetId=subnet.id,
            MinCount=1,
            MaxCount=1,
            # Rights may be given for things with our tags only.
            TagSpecifications=[{"ResourceType": kind, "Tags": list(tags)} for kind in TAGGED],
        )
    except GridcloudError as error:
        if code_of(error) != "DryRunOperation":
            raise
    return "machines may be started"


def _quota(choices: Choices) -> str | Finding:
    found = choices.quota("standard", "on-demand")
    if found is None:
        text = "not known, for the account may not read its quotas; a launch that passes one is refused"
        return _unknown("quota", text, "Give the account the right servicequotas:GetServiceQuota.")
    return f"{found[1]} of {found[0]} vCPUs of standard shapes run"


def _prices(prices: Prices, settings: EC2Settings) -> str | Finding:
    if settings.prices or settings.price:
        return "named in the configuration"
    known = prices.wait()
    if known:
        return f"{len(known)} from Amazon's price list"
    if settings.price_list and not prices.problem:
        return _unknown("prices", "Amazon's price list is still being fetched", "Try again in a minute.")
    why = prices.problem or "price_list is off"
    return _unknown(
        "prices",
        f"no price is known ({why}), so that budgets in money refuse its machines",
        "Set 'prices' of the provider, or give the account the right pricing:GetProducts.",
    )


def _unknown(subject: str, message: str, remedy: str) -> Finding:
    return Finding(subject=subject, ok=True, known=False, message=message, remedy=remedy)


def _found(subject: str, look: Callable[[], str | Finding]) -> Finding:
    try:
        said = look()
        return said if isinstance(said, Finding) else Finding(subject=subject, ok=True, message=said)
    except GridcloudError as error:
        remedy = error.remedy or "See the guide to Amazon EC2."
        return Finding(subject=subject, ok=False, message=error.message, remedy=remedy)
    except ValueError as error:  # nothing to choose from, which was told before
        return Finding(
            subject=subject, ok=False, message=f"cannot be tried: {error}", remedy="Mend the above first."
        )
