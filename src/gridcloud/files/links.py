"""Which share a URL means, and what opens it.

``share://NAME/path`` means a link that the user's links file names, so that no secret stands in a program;
``share://HOST/s/SECRET/path`` is the link itself with another scheme. The file is ``links.yaml`` beside the
configuration, or what ``GRIDCLOUD_LINKS`` names, readable by its owner only:

    results:
      url: https://data.example.org/s/SECRET/
      password: …      # where the link asks for one
      ca: /etc/ca.pem  # who signs the certificate, where that is not known anyway
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from pathlib import Path
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from gridcloud.errors import InvalidRequest, InvalidSettings, NotFound, Untrusted
from gridcloud.settings import config_path

__all__ = ["NAME", "Link", "Place", "find_place", "links_path", "read_links", "share_url"]

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
"""What a link may be called in the links file: nothing that could be a host with a port or a domain."""

_LINK = re.compile(r"^(https?)://([^/?#@\s]+)/s/([A-Za-z0-9]{10,64})/*$")


class Link(BaseModel):
    """A link, and what its share asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(description="the link, such as https://data.example.org/s/SECRET/")
    password: SecretStr = Field(
        default=SecretStr(""), description="its password, and a code right behind that"
    )
    ca: Path | None = Field(default=None, description="certificates (PEM) of those who sign its server's")
    name: str = Field(default="", description="what it is called here")

    @property
    def root(self) -> str:
        """The URL without the slash at its end. Raises InvalidRequest, Untrusted."""
        match = _LINK.match(self.url)
        if not match:
            raise InvalidRequest(f"The link {self.name or 'given'} is no URL such as https://HOST/s/SECRET/.")
        if match[1] == "http" and not _is_here(match[2]):
            raise Untrusted(
                f"{match[2]} is spoken to in the clear: all could read along.", remedy="Use https."
            )
        return f"{match[1]}://{match[2]}/s/{match[3]}"

    @property
    def shown(self) -> str:
        """What it is called for people and logs: never its secret."""
        return self.name or f"{urlsplit(self.url).netloc}/s/…"


class Place(BaseModel):
    """A file or folder of a share."""

    model_config = ConfigDict(frozen=True)

    link: Link
    path: str
    """Below the share's folder, without slashes at its ends."""

    @property
    def url(self) -> str:
        """The URL without a slash at its end; the share's folder has one."""
        return f"{self.link.root}/{quote(os.fsencode(self.path), safe='/')}"

    @property
    def shown(self) -> str:
        """How it is named to people and in logs."""
        return f"share://{self.link.shown}/{self.path}"


def find_place(path: str, password: str = "", ca: Path | None = None, tls: bool | None = None) -> Place:
    """Return what a path of ``share://`` means.

    ``password``, ``ca``: for a link that is not in the links file, or has none there. ``tls``: whether the server
    speaks TLS; None: unless it is this computer. Raises NotFound for a name that is in no links file, InvalidRequest.
    """
    first, _, rest = path.strip("/").partition("/")
    if "." in first or ":" in first or first == "localhost":
        kind, _, deeper = rest.partition("/")
        secret, _, below = deeper.partition("/")
        if kind != "s" or not secret:
            raise InvalidRequest("A share is share://NAME/path or share://HOST/s/SECRET/path.")
        scheme = "https" if tls or (tls is None and not _is_here(first)) else "http"
        link = Link(url=f"{scheme}://{first}/s/{secret}/")
        rest = below
    elif (found := read_links().get(first)) is None:
        raise NotFound(f"No link is called {first!r}.", remedy=f"Add it to {links_path()}.")
    else:
        link = found
    changed: dict[str, object] = {}
    if password and not link.password.get_secret_value():
        changed["password"] = SecretStr(password)
    if ca is not None and link.ca is None:
        changed["ca"] = ca
    return Place(link=link.model_copy(update=changed), path=rest.strip("/"))


def share_url(url: str) -> tuple[str, bool | None]:
    """Return a URL with our scheme for a link as a browser has it, and whether TLS is spoken (None: as usual)."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme in ("http", "https") and re.match(r"[^/?#@\s]+/s/[A-Za-z0-9]{10,64}(/|$)", rest):
        if scheme == "http" and not _is_here(rest.partition("/")[0]):
            raise Untrusted("That link is spoken to in the clear: all could read along.", remedy="Use https.")
        return f"share://{rest}", scheme == "https"
    return url, None


def links_path() -> Path:
    """Return where the links file is: ``GRIDCLOUD_LINKS``, else beside the configuration."""
    given = os.environ.get("GRIDCLOUD_LINKS", "")
    return Path(given).expanduser().absolute() if given else config_path().with_name("links.yaml")


def read_links() -> dict[str, Link]:
    """Return the links of the links file by name; none where there is none. Raises InvalidSettings, Untrusted."""
    import yaml

    path = links_path()
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid not in (0, os.geteuid()):
                raise Untrusted(f"Others may read or write {path}.", remedy=f"Run: chmod 600 {path}")
            found = yaml.safe_load(file) or {}
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"{path} cannot be read: {type(error).__name__}.") from error
    if not isinstance(found, dict):
        raise InvalidSettings(f"{path} is no list of links by name.")
    links = {}
    for name, entry in found.items():
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise InvalidSettings(f"{path}: {name!r} is no name of a link: letters, digits, - and _.")
        try:
            links[name] = Link.model_validate({**entry, "name": name})
        except (ValidationError, TypeError) as error:
            # Not what is wrong with it: that would repeat the secret.
            raise InvalidSettings(f"{path}: {name} has url, and perhaps password and ca.") from error
    return links


def _is_here(host: str) -> bool:
    """Tell whether a host, with or without its port, is this computer."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
