"""Log in through an OpenID Connect server and an LDAP directory, for real."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.spawner.conftest import HERE
from tests.spawner.identity_server import IdentityServer
from tests.spawner.uphouse import NAVIGATE, UpHouse

SECRET = "oidc-" + secrets.token_hex(16)
PEOPLE = """
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: uid=alice,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: alice
cn: Alice
sn: A
userPassword: right one

dn: uid=bob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: bob
cn: Bob
sn: B
userPassword: another

dn: cn=hpc,dc=example,dc=org
objectClass: groupOfNames
cn: hpc
member: uid=alice,ou=people,dc=example,dc=org
"""


def closed(house: UpHouse) -> None:
    """Let in only whom the configuration names."""
    more = Path(house.settings["hub"]["configuration"])
    more.write_text(more.read_text().replace("c.Authenticator.allow_all = True\n", ""))


@pytest.fixture
async def server() -> AsyncIterator[IdentityServer]:
    async with IdentityServer(SECRET) as running:
        yield running


@pytest.mark.lab
@pytest.mark.keeps("the house of the module's tests")
async def test_openid_connect(
    server: IdentityServer, make_house: Callable[..., UpHouse], tmp_path: Path
) -> None:
    pytest.importorskip("oauthenticator", reason="pip install gridcloud[hub-login]")
    secret = tmp_path / "client-secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    (tmp_path / "list.csv").write_text("email\nada@example.org\n")
    house = make_house(
        {"here": HERE},
        profiles={"all": {"request": {"cpus": 1}}, "listed": {"offered": []}},
        courses={"c": {"roster": {"file": str(tmp_path / "list.csv")}, "profiles": ["listed"]}},
    )
    closed(house)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server.callback = f"http://127.0.0.1:{port}/hub/oauth_callback"
    house.settings["hub"] |= {
        "port": port,
        "authenticator": "oidc",
        "allowed_users": ["ada"],
        "oidc": {
            "client_id": server.client_id,
            "client_secret": f"file:{secret}",
            "authorize_url": f"{server.url}/authorize",
            "token_url": f"{server.url}/token",
            "userdata_url": f"{server.url}/userinfo",
            "callback_url": server.callback,
            "groups": "realm.groups",
            "allowed_groups": ["staff"],
        },
    }
    house.write()
    house.start()
    about = {"sub": "1", "email": "ada@example.org", "email_verified": True, "realm": {"groups": []}}
    for claims, code in (
        ({**about, "preferred_username": "ada"}, 200),
        ({**about, "preferred_username": "eve"}, 403),
        ({**about, "preferred_username": "grace", "realm": {"groups": ["staff"]}}, 200),
    ):
        server.claims = claims
        async with house.stranger() as client:
            async with client.get("/hub/oauth_login?next=https://evil.example/", headers=NAVIGATE) as answer:
                assert (answer.status, answer.url.host) == (code, "127.0.0.1"), await answer.text()
            if code == 200:
                async with client.get("/hub/spawn", headers=NAVIGATE) as answer:
                    assert 'value="listed"' in await answer.text()
    async with (
        house.stranger() as client,
        client.get("/hub/oauth_callback?code=x&state=y", headers=NAVIGATE) as answer,
    ):
        assert answer.status == 400
    assert SECRET not in house.logs() + house.said()
    house.stop()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """A directory server on this computer; its port."""
    program = shutil.which("slapd") or shutil.which("slapd", path="/usr/sbin")
    if program is None:
        pytest.skip("slapd is not installed: apt install slapd")
    (tmp_path / "db").mkdir()
    (tmp_path / "people.ldif").write_text(PEOPLE.lstrip())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    configuration = tmp_path / "slapd.conf"
    schemas = "".join(
        f"include /etc/ldap/schema/{one}.schema\n" for one in ("core", "cosine", "inetorgperson")
    )
    configuration.write_text(
        f"{schemas}modulepath /usr/lib/ldap\nmoduleload back_mdb\npidfile {tmp_path}/pid\nargsfile {tmp_path}/args\n"
        f'database mdb\nsuffix "dc=example,dc=org"\ndirectory {tmp_path}/db\nmaxsize 67108864\n'
        "access to attrs=userPassword by anonymous auth by * none\naccess to * by * read\n"
    )
    add = [shutil.which("slapadd", path="/usr/sbin:/usr/bin") or "slapadd", "-q", "-f", str(configuration)]
    subprocess.run([*add, "-l", str(tmp_path / "people.ldif")], check=True, timeout=60)
    server = subprocess.Popen(
        [program, "-d", "0", "-f", str(configuration), "-h", f"ldap://127.0.0.1:{port}"]
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.lab
@pytest.mark.keeps("the house of the module's tests")
async def test_ldap(directory: int, make_house: Callable[..., UpHouse]) -> None:
    pytest.importorskip("ldapauthenticator", reason="pip install gridcloud[hub-login]")
    house = make_house({"here": HERE})
    closed(house)
    house.settings["hub"] |= {
        "authenticator": "ldap",
        "ldap": {
            "server": "127.0.0.1",
            "port": directory,
            "tls": "off",
            "bind": ["uid={username},ou=people,dc=example,dc=org"],
            "allowed_groups": ["cn=hpc,dc=example,dc=org"],
            "group_attributes": ["member"],
        },
    }
    house.write()
    house.start()
    for name, password, code in (
        ("alice", "right one", 302),
        ("alice", "wrong", 403),
        ("alice", "", 403),
        ("bob", "another", 403),
        ("alice,ou=people", "right one", 403),
        ("*", "right one", 403),
        ("../alice", "right one", 403),
    ):
        async with house.stranger() as client:
            async with client.get("/hub/login", headers=NAVIGATE) as page:
                assert page.status == 200
            [token] = [cookie.value for cookie in client.cookie_jar if cookie.key == "_xsrf"]
            sent = {"username": name, "password": password, "_xsrf": token}
            async with client.post(
                "/hub/login", data=sent, headers=NAVIGATE, allow_redirects=False
            ) as answer:
                assert answer.status == code, (name, password, house.logs())
                assert urlsplit(answer.headers.get("Location", "")).netloc == ""
    assert "right one" not in house.logs()
    house.stop()
