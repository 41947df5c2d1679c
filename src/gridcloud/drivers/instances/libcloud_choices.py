"""What a provider behind libcloud has to choose from: images, sizes, locations and networks; blocking."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from gridcloud.drivers.instances.libcloud_settings import LibcloudSettings, LibcloudSize
from gridcloud.drivers.instances.libcloud_wire import Wire
from gridcloud.drivers.instances.libcloud_words import Abilities, abilities_of
from gridcloud.errors import InvalidSettings
from gridcloud.instances.choosing import Image, PricedShape, choose_image, choose_locations
from gridcloud.instances.cloud import Place, build_offers, image_of
from gridcloud.instances.model import Discovery, Found, Offer, Request, Shape, Step

__all__ = ["Choices"]

MEBIBYTE = 1024**2
GIBIBYTE = 1024**3


class Choices:
    """Discovers and chooses. Every method is handed libcloud's driver, and may raise what that raises."""

    def __init__(self, settings: LibcloudSettings, provider: str, wire: Wire) -> None:
        self._settings = settings
        self._provider = provider
        self._wire = wire

    def offers(self, driver: Any, request: Request, count: int) -> list[Offer]:
        """Return the offers; ``count`` machines are held now."""
        abilities = self.abilities(driver)
        wanted, asked = image_of(self._settings, request, self._provider)
        image, step = self.image(driver, wanted, asked)
        most = self._settings.instances
        why_not = f"{count} of {most} instances are taken" if most and count >= most else ""
        return build_offers(
            request,
            self._settings,
            self._provider,
            self.shapes(driver),
            self.places(driver, abilities, request),
            image.id,
            step,
            why_not=why_not,
        )

    def abilities(self, driver: Any) -> Abilities:
        """Return what the driver can do. Raises InvalidSettings where a host key could not be pinned."""
        found = abilities_of(driver, self._settings.user_data)
        if not found.user_data:
            raise InvalidSettings(
                f"{self._provider}: {self._wire.label} takes no user data, so that a machine's host key could not be "
                "pinned; no connection without that is made.",
                remedy="Set 'user_data' if an argument of its create_node takes cloud-init user data, or take another "
                "driver.",
            )
        return found

    def image(self, driver: Any, wanted: str, asked: bool = False) -> tuple[Image, Step]:
        """Return the image of an id, name or pattern. Raises InvalidRequest."""
        if "*" not in wanted and (one := self._image_by_id(driver, wanted)) is not None:
            return choose_image(wanted, [one], asked)
        return choose_image(wanted, self.images(driver), asked)

    def images(self, driver: Any) -> list[Image]:
        """Return all images."""

        def look() -> list[Image]:
            return [_image(one) for one in driver.list_images(**self._settings.list_images)]

        return self._wire.remember("images", look)

    def shapes(self, driver: Any) -> list[PricedShape]:
        """Return the sizes; their choice holds the id."""

        def look() -> list[PricedShape]:
            return [self._shape(one) for one in driver.list_sizes()]

        return self._wire.remember("sizes", look)

    def unknown_cpus(self, driver: Any) -> list[str]:
        """Return the names of sizes of which nobody says how many CPUs they have."""
        return [one.shape.name for one in self.shapes(driver) if one.choice["cpus"] == "assumed"]

    def locations(self, driver: Any) -> list[Any]:
        """Return the locations as libcloud has them."""
        return self._wire.remember("locations", driver.list_locations)

    def places(self, driver: Any, abilities: Abilities, request: Request) -> list[Place]:
        """Return where machines are made."""
        if not abilities.locations or not (self._settings.locations or request.location):
            return [Place(self._settings.location)]
        by_name = {str(one.name): one for one in self.locations(driver)}
        missing = [name for name in self._settings.locations if name not in by_name]
        if missing:
            raise InvalidSettings(
                f"{self._provider}: there is no location {missing[0]!r:.100}.",
                remedy=f"There are: {', '.join(by_name)}.",
            )
        preferred = self._settings.locations
        names = choose_locations(request, list(preferred or by_name), preferred)
        why = "asked for" if request.location else "named in the configuration"
        return [
            Place(name, (Step(step="location", chosen=name, why=why),), {"location": str(by_name[name].id)})
            for name in names
        ]

    def size(self, driver: Any, size_id: str) -> Any:
        """Return a size as libcloud has it. Raises InvalidSettings."""
        for one in driver.list_sizes():
            if str(one.id) == size_id:
                return one
        raise InvalidSettings(
            f"{self._provider} has no size {size_id!r:.100} any more.", remedy="Ask for offers again."
        )

    def libcloud_image(self, driver: Any, image_id: str) -> Any:
        """Return an image as libcloud has it. Raises InvalidSettings."""
        found = self._get_image(driver, image_id)
        if found is not None:
            return found
        for one in driver.list_images(**self._settings.list_images):
            if str(one.id) == image_id:
                return one
        raise InvalidSettings(
            f"{self._provider} has no image {image_id!r:.100} any more.", remedy="Ask for offers again."
        )

    def networks(self, driver: Any) -> Sequence[Any]:
        """Return the networks as libcloud has them: subnets where machines are made in these."""
        for method in ("ex_list_subnets", "ex_list_networks"):
            arguments = abilities_of(driver, self._settings.user_data).arguments
            if hasattr(driver, method) and (method == "ex_list_networks" or "ex_subnet" in arguments):
                found: Sequence[Any] = self._wire.remember("networks", getattr(driver, method))
                return found
        return ()

    def chosen_networks(self, driver: Any) -> list[Any]:
        """Return the networks of the configuration. Raises InvalidSettings for one that is not there."""
        there = self.networks(driver) if self._settings.networks else ()
        chosen = []
        for wanted in self._settings.networks:
            named = [one for one in there if wanted in (str(one.id), str(one.name))]
            if not named:
                names = ", ".join(sorted(str(one.name or one.id) for one in there)) or "none"
                raise InvalidSettings(
                    f"{self._provider}: there is no network {wanted!r:.100}.", remedy=f"There are: {names}."
                )
            chosen.append(named[0])
        return chosen

    def discover(self, driver: Any) -> Discovery:
        """Return all there is."""
        abilities = abilities_of(driver, self._settings.user_data)
        return Discovery(
            images=tuple(Found(id=one.id, name=one.name) for one in self.images(driver)),
            shapes=tuple(
                Found(id=one.choice["size"], name=one.shape.name, shape=one.shape, price=one.price)
                for one in self.shapes(driver)
            ),
            locations=tuple(Found(id=str(one.id), name=str(one.name)) for one in self.locations(driver))
            if abilities.locations
            else (),
            networks=tuple(Found(id=str(one.id), name=str(one.name or "")) for one in self.networks(driver)),
        )

    def _image_by_id(self, driver: Any, wanted: str) -> Image | None:
        def look() -> Image | None:
            found = self._get_image(driver, wanted)
            return None if found is None else _image(found)

        return self._wire.remember(f"image {wanted}", look)

    @staticmethod
    def _get_image(driver: Any, image_id: str) -> Any:
        try:
            return driver.get_image(image_id)
        except (
            Exception
        ):  # many drivers cannot, or say by some error that it is no id: all images are looked at then
            return None

    def _shape(self, size: Any) -> PricedShape:
        extra = getattr(size, "extra", None) or {}
        known = (
            self._settings.sizes.get(str(size.name))
            or self._settings.sizes.get(str(size.id))
            or LibcloudSize()
        )
        said = [extra.get(key) for key in ("cpu", "cpus", "vcpu", "vcpus", "guestCpus", "cores")]
        told = (known.cpus, getattr(size, "vcpus", 0), *said)
        cpus = next((float(str(one)) for one in told if _number(one)), 0.0)
        price = Decimal(str(size.price)) if _number(size.price) else None
        shape = Shape(
            name=str(size.name or size.id),
            cpus=cpus or 1.0,
            memory=int(float(size.ram or 0) * MEBIBYTE),
            disk=int(float(size.disk or 0) * GIBIBYTE) if _number(size.disk) else 0,
            gpus=known.gpus,
            gpu_model=known.gpu_model,
        )
        choice = {"size": str(size.id), "cpus": "known" if cpus else "assumed"}
        return PricedShape(shape, price, choice=choice)


def _image(image: Any) -> Image:
    return Image(id=str(image.id), name=str(image.name or ""))


def _number(value: Any) -> bool:
    try:
        return float(value) > 0
    except (TypeError, ValueError):
        return False
