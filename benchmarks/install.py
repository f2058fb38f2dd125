"""Measures the size of an installation: only the package, and with each extra.

python benchmarks/install.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = ("", "gcp", "aws", "azure", "train")


def installed_bytes(extra: str, folder: Path) -> int:
    """Bytes of a new environment that holds the package with an extra, less an empty one's."""
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run([uv, "venv", "-q", str(folder)], check=True)
    before = size_of(folder)
    wanted = f"{ROOT}[{extra}]" if extra else str(ROOT)
    command = [uv, "pip", "install", "-q", "--python", str(folder / "bin/python"), wanted]
    subprocess.run([*command, "-c", str(ROOT / "requirements-dev.txt")], check=True)
    return size_of(folder) - before


def size_of(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def main() -> None:
    alone = 0
    for extra in EXTRAS:
        with tempfile.TemporaryDirectory() as scratch:
            found = installed_bytes(extra, Path(scratch) / "venv")
        alone = alone or found
        more = f" ({(found - alone) / 1e6:+.0f} MB)" if extra else ""
        print(f"{'fcn-beam' + (f'[{extra}]' if extra else ''):<20}{found / 1e9:.2f} GB{more}")


if __name__ == "__main__":
    main()
