"""Uniform draws and signs on a CUDA device, bit for bit NumPy's, by one elementwise kernel.

Philox 4x64-10 (Salmon, Moraes, Dror, Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011) makes the i-th number from i
and a key alone. NumPy starts to count blocks of four at 1; its uniform is (raw >> 11) 2⁻⁵³, and its signs are the highest bits of
the bytes of the raw numbers, in order.
"""

import functools
import importlib

import numpy as np

PREAMBLE = """
__device__ unsigned long long philox(unsigned long long i, unsigned long long k0) {
    unsigned long long c0 = i / 4 + 1, c1 = 0, c2 = 0, c3 = 0, k1 = 0;
    for (int round = 0; round < 10; round++) {
        unsigned long long a = 0xD2E7470EE14C6C93ULL, b = 0xCA5A826395121157ULL;
        unsigned long long high0 = __umul64hi(a, c0), low0 = a * c0, high1 = __umul64hi(b, c2), low1 = b * c2;
        c0 = high1 ^ c1 ^ k0; c1 = low1; c2 = high0 ^ c3 ^ k1; c3 = low0;
        k0 += 0x9E3779B97F4A7C15ULL; k1 += 0xBB67AE8584CAA73BULL;
    }
    return i % 4 == 0 ? c0 : i % 4 == 1 ? c1 : i % 4 == 2 ? c2 : c3;
}
"""
UNIFORM = "double u = (philox(first + i, key) >> 11) / 9007199254740992.0; x = u < most ? u : most"
SIGNS = "x = (philox((first + i) / 8, key) >> (8 * ((first + i) % 8) + 7)) & 1 ? 1 : -1"


@functools.cache
def _kernel(name):
    bodies = {"uniform": ("uint64 key, float64 most, uint64 first", UNIFORM), "signs": ("uint64 key, uint64 first", SIGNS)}
    inputs, body = bodies[name]
    return importlib.import_module("cupy").ElementwiseKernel(inputs, "T x", body, f"nearlin_{name}", preamble=PREAMBLE)


def uniform(key, most, out, first=0):
    """Fill ``out`` with uniform draws on [0, 1), at most ``most``, made in float64: those from number ``first`` on."""
    return _kernel("uniform")(np.uint64(key), most, np.uint64(first), out)


def signs(key, out, first=0):
    """Fill ``out`` with independent signs: those from number ``first`` on."""
    return _kernel("signs")(np.uint64(key), np.uint64(first), out)
