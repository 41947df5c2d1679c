"""The MultipleSpawner's templates and deployments (https://github.com/ucphhpc/multiplespawner) as profiles.

A template says how sessions of one type are started at some providers, a deployment what is deployed there; each pair
at each provider is a profile. Classes of the prototypes become ours: what starts sessions through SSH is a session of
gridcloud, which needs neither keys nor ports to be named. Other spawners are kept, and started as they are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from gridcloud.errors import InvalidSettings
from gridcloud.profiles.placeholders import PLACEHOLDERS, strange_placeholders
from gridcloud.settings.document import Document, Fault, read_document
from gridcloud.settings.profiles import ProfileSettings
from gridcloud.settings.request import Kind

__all__ = ["Note", "Prototypes", "read_prototypes"]

TEMPLATE_KEYS = (
    "name",
    "resource_type",
    "providers",
    "spawner",
    "configurer",
    "authenticator",
    "class",
    "kwargs",
)

DRIVERS: Mapping[str, Mapping[Kind, str]] = {
    "local": {Kind.BARE_METAL: "local", Kind.CONTAINER: "container", Kind.VIRTUAL_MACHINE: "qemu"},
    "libvirt_provider": {Kind.VIRTUAL_MACHINE: "qemu"},
    "oci": dict.fromkeys(Kind, "oci"),
    "ec2": dict.fromkeys(Kind, "ec2"),
    "aws": dict.fromkeys(Kind, "ec2"),
}
"""Which driver serves what the prototypes called a provider, where no provider here has that name."""

SSH_SPAWNERS = frozenset(
    {"sshspawner.SSHSpawner", "sshspawner.sshspawner.SSHSpawner", "cloudsshspawner.CloudSSHSpawner",
     "cloudsshspawner.cloudsshspawner.CloudSSHSpawner"}
)  # fmt: skip
SWARM_SPAWNERS = frozenset({"jhub.SwarmSpawner", "jhub.swarmspawner.SwarmSpawner"})
CONFIGURERS = frozenset({"corc.configurer.AnsibleConfigurer", "corc.core.configurer.AnsibleConfigurer"})
AUTHENTICATORS = frozenset(
    {"corc.authenticator.SSHAuthenticator", "corc.core.authenticator.SSHAuthenticator"}
)

TUNNELS = (
    "not needed: sessions are reached through gridcloud's own tunnels, with certificates and pinned host keys"
)
OF_SSH = frozenset({
    "remote_hosts", "remote_port", "ssh_keyfile", "remote_port_command", "ssh_forward_tunnel_client",
    "ssh_forward_credentials_paths", "hub_api_url", "hub_api_port", "hub_activity_url", "hub_api_interface",
    "hub_public_host",
    "user", "ip", "port", "path", "ssh_command", "use_gsi", "known_hosts", "resource_path",
})  # fmt: skip
OF_SWARM = {
    "jupyterhub_service_name": TUNNELS,
    "networks": TUNNELS,
    "use_user_options": "the images are what users may choose from",
    "container_spec": "not taken over: give environment variables by the key environment of a profile",
}
OF_ANSIBLE = frozenset(
    {"ansible_user", "ansible_become_method", "ansible_become_user", "ansible_port", "ansible_host",
     "ansible_private_key_file", "ansible_ssh_private_key_file", "ansible_connection", "ansible_python_interpreter"}
)  # fmt: skip
OF_ACCOUNT = frozenset({"ansible_user", "ansible_become_user", "ansible_port"})
ACCOUNT = "not needed: the provider's entry says who is logged in, and machines answer at SSH's own port"
OF_AUTHENTICATOR = frozenset({"create_certificate", "key_name", "load_existing"})
CERTIFICATES = (
    "not needed: whoever enters a machine has a certificate of gridcloud's authority, for that machine alone"
)
OF_DEPLOYMENT = frozenset({"container_port"})
CHOSEN = ("cpus", "memory", "gpus", "time")
"""What the prototype's form asked for."""

Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """What became of one key."""

    place: str
    key: str
    became: str


@dataclass(slots=True)
class Prototypes:
    """Profiles by name, in the order of the templates, and what became of what is not in them."""

    profiles: dict[str, ProfileSettings] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)


def read_prototypes(
    templates: tuple[str, str], deployments: tuple[str, str], providers: Mapping[str, str]
) -> Prototypes:
    """Return the profiles of both files, each given as its name and its text.

    ``providers``: the driver of each provider by name. Raises InvalidSettings with every fault and its place.
    """
    first = read_document(*templates, example='"name": "…", "resource_type": "virtual_machine"', rows=True)
    second = read_document(*deployments, example='"virtual_machine": […]')
    reader = _Reader(first, second, providers)
    if not first.faults and not second.faults:
        reader.read()
    faults: list[Fault] = [*first.faults, *second.faults]
    if faults:
        raise InvalidSettings(
            "\n".join(str(fault) for fault in faults),
            details={
                "faults": [{"place": one.place, "key": one.key, "message": one.message} for one in faults]
            },
        )
    return reader.found


class _Reader:
    def __init__(self, templates: Document, deployments: Document, providers: Mapping[str, str]) -> None:
        self.templates = templates
        self.deployments = deployments
        self.providers = providers
        self.found = Prototypes()
        for document in (templates, deployments):
            for key, place in list(document.places.items()):
                bare = tuple(_bare(part) if isinstance(part, str) else part for part in key)
                document.places.setdefault(bare, place)

    def read(self) -> None:
        for kind in self.deployments.values:
            if kind not in list(Kind):
                self.deployments.fault(
                    (kind,), f"no type of resource{_nearest(kind, [str(one) for one in Kind])}"
                )
        for row, template in self.templates.values.items():
            if not isinstance(template, dict):
                self.templates.fault((row,), 'expected keys with values, such as \'"name": "…"\'')
                continue
            self._read_template((row,), _stripped(template))

    def _read_template(self, key: Key, template: dict[str, Any]) -> None:
        fault = self.templates.fault
        for name in template:
            if name not in TEMPLATE_KEYS:
                fault((*key, name), f"unknown key{_nearest(name, TEMPLATE_KEYS)}")
        kind = template.get("resource_type")
        if kind not in list(Kind):
            fault((*key, "resource_type"), f"expected one of {', '.join(Kind)}; found {kind!r:.60}")
            return
        for place, strange in strange_placeholders(template, {**PLACEHOLDERS, "endpoint": ""}, key):
            if strange.isidentifier() and "kwargs" in place:
                continue  # the spawner's own, such as {username}
            fault(
                place,
                f"there is no placeholder {{{strange[:60]}}}; there are {', '.join(PLACEHOLDERS)}, endpoint",
            )
        names = template.get("providers")
        if not isinstance(names, list) or not names:
            fault((*key, "providers"), 'expected a list of providers, such as ["oci"]')
            return
        entry = {
            **self._spawner(key, template),
            "configure": self._configurer((*key, "configurer"), template.get("configurer")),
        }
        self._authenticator((*key, "authenticator"), template.get("authenticator"))
        title = str(template.get("name") or kind)
        for number, name in enumerate(names):
            provider = self._provider((*key, "providers", number), str(name), Kind(kind))
            if provider:
                self._add(key, title, Kind(kind), (str(name), provider), entry)

    def _add(
        self, key: Key, title: str, kind: Kind, provider: tuple[str, str], entry: dict[str, Any]
    ) -> None:
        theirs, ours = provider
        rows = self.deployments.values.get(kind)
        wanted = [
            (number, _stripped(row))
            for number, row in enumerate(rows if isinstance(rows, list) else ())
            if isinstance(row, dict) and row.get("provider", theirs) == theirs
        ]
        if not wanted:
            self.deployments.fault(
                (str(kind),), f"no deployment of this type is for {theirs}, which {title!r} names"
            )
        for number, row in wanted:
            profile = _merged(entry, {"title": f"{title}: {row.get('name', kind)}"})
            request = profile.setdefault("request", {}) | {"kind": str(kind), "on": ours}
            rest = {name: value for name, value in row.items() if name not in ("name", "provider")}
            if "spawner" in profile:
                profile["spawner"]["kwargs"] |= rest
                profile |= {"request": {}, "choose": {}}
            else:
                for name in rest.keys() & OF_DEPLOYMENT:
                    self._note((str(kind), number, name), TUNNELS, self.deployments)
                    del rest[name]
                profile["request"] = request | rest
                profile["choose"] = dict.fromkeys(CHOSEN, "any") | profile.get("choose", {})
            self._keep((str(kind), number), _slug(f"{title}-{ours}-{row.get('name', '')}"), profile)

    def _keep(self, key: Key, name: str, profile: dict[str, Any]) -> None:
        if name in self.found.profiles:
            self.deployments.fault(key, f"two of these become the profile {name!r}; give one another name")
            return
        try:
            self.found.profiles[name] = ProfileSettings.model_validate(profile)
        except ValidationError as error:
            for one in error.errors(include_url=False):
                inner = one["loc"][1:] if one["loc"][:1] == ("request",) else ()
                said = one["msg"].removeprefix("Value error, ")
                self.deployments.fault(
                    (*key, *inner), f"{said[:1].lower()}{said[1:]}; found {one['input']!r:.60}"
                )

    def _spawner(self, key: Key, template: dict[str, Any]) -> dict[str, Any]:
        nested = template.get("spawner")
        holder, above = (
            (_stripped(nested), (*key, "spawner")) if isinstance(nested, dict) else (template, key)
        )
        name, kwargs = holder.get("class"), holder.get("kwargs", {})
        if not isinstance(name, str) or not name:
            self.templates.fault((*above, "class"), "say which class of spawner starts these sessions")
            return {}
        if not isinstance(kwargs, dict):
            self.templates.fault((*above, "kwargs"), "expected keys with values")
            return {}
        kwargs = _stripped(kwargs)
        name = name.strip()
        if name in SSH_SPAWNERS:
            self._leave_out((*above, "kwargs"), dict.fromkeys(kwargs, TUNNELS), kwargs, OF_SSH)
            return {}
        if name in SWARM_SPAWNERS:
            images = _images(kwargs.pop("dockerimages", None) or kwargs.pop("images", None))
            self._leave_out((*above, "kwargs"), OF_SWARM, kwargs, OF_SWARM)
            return {"choose": {"image": images}} if images else {}
        for place, strange in strange_placeholders(kwargs, {"": ""}, (*above, "kwargs")):
            if strange == "endpoint":
                self.templates.fault(
                    place, f"{name} would be told of a machine that it is to make itself: no {{endpoint}} yet"
                )
        return {"spawner": {"class": name, "kwargs": kwargs}}

    def _configurer(self, key: Key, given: Any) -> list[dict[str, Any]]:
        if not given:
            return []
        configurer = self._part(key, given)
        if str(configurer.pop("class", "")).strip() not in CONFIGURERS:
            self.templates.fault(
                (*key, "class"), f"expected {min(CONFIGURERS)}; found {_class_of(given)!r:.60}"
            )
            return []
        above = (*key, "options")
        options = self._part(above, configurer.pop("options", None))
        parts = {
            name: self._part((*above, name), options.pop(name, None))
            for name in ("host_variables", "host_settings", "apply_kwargs")
        }
        variables, settings, apply = parts.values()
        books = apply.pop("playbook_paths", None) or [apply.pop("playbook_path", None)]
        group = settings.pop("group", None)
        if settings.pop("port", None) is not None:
            self._note((*above, "host_settings", "port"), ACCOUNT)
        self._refuse_rest(key, configurer, ("class", "options"))
        self._refuse_rest(above, options, parts)
        self._refuse_rest((*above, "host_settings"), settings, ("group", "port"))
        self._refuse_rest((*above, "apply_kwargs"), apply, ("playbook_path", "playbook_paths"))
        if not isinstance(books, list) or not all(isinstance(book, str) and book for book in books):
            self.templates.fault((*above, "apply_kwargs"), 'name a playbook: "playbook_path": "…"')
            return []
        kept = {
            name: value
            for name, value in variables.items()
            if name not in OF_ANSIBLE and name != "ansible_become"
        }
        for name in variables.keys() & OF_ANSIBLE:
            became = ACCOUNT if name in OF_ACCOUNT else TUNNELS
            self._note((*above, "host_variables", name), became)
        entry = {
            "use": "ansible",
            "playbooks": books,
            "host_variables": kept,
            "become": str(variables.get("ansible_become", "no")).strip().lower() in ("yes", "true", "1"),
        }
        return [entry | ({"groups": [str(group)]} if group else {})]

    def _authenticator(self, key: Key, given: Any) -> None:
        if not given:
            return
        authenticator = self._part(key, given)
        name = str(authenticator.pop("class", "")).strip()
        if name not in AUTHENTICATORS:
            self.templates.fault((*key, "class"), f"expected {min(AUTHENTICATORS)}; found {name!r:.60}")
            return
        kwargs = self._part((*key, "kwargs"), authenticator.pop("kwargs", None))
        self._refuse_rest(key, authenticator, ("class", "kwargs"))
        self._note((*key, "class"), CERTIFICATES)
        words = dict.fromkeys(OF_AUTHENTICATOR, CERTIFICATES)
        self._leave_out((*key, "kwargs"), words, kwargs, OF_AUTHENTICATOR)

    def _provider(self, key: Key, name: str, kind: Kind) -> str:
        """Return our provider for the prototypes' word; nothing, with a fault, where there is none."""
        if name in self.providers and (name != "local" or kind is Kind.BARE_METAL):
            return name
        driver = DRIVERS.get(name, {}).get(kind, "")
        ours = [one for one, its in self.providers.items() if driver and its == driver]
        if len(ours) == 1:
            return ours[0]
        if ours:
            self.templates.fault(
                key, f"{', '.join(ours)} could all be meant by {name!r}; name one of your providers {name!r}"
            )
        elif driver:
            self.templates.fault(
                key, f"no provider {name!r} with {kind}: gridcloud provider add {name} --driver {driver}"
            )
        else:
            near = _nearest(name, self.providers) or f"; there are {', '.join(self.providers) or 'none'}"
            self.templates.fault(key, f"there is no provider {name!r}{near}")
        return ""

    def _part(self, key: Key, given: Any) -> dict[str, Any]:
        """Return the keys of a part, without what is printed around them; a fault where it has none."""
        if given is not None and not isinstance(given, dict):
            self.templates.fault(key, "expected keys with values")
        return _stripped(given) if isinstance(given, dict) else {}

    def _refuse_rest(self, key: Key, left: Iterable[str], known: Iterable[str]) -> None:
        for name in left:
            self.templates.fault((*key, name), f"unknown key{_nearest(name, known)}")

    def _leave_out(self, key: Key, words: Mapping[str, str], kwargs: dict[str, Any], known: Any) -> None:
        for name in kwargs:
            if name in known:
                self._note((*key, name), words[name])
            else:
                self.templates.fault((*key, name), f"unknown key{_nearest(name, known)}")

    def _note(self, key: Key, became: str, document: Document | None = None) -> None:
        place = (document or self.templates).place(key)
        self.found.notes.append(Note(place, ".".join(map(str, key)), became))


def _images(given: Any) -> list[str]:
    rows = given if isinstance(given, list) else []
    return [str(row["image"]) for row in rows if isinstance(row, dict) and row.get("image")]


def _stripped(values: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping without the spaces that printed copies have in their keys."""
    return {_bare(name): value for name, value in values.items()}


def _bare(name: str) -> str:
    return name.strip().replace(" ", "_")


def _class_of(given: Any) -> Any:
    return _stripped(given).get("class") if isinstance(given, dict) else given


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return a copy that can be changed, with what the other says."""
    spawner = one.get("spawner")
    copy = {**one, **other}
    if spawner:
        copy["spawner"] = {**spawner, "kwargs": dict(spawner["kwargs"])}
    return copy


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63] or "profile"


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
