"""What comes to an institution's door over real sockets and is not let in; each is logged, and none is accepted."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gridcloud.clock import SystemClock
from gridcloud.errors import ClockSkew, Revoked, Unavailable, UnknownSigner, Unreachable, Untrusted
from gridcloud.federation.allowances import Allowance
from gridcloud.federation.encoding import MAXIMUM_BYTES, Json
from gridcloud.federation.envelopes import sign
from gridcloud.federation.keys import PrivateKey, RevokedKey, institution_of, make_key_list
from gridcloud.federation.records import Profile, make_record
from gridcloud.grid.calling import _told
from gridcloud.grid.certificates import client_context, host_name, issue
from gridcloud.grid.links import LINES
from gridcloud.grid.office import Office
from tests.grid.offices import OPEN, OffClock, Place, acquaint, places, until


class _Counted:
    """Counts what was accepted."""

    def __init__(self, office: Office) -> None:
        self.taken = 0
        office.doorway.handle("test", self.answer)

    async def answer(self, sender: str, kind: str, body: Json) -> tuple[str, Json] | None:
        self.taken += 1
        return None


async def _post(
    place: Place, context: ssl.SSLContext, data: bytes, *headers: str, limit: int = 1 << 30
) -> tuple[int, str]:
    """Post bytes as an attacker would; return the status and the name of the error, 0 when the door hung up."""
    length = [] if any("chunked" in one for one in headers) else [f"Content-Length: {max(len(data), 0)}"]
    if any(one.startswith("Content-Length") for one in headers):
        length = []
    head = ["POST /grid/1/messages HTTP/1.1", "Host: x", "Connection: close", *length, *headers]
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            place.office.doorway.port,
            ssl=context,
            server_hostname=host_name(place.office.me),
        )
    except (OSError, ssl.SSLError):
        return 0, ""
    try:
        writer.write(("\r\n".join(head) + "\r\n\r\n").encode() + data)
        await writer.drain()
        async with asyncio.timeout(10):
            answer = await reader.read(limit)
    except (OSError, ssl.SSLError):
        return 0, ""
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except (OSError, ssl.SSLError):
            pass
    if not answer:
        return 0, ""
    status = int(answer.split()[1])
    body = answer.partition(b"\r\n\r\n")[2]
    return status, json.loads(body)["title"] if body.startswith(b"{") and status >= 300 else ""


class _Member:
    """Beta's keys, in the hands of a test: what it could send if it were dishonest."""

    def __init__(self, beta: Place, alpha: Place) -> None:
        self.key = beta.office.service_key()
        self.me, self.to = beta.office.me, alpha.office.me
        self.folder = beta.folder
        self.trusted = [alpha.office.service_key().public]

    def context(self) -> ssl.SSLContext:
        return client_context(self.trusted, issue(self.key, self.me, datetime.now(UTC)), self.folder)

    def message(self, sender: str = "", key: PrivateKey | None = None, seconds: float = 0.0) -> bytes:
        return sign(
            key or self.key,
            OffClock(seconds),
            kind="test.say",
            sender=sender or self.me,
            recipient=self.to,
            body={},
        )


async def test_what_a_member_may_not_send(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Between institutions, promise G."""
    caplog.set_level(logging.WARNING)
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        counted = _Counted(alpha.office)
        await acquaint(alpha, beta, gamma)
        member = _Member(beta, alpha)
        context = member.context()
        good = member.message()
        assert await _post(alpha, context, good) == (204, "")
        assert counted.taken == 1
        caplog.clear()
        table = {
            "replayed": (good, (), "Replayed"),
            "of another member": (
                member.message(gamma.office.me, gamma.office.service_key()),
                (),
                "UnknownSigner",
            ),
            "in another's name": (member.message(gamma.office.me), (), "UnknownSigner"),
            "of a clock an hour ahead": (member.message(seconds=3600), (), "ClockSkew"),
            "of a clock an hour behind": (member.message(seconds=-3600), (), "Expired"),
            "too large": (b"x" * (MAXIMUM_BYTES + 1), (), "Malformed"),
            "larger than it says": (b"{", ("Content-Length: 2000000",), "Malformed"),
            "in chunks": (b"1\r\n{\r\n0\r\n\r\n", ("Transfer-Encoding: chunked",), "Malformed"),
            "compressed": (b"{}", ("Content-Encoding: deflate",), "Malformed"),
            "no message": (b"{}", (), "Malformed"),
        }
        found = {}
        for name, (data, headers, _) in table.items():
            status, error = await _post(alpha, context, data, *headers)
            # Who sends too much is hung up on, perhaps before it reads why.
            found[name] = error if status or "larg" not in name else "Malformed"
        assert found == {name: error for name, (_, _, error) in table.items()}
        assert counted.taken == 1
        refused = [one for one in alpha.office.status().refusals if one.who == beta.office.me]
        assert [one.error for one in refused] == [error for _, _, error in table.values()]
        assert len([one for one in caplog.messages if one.startswith("refused")]) >= len(table)
        assert all("\n" not in one for one in caplog.messages)


async def test_strangers_do_not_come_in(tmp_path: Path) -> None:
    """Between institutions, promise G."""
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        counted = _Counted(alpha.office)
        await acquaint(alpha, beta)
        member = _Member(beta, alpha)
        stranger = PrivateKey.generate()
        now, me = datetime.now(UTC), institution_of(stranger.public)
        shown = client_context(member.trusted, issue(stranger, me, now), tmp_path)
        as_beta = client_context(member.trusted, issue(stranger, beta.office.me, now), tmp_path)
        hidden = client_context(member.trusted, None, tmp_path)
        letter = sign(stranger, SystemClock(), kind="test.say", sender=me, recipient=alpha.office.me, body={})
        assert await _post(alpha, shown, letter) == (0, "")
        assert await _post(alpha, as_beta, member.message()) == (0, "")
        assert await _post(alpha, hidden, letter) == (400, "Malformed")  # no answer to an invitation
        assert await _post(alpha, hidden, member.message()) == (400, "Malformed")
        assert counted.taken == 0
        with socket.create_connection(("127.0.0.1", alpha.office.doorway.port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            plain.setblocking(False)
            await until(lambda: len(alpha.office.status().refusals) == 5)
        assert {one.error for one in alpha.office.status().refusals} == {"UnknownSigner", "Malformed"}


async def test_who_may_sign_certificates_signs_for_nobody_else(tmp_path: Path) -> None:
    """Between institutions, promise I."""
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        counted = _Counted(alpha.office)
        await acquaint(alpha, beta, gamma)
        member = _Member(beta, alpha)
        forged = _through_an_authority_of_its_own(
            member.key, gamma.office.service_key().public, gamma.office.me
        )
        context = client_context(member.trusted, None, tmp_path)
        path = tmp_path / "forged.pem"
        path.write_bytes(forged)
        context.load_cert_chain(path)
        letter = member.message(gamma.office.me, gamma.office.service_key())
        assert await _post(alpha, context, letter) == (0, "")
        assert counted.taken == 0


async def test_wrong_institution_at_an_address_is_not_talked_to(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        await acquaint(alpha, beta, gamma)
        counted = _Counted(gamma.office)
        beta.settings = OPEN.model_copy(
            update={"addresses": (f"https://127.0.0.1:{gamma.office.doorway.port}",)}
        )
        await beta.office._gossiping.refresh()
        there = beta.settings.addresses
        await until(lambda: alpha.office.profiles()[beta.office.me].addresses == there)
        with pytest.raises((Untrusted, Unreachable)):
            await alpha.office.caller.ask(beta.office.me, "test.say", {})
        assert counted.taken == 0
        link = next(one for one in alpha.office.status().links if one.name == "beta")
        assert link.way == "unreachable"


async def test_revoked_key_and_revoked_member(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        counted = _Counted(alpha.office)
        await acquaint(alpha, beta, gamma)
        member = _Member(beta, alpha)
        context = member.context()
        assert await _post(alpha, context, member.message()) == (204, "")
        standing = await beta.office.revoke_key(member.key.public)
        assert standing.revoked == 1
        # Beta signs with a key that nobody knows yet, and comes through all the same.
        await until(lambda: _serial(alpha, beta) == 2 and _serial(gamma, beta) == 2)
        assert await alpha.office.caller.ask(beta.office.me, "gossip.greet", _greeting(alpha))
        assert await _post(alpha, context, member.message()) == (0, "")  # no anchor any more
        assert await alpha.office.revoke("north", "gamma", "it lent out what was lent") is None
        with pytest.raises((Revoked, UnknownSigner, Untrusted)):
            await gamma.office.caller.ask(alpha.office.me, "test.say", {})
        assert counted.taken == 1


async def test_a_stream_ends_when_its_key_is_revoked(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await acquaint(alpha, beta)
        streams = []

        async def stay(sender: str, id: str, link: socket.socket) -> None:
            streams.append(sender)
            try:
                await asyncio.Event().wait()
            finally:
                streams.remove(sender)

        alpha.office.doorway.stream("test", stay)
        with await beta.office.caller.open_stream(alpha.office.me, "test", "x"):
            await until(lambda: streams)
            await beta.office.revoke_key(beta.office.service_key().public)
            await until(lambda: not streams)
            with await beta.office.caller.open_stream(alpha.office.me, "test", "x"):
                await until(lambda: streams)


async def test_the_keys_on_ones_own_list_harm_nobody_else(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        counted = _Counted(alpha.office)
        await acquaint(alpha, beta, gamma)
        member, root = _Member(beta, alpha), gamma.office._keyring.root(gamma.office.me)
        theirs = gamma.office._circle.our_keys()
        now, own = theirs.issued, theirs.keys
        stolen = tuple(one.model_copy(update={"key": member.key.public}) for one in own)
        none = tuple(one.model_copy(update={"key": "A" * 42 + "B"}) for one in own)
        revoked = (RevokedKey(key=member.key.public, since=now),)
        lists = [
            make_key_list(root, theirs.serial + 1, now, (*stolen, *own)),
            make_key_list(root, theirs.serial + 2, now, (*own, *none)),
            make_key_list(root, theirs.serial + 3, now, own, revoked),
        ]
        for count, keys in enumerate(lists, 1):
            for held in alpha.office._circle.held.values():
                held.gossip.keys = {gamma.office.me: keys, **held.gossip.keys}  # it stands first
                held.gossip.keys[gamma.office.me] = keys
            assert await _post(alpha, member.context(), member.message()) == (204, "")
            assert counted.taken == count


async def test_a_member_sends_nobody_elsewhere_and_learns_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))  # where aiohttp looks
    elsewhere, told = [], []

    async def inside(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        elsewhere.append(await reader.readline())
        writer.close()

    server = await asyncio.start_server(inside, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def redirect(request: web.Request) -> web.Response:
        told.append(request.headers.get("Authorization"))
        return web.Response(status=302, headers={"Location": f"http://127.0.0.1:{port}/latest/meta-data"})

    async with server, places(tmp_path, "alpha", "beta", begin=False) as (alpha, beta):
        beta.office.doorway.route(web.get("/grid/1/elsewhere", redirect))
        for place in (alpha, beta):
            await place.office.init(place.name)
        await acquaint(alpha, beta)
        keys = alpha.office.keys_of(beta.office.me)
        assert keys is not None
        with pytest.raises(Unreachable, match="redirects"):
            await alpha.office.caller.open_websocket(keys, "/grid/1/elsewhere")
        assert told == [None]
        assert not elsewhere


@pytest.mark.parametrize("address", [f"https://{'a' * 64}.example:1", "https://a..b:1", "https://[:99999"])
async def test_an_address_that_is_none_is_one_that_does_not_answer(tmp_path: Path, address: str) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await acquaint(alpha, beta)
        held = alpha.office._circle.get("north")
        serial = held.gossip.records[beta.office.me].serial
        told = Profile(name="beta", addresses=(address,))
        lying = make_record(beta.office.service_key(), beta.office.me, told, serial + 1, timedelta(hours=1))
        held.gossip.learn(lying)
        with pytest.raises(Unreachable):
            await alpha.office.caller.ask(beta.office.me, "test.say", {})
        with pytest.raises(Unreachable):
            await alpha.office.caller.open_stream(beta.office.me, "test", "x")


async def test_a_name_that_is_anothers_digits_is_not_taken_for_it(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma", begin=False) as (alpha, beta, gamma):
        await alpha.office.init("alpha")
        digits = (await beta.office.init("beta")).fingerprint
        await gamma.office.init(digits)
        await acquaint(alpha, beta, gamma)
        assert alpha.office.find(digits) == beta.office.me


@pytest.mark.parametrize("seconds", [1e400, -(10**400), 10**12, True, "9", float("nan")])
def test_what_a_member_says_of_time_is_plausible_or_not_heard(seconds: object) -> None:
    """The seconds of a refusal become a wait, and how far a clock is off."""
    said = json.dumps(
        {"type": "urn:gridcloud:error:ClockSkew", "detail": "late", "details": {"seconds": seconds}}
    )
    error = _told("beta", 403, said.encode())
    assert isinstance(error, ClockSkew)
    assert abs(float(error.details.get("seconds", 0))) <= 1


async def test_a_fault_of_ours_fills_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await acquaint(alpha, beta)

        async def faulty(sender: str, kind: str, body: Json) -> None:
            raise KeyError(kind)

        alpha.office.doorway.handle("test", faulty)
        for _ in range(5):
            with pytest.raises(Unavailable, match="Something is wrong here"):
                await beta.office.caller.ask(alpha.office.me, "test.say", {})
        assert len([one for one in caplog.records if one.exc_info]) == 1


async def test_flood_stays_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with places(tmp_path, "alpha", "beta", "gamma") as (alpha, beta, gamma):
        counted = _Counted(alpha.office)
        await acquaint(alpha, beta, gamma)

        async def ask(place: Place) -> str:
            try:
                await place.office.caller.ask(alpha.office.me, "test.say", {})
            except Exception as error:
                return type(error).__name__
            return ""

        alpha.office.doorway._allowance = Allowance(messages=20, per_second=0.1)
        with caplog.at_level(logging.WARNING):
            said = await asyncio.gather(*(ask(beta) for _ in range(60)))
        told = [one for one in caplog.messages if "Throttled" in one]
        assert 0 < len(told) <= LINES, "who floods the door floods no log"
        assert set(said) == {"", "Throttled"}
        assert counted.taken <= 30
        assert await ask(gamma) == ""


async def test_idle_connections_keep_nobody_out(tmp_path: Path) -> None:
    async with places(tmp_path, "alpha", "beta") as (alpha, beta):
        await acquaint(alpha, beta)
        port = alpha.office.doorway.port
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(150)]
        try:
            await asyncio.sleep(0.1)
            assert await beta.office.caller.ask(alpha.office.me, "gossip.greet", _greeting(beta))
            _reader, writer = await asyncio.open_connection(
                "127.0.0.1",
                port,
                ssl=_Member(beta, alpha).context(),
                server_hostname=host_name(alpha.office.me),
            )
            writer.close()
            await writer.wait_closed()
        finally:
            for one in idle:
                one.close()


def _serial(of: Place, institution: Place) -> int:
    keys = of.office.keys_of(institution.office.me)
    return keys.serial if keys else 0


def _greeting(place: Place) -> Json:
    (held,) = place.office._circle.held.values()
    return held.gossip.greet("").document()


def _through_an_authority_of_its_own(key: PrivateKey, victim: str, institution: str) -> bytes:
    """Return what a member could sign: an authority by the name of another key, and a certificate by that."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def build(
        subject: str, issuer: str, holder: Ed25519PrivateKey, *, authority: bool
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(holder.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now.replace(year=now.year - 1))
            .not_valid_after(now.replace(year=now.year + 1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(host_name(institution))]), critical=False
            )
        )

    middle, leaf = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    root = Ed25519PrivateKey.from_private_bytes(key.secret())
    between = build(victim, key.public, middle, authority=True).sign(root, None)
    certificate = build(institution, victim, leaf, authority=False).sign(middle, None)
    return (
        certificate.public_bytes(Encoding.PEM)
        + between.public_bytes(Encoding.PEM)
        + leaf.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
