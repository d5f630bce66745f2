"""Put a device that computes nothing (cuda.c) in the place of CUDA's driver and runtime, before CuPy is imported.

The runtime is linked into a module of the wheel: each of its functions is overwritten by a jump to the stub of that name, or to
one that answers 0. Everything of CuPy runs then, up to and including the launch; numbers are meaningless. x86-64, gcc and nm.
"""

import ctypes
import re
import subprocess
import tempfile
from pathlib import Path

JUMP = b"\x48\xb8%b\xff\xe0"  # mov rax, address; jmp rax
KEPT = ("cudaGetErrorName", "cudaGetErrorString")
WRITABLE = 7  # PROT_READ | PROT_WRITE | PROT_EXEC


def compiled():
    """The stubs, loaded under the driver's name, so that whoever asks for the driver finds them."""
    with tempfile.TemporaryDirectory() as folder:
        library, source = Path(folder) / "libcuda.so.1", Path(__file__).with_name("cuda.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True)
        return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def stub(stubs, name):
    """The address of what stands for a function of the runtime."""
    plain = re.sub(r"_(v2|ptsz|ptds)$", "", name)
    found = next((f for key in (name, plain) if (f := getattr(stubs, f"stub_{key}", None))), stubs.stub_anything)
    return ctypes.cast(found, ctypes.c_void_p).value


def install():
    """Overwrite the runtime, and let CuPy compile nothing."""
    stubs, libc = compiled(), ctypes.CDLL(None)
    from cupy_backends.cuda.api import runtime

    file = runtime.__file__
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(file)]
    base = min(int(line.split("-")[0], 16) for line in maps)
    symbols = subprocess.run(["nm", file], capture_output=True, text=True, check=True).stdout
    for place, name in re.findall(r"^([0-9a-f]+) [tT] (cuda[A-Z]\w*)$", symbols, flags=re.MULTILINE):
        if name in KEPT:
            continue
        code, address = JUMP % stub(stubs, name).to_bytes(8, "little"), base + int(place, 16)
        if libc.mprotect(ctypes.c_void_p(address & ~4095), ctypes.c_size_t(8192), WRITABLE):
            raise OSError(f"{name} cannot be overwritten")
        ctypes.memmove(address, code, len(code))
    _compile_nothing()


def _compile_nothing():
    from cupy.cuda import compiler, function

    def module(source, *args, name_expressions=None, **options):
        made = function.Module()
        made.load(b"x")
        made._set_mapping({name: name for name in name_expressions or ()})
        return made

    compiler._compile_module_with_cache = compiler._compile_with_cache_cuda = module
