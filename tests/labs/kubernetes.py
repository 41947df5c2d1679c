"""A cluster of one node of the tests' own: the real control plane, a real kubelet, containerd and runc.

It runs in network, mount, process and control group namespaces of its own; ending its first process ends all of it,
pods included. The test process reaches the API through one veth pair, with its certificate verified; pods reach
nothing but their node.

    with Cluster() as cluster:
        os.environ["KUBECONFIG"] = str(cluster.kubeconfig)

Two accounts: `kubeconfig` may do anything, `tenant_kubeconfig` nothing until it is given a role. One image is there,
`SESSION_IMAGE`, the root file system of test machines; there is no registry. Needs root.
"""

import base64
import hashlib
import io
import json
import os
import secrets
import shutil
import ssl
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.labs import ownership

__all__ = ["SESSION_IMAGE", "Cluster", "built_for_kubernetes", "missing_for_kubernetes", "prepare_kubernetes"]

SESSION_IMAGE = "gridcloud-session:test"
PAUSE_IMAGE = "gridcloud-pause:test"
PROGRAMS = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "dpkg-source": "dpkg-dev",
    "rsync": "rsync",
    "/usr/lib/go-1.19/bin/go": "golang-1.19-go",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
}
POD_NETWORK = "10.44.0.0/24"
GATEWAY = "10.44.0.1"


class Cluster:
    """One running cluster. A context manager; `open` and `close` do the same by hand."""

    def __init__(self) -> None:
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._tokens = {"admin": secrets.token_hex(16), "tenant": secrets.token_hex(16)}

    @property
    def number(self) -> int:
        return int(self.folder.name.removeprefix("kubernetes"))

    @property
    def address(self) -> str:
        """Where the API server and the kubelet listen."""
        return f"10.214.{self.number}.2"

    @property
    def outside(self) -> str:
        """This computer's address beside it."""
        return f"10.214.{self.number}.1"

    @property
    def gateway(self) -> str:
        """Where pods reach the API server."""
        return GATEWAY

    @property
    def url(self) -> str:
        return f"https://{self.address}:6443"

    @property
    def kubeconfig(self) -> Path:
        """Of an administrator of the cluster."""
        return self.folder / "admin.kubeconfig"

    @property
    def tenant_kubeconfig(self) -> Path:
        """Of the user `tenant`, who has no role unless a test gives one."""
        return self.folder / "tenant.kubeconfig"

    def log(self, program: str) -> str:
        """What one of its programs has said: apiserver, controllers, scheduler, containerd, kubelet, etcd."""
        return ownership.read(self.folder / f"{program}.log")

    def open(self) -> Self:
        programs = prepare_kubernetes()
        images = _prepare_images()
        self.folder = ownership.claim("kubernetes")
        try:
            _copy_images(images, self.folder / "containerd")
            self._write_files()
            self._start(programs)
            self._wait(90)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """End the cluster with all its pods, and remove what it stored. May be called twice."""
        if self._process:
            subprocess.run(["ip", "link", "delete", self._card], stderr=subprocess.DEVNULL)
            ownership.end_group(self._process)
            self._process = None
        if self.folder.name:
            ownership.release(self.folder)

    def lead_out(self, port: int) -> str:
        """Lead a port of the pods' gateway to that port of this computer; return the gateway's address."""
        assert self._process
        target = self.outside
        within = ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", "iptables", "-w", "-t", "nat", "-A"]
        to = ["-p", "tcp", "--dport", str(port)]
        lead = [
            *within,
            "PREROUTING",
            "-d",
            GATEWAY,
            *to,
            "-j",
            "DNAT",
            "--to-destination",
            f"{target}:{port}",
        ]
        subprocess.run(lead, check=True)
        subprocess.run([*within, "POSTROUTING", "-d", target, *to, "-j", "MASQUERADE"], check=True)
        return GATEWAY

    def run_within(self, *words: str, stdin: str = "", seconds: float = 30) -> str:
        """Run a program of this computer in the cluster's network, where pods answer; what it prints."""
        assert self._process
        command = ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, method: str, path: str, body: Any = None, *, user: str = "admin") -> Any:
        """Call the API as a user; its answer. Raises urllib.error.HTTPError for a refusal."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self._tokens[user]}", "Content-Type": kind}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 (https)
        trusted = ssl.create_default_context(cafile=str(self.folder / "keys/authority.crt"))
        try:
            with urllib.request.urlopen(request, timeout=10, context=trusted) as answer:  # noqa: S310
                text = answer.read()
        except urllib.error.HTTPError as error:
            error.add_note(f"{method} {path}: {error.read().decode(errors='replace')}")
            error.close()
            raise
        return json.loads(text) if text.startswith(b"{") else text.decode()

    def make_namespace(self, name: str) -> str:
        """Make a namespace that pods can be made in at once; its name."""
        self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        spec = {"containers": [{"name": "main", "image": "none"}]}
        body = {"metadata": {"name": "trial"}, "spec": spec}
        # Refused with 403 or 500 until the namespace has its account and the account its token.
        self._until(lambda: self.ask("POST", f"/api/v1/namespaces/{name}/pods?dryRun=All", body), 30)
        return name

    def make_volume(self, folder: Path, name: str) -> None:
        """Make a folder here a volume of 1 GiB on the node, which claims of the class `lab` are bound to."""
        folder.mkdir(mode=0o755)
        term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]}]}
        spec = {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "lab",
            "persistentVolumeReclaimPolicy": "Retain", "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        }  # fmt: skip
        self.ask("POST", "/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": spec})

    def allow_tenant(self, namespace: str, rules: list[dict[str, Any]], *, everywhere: bool = False) -> None:
        """Give the user `tenant` a role in one namespace, or in the whole cluster."""
        name = f"r{secrets.token_hex(4)}"
        kind = "ClusterRole" if everywhere else "Role"
        place = "/apis/rbac.authorization.k8s.io/v1"
        if not everywhere:
            place += f"/namespaces/{namespace}"
        subject = {"kind": "User", "name": "tenant", "apiGroup": "rbac.authorization.k8s.io"}
        role = {"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}
        self.ask("POST", f"{place}/{kind.lower()}s", {"metadata": {"name": name}, "rules": rules})
        binding = {"metadata": {"name": name}, "subjects": [subject], "roleRef": role}
        self.ask("POST", f"{place}/{kind.lower()}bindings", binding)

    @property
    def _card(self) -> str:
        return f"gckube{self.number}"

    def _start(self, programs: Path) -> None:
        self._process = ownership.start_owned(
            ["unshare", "--net", "--mount", "--ipc", "--uts", "--pid", "--cgroup", "--fork", "--kill-child",
             "--mount-proc", "--propagation", "slave", "sh", str(Path(__file__).with_name("kubernetes.sh"))],
            cgroups=ownership.make_cgroups(self.folder.name, "cluster"),
            environment={
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "FOLDER": str(self.folder),
                "PROGRAMS": str(programs), "ADDRESS": self.address, "POD_NETWORK": POD_NETWORK,
            },
            log=self.folder / "log",
            waits=True,
        )  # fmt: skip
        pid, own = self._process.pid, os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{pid}/ns/net") == own:
            time.sleep(0.002)
        link = ["ip", "link", "add", self._card, "type", "veth", "peer", "name", "eth0", "netns", str(pid)]
        subprocess.run(link, check=True)
        outside = f"10.214.{self.number}.1/30"
        subprocess.run(["ip", "address", "add", outside, "dev", self._card], check=True)
        subprocess.run(["ip", "link", "set", self._card, "up"], check=True)
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        self._process.stdin.close()

    def _wait(self, seconds: float) -> None:
        self._until(lambda: self.ask("GET", "/readyz") == "ok", seconds)

        def node_is_ready() -> bool:
            node = self.ask("GET", "/api/v1/nodes/node")
            conditions = {one["type"]: one["status"] for one in node["status"].get("conditions", [])}
            return conditions.get("Ready") == "True" and not node["spec"].get("taints")

        self._until(node_is_ready, seconds)
        self._until(lambda: self.ask("GET", "/api/v1/namespaces/default/serviceaccounts/default"), seconds)

    def _until(self, condition: Any, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        assert self._process
        while True:
            try:
                if condition():
                    return
            except (OSError, urllib.error.URLError):
                pass  # not up yet
            if self._process.poll() is not None or time.monotonic() > deadline:
                logs = {path.name: path.read_text()[-2000:] for path in self.folder.glob("*log")}
                raise RuntimeError(f"the cluster did not come up: {json.dumps(logs, indent=1)}")
            time.sleep(0.05)

    def _write_files(self) -> None:
        keys = self.folder / "keys"
        keys.mkdir(mode=0o700)
        _make_keys(keys, self.address)
        rows = [f'{self._tokens["admin"]},admin,1,"system:masters"', f"{self._tokens['tenant']},tenant,2"]
        (keys / "tokens.csv").write_text("\n".join(rows) + "\n")
        authority = base64.b64encode((keys / "authority.crt").read_bytes()).decode()
        cluster = {"name": "lab", "cluster": {"server": self.url, "certificate-authority-data": authority}}
        for name, token in self._tokens.items():
            config = {
                "apiVersion": "v1", "kind": "Config", "clusters": [cluster], "current-context": "lab",
                "users": [{"name": name, "user": {"token": token}}],
                "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
            }  # fmt: skip
            (self.folder / f"{name}.kubeconfig").write_text(yaml.safe_dump(config))
        network = {
            "cniVersion": "0.4.0", "name": "pods",
            "plugins": [{"type": "ptp", "ipam": {
                "type": "host-local", "dataDir": f"{self.folder}/addresses", "ranges": [[{"subnet": POD_NETWORK}]],
            }}],
        }  # fmt: skip
        (self.folder / "network").mkdir()
        (self.folder / "network/10.conflist").write_text(json.dumps(network))
        (self.folder / "resolv.conf").write_text("")
        (self.folder / "containerd.toml").write_text(_containerd_config(self.folder))
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet_config(self.folder)))


def missing_for_kubernetes() -> str | None:
    """Why no cluster can be started here, with the command that mends it; None when one can."""
    if os.geteuid():
        return "pods on a real kubelet need root: sudo make test-labs"
    lacking = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if lacking:
        return "pods on a real kubelet need Debian packages: scripts/debian-packages labs"
    return None


def built_for_kubernetes() -> bool:
    """Whether the programs are kept already, so that starting a cluster takes seconds."""
    return bool(ownership.run_script([str(ownership.SCRIPTS / "build-kubernetes"), "--kept"]))


def prepare_kubernetes() -> Path:
    """The folder of the programs, built at first use (8 minutes on two cores)."""
    return Path(ownership.run_script([str(ownership.SCRIPTS / "build-kubernetes")]))


def _containerd_config(folder: Path) -> str:
    return f"""
version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/network"
"""


def _kubelet_config(folder: Path) -> dict[str, Any]:
    """The kubelet's settings: its own control groups, no eviction by what else this computer does."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",  # noqa: S104 (within a network of its own; it asks for our certificate)
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": f"{folder}/keys/authority.crt"},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "resolvConf": f"{folder}/resolv.conf",
        "nodeStatusUpdateFrequency": "2s",
        "imageGCHighThresholdPercent": 100,
        "enforceNodeAllocatable": [],
        "evictionHard": {
            "memory.available": "10Mi", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%",
        },
    }  # fmt: skip


def _make_keys(folder: Path, address: str) -> None:
    """An authority, the API server's certificate, its certificate for the kubelet, the key of service accounts."""
    now = datetime.now(UTC)
    authority_key = _write_key(folder / "authority.key")
    authority_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab")])

    def sign(name: str, subject: x509.Name, key: rsa.RSAPrivateKey, extension: x509.ExtensionType) -> None:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        )
        certificate = builder.sign(authority_key, hashes.SHA256())
        (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    sign("authority", authority_name, authority_key, x509.BasicConstraints(ca=True, path_length=None))
    names = [x509.IPAddress(ip_address(one)) for one in (address, GATEWAY, "127.0.0.1")]
    for name, organization, extension in (
        ("server", "lab", x509.SubjectAlternativeName(names)),
        ("client", "system:masters", x509.ExtendedKeyUsage([x509.OID_CLIENT_AUTH])),
    ):
        subject = x509.Name(
            [
                x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organization),
                x509.NameAttribute(x509.NameOID.COMMON_NAME, f"lab-{name}"),
            ]
        )
        sign(name, subject, _write_key(folder / f"{name}.key"), extension)
    accounts = _write_key(folder / "accounts.key").public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "accounts.pub").write_bytes(accounts.public_bytes(serialization.Encoding.PEM, spki))


def _write_key(path: Path) -> rsa.RSAPrivateKey:
    key = rsa.generate_private_key(65537, 2048)
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return key


def _prepare_images() -> Path:
    """containerd's store with both images in it, made at first use (about a minute)."""
    root = ownership.root_filesystem()
    kept = root.parent / "containerd-1"
    with ownership.locked(root.parent / "containerd.lock"):
        if not kept.exists():
            work = root.parent / "containerd-new"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                _pack_images(root, work / "images.tar")
                _import_images(work)
                (work / "root").rename(kept)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return kept


def _pack_images(root: Path, target: Path) -> None:
    """Write both images as `docker save` does: one layer, the root file system, under two names."""
    layer = target.with_name("layer.tar")
    subprocess.run(["tar", "--numeric-owner", "-C", root, "-cf", layer, "."], check=True)
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    path = "/opt/gridcloud-session/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    listed = []
    with tarfile.open(target, "w") as archive:
        archive.add(layer, f"{digest}.tar")
        for name, command, user in (
            (SESSION_IMAGE, ["/bin/bash"], "user"),
            (PAUSE_IMAGE, ["/bin/sleep", "infinity"], "user"),
        ):
            settings = {
                "Cmd": command,
                "User": user,
                "Env": [f"PATH={path}", "LANG=C.UTF-8"],
                "WorkingDir": "/",
            }
            config = {
                "architecture": "amd64", "os": "linux", "config": settings,
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            }  # fmt: skip
            data = json.dumps(config).encode()
            file_name = f"{hashlib.sha256(data).hexdigest()}.json"
            _add(archive, file_name, data)
            listed.append({"Config": file_name, "RepoTags": [name], "Layers": [f"{digest}.tar"]})
        _add(archive, "manifest.json", json.dumps(listed).encode())
    layer.unlink()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _import_images(work: Path) -> None:
    """Let a containerd of our own unpack the images into `work`/root."""
    socket = work / "s"
    config = f'version = 2\nroot = "{work}/root"\nstate = "{work}/state"\n[grpc]\n  address = "{socket}"\n'
    (work / "config.toml").write_text(config)
    process = ownership.start_owned(
        ["containerd", "--config", str(work / "config.toml")], log=work / "containerd.log"
    )
    try:
        ctr = ["ctr", "--address", str(socket), "--namespace", "k8s.io"]
        deadline = time.monotonic() + 30
        while subprocess.run([*ctr, "version"], capture_output=True).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"containerd did not start: {(work / 'containerd.log').read_text()}")
            time.sleep(0.1)
        subprocess.run([*ctr, "images", "import", work / "images.tar"], check=True, stdout=subprocess.DEVNULL)
    finally:
        ownership.end_group(process, gently=10)


def _copy_images(kept: Path, target: Path) -> None:
    """Give a cluster the store: files that are only read as hard links where they can be, what is written as a copy."""
    if subprocess.run(["cp", "-al", kept, target], stderr=subprocess.DEVNULL).returncode:
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-a", "--reflink=auto", kept, target], check=True)
    for path in target.glob("*/*.db"):
        path.unlink()
        shutil.copy2(kept / path.relative_to(target), path)
