"""What Oracle's shapes are: OCPUs, flexible sizes and GPUs in our words; pure.

Source: https://docs.oracle.com/iaas/Content/Compute/References/computeshapes.htm
"""

from __future__ import annotations

import fnmatch
import math
import re
from typing import Any

from gridcloud.instances.model import Shape

__all__ = ["cpus_of_ocpu", "cut_shape", "read_shape"]

GIB = 1024**3

# Oracle says a GPU's model but not its memory: GiB, by name of the shape, the first that matches.
GPU_MEMORY = (
    ("*.GPU.A100-v2.*", 80),
    ("*.GPU4.*", 40),
    ("*.GPU.B4.*", 40),
    ("*.GPU.A10.*", 24),
    ("*.GPU.L40S.*", 48),
    ("*.GPU.H100.*", 80),
    ("*.GPU.H200.*", 141),
    ("*.GPU.MI300X.*", 192),
    ("*.GPU2.*", 16),
    ("*.GPU3.*", 16),
)


def cut_shape(words: Any, cpus: float, memory_bytes: int) -> tuple[float, float]:
    """Return OCPUs and GB of a flexible shape for so many CPUs and bytes; they may be too few where it is too small."""
    cores, memory = words.ocpu_options, words.memory_options
    each = cpus_of_ocpu(words.shape)
    ocpus = max(math.ceil(cores.min), math.ceil(cpus / each))
    gigabytes = math.ceil(memory_bytes / GIB)
    if memory.max_per_ocpu_in_gbs:
        ocpus = max(ocpus, math.ceil(gigabytes / memory.max_per_ocpu_in_gbs))
    least = max(memory.min_in_g_bs or 1, ocpus * (memory.min_per_ocpu_in_gbs or 0))
    return float(min(ocpus, cores.max)), float(min(max(gigabytes, math.ceil(least)), memory.max_in_g_bs))


def cpus_of_ocpu(name: str) -> int:
    """Return how many CPUs an OCPU has: two threads of a core, but a single core of the first Ampere processor."""
    return 1 if ".A1." in name else 2


def read_shape(words: Any, ocpus: float, memory: float, disk: int) -> Shape:
    """Return a shape in our words, with so many OCPUs, GB of memory and GB of disk."""
    name, gpus = str(words.shape), words.gpus or 0
    model = " ".join(re.sub(r"[®™]", "", words.gpu_description or "").split())
    stated = re.search(r"(\d+)\s?GB", model)
    known = next((size for pattern, size in GPU_MEMORY if fnmatch.fnmatchcase(name, pattern)), 0)
    return Shape(
        name=name,
        cpus=ocpus * cpus_of_ocpu(name),
        memory=int(memory * GIB),
        disk=disk * GIB,
        gpus=gpus,
        gpu_model=model if gpus else "",
        gpu_memory=(int(stated[1]) if stated else known) * GIB if gpus else 0,
    )
