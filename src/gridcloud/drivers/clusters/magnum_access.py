"""Access to a cluster of Magnum: a key made here, which the cluster's authority signs, and the kubeconfig with it."""

from __future__ import annotations

import base64

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gridcloud.errors import Untrusted

__all__ = ["Access"]


class Access:
    """An administrator's access that is being made."""

    def __init__(self, name: str, address: str) -> None:
        self._name = name
        self._address = address
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def signing_request(self) -> str:
        """Return the request (PEM) for a certificate: Kubernetes takes its organization for a group, its name for a
        user."""
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
                x509.NameAttribute(NameOID.COMMON_NAME, "admin"),
            ]
        )
        request = (
            x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self._key, hashes.SHA256())
        )
        return request.public_bytes(Encoding.PEM).decode()

    def kubeconfig(self, authority: str, certificate: str) -> str:
        """Return the kubeconfig, which holds the key, for the cluster's authority and our certificate (both PEM).

        Raises Untrusted where it would lead elsewhere than to a server of that authority: with no authority in it,
        clients trust any public one.
        """
        self._check(authority, certificate)
        key = self._key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
        cluster = {"server": self._address, "certificate-authority-data": _encode(authority)}
        user = {"client-certificate-data": _encode(certificate), "client-key-data": _encode(key)}
        context = {"cluster": self._name, "user": "admin"}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self._name, "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
            "contexts": [{"name": "default", "context": context}],
            "current-context": "default",
        }
        return yaml.safe_dump(document, sort_keys=False)

    def _check(self, authority: str, certificate: str) -> None:
        try:
            authorities = x509.load_pem_x509_certificates(authority.encode())
            ours = x509.load_pem_x509_certificate(certificate.encode()).public_key() == self._key.public_key()
        except ValueError as error:
            raise Untrusted(
                f"{self._name}: what should be certificates of the cluster are none: {error}"
            ) from error
        if not authorities or not ours:
            raise Untrusted(f"{self._name}: the certificate is not of the key that was to be signed.")
        if not self._address.startswith("https://"):
            raise Untrusted(f"{self._name}: its address {self._address!r:.100} is not https.")


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
