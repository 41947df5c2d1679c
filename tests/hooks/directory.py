"""A directory of one's own: OpenLDAP's slapd on loopback, with a certificate, ended by its process."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import ldap3

from gridcloud.drivers.hooks.ldap import LDAPHook
from tests.services import make_certificate

__all__ = ["ADMIN", "BASE", "PEOPLE", "Slapd", "find_slapd"]

BASE = "dc=example,dc=org"
PEOPLE = f"ou=people,{BASE}"
ADMIN = f"cn=admin,{BASE}"
COUNTER = f"cn=next,{BASE}"
PASSWORD = "not for everybody"

CONFIGURATION = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/pid
TLSCACertificateFile {folder}/directory.test.crt
TLSCertificateFile {folder}/directory.test.crt
TLSCertificateKeyFile {folder}/directory.test.key
database mdb
suffix "{base}"
rootdn "{admin}"
rootpw "{password}"
directory {folder}/db
maxsize 16777216
index objectClass,uid,uidNumber eq
access to attrs=userPassword by self write by anonymous auth by * none
access to * by * read
"""

ENTRIES = f"""
dn: {BASE}
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: {PEOPLE}
objectClass: organizationalUnit
ou: people

dn: cn=students,{BASE}
objectClass: posixGroup
cn: students
gidNumber: 20000

dn: {COUNTER}
objectClass: organizationalRole
objectClass: extensibleObject
cn: next
uidNumber: 1000
"""


def find_slapd() -> str:
    """Return the program; nothing where there is none."""
    return shutil.which("slapd") or shutil.which("slapd", path="/usr/sbin:/usr/local/sbin") or ""


class Slapd:
    """One directory, started at once."""

    def __init__(self, folder: Path, ports: tuple[int, int]) -> None:
        self.folder = folder
        self.address = ("127.0.0.1", ports[0])
        self.plain, self.secure = f"ldap://127.0.0.1:{ports[0]}", f"ldaps://127.0.0.1:{ports[1]}"
        (folder / "db").mkdir()
        self.certificate, _ = make_certificate(folder, "directory.test")
        (folder / "secret").touch(0o600)
        (folder / "secret").write_text(PASSWORD + "\n")
        text = CONFIGURATION.format(folder=folder, base=BASE, admin=ADMIN, password=PASSWORD)
        (folder / "slapd.conf").write_text(text)
        slapadd = str(Path(find_slapd()).with_name("slapadd"))
        subprocess.run(
            [slapadd, "-q", "-f", str(folder / "slapd.conf")], input=ENTRIES.encode(), check=True, timeout=60
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and return when it answers."""
        words = [
            find_slapd(),
            "-d",
            "0",
            "-f",
            str(self.folder / "slapd.conf"),
            "-h",
            f"{self.plain} {self.secure}",
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        for _ in range(200):
            try:
                socket.create_connection(self.address, 1).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.05)
        raise TimeoutError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def connection(self) -> Any:
        """Open a connection of its administrator; the caller closes it."""
        server = ldap3.Server(self.plain, get_info=ldap3.NONE)
        return ldap3.Connection(
            server, ADMIN, PASSWORD, auto_bind=True, check_names=False, raise_exceptions=True
        )

    def entries(self, filter: str = "(objectClass=inetOrgPerson)") -> list[dict[str, Any]]:
        """Return what is in it: ``dn`` and ``attributes``, each a list of bytes."""
        connection = self.connection()
        try:
            connection.search(BASE, filter, attributes=["*"])
            return [{"dn": one["dn"], **one["raw_attributes"]} for one in connection.response]
        finally:
            connection.unbind()

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return an entry of ``before_start`` that makes accounts in it."""
        return {
            "url": self.plain,
            "certificate": str(self.certificate),
            "bind": ADMIN,
            "password": f"file:{self.folder / 'secret'}",
            "search": PEOPLE,
            "entry": f"uid={{JUPYTERHUB_USER}},{PEOPLE}",
            "classes": ["inetOrgPerson", "posixAccount"],
            "attributes": {
                "uid": "{JUPYTERHUB_USER}",
                "cn": "{JUPYTERHUB_USER}",
                "sn": "{JUPYTERHUB_USER}",
                "uidNumber": "{uidNumber}",
                "gidNumber": "{gidNumber}",
                "homeDirectory": "/home/{uidNumber}",
            },
            "numbers": {"uidNumber": {"entry": COUNTER, "attribute": "uidNumber"}},
            "lookups": {"gidNumber": {"search": BASE, "filter": "(cn=students)", "attribute": "gidNumber"}},
            "environment": {"NB_UID": "{uidNumber}", "NB_GID": "{gidNumber}", "NB_HOME": "{homeDirectory}"},
            **more,
        }

    def hook(self, **more: Any) -> LDAPHook:
        """Return a hook at it."""
        return LDAPHook(LDAPHook.Settings.model_validate(self.settings(**more)), self.folder)
