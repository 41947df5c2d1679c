"""What `gridcloud provider check` tells about the host of a `qemu` provider."""

from __future__ import annotations

from gridcloud.drivers.instances.qemu_host import Facts, Survey
from gridcloud.drivers.instances.qemu_settings import QEMUSettings
from gridcloud.instances.matching import count_cpus
from gridcloud.instances.model import Finding, format_size

__all__ = ["check_host"]

LITTLE_DISK = 4 * 1024**3


def check_host(name: str, settings: QEMUSettings, facts: Facts, survey: Survey, unable: str) -> list[Finding]:
    """Return what is in order on the host and what is not; ``unable`` says why nothing can be started there."""
    findings = [
        _program(name, facts, unable),
        _accelerator(name, settings, facts),
        _room(name, facts, survey),
    ]
    findings += [_image(name, one, settings, facts) for one in settings.images]
    findings += [_gpu(name, one, facts) for one in settings.gpus]
    if settings.confine and facts.root and "setpriv" not in facts.programs:
        findings.append(
            _wrong(name, "Machines cannot be confined: setpriv is missing.", "Install util-linux there.")
        )
    return findings


def _program(name: str, facts: Facts, unable: str) -> Finding:
    if unable:
        remedy = "Install QEMU there: on Debian, apt-get install qemu-system-x86 qemu-utils"
        return _wrong(name, f"It can start no machine: {unable}.", remedy)
    return _fine(name, f"Answers as {facts.user} ({facts.kernel}); {facts.version}.")


def _accelerator(name: str, settings: QEMUSettings, facts: Facts) -> Finding:
    if facts.kvm == "yes":
        return _fine(
            name, "KVM works." if settings.accelerator != "tcg" else "KVM works, and is not to be used."
        )
    if settings.accelerator == "kvm":
        return _wrong(
            name,
            f"KVM cannot be used: {facts.kvm}.",
            "Turn virtualisation on in the firmware, or set 'accelerator'.",
        )
    return _fine(
        name, f"Machines are emulated, which is many times slower, for KVM cannot be used: {facts.kvm}."
    )


def _room(name: str, facts: Facts, survey: Survey) -> Finding:
    disk = f"{format_size(survey.disk_free)} free in {survey.directory}"
    if survey.disk_free < LITTLE_DISK:
        return _wrong(name, f"Only {disk}.", "Make room, or set 'directory' to a folder with more.")
    machines = len(survey.live())
    return _fine(
        name,
        f"{count_cpus(facts.cpus)}, {format_size(facts.memory)}, {disk}; "
        + ("1 machine is on it." if machines == 1 else f"{machines} machines are on it."),
    )


def _image(name: str, image: str, settings: QEMUSettings, facts: Facts) -> Finding:
    one = settings.images[image]
    if one.is_url:
        if not facts.programs & {"curl", "wget"}:
            return _wrong(name, f"The image {image} cannot be fetched.", "Install curl there.")
        return _fine(name, f"The image {image} is fetched once from {one.source}.")
    missing = [path for path in one.paths if facts.files.get(path) != "yes"]
    if missing:
        return _wrong(
            name, f"The image {image} cannot be used: there is no file {', '.join(missing)}.", "Put it there."
        )
    return _fine(name, f"The image {image} is there.")


def _gpu(name: str, address: str, facts: Facts) -> Finding:
    driver = facts.gpus.get(address if address.count(":") == 2 else f"0000:{address}", "none")
    if driver == "vfio-pci":
        return _fine(name, f"The GPU {address} can be given.")
    return _wrong(
        name,
        f"The GPU {address} is not bound to vfio-pci, but to {driver}.",
        "Turn the IOMMU on and bind it: see docs/guide/virtual-machines.md.",
    )


def _fine(name: str, message: str) -> Finding:
    return Finding(subject=name, ok=True, message=message)


def _wrong(name: str, message: str, remedy: str) -> Finding:
    return Finding(subject=name, ok=False, message=message, remedy=remedy)
