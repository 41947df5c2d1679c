"""From the sections of ``hub`` to JupyterHub's authenticators: ready-made settings for each way to log in."""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gridcloud.errors import DriverUnavailable
from gridcloud.identity.credentials import resolve
from gridcloud.settings import HubSettings
from gridcloud.settings.login import WAYS, NativeSettings
from gridcloud.spawner.account_authenticator import AccountAuthenticator
from gridcloud.spawner.header_authenticator import HeaderAuthenticator, front_secret
from gridcloud.spawner.headers import NAME
from gridcloud.spawner.login import keep_contexts, note_person
from gridcloud.spawner.login_door import DoorProxy, door_path

__all__ = ["CRYPT_KEY", "check_login", "let_in"]

CRYPT_KEY = "JUPYTERHUB_CRYPT_KEY"
"""Where JupyterHub finds the key of its auth_state."""

PAM = ("pam", "jupyterhub.auth.PAMAuthenticator")
"""How configurations name JupyterHub's own, which takes two accounts for one."""

CLASSES = {
    "oidc": "oauthenticator.generic.GenericOAuthenticator",
    "globus": "oauthenticator.globus.GlobusOAuthenticator",
    "cilogon": "oauthenticator.cilogon.CILogonOAuthenticator",
    "ldap": "ldapauthenticator.LDAPAuthenticator",
    "lti": "ltiauthenticator.lti13.auth.LTI13Authenticator",
    "native": "nativeauthenticator.NativeAuthenticator",
}
"""Of libraries that the extra hub-login brings."""


def let_in(c: Any, hub: HubSettings, data: Path) -> None:
    """Configure JupyterHub for ``hub.authenticator``. Raises DriverUnavailable, and what secrets raise."""
    way = hub.authenticator
    if way not in WAYS:
        c.JupyterHub.authenticator_class = AccountAuthenticator if way in PAM else way
        return
    c.Authenticator.allow_existing_users = False  # who may log in is what the configuration says now
    if way == "header":
        c.JupyterHub.authenticator_class = HeaderAuthenticator
        c.HeaderAuthenticator.settings = hub.header
        c.JupyterHub.proxy_class = DoorProxy
        c.DoorProxy.door = str(door_path(data))
        return
    kind = _load(way)
    if way == "native":
        from gridcloud.spawner.native_authenticator import HubAccountsAuthenticator

        kind = HubAccountsAuthenticator
    c.Authenticator.username_pattern = rf"{NAME.pattern}\Z"
    c.JupyterHub.authenticator_class = kind
    if way in ("oidc", "globus", "cilogon", "lti"):
        c.Authenticator.enable_auth_state = True
        c.Authenticator.reconcile_auth_state_hook = _reconcile
    for name, value in _TRAITS[way](hub).items():
        c[kind.__name__][name] = value


def check_login(hub: HubSettings) -> None:
    """Raise GridcloudError when people could not log in: a library or a secret is missing."""
    if hub.authenticator == "header" and hub.header is not None:
        front_secret(hub.header)
    elif hub.authenticator in WAYS:
        _load(hub.authenticator)
        _TRAITS[hub.authenticator](hub)


def _load(way: str) -> Any:
    module, _, name = CLASSES[way].rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise DriverUnavailable(
            f"hub.authenticator: {way} needs a library that is not installed: {error}.",
            remedy="Run: pip install 'gridcloud[hub-login]'",
        ) from error


def _reconcile(authenticator: Any, model: Mapping[str, Any], before: Mapping[str, Any] | None) -> Any:
    """Return the state to be written, at a login and whenever its token is made fresh."""
    state = model.get("auth_state")
    return keep_contexts(before, note_person(authenticator, state)) if isinstance(state, Mapping) else state


def _client(hub: HubSettings, section: Any) -> dict[str, Any]:
    """Return what all have that the hub is a client of."""
    base = hub.public_url.rstrip("/")
    traits: dict[str, Any] = {
        "client_id": section.client_id,
        "client_secret": resolve(section.client_secret).reveal().strip(),
    }
    if section.callback_url or base:
        traits["oauth_callback_url"] = section.callback_url or f"{base}/hub/oauth_callback"
    if section.allowed_groups or section.admin_groups:
        traits |= {
            "manage_groups": True,
            "allowed_groups": set(section.allowed_groups),
            "admin_groups": set(section.admin_groups),
        }
    return traits


def _oidc(hub: HubSettings) -> dict[str, Any]:
    section = hub.oidc
    assert section is not None  # noqa: S101 - the settings were checked
    traits = _client(hub, section) | {
        "authorize_url": section.authorize_url,
        "token_url": section.token_url,
        "userdata_url": section.userdata_url,
        "scope": list(section.scope),
        "username_claim": section.username,
        "enable_pkce": True,
    }
    if section.title:
        traits["login_service"] = section.title
    if section.groups:
        traits |= {"manage_groups": True, "auth_state_groups_key": f"oauth_user.{section.groups}"}
    return traits


def _globus(hub: HubSettings) -> dict[str, Any]:
    section = hub.globus
    assert section is not None  # noqa: S101
    traits = _client(hub, section)
    return traits | ({"identity_provider": section.identity_provider} if section.identity_provider else {})


def _cilogon(hub: HubSettings) -> dict[str, Any]:
    section = hub.cilogon
    assert section is not None  # noqa: S101
    known = {
        place: {"username_derivation": {"username_claim": claim}}
        for place, claim in section.institutions.items()
    }
    return _client(hub, section) | {"idps": known}


def _ldap(hub: HubSettings) -> dict[str, Any]:
    section = hub.ldap
    assert section is not None  # noqa: S101
    # Its library checks no certificate unless told to.
    tls: dict[str, Any] = {"validate": ssl.CERT_REQUIRED}
    if section.certificates:
        tls["ca_certs_file"] = section.certificates
    traits: dict[str, Any] = {
        "server_address": section.server,
        "tls_strategy": {"off": "insecure"}.get(section.tls, section.tls),
        "tls_kwargs": tls,
        "allowed_groups": list(section.allowed_groups) or None,
        "group_attributes": list(section.group_attributes),
        "group_search_filter": f"(|{''.join(map(_names_member, section.group_attributes))})",
    }
    if section.port:
        traits["server_port"] = section.port
    if section.bind:
        return traits | {"bind_dn_template": list(section.bind)}
    traits |= {
        "lookup_dn": True,
        "user_search_base": section.search_base,
        "user_attribute": section.search_attribute,
        "lookup_dn_user_dn_attribute": section.search_attribute,
    }
    if section.search_user:
        password = resolve(section.search_password).reveal().strip()
        traits |= {"lookup_dn_search_user": section.search_user, "lookup_dn_search_password": password}
    return traits


def _names_member(attribute: str) -> str:
    return f"({attribute}={{{'uid' if attribute.lower() == 'memberuid' else 'userdn'}}})"


def _lti(hub: HubSettings) -> dict[str, Any]:
    section = hub.lti
    assert section is not None  # noqa: S101
    return {
        "issuer": section.issuer,
        "client_id": set(section.client_id),
        "authorize_url": section.authorize_url,
        "jwks_endpoint": section.keys_url,
        "username_key": section.username,
    }


def _native(hub: HubSettings) -> dict[str, Any]:
    section = hub.native or NativeSettings()
    return {
        "minimum_password_length": section.least_password,
        "check_common_password": True,
        "allowed_failed_logins": section.failures,
        "seconds_before_next_try": section.pause,
        "ask_email_on_signup": section.addresses,
        "open_signup": False,
    }


_TRAITS: Mapping[str, Callable[[HubSettings], dict[str, Any]]] = {
    "oidc": _oidc,
    "globus": _globus,
    "cilogon": _cilogon,
    "ldap": _ldap,
    "lti": _lti,
    "native": _native,
}
