"""TLS between institutions, bound to the service keys on their key lists: nothing more has to be exchanged.

A service key is the authority of short-lived certificates, which it signs; the name of their issuer is the key. The
trust anchor for them is made up from the public key alone: a CA certificate whose name and key it is, and whose own
signature nobody checks (RFC 5280, 6.1.1 d: an anchor is a name and a key). So a connection proves a service key, and
whether that key is good now, and whose it is, is decided by the key list, with the clock of this service.
"""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gridcloud.errors import Forged, Malformed
from gridcloud.federation.encoding import from_text
from gridcloud.federation.keys import PrivateKey

__all__ = [
    "LIFETIME",
    "Certificate",
    "client_context",
    "host_name",
    "issue",
    "proven",
    "server_context",
    "trust",
]

LIFETIME = timedelta(hours=48)
"""How long a certificate is valid: half of it before it was made, so that a clock that is off is told by the messages,
which say by how much, and not by TLS, which does not."""
_ALWAYS = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
_NOBODY = Ed25519PrivateKey.generate()
"""What anchors are signed with, since their form needs a signature."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its private key, both in PEM, and until when another one should take its place."""

    pem: bytes
    renewed: datetime

    def __repr__(self) -> str:
        return f"Certificate(renewed={self.renewed})"


def host_name(institution: str) -> str:
    """Return the name that an institution's certificates are for, wherever it is reached."""
    return f"{institution}.gridcloud.internal"


def issue(signing: PrivateKey, institution: str, now: datetime) -> Certificate:
    """Return a new certificate of an institution, signed by its service key; for both ends of connections."""
    authority = Ed25519PrivateKey.from_private_bytes(signing.secret())
    key = Ed25519PrivateKey.generate()
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(institution))
        .issuer_name(_name(signing.public))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LIFETIME / 2)
        .not_valid_after(now + LIFETIME / 2)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host_name(institution))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
        .sign(authority, None)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Certificate(certificate.public_bytes(Encoding.PEM) + private, now + LIFETIME / 4)


def client_context(keys: Iterable[str], ours: Certificate | None, folder: Path) -> ssl.SSLContext:
    """Return how to call whoever holds one of these service keys, showing `ours`; an anonymous guest shows none.

    `folder`: one of our own where the certificate lies for a moment, since OpenSSL reads files only. Touches the disk.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    trust(context, keys)
    if ours is not None:
        _show(context, ours, folder)
    return context


def server_context(keys: Iterable[str], ours: Certificate, folder: Path) -> ssl.SSLContext:
    """Return how to be called by holders of these service keys, and by guests, who show nothing. Touches the disk."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0  # a resumed connection would not be looked at again
    trust(context, keys)
    _show(context, ours, folder)
    return context


def proven(connection: ssl.SSLObject | ssl.SSLSocket) -> tuple[str, str]:
    """Return the service key that signed the certificate of the other end, and the institution that the certificate is
    for; both empty when it showed none. Anybody may write another's key on its own list: who has the key says whose.

    Raises Forged, Malformed. OpenSSL has checked the chain; that there is nothing between the key and the certificate
    is checked here, so that nobody who may sign certificates can sign for another.
    """
    data = connection.getpeercert(binary_form=True)
    return _signer(data) if data else ("", "")


@lru_cache(8192)
def _signer(data: bytes) -> tuple[str, str]:
    """Return the service key that a certificate (DER) names as its issuer, and that signed it; and its subject."""
    try:
        certificate = x509.load_der_x509_certificate(data)
        key = str(certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        subject = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        public = Ed25519PublicKey.from_public_bytes(from_text(key, 32))
        public.verify(certificate.signature, certificate.tbs_certificate_bytes)
    except (ValueError, IndexError, x509.InvalidVersion) as error:
        raise Malformed("the certificate does not name a service key as its issuer") from error
    except InvalidSignature as error:
        raise Forged("the certificate was not signed by the service key that it names") from error
    return key, subject


@lru_cache(8192)
def _anchor(key: str) -> bytes:
    """Return the anchor of a service key (DER)."""
    public = Ed25519PublicKey.from_public_bytes(from_text(key, 32))
    return (
        x509.CertificateBuilder()
        .subject_name(_name(key))
        .issuer_name(_name(key))
        .public_key(public)
        .serial_number(1)
        .not_valid_before(_ALWAYS[0])
        .not_valid_after(_ALWAYS[1])
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(_NOBODY, None)
        .public_bytes(Encoding.DER)
    )


def trust(context: ssl.SSLContext, keys: Iterable[str]) -> None:
    """Have a context trust these service keys too, for connections that begin from now on."""
    anchors = b"".join(_anchors(keys))
    if anchors:
        context.load_verify_locations(cadata=anchors)


def _anchors(keys: Iterable[str]) -> Iterator[bytes]:
    """Give the anchors of all that are keys: one that a member wrote wrongly must not keep the others out."""
    for key in sorted(set(keys)):
        with contextlib.suppress(Malformed, ValueError):
            yield _anchor(key)


def _show(context: ssl.SSLContext, ours: Certificate, folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".tls-") as file:  # made 0600
        file.write(ours.pem)
        file.flush()
        context.load_cert_chain(file.name)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
