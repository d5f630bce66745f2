"""The only room that names a backend.

Everything above takes its namespace from the arrays it is given. What the array API standard does not offer lives here:
random draws, triangular solves, a Cholesky factorisation that fails the same way everywhere, walks over blocks,
bit-packed masks, synchronisation, and the way back to NumPy.
"""

import contextlib
import contextvars
import functools
import hashlib
import importlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import array_api_compat as compat
import numpy as np
import scipy.linalg
from threadpoolctl import ThreadpoolController

NAMES = ("numpy", "cupy", "torch", "array_api_strict")


class BackendError(TypeError):
    """Arrays of two backends, devices or dtypes met in one call, or a backend cannot be used."""


class NotPositiveDefinite(ArithmeticError):
    """A Cholesky factorisation met a pivot that is not positive (or not finite)."""


class NotConverged(ArithmeticError):
    """An eigenvalue decomposition did not converge."""


# ------------------------------------------------------------------------------------------- which backend, which device


def namespace(*arrays):
    """The array API namespace shared by ``arrays``; `BackendError` where there is none."""
    try:
        return compat.array_namespace(*arrays)
    except TypeError as error:
        kinds = ", ".join(sorted({type(a).__module__.split(".")[0] + "." + type(a).__name__ for a in arrays}))
        raise BackendError(f"expected arrays of one array-API backend, found {kinds}") from error


def device(x):
    """The device that ``x`` lives on."""
    return compat.device(x)


def is_array(x):
    """Whether ``x`` is an array of some array-API backend (a list or a number is not)."""
    return compat.is_array_api_obj(x)


def is_numpy(x):
    """Whether ``x`` is a plain NumPy array."""
    return compat.is_numpy_array(x)


def describe(x):
    """A few words about an array, for error messages: ``float32 numpy array of shape (3, 4) on cpu``."""
    if not is_array(x):
        return type(x).__name__
    return f"{str(x.dtype).split('.')[-1]} {backend_name(x)} array of shape {tuple(x.shape)} on {device(x)}"


def backend_name(x):
    """``numpy``, ``cupy``, ``torch``, ... of an array."""
    return compat.array_namespace(x).__name__.replace("array_api_compat.", "").split(".")[0]


def check(ndim=None, finite=True, beside=None, **arrays):
    """Check named arrays once, at a public boundary, and return their namespace.

    Parameters
    ----------
    ndim : dict[str, int or tuple of int], optional
        Allowed numbers of dimensions by name.
    finite : bool
        Also refuse NaN and Inf (costs one pass and one synchronisation).
    beside : tuple, optional
        Name and array, checked already, that the others must share backend, device and dtype with.
    **arrays
        The arrays, by the names that messages use.

    Raises
    ------
    BackendError
        Not an array, two backends, two devices, or two dtypes.
    TypeError
        A dtype other than float32 or float64.
    ValueError
        A wrong number of dimensions, an empty array, or a value that is not finite.
    """
    first_name, first = beside or next(iter(arrays.items()))
    for name, x in arrays.items():
        if not is_array(x):
            raise BackendError(f"{name} is a {type(x).__name__}; expected a NumPy, CuPy, PyTorch or other array-API array")
        if compat.array_namespace(x) is not compat.array_namespace(first) or device(x) != device(first):
            raise BackendError(
                f"{first_name} is a {describe(first)}, {name} is a {describe(x)}: arrays of one call share one backend and "
                "device; nothing is moved silently, convert with nearlin.asarray(a, like=b)"
            )
        _check_dtype(name, x)
        if x.dtype != first.dtype:
            found = f"{first_name} has dtype {first.dtype}, {name} has {x.dtype}"
            raise BackendError(f"{found}: expected the same; nothing is cast silently")
        _check_shape(name, x, (ndim or {}).get(name))
        if finite:
            check_finite(name, x)
    return compat.array_namespace(first)


def _check_dtype(name, x):
    xp = compat.array_namespace(x)
    if x.dtype not in (xp.float32, xp.float64):
        short = str(x.dtype).split(".")[-1]
        why = {
            "float16": "half precision cannot carry the linear solves; convert to float32",
            "bfloat16": "half precision cannot carry the linear solves; convert to float32",
        }.get(short, "convert to float32 or float64 first, so that rounding is your choice")
        raise TypeError(f"{name} has dtype {short}; expected float32 or float64 ({why})")


def _check_shape(name, x, ndim):
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if allowed and x.ndim not in allowed:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected {' or '.join(map(str, allowed))} dimension(s)")
    if 0 in x.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected at least one entry")


def check_finite(name, x):
    """Raise `ValueError` naming ``name`` and the number of NaN or Inf entries, if there are any."""
    xp = compat.array_namespace(x)
    bad = int(xp.sum(xp.astype(~xp.isfinite(x), xp.int64)))
    if bad:
        raise ValueError(f"{name} holds {bad} NaN or Inf value(s) among {compat.size(x)}; expected finite numbers")


def is_integer(x):
    """Whether ``x`` is an array of integers."""
    return is_array(x) and bool(compat.array_namespace(x).isdtype(x.dtype, "integral"))


def check_indices(name, x, like, below=None):
    """Check that ``x`` (n,) holds integers of [0, ``below``) next to ``like``; raises as `check` does."""
    if not is_array(x):
        raise BackendError(f"{name} is a {type(x).__name__}; expected an array of integers next to a {describe(like)}")
    if compat.array_namespace(x) is not compat.array_namespace(like) or device(x) != device(like):
        raise BackendError(f"{name} is a {describe(x)}; expected integers next to a {describe(like)}: nothing is moved silently")
    xp = compat.array_namespace(x)
    if x.dtype not in (xp.int32, xp.int64):
        raise TypeError(f"{name} has dtype {str(x.dtype).split('.')[-1]}; expected int32 or int64")
    _check_shape(name, x, 1)
    least, most = int(xp.min(x)), int(xp.max(x))
    if least < 0 or (below is not None and most >= below):
        found, bound = (least, below) if least < 0 else (most, below)
        raise ValueError(f"{name} holds {found}; expected integers " + ("of at least 0" if bound is None else f"in [0, {bound})"))


def asarray(a, *, like, dtype=None):
    """``a`` (an array of any backend, or nested numbers) next to ``like``: its backend and device; the one explicit converter.

    The dtype is ``dtype``, or that of ``like``.
    """
    xp = compat.array_namespace(like)
    host = to_numpy(a) if is_array(a) else np.asarray(a)
    return xp.asarray(host.astype(str(dtype or like.dtype).split(".")[-1], copy=True), device=device(like))


def to_numpy(x):
    """``x`` as a NumPy array; the explicit way back from every backend and device."""
    if is_numpy(x) or isinstance(x, np.generic | float | int):
        return np.asarray(x)
    if compat.is_cupy_array(x):
        return x.get()
    if compat.is_torch_array(x):
        return x.detach().cpu().numpy()
    if hasattr(x, "to_device") and backend_name(x) == "array_api_strict":
        return np.asarray(x.to_device(compat.array_namespace(x).Device("CPU_DEVICE")))
    if hasattr(x, "to_numpy"):
        return x.to_numpy()
    return np.asarray(x)


def synchronize(x):
    """Wait until the device of ``x`` has finished: GPU calls return before their work is done."""
    if compat.is_cupy_array(x):
        importlib.import_module("cupy").cuda.get_current_stream().synchronize()
    elif compat.is_torch_array(x) and x.device.type == "cuda":
        importlib.import_module("torch").cuda.synchronize(x.device)


@functools.cache
def cupy_unusable():
    """Why CuPy cannot be used here, or None. A CuPy wheel imports fine without a driver, so that import proves nothing."""
    try:
        cupy = importlib.import_module("cupy")
        if not cupy.cuda.is_available():
            return "cupy is installed but there is no usable CUDA device"
        importlib.import_module("cupyx.scipy.linalg")
        cupy.zeros(1) + 1
    except ImportError as error:
        return f"missing: {str(error).splitlines()[0]}"
    except Exception as error:  # a broken driver raises errors of many kinds, and none may break `import nearlin`
        return f"CUDA unusable: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def unusable(name):
    """Why the backend called ``name`` cannot be used here, or None."""
    if name not in NAMES:
        return f"unknown backend {name!r}; expected one of {', '.join(NAMES)}"
    if name == "cupy":
        return cupy_unusable()
    try:
        importlib.import_module(name)
    except ImportError as error:
        return f"missing: {str(error).splitlines()[0]}"
    return None


def prototype(name, dtype="float64"):
    """An empty array of the backend called ``name``, to be passed as ``like``."""
    if reason := unusable(name):
        raise BackendError(f"backend {name!r} cannot be used: {reason}")
    module = importlib.import_module(name)
    xp = compat.array_namespace(module.empty(0))
    on_gpu = name == "torch" and module.cuda.is_available()
    return xp.empty((0,), dtype=getattr(xp, dtype), device="cuda" if on_gpu else None)


def widest(x):
    """float64 of the namespace of ``x`` where its device has it, else the dtype of ``x``."""
    kinds = compat.array_namespace(x).__array_namespace_info__().dtypes(device=device(x), kind="real floating")
    return kinds.get("float64", x.dtype)


def unguarded():
    """A context in which NumPy overflows without a warning, as other backends do: for results that are looked at."""
    return np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")


def copies(arrays):
    """Copies that share no memory with ``arrays``, a tuple."""
    return tuple(compat.array_namespace(x).asarray(x, copy=True) for x in arrays)


def same(a, b):
    """Whether two tuples hold arrays of one backend, device, dtype, shape and values."""
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if compat.array_namespace(x) is not compat.array_namespace(y) or device(x) != device(y):
            return False
        if x.dtype != y.dtype or x.shape != y.shape or not bool(compat.array_namespace(x).all(x == y)):
            return False
    return True


# ----------------------------------------------------------------------------------------------------------- randomness


def fold_in(key, *data):
    """A new key from ``key`` and integers, independent of other keys for all practical purposes."""
    for value in (key, *data):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(f"key is {value!r}; expected a non-negative integer")
    digest = hashlib.blake2b(repr((int(key), *map(int, data))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def generator(key):
    """A NumPy generator on the counter-based Philox stream of ``key``; all draws are made on the host."""
    return np.random.Generator(np.random.Philox(key=fold_in(key)))


def uniform(key, shape, like):
    """Uniform draws on [0, 1) in float64, then cast to the dtype of ``like`` and moved next to it; at most 1 - 2⁻²⁴.

    Float32 would round what is above that to 1.
    """
    return asarray(np.minimum(generator(key).random(shape), 1 - 2**-24), like=like)


def normal(key, shape, like):
    """Standard normal draws in float64, then cast to the dtype of ``like`` and moved next to it."""
    return asarray(generator(key).standard_normal(shape), like=like)


def signs(key, n, like):
    """``n`` independent signs +1 or -1, next to ``like``."""
    return asarray(generator(key).integers(0, 2, size=n, dtype=np.int8) * 2 - 1, like=like)


def permutation(key, n, like):
    """A random permutation of 0, ..., n - 1 as int64, next to ``like``."""
    return asarray(generator(key).permutation(n), like=like, dtype="int64")


# -------------------------------------------------------------------------------------------------------- factorisations


def cholesky(a, shift=0.0):
    """Upper triangular R with RᵀR = ``a`` + ``shift`` I, for one symmetric matrix; `NotPositiveDefinite` on every backend alike.

    Cost n³/3 flops; ``a`` is not changed.
    """
    xp = compat.array_namespace(a)
    if is_numpy(a):
        r = a.copy()
        r.flat[:: a.shape[0] + 1] += shift
        potrf = scipy.linalg.get_lapack_funcs("potrf", (r,))
        with _scipy_on_one_thread(a.shape[0] <= SMALL):
            lower, info = potrf(r.T, lower=True, clean=True, overwrite_a=True)
        if info != 0 or not np.isfinite(lower[-1, -1]):
            raise NotPositiveDefinite(f"pivot {info} of {a.shape[0]}")
        return lower.T
    if hasattr(xp, "shifted_cholesky"):  # a namespace that has it as a primitive (operation counting)
        return xp.shifted_cholesky(a, float(shift))
    try:
        with _raising_linalg(a):
            lower = xp.linalg.cholesky(a + shift * xp.eye(a.shape[0], dtype=a.dtype, device=device(a)))
    except (np.linalg.LinAlgError, RuntimeError) as error:  # torch's LinAlgError is a RuntimeError
        raise NotPositiveDefinite(str(error).splitlines()[0]) from error
    if not bool(xp.all(xp.isfinite(lower))):
        raise NotPositiveDefinite("not finite")
    return xp.matrix_transpose(lower)


def spd_inverse(a, shift=0.0):
    """(``a`` + ``shift`` I)⁻¹ for one symmetric positive definite matrix, symmetric to the bit; `NotPositiveDefinite` else.

    A pivot below the rounding error of its diagonal entry counts as not positive. Cost n³ + n² + 2n flops (LAPACK's potrf and
    potri, and the shift); ``a`` is not changed.
    """
    xp = compat.array_namespace(a)
    if hasattr(xp, "spd_inverse"):  # a namespace that has it as a primitive (operation counting)
        return xp.spd_inverse(a, float(shift))
    r = cholesky(a, shift)
    pivots = xp.linalg.diagonal(r) ** 2
    if not bool(xp.all(pivots > float(xp.finfo(a.dtype).eps) * (xp.linalg.diagonal(a) + shift))):
        raise NotPositiveDefinite("a pivot is rounding error")
    if is_numpy(a):
        (potri,) = scipy.linalg.get_lapack_funcs(("potri",), (r,))
        half, _ = potri(r.T, lower=True, overwrite_c=True)
        inverse = half + half.T
        np.einsum("ii->i", inverse)[...] *= 0.5
        return inverse
    if compat.is_torch_array(a):
        return importlib.import_module("torch").cholesky_inverse(r, upper=True)
    root = solve_triangular(r, xp.eye(a.shape[0], dtype=a.dtype, device=device(a)))
    return root @ xp.matrix_transpose(root)


def cholesky_pivots(stack):
    """Squared diagonals (n, k) of the Cholesky factors of (n, k, k); `NotPositiveDefinite` if one has none. n k³/3 flops."""
    xp = compat.array_namespace(stack)
    try:
        with _raising_linalg(stack):
            return xp.linalg.diagonal(xp.linalg.cholesky(stack)) ** 2
    except (np.linalg.LinAlgError, RuntimeError) as error:  # torch's LinAlgError is a RuntimeError
        raise NotPositiveDefinite(str(error).splitlines()[0]) from error


def eigh(a):
    """Eigenvalues (..., n) and eigenvectors (..., n, n) of symmetric matrices; `NotConverged` on every backend alike."""
    xp = compat.array_namespace(a)
    try:
        with _raising_linalg(a):
            values, vectors = _eigh_in_float32(a) if is_numpy(a) and a.dtype == np.float32 and a.ndim == 2 else xp.linalg.eigh(a)
    except (np.linalg.LinAlgError, RuntimeError) as error:  # torch's LinAlgError is a RuntimeError
        raise NotConverged(str(error).splitlines()[0]) from error
    if not bool(xp.all(xp.isfinite(values))) or not bool(xp.all(xp.isfinite(vectors))):
        raise NotConverged("not finite")
    if is_numpy(vectors):  # where units have no inputs LAPACK leaves denormal entries, which make products 15 times slower
        vectors[np.abs(vectors) < float(np.finfo(vectors.dtype).eps) ** 2] = 0
    return values, vectors


def _eigh_in_float32(a):
    """NumPy computes in float64 whatever the dtype, which takes twice as long."""
    return scipy.linalg.eigh(a, driver="evd", check_finite=False)


def flushed(x):
    """``x`` without entries so near to underflow that products with rounding errors are denormal: NumPy alone is slow there."""
    if not is_numpy(x):
        return x
    kind = np.finfo(x.dtype)
    return np.where(np.abs(x) < float(kind.smallest_normal) / float(kind.eps) ** 2, x.dtype.type(0), x)


def svd(a):
    """P (m, r), s (r,) descending, Qᵀ (r, n) with ``a`` = P diag(s) Qᵀ, r = min(m, n); `NotConverged` on every backend alike."""
    return _decomposed(a, lambda xp: tuple(xp.linalg.svd(a, full_matrices=False)))


def singular_values(a):
    """Singular values (r,) of ``a`` (m, n), descending; `NotConverged` on every backend alike."""
    return _decomposed(a, lambda xp: (xp.linalg.svdvals(a),))[0]


def _decomposed(a, decompose):
    xp = compat.array_namespace(a)
    try:
        with _raising_linalg(a):
            parts = decompose(xp)
    except (np.linalg.LinAlgError, RuntimeError) as error:  # torch's LinAlgError is a RuntimeError
        raise NotConverged(str(error).splitlines()[0]) from error
    if not all(bool(xp.all(xp.isfinite(part))) for part in parts):
        raise NotConverged("not finite")
    return parts


def _raising_linalg(a):
    """CuPy returns garbage from an indefinite matrix unless told to raise."""
    if compat.is_cupy_array(a):
        return importlib.import_module("cupyx").errstate(linalg="raise")
    return contextlib.nullcontext()


def solve_triangular(r, b, *, trans=False):
    """Solve R x = b, or Rᵀ x = b with ``trans``, for upper triangular ``r`` (n, n) and ``b`` (n,) or (n, k). Cost n² k flops."""
    xp = compat.array_namespace(r, b)
    if hasattr(xp, "solve_triangular"):  # a namespace that has it as a primitive (operation counting)
        return xp.solve_triangular(r, b, trans=trans)
    if is_numpy(r):
        with _scipy_on_one_thread(b.ndim == 2 and b.shape[1] <= FEW):
            return scipy.linalg.solve_triangular(r, b, trans=int(trans), check_finite=False)
    if compat.is_cupy_array(r):
        return importlib.import_module("cupyx.scipy.linalg").solve_triangular(r, b, trans=int(trans))
    if compat.is_torch_array(r):
        columns = b[:, None] if b.ndim == 1 else b
        x = xp.linalg.solve_triangular(r.mT if trans else r, columns, upper=not trans)
        return x[:, 0] if b.ndim == 1 else x
    return xp.linalg.solve(xp.matrix_transpose(r) if trans else r, b)  # array-api-strict: correct, O(n³)


def tridiagonal_extremes(diagonal, off_diagonal):
    """Smallest and largest eigenvalue of a symmetric tridiagonal matrix given as two lists of floats."""
    values = scipy.linalg.eigvalsh_tridiagonal(np.asarray(diagonal), np.asarray(off_diagonal)) if off_diagonal else diagonal
    return float(min(values)), float(max(values))


# ---------------------------------------------------------------------------------------------------------------- blocks


@functools.cache
def _blas():
    return ThreadpoolController().select(user_api="blas")


def blas_threads():
    """Number of threads that the BLAS libraries may use now (the smallest over the loaded ones)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min([library["num_threads"] for library in _blas().info()] or [cores])


SMALL, FEW = 1024, 64  # sizes of factorisations, and columns of triangular solves, that one thread is enough for


@functools.cache
def _scipy_blas():
    """SciPy's own BLAS, where NumPy brings another; else None."""
    own = [library.filepath for library in _blas().lib_controllers if "scipy.libs" in library.filepath]
    return _blas().select(filepath=own) if own else None


def _scipy_on_one_thread(when):
    """A context in which SciPy's BLAS uses one thread, if ``when``.

    After a call its threads spin for a while, beside those of NumPy's: a product that follows takes 30 ms more.
    """
    return _scipy_blas().limit(limits=1) if when and _scipy_blas() else contextlib.nullcontext()


@functools.cache
def _pool(workers, _pid):
    return ThreadPoolExecutor(workers, thread_name_prefix="nearlin")


_inside = threading.local()


def _as_worker(f, block, context):
    _inside.worker = True
    return context.run(f, block)


def map_blocks(f, blocks, like):
    """Yield ``f(block)`` for every block, in order.

    On NumPy the blocks are walked by one worker per BLAS thread, each with one BLAS thread: BLAS's own threads make thin
    products slower. Limiting the BLAS threads (threadpoolctl, OPENBLAS_NUM_THREADS) limits the workers. Results come in
    block order, so that sums do not depend on scheduling, and `unguarded` holds in workers too. Other backends walk serially.
    """
    workers = blas_threads() if is_numpy(like) else 1
    if workers == 1 or len(blocks) == 1 or getattr(_inside, "worker", False):
        yield from map(f, blocks)
        return
    contexts = [contextvars.copy_context() for _ in blocks]  # one each: a context cannot be entered twice at a time
    with _blas().limit(limits=1):
        yield from _pool(workers, os.getpid()).map(functools.partial(_as_worker, f), blocks, contexts)


def block_length(row_bytes, like):
    """How many rows of ``row_bytes`` bytes make one block: a share of the cache on a CPU, 256 MB on a GPU."""
    budget = 256 * 2**20 if "cuda" in str(device(like)).lower() or compat.is_cupy_array(like) else CPU_BLOCK_BYTES
    return max(1, budget // max(1, row_bytes))


CPU_BLOCK_BYTES = 8 * 2**20


def slices(length, step):
    """Consecutive slices of ``step`` that cover ``length``."""
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def pack_mask(mask):
    """Keep a boolean matrix in bits on NumPy, and as it is (bytes) elsewhere; `unpack_mask` undoes it."""
    return np.packbits(mask, axis=1) if is_numpy(mask) else mask


def unpack_mask(packed, columns, dtype):
    """The matrix of zeros and ones, in ``dtype``, that `pack_mask` packed from one with ``columns`` columns."""
    if is_numpy(packed):
        return np.unpackbits(packed, axis=1, count=columns).view(np.bool_).astype(dtype)
    return compat.array_namespace(packed).astype(packed, dtype)
