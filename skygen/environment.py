"""What a run was made with: versions, commit, command line, device."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any


def describe_environment() -> dict[str, Any]:
    """Describe what a run was made with: versions, commit, command line, device."""
    names = ("skygen", "torch", "diffusers", "transformers", "accelerate", "peft", "open_clip_torch", "torchmetrics")
    versions: dict[str, str] = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    torch = sys.modules.get("torch")  # asked of a run that has it loaded; a reader of tables need not import it
    device = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else platform.processor()
    return {
        "command": sys.argv,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device or platform.machine(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "versions": versions,
    }


def _commit() -> str:
    here = Path(__file__).parent
    try:
        answer = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return answer.stdout.strip() or "unknown"
