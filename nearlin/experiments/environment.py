"""What this installation consists of and can use."""

import importlib.metadata
import os
import platform

from threadpoolctl import threadpool_info

import nearlin
from nearlin._array import NAMES, blas_threads, device, gpu_facts, prototype, unusable

PACKAGES = ("numpy", "scipy", "array-api-compat", "threadpoolctl", "scikit-learn", "matplotlib", "rich", "click")


def versions():
    """Versions of nearlin, Python and the packages that numbers depend on, as a dict."""
    return {"nearlin": nearlin_version(), "python": platform.python_version()} | {name: _version(name) for name in PACKAGES[:3]}


def threads(backend):
    """The threads of each library that computes on the host, by name and version: the last bits of sums depend on them."""
    kinds = ("blas", "openmp") if backend == "torch" else ("blas",)
    found = [library for library in threadpool_info() if library["user_api"] in kinds]
    return {f"{one['internal_api']} {one.get('version') or ''}".strip(): one["num_threads"] for one in found}


def nearlin_version():
    """Version of the installed package, or of the source tree that is imported."""
    return getattr(nearlin, "__version__", None) or _version("nearlin")


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def info():
    """Versions, backends with their devices or the reason why they cannot be used, BLAS libraries and threads, and cores.

    Returns
    -------
    list of (str, str)
        Rows of a table.
    """
    rows = [
        ("nearlin", nearlin_version()),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
    ]
    rows += [(name, _version(name)) for name in PACKAGES]
    for name in NAMES:
        rows.append((f"backend {name}", _backend(name)))
        facts = None if unusable(name) else gpu_facts(prototype(name))
        rows += [(f"GPU of {name}", gpu_line(facts))] if facts else []
    rows += [("BLAS", _blas(library)) for library in threadpool_info() if library["user_api"] == "blas"]
    rows.append(("BLAS threads", str(blas_threads())))
    rows.append(("cores", f"{_usable_cores()} usable of {os.cpu_count()}"))
    return rows


def _backend(name):
    reason = unusable(name)
    if reason:
        return f"not usable ({reason})"
    package = {"cupy": "cupy", "torch": "torch", "array_api_strict": "array-api-strict"}.get(name, name)
    version = "" if name in ("numpy", "cupy") else f" {_version(package)}"
    return f"usable{version}, device {device(prototype(name))}"


def gpu_line(facts):
    """What `nearlin._array.gpu_facts` knows, in a line."""
    parts = [f"{facts['card']}, device {facts['number']}", f"compute capability {facts['capability']}", f"CUDA {facts['cuda']}"]
    parts += [f"{facts['free'] / 2**30:.1f} GiB free", *([f"kernel cache {facts['cache']}"] if facts["cache"] else [])]
    return "; ".join(parts)


def _blas(library):
    name = os.path.basename(library.get("filepath") or "") or library["internal_api"]
    return f"{library['internal_api']} {library.get('version') or ''} ({name}), {library['num_threads']} thread(s)".replace(
        "  ", " "
    )


def _usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
