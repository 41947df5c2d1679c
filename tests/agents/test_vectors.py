"""The test vectors of the agents' protocol, both ways: made again from the same keys they are the same, and an
implementation that knows nothing but the document and a library of cryptography reads them."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gridcloud.agents.invitations import fingerprint, key_of, prove, read_token, verify
from gridcloud.errors import NotAuthenticated, Untrusted
from gridcloud.identity.handover import Handover, hand_over, leads

FILE = Path(__file__).with_name("vectors.json")
INVITATION = "v-1m7zcwjembe8pnew2xb"


def seed(name: str) -> bytes:
    return hashlib.sha256(f"gridcloud agent test vectors: {name}".encode()).digest()


def ssh_key(name: str) -> asyncssh.SSHKey:
    key = Ed25519PrivateKey.from_private_bytes(seed(name))
    return asyncssh.import_private_key(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def line(name: str) -> str:
    return key_of(ssh_key(name).export_public_key().decode())


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def make() -> dict[str, Any]:
    authority, machine, next_one = line("authority"), line("machine"), line("next authority")
    token = f"gca_{INVITATION.removeprefix('v-')}_{base64url(seed('token'))}_{fingerprint(authority)}"
    token_proof, key_proof = prove(read_token(token), ssh_key("machine"))
    public = Ed25519PrivateKey.from_private_bytes(seed("token")).public_key().public_bytes_raw()
    return {
        "seeds": {name: seed(name).hex() for name in ("authority", "next authority", "token", "machine")},
        "authority": authority,
        "fingerprint": fingerprint(authority),
        "token": token,
        "token_public_key": public.hex(),
        "join": {
            "signed": f"gridcloud-agent-join-1\n{INVITATION}\n{fingerprint(authority)}\n{machine}",
            "request": {
                "invitation": INVITATION,
                "public_key": machine,
                "token_proof": token_proof,
                "key_proof": key_proof,
            },
        },
        "handover": {
            "signed": f"gridcloud-authority-handover-1\n{authority}\n{next_one}",
            "document": hand_over(ssh_key("authority"), next_one).model_dump(),
        },
    }


@pytest.fixture
def vectors() -> Any:
    return json.loads(FILE.read_text(encoding="ascii"))


def test_they_are_made_again_alike() -> None:
    """A difference is a change of the protocol: see "Versions" in docs/contracts/agent-protocol.md."""
    assert f"{json.dumps(make(), indent=1)}\n" == FILE.read_text(encoding="ascii")


def test_a_service_takes_them(vectors: Any) -> None:
    request, handover = vectors["join"]["request"], Handover(**vectors["handover"]["document"])
    proofs = request["token_proof"], request["key_proof"]
    wanted = request["invitation"], vectors["authority"], request["public_key"], vectors["token_public_key"]
    verify(*wanted, proofs)
    with pytest.raises(NotAuthenticated):
        verify(INVITATION, handover.new, request["public_key"], vectors["token_public_key"], proofs)
    with pytest.raises(Untrusted):
        verify(*wanted, (proofs[0], handover.signature))
    assert leads(vectors["authority"], handover.new, [handover])
    assert not leads(handover.new, vectors["authority"], [handover])


def test_the_document_is_enough_to_read_them(vectors: Any) -> None:
    """Nothing of gridcloud is used here."""

    def unpack(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    def strings(data: bytes) -> list[bytes]:  # RFC 4251, 5: each with its length before it
        found = []
        while data:
            length = int.from_bytes(data[:4], "big")
            found.append(data[4 : 4 + length])
            data = data[4 + length :]
        return found

    def blob(text: str) -> bytes:
        return base64.b64decode(text.split()[1])

    def check(signer: str, signature: str, said: str) -> None:
        kind, key = strings(blob(signer))
        signed_as, bare = strings(bytes.fromhex(signature))
        assert kind == signed_as == b"ssh-ed25519"
        Ed25519PublicKey.from_public_bytes(key).verify(bare, said.encode())

    token = vectors[
        "token"
    ]  # its parts may hold the character that parts them: they are told by their length
    assert (len(token), token[:4], token[23], token[67]) == (111, "gca_", "_", "_")
    assert f"v-{token[4:23]}" == INVITATION
    secret, print_ = token[24:67], token[68:]
    assert unpack(print_) == hashlib.sha256(blob(vectors["authority"])).digest()
    key = Ed25519PrivateKey.from_private_bytes(unpack(secret)).public_key()
    assert key.public_bytes_raw().hex() == vectors["token_public_key"]
    join, handover = vectors["join"], vectors["handover"]
    request, document = join["request"], handover["document"]
    lines = ["gridcloud-agent-join-1", request["invitation"], print_, request["public_key"]]
    assert join["signed"] == "\n".join(lines)
    key.verify(bytes.fromhex(request["token_proof"]), join["signed"].encode())
    check(request["public_key"], request["key_proof"], join["signed"])
    lines = ["gridcloud-authority-handover-1", document["old"], document["new"]]
    assert handover["signed"] == "\n".join(lines)
    check(document["old"], document["signature"], handover["signed"])
