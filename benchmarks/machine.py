"""What a result line says of where it was measured: the commit, the device, and how busy others kept it."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from pathlib import Path

import torch


def git_commit() -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {os.cpu_count()} cores"


class Busy:
    """The machine's processors from now on: how much of them was not this process's and its children's."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._of_machine_s = machine_cpu_s()
        self._own_s = own_cpu_s()

    def others_share(self) -> float:
        """Of all cores; time stolen by a host's other guests included. Children count once they have ended."""
        wall_s = time.monotonic() - self._started_at
        others_s = machine_cpu_s() - self._of_machine_s - (own_cpu_s() - self._own_s)
        return round(max(0.0, others_s / (wall_s * (os.cpu_count() or 1))), 3)


def machine_cpu_s() -> float:
    """Seconds that all cores were not idle, since the machine was started. Linux only; elsewhere nothing is known."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.read_text("ascii").split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
