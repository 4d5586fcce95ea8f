"""What a number was measured on: written beside every result."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def environment(device: torch.device) -> dict[str, Any]:
    """Machine, versions, flags and commit, ready for JSON. Unknown values are None; no paths, no names."""
    return {
        "device": device_name(device),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "triton": _version("triton"),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "driver": _nvidia("driver_version") if device.type == "cuda" else None,
        "clocks_mhz": _nvidia("clocks.sm,clocks.mem") if device.type == "cuda" else None,
        "tf32": {
            "cudnn": torch.backends.cudnn.allow_tf32,
            "matmul": torch.backends.cuda.matmul.allow_tf32,
        },
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "mkldnn": torch.backends.mkldnn.is_available(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": _dirty(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """The processor as the system names it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    try:
        run = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            capture_output=True,
            timeout=20,
            check=True,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def _git(*arguments: str) -> str | None:
    return _output("git", *arguments)


def _dirty() -> bool | None:
    changes = _git("status", "--porcelain", "--", "..")
    return None if changes is None else bool(changes)


def _nvidia(query: str) -> str | None:
    return _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "--id=0")


def command_line(argv: list[str]) -> str:
    """The command as a reader would type it."""
    return " ".join(["wgangp-fast bench", *argv]) if argv else "wgangp-fast bench"
