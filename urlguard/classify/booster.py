"""
LightGBM's C library, without its Python package.

Knows trees and rows of numbers; knows neither names nor features.  The package `lightgbm` imports
numpy and scipy, which costs each worker some 60 MB and half a second; the library beside it needs
neither, and its fast path for a single row is what a resolver wants: everything is parsed and laid
out once, and a score is one call with one address.

How it works.  The library is found beside the package, which is not imported, and loaded on first
use.  It runs on the thread that calls it, and starts none of its own: a pool of idle OpenMP threads
in each worker would compete with it for its core.  What it prints goes nowhere: a worker's standard
output is its line to the supervisor.

A single row is scored with the interpreter's lock held, since letting it go and taking it again
costs as much as the trees; batches and loading let it go.  A `Booster` belongs to one thread at a
time: the row's buffer is its own.
"""

import ctypes
import hashlib
import importlib.util
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

from urlguard.classify.modelfile import MAX_PART, contents
from urlguard.errors import ModelError

_FLOAT64: Final = 1  # C_API_DTYPE_FLOAT64
_RAW: Final = 1  # C_API_PREDICT_RAW_SCORE
_CONTRIBUTIONS: Final = 3  # C_API_PREDICT_CONTRIB
_ROW_MAJOR: Final = 1
_ALL_TREES: Final = -1
_PARAMETERS: Final = b"num_threads=1 verbosity=-1"

_LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


# Where the library's messages go; kept for as long as the library may call it.
_silence = _LogCallback(lambda _: None)


@cache
def _library() -> tuple[ctypes.CDLL, ctypes.PyDLL]:
    """
    The library, for calls that let go of the interpreter's lock and for those that do not.

    Raises:
        ModelError: it is not installed, or this machine cannot load it.
    """
    spec = importlib.util.find_spec("lightgbm")
    if spec is None or spec.origin is None:
        raise ModelError("lightgbm: not installed; must be, for a model to run")
    folder = Path(spec.origin).parent
    # Wheels have it in lib; builds from source may put it beside the package.
    found = [p for p in (folder / "lib", folder) if (p / "lib_lightgbm.so").is_file()]
    if not found:
        raise ModelError(f"{folder}: no lib/lib_lightgbm.so; must come with lightgbm")
    path = found[0] / "lib_lightgbm.so"
    try:
        library, holding = ctypes.CDLL(str(path)), ctypes.PyDLL(str(path))
    except OSError as exc:
        raise ModelError(f"{path}: cannot be loaded: {exc}") from exc
    library.LGBM_GetLastError.restype = ctypes.c_char_p
    library.LGBM_RegisterLogCallback(_silence)
    library.LGBM_SetMaxThreads(ctypes.c_int(1))
    return library, holding


def _checked(code: int, where: str) -> None:
    if code != 0:
        library, _ = _library()
        why = library.LGBM_GetLastError().decode(errors="replace")
        raise ModelError(f"{where}: LightGBM says: {' '.join(why.split())[:300]}")


class Booster:
    """
    One model's trees.

    ``features`` is how many numbers a row has.

    Args:
        text: the model as LightGBM writes it.  A damaged one ends the process, since the library
            throws where nobody can catch: only `open` with a digest is safe.
        where: it comes from, for messages.

    Raises:
        ModelError: it is no such text, or there is no library to read it with.
    """

    def __init__(self, text: bytes, where: str = "booster") -> None:
        self._handle: ctypes.c_void_p | None = None
        self._fast: ctypes.c_void_p | None = None
        self._where = where
        if not text.startswith(b"tree\n"):
            raise ModelError(f"{where}: no LightGBM model; must begin with 'tree'")
        if b"\0" in text:
            raise ModelError(f"{where}: has a null octet; must be text")
        self._library, holding = _library()
        handle, rounds = ctypes.c_void_p(), ctypes.c_int()
        _checked(
            self._library.LGBM_BoosterLoadModelFromString(
                ctypes.c_char_p(text), ctypes.byref(rounds), ctypes.byref(handle)
            ),
            where,
        )
        self._handle = handle
        self.features = self._number("LGBM_BoosterGetNumFeature")
        classes = self._number("LGBM_BoosterGetNumClasses")
        if classes != 1 or self.features < 1:
            self.close()
            raise ModelError(
                f"{where}: {classes} classes and {self.features} features; must have one class"
            )
        fast = ctypes.c_void_p()
        _checked(
            self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
                handle,
                ctypes.c_int(_RAW),
                ctypes.c_int(0),
                ctypes.c_int(_ALL_TREES),
                ctypes.c_int(_FLOAT64),
                ctypes.c_int32(self.features),
                ctypes.c_char_p(_PARAMETERS),
                ctypes.byref(fast),
            ),
            where,
        )
        self._fast = fast
        # Everything that a call needs, laid out once.
        self._pack = struct.Struct(f"{self.features}d").pack_into
        self._row = (ctypes.c_double * self.features)()
        self._length = ctypes.c_int64()
        self._out = ctypes.c_double()
        predict: Any = holding.LGBM_BoosterPredictForMatSingleRowFast
        predict.argtypes = [ctypes.c_void_p] * 4
        self._predict = predict
        self._arguments = (
            fast.value,
            ctypes.addressof(self._row),
            ctypes.addressof(self._length),
            ctypes.addressof(self._out),
        )

    @classmethod
    def open(cls, path: Path, sha256: str | None = None) -> Self:
        """
        The booster in a file.

        Args:
            path: the file.
            sha256: its digest in hexadecimal digits; None only for a file that was just made.

        Raises:
            ModelError: it cannot be read, has another digest, or holds no booster.
        """
        text = contents(path, MAX_PART)
        if sha256 is not None and (found := hashlib.sha256(text).hexdigest()) != sha256:
            raise ModelError(f"{path}: sha256 is {found}; must be {sha256}, as its card says")
        return cls(text, str(path))

    def raw(self, row: Sequence[float]) -> float:
        """
        The raw margin of one row: the sum of the trees' leaves.

        Raises:
            ValueError: it has another length than `features`.
        """
        try:
            # Faster than filling a ctypes array: 0.7 µs for 120 numbers instead of 1.6.
            self._pack(self._row, 0, *row)
        except struct.error as exc:
            raise ValueError(f"{self._where}: row of {len(row)}: {exc}") from exc
        if self._predict(*self._arguments):
            _checked(-1, self._where)
        return self._out.value

    def raws(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """
        The raw margins of many rows, each the same to the last bit as from `raw`.

        Raises:
            ValueError: a row has another length than `features`.
        """
        return self._of(rows, _RAW, 1)

    def contributions(self, row: Sequence[float]) -> list[float]:
        """
        What each feature adds to the raw margin of one row, and the expected margin as the last.

        These are SHAP values (LightGBM's ``pred_contrib``): they add up to the margin, but for the
        last bits of floating point.  They cost milliseconds.

        Raises:
            ValueError: the row has another length than `features`.
        """
        return self._of([row], _CONTRIBUTIONS, self.features + 1)

    def _of(self, rows: Sequence[Sequence[float]], what: int, each: int) -> list[float]:
        """What the trees say of rows, `each` numbers for one; lets go of the interpreter's lock."""
        if not rows:
            return []
        width = self.features
        matrix = (ctypes.c_double * (width * len(rows)))()
        try:
            for at, row in enumerate(rows):
                self._pack(matrix, at * width * 8, *row)
        except struct.error as exc:
            raise ValueError(f"{self._where}: rows must have {width} numbers: {exc}") from exc
        length, found = ctypes.c_int64(), (ctypes.c_double * (len(rows) * each))()
        _checked(
            self._library.LGBM_BoosterPredictForMat(
                self._handle,
                ctypes.byref(matrix),
                ctypes.c_int(_FLOAT64),
                ctypes.c_int32(len(rows)),
                ctypes.c_int32(width),
                ctypes.c_int(_ROW_MAJOR),
                ctypes.c_int(what),
                ctypes.c_int(0),
                ctypes.c_int(_ALL_TREES),
                ctypes.c_char_p(_PARAMETERS),
                ctypes.byref(length),
                ctypes.byref(found),
            ),
            self._where,
        )
        return list(found)

    def close(self) -> None:
        """Free the trees; the booster must not be used any more."""
        fast, self._fast = self._fast, None
        handle, self._handle = self._handle, None
        if fast is not None:
            self._library.LGBM_FastConfigFree(fast)
        if handle is not None:
            self._library.LGBM_BoosterFree(handle)

    def __del__(self) -> None:
        self.close()

    def _number(self, function: str) -> int:
        found = ctypes.c_int()
        _checked(getattr(self._library, function)(self._handle, ctypes.byref(found)), self._where)
        return found.value
