"""Which members are asked: those first whose records say that they have room for what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from gridcloud.federation.records import Profile, Room
from gridcloud.federation.wishes import Capacity
from gridcloud.grid.neighbours import Neighbours
from gridcloud.grid.prospects import MOST, Prospects
from gridcloud.instances.model import Kind, Request
from gridcloud.instances.peers import Terms

GIBIBYTE = 1 << 30
TERMS = Terms("partners")


class Records:
    """What is known of others, of which the first half are in one community."""

    initialised = True

    def __init__(self, profiles: Mapping[str, Profile]) -> None:
        self.told = dict(profiles)

    def members(self) -> Mapping[str, Any]:
        return {who: SimpleNamespace(name=one.name) for who, one in self.told.items()}

    def profiles(self) -> Mapping[str, Profile]:
        return self.told

    def communities(self) -> tuple[Any, ...]:
        return (SimpleNamespace(name="half", community="c-1"),)

    def communities_of(self, institution: str) -> frozenset[str]:
        return frozenset({"c-1"} if list(self.told).index(institution) < len(self.told) // 2 else ())

    def find(self, institution: str) -> str:
        return next(who for who, one in self.told.items() if one.name == institution)

    def prospects(self) -> Prospects:
        return Prospects(cast(Neighbours, self))


def profile(
    name: str, cores: int, *models: str, kind: Any = "virtual_machine", location: str = ""
) -> Profile:
    """Return what an institution says that has so many cores free, with 4 GiB each, and 64 in all."""
    free = Capacity(millicores=1000 * cores, memory=4096 * cores, gpus=len(models))
    total = Capacity(millicores=64_000, memory=64 * 4096, gpus=len(models))
    room = Room(kind=kind, total=total, free=free, gpu_models=models)
    return Profile(name=name, rooms=(room,), location=location)


def asked(records: Records, request: Request, terms: Terms = TERMS) -> list[str]:
    return [records.told[one].name for one in records.prospects().choose(terms, request)]


def test_who_has_room_for_it_is_asked_before_who_has_any_and_these_before_the_rest() -> None:
    names = {"full": 0, "small": 2, "tight": 8, "large": 64}
    records = Records({f"i-{name}": profile(name, cores) for name, cores in names.items()})
    assert asked(records, Request(cpus=5)) == ["tight", "large", "small", "full"]
    assert asked(records, Request(cpus=65)) == ["large", "small", "tight", "full"]


def test_of_a_thousand_members_only_few_are_asked_and_those_that_can() -> None:
    records = Records({f"i-{number}": profile(f"member {number:04}", number % 60) for number in range(1000)})
    able = asked(records, Request(cpus=59))
    assert len(able) == MOST
    assert all(int(name.split()[1]) % 60 == 59 for name in able)


def test_a_kind_a_place_and_a_model_count_too() -> None:
    records = Records(
        {
            "i-a": profile("Alta", 8, "A100", location="Alta, north"),
            "i-b": profile("Bodø", 8, "H100", kind="container"),
            "i-c": profile("Moss", 8),
        }
    )
    assert asked(records, Request(gpus=1, gpu_model="h100"))[0] == "Bodø"
    assert asked(records, Request(location="north"))[0] == "Alta"
    assert asked(records, Request(kind=Kind.CONTAINER))[0] == "Bodø"


def test_only_those_are_asked_that_the_configuration_names() -> None:
    records = Records({f"i-{number}": profile(f"member {number}", number) for number in range(4)})
    assert asked(records, Request(cpus=1), Terms("partners", institution="member 2")) == ["member 2"]
    assert asked(records, Request(cpus=1), Terms("partners", community="half")) == ["member 1", "member 0"]


def test_a_newer_record_counts_at_once() -> None:
    records = Records({"i-a": profile("Alta", 0), "i-b": profile("Bodø", 8)})
    prospects = records.prospects()
    assert prospects.choose(TERMS, Request(cpus=4)) == ["i-b", "i-a"]
    records.told |= {"i-a": profile("Alta", 8), "i-b": profile("Bodø", 0)}
    assert prospects.choose(TERMS, Request(cpus=4)) == ["i-a", "i-b"]
