"""A fast BLAS for MLX on a Linux CPU.

The `mlx-cpu` wheel is linked with reference BLAS, whose float32 matmul is some 20 to 100 times
slower than OpenBLAS. From it libmlx imports `cblas_{s,d,c}gemm` and nothing else, each through one
slot of its global offset table (GOT). `use_openblas` finds those slots by symbol name in the
relocations of the loaded library (System V ABI, "Dynamic Linking") and points them at OpenBLAS:
the one in the PyPI package `scipy-openblas32`, else the system's `libopenblas.so.0`. It works
whether or not MLX has already computed, and touches no other library of the process.

`MLX_BATCH_BLAS=0` in the environment turns it off. OpenBLAS reads its thread count from
`OPENBLAS_NUM_THREADS`; set that to 1 when several workers share the cores.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
import os
import platform
import sys
import threading
from collections.abc import Iterator
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_uint8, c_uint16, c_uint32, c_uint64
from pathlib import Path
from typing import Any

import mlx.core as mx

logger = logging.getLogger(__name__)

_SYMBOLS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")
# Relocation types of an imported function's slot: GLOB_DAT and JUMP_SLOT (<elf.h>).
_SLOT_TYPES = {"x86_64": (6, 7), "aarch64": (1025, 1026)}
_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_JMPREL = 2, 5, 6, 7, 8, 23
_RTLD_DI_LINKMAP = 2
_PROT_READ, _PROT_WRITE = 1, 2


class _Dyn(ctypes.Structure):
    _fields_ = (("tag", c_int64), ("value", c_uint64))


class _LinkMap(ctypes.Structure):
    _fields_ = (("base", c_uint64), ("name", c_char_p), ("dynamic", POINTER(_Dyn)))


class _Rela(ctypes.Structure):
    _fields_ = (("offset", c_uint64), ("info", c_uint64), ("addend", c_int64))


class _Sym(ctypes.Structure):
    _fields_ = (
        ("name", c_uint32),
        ("info", c_uint8),
        ("other", c_uint8),
        ("section", c_uint16),
        ("value", c_uint64),
        ("size", c_uint64),
    )


_lock = threading.Lock()


def use_openblas() -> str | None:
    """Point MLX's matmul at OpenBLAS, once; never raises.

    Returns:
        The file name of the library in use, or None where nothing was done: switched off by
        `MLX_BATCH_BLAS=0`, not Linux, MLX brings its own BLAS, or (with one warning in the log)
        no OpenBLAS was found or the slots could not be written.
    """
    if os.environ.get("MLX_BATCH_BLAS") == "0" or sys.platform != "linux":
        return None
    with _lock:  # `cache` alone would let two threads write at once
        return _redirect()


@functools.cache
def _redirect() -> str | None:
    try:
        slots = list(_slots(Path(mx.__file__).parent / "lib" / "libmlx.so"))
        if not slots:
            return None
        name, functions = _openblas()
        for address, symbol in slots:
            _write(address, functions[symbol])
    except (OSError, AttributeError, ValueError, LookupError) as error:
        logger.warning(
            "MLX computes float32 matmuls with slow reference BLAS (%s). To make them 20 "
            "times faster and more: pip install scipy-openblas32",
            error,
        )
        return None
    logger.debug("MLX computes matmuls with %s", name)
    return name


def _openblas() -> tuple[str, dict[str, int]]:
    """Return the file name of the first OpenBLAS that loads, and the address of each symbol.

    Raises:
        LookupError: there is none that has every symbol.
    """
    # By path and not by import: the package loads it with global symbols, which SciPy would see.
    spec = importlib.util.find_spec("scipy_openblas32")
    folder = Path(spec.origin).parent / "lib" if spec and spec.origin else Path()
    bundled = [(str(path), "scipy_") for path in sorted(folder.glob("libscipy_openblas*.so"))]
    for path, prefix in [*bundled, ("libopenblas.so.0", "")]:
        try:
            library = ctypes.CDLL(path)
            return Path(path).name, {name: _address(library[prefix + name]) for name in _SYMBOLS}
        except (OSError, AttributeError) as error:
            logger.debug("%s does not serve as BLAS: %s", path, error)
    raise LookupError("no OpenBLAS found")


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _slots(path: Path) -> Iterator[tuple[int, str]]:
    """(address, symbol) of each GOT slot through which the loaded library calls BLAS.

    Raises:
        OSError: the library is not loaded in this process.
        LookupError: the machine is neither x86_64 nor aarch64.
    """
    types = _SLOT_TYPES[platform.machine()]
    base, table = _dynamic(ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY))
    symbols = table[_DT_SYMTAB]
    for start, size in ((_DT_RELA, _DT_RELASZ), (_DT_JMPREL, _DT_PLTRELSZ)):
        count = table.get(size, 0) // ctypes.sizeof(_Rela)
        for rela in (_Rela * count).from_address(table[start]) if count else ():
            if rela.info & 0xFFFFFFFF in types:
                entry = symbols + (rela.info >> 32) * ctypes.sizeof(_Sym)
                name = ctypes.string_at(table[_DT_STRTAB] + _Sym.from_address(entry).name).decode()
                if name in _SYMBOLS:
                    yield base + rela.offset, name


def _dynamic(library: ctypes.CDLL) -> tuple[int, dict[int, int]]:
    """Load address and dynamic table (tag -> value) of a loaded library."""
    link = POINTER(_LinkMap)()
    libc = ctypes.CDLL(None)
    if libc.dlinfo(ctypes.c_void_p(library._handle), _RTLD_DI_LINKMAP, byref(link)):
        raise OSError("dlinfo failed")
    return link.contents.base, {e.tag: e.value for e in _entries(link.contents.dynamic)}


def _entries(dynamic: Any) -> Iterator[_Dyn]:
    index = 0
    while dynamic[index].tag:
        yield dynamic[index]
        index += 1


def _write(address: int, value: int) -> None:
    """Store 8 bytes; a read-only page (full RELRO) is opened for that moment."""
    if _writable(address):
        c_uint64.from_address(address).value = value
        return
    page = address & -os.sysconf("SC_PAGESIZE")
    _protect(page, _PROT_READ | _PROT_WRITE)
    c_uint64.from_address(address).value = value
    _protect(page, _PROT_READ)


def _writable(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, access = line.split()[:2]
        start, end = (int(bound, 16) for bound in span.split("-"))
        if start <= address < end:
            return "w" in access
    raise LookupError(f"address {address:#x} is not mapped")


def _protect(page: int, access: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_size_t(os.sysconf("SC_PAGESIZE"))
    if libc.mprotect(ctypes.c_void_p(page), size, c_int(access)):
        raise OSError(ctypes.get_errno(), "mprotect failed on the GOT")
