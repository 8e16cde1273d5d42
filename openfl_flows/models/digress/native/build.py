"""Compiles the native kernels for this machine, once, and loads them into PyTorch."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from openfl_flows.cache_folder import cache_folder

SOURCE = Path(__file__).with_name("kernels.cpp")

_FLAGS = (
    "-std=c++20", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno",
    "-fno-trapping-math", "-fPIC", "-shared",
)  # fmt: skip
_WIDE = "-mprefer-vector-width=512"


@cache
def kernels() -> Any:
    """The operations of ``kernels.cpp``, compiled on first use.

    The library is kept in ``$XDG_CACHE_HOME/openfl_flows`` (``~/.cache``) by the
    digest of source, compiler flags, PyTorch's version and processor.

    Raises:
        ValueError: There is no C++ compiler (``$CXX``, or c++), or it refuses the source.
    """
    library = cache_folder() / f"digress-{_digest()}.so"
    if not library.exists():
        _compile(library)
    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    return torch.ops.openfl_flows_digress


def _compile(library: Path) -> None:
    from torch.utils.cpp_extension import include_paths, library_paths

    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise ValueError(
            f"kernels=native needs a C++20 compiler, and there is no {compiler} on PATH: install "
            "g++, name another in CXX, or say kernels=torch"
        )
    library.parent.mkdir(parents=True, exist_ok=True)
    # Others may build the same at the same time, and any of them may be killed.
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        command = [
            compiler, *_flags(), str(SOURCE), "-o", str(built),
            *(f"-I{path}" for path in include_paths()),
            *(f"-L{path}" for path in library_paths()),
            "-ltorch_cpu", "-lc10",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "")
            raise ValueError(
                f"{compiler} does not compile {SOURCE} (exit status {done.returncode}): {first}; "
                "name another C++20 compiler in CXX, or say kernels=torch"
            )
        os.replace(built, library)


def _flags() -> tuple[str, ...]:
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    wide = (_WIDE,) if platform.machine().lower() in ("x86_64", "amd64") else ()
    return (*_FLAGS, *wide, abi)


def _digest() -> str:
    sources = [SOURCE, *sorted(SOURCE.parent.glob("*.h"))]
    texts = (source.read_text(encoding="utf-8") for source in sources)
    parts = (*texts, *_flags(), torch.__version__, _processor())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """What `-march=native` depends on, where the system says it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join(sorted(told)) or platform.processor()
