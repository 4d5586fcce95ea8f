"""Why a critic cannot be captured: the line of user code, a remedy for the cause, and when to try again."""

from __future__ import annotations

import contextlib
import functools
import linecache
import os
import re
import sys
import sysconfig
import traceback
import types
import warnings
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from ...errors import CaptureError, NotNow, Unavailable
from ...wrappers import Critic, Output

# Error of torch or the engine (its type, first line and explanation), what it means for the critic, and what
# to do about it. The first row that matches is used.
_CAUSES = (
    (
        r"the critic assigns \.data",
        "",
        "change the tensor in place (t.data.copy_(...)), or use a copy (t.clone())",
    ),
    (
        r"recompile.?limit|RecompileLimit",
        "a Python value that the graph depends on is a new one at every call",
        "make that value a tensor, or a float attribute of the module",
    ),
    (
        r"\bone_hot\b",
        "one_hot counts its classes in numbers that the critic computes",
        "pass num_classes",
    ),
    (
        r"data.dependent|GuardOnData|unbacked|Dynamic (shape|slicing)|Tensor\.(item|tolist)|\bnonzero\b"
        r"|aten\.equal",
        "Python looks at numbers that the critic computes (by branching on them, .item(), a size)",
        "write the choice with torch.where, or read the numbers outside of the critic",
    ),
    (
        r"builtin `?print|Logg(er|ing)|logging|reorder a debugging function",
        "the critic prints or logs",
        "print and log outside of the critic's forward",
    ),
    (
        r"a checkpoint reads",
        None,
        "leave what changes (running statistics, power iterations) outside of the checkpoint",
    ),
    (
        r"autograd_function_apply|autograd\.Function",
        "the critic uses a custom autograd.Function",
        "write it with torch's own operators, which have a second derivative",
    ),
    (
        r"cannot be differentiated twice|double backward|derivative for .* not implemented",
        None,
        "replace that operator by others that can be differentiated twice",
    ),
    (
        r"random numbers that depend",
        None,
        "draw the noise with the shape of the input alone and apply it with torch operators",
    ),
    (
        r"register_hook|gradient hook|_hook",
        None,
        "take the hook off, or put it on a parameter",
    ),
    (
        r"keeps a tensor that depends on its input",
        None,
        "return that tensor beside the score and pass output=, or keep a copy outside of the critic",
    ),
    (
        r"jit\.script|ScriptModule|_CachedForward",
        "the critic is, or holds, a scripted or traced module (torch.jit)",
        "pass the module that was scripted",
    ),
    (
        r"pack_padded_sequence|PackedSequence|pad_packed",
        "the critic packs its sequences",
        "run the recurrent layer on the padded batch and choose its outputs by the lengths",
    ),
    (
        r"autograd\.(grad|backward)|trace_autograd_ops",
        "the critic differentiates inside (torch.autograd)",
        "write that derivative with torch.func (grad, vjp, jvp), which is captured",
    ),
    (
        r"disallow_in_graph|make_fx",
        "the critic traces a function (torch.func.linearize, make_fx)",
        "write a derivative along a direction with torch.func.jvp, which is captured",
    ),
    (
        r"changing number",
        None,
        "compute sizes from shapes or from int attributes that stay the same",
    ),
    (
        r"Failed to trace builtin|Unsupported (function|method) call|marked as skipped|C/C\+\+|built.?in",
        None,
        "call that outside of the critic's forward, or write it with torch operators",
    ),
)  # fmt: skip
_FILE = r"(?:[A-Za-z]:\\|/)[^\s`'\",:]+\.py\b"
_ANY = "change what cannot be captured"


def refusal(what: str, remedy: str) -> CaptureError:
    """A refusal with these words."""
    error = CaptureError(what)
    error.remedy = remedy
    return error


def with_remedy(error: CaptureError) -> str:
    """The refusal and what to do about it, without a full stop."""
    return f"{error}. Remedy: {error.remedy or _ANY}"


def raise_out_of_memory(error: BaseException | None) -> None:
    """Raise ``error``, or what it wraps, if memory ran out: another path would run out of memory too."""
    for _ in range(16):
        if error is None:
            return
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
            raise error
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn at the user's own line, however deep in the package this is."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and not _is_users(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def explained(error: BaseException) -> CaptureError:
    """The refusal for an error of torch's front end or of the engine."""
    inner = _unavailable(error) or getattr(error, "inner_exception", None) or error
    if "fail_on_recompile" in str(inner):
        return NotNow("torch.compile's stance is fail_on_recompile")
    if isinstance(inner, CaptureError) and inner.remedy:
        return inner
    said = _said(inner)
    known = f"{type(inner).__name__}: {said}"
    what, remedy = said, _ANY
    for pattern, meaning, advice in _CAUSES:
        if re.search(pattern, known):
            what, remedy = meaning or said, advice
            break
    line = user_line(error)
    return refusal(f"{what}, at {line}" if line else what, remedy)


def _unavailable(error: BaseException | None) -> Unavailable | None:
    """The :class:`Unavailable` that ``error`` wraps, if any: the front end re-raises it as another error."""
    for _ in range(16):
        if error is None or isinstance(error, Unavailable):
            return error
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__
    return None


def _said(error: BaseException) -> str:
    """The first line and the explanation of torch's long messages, without the stack."""
    text = re.split(r"from user code|User Stack|Caused by:", str(error))[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    explanation = next((line for line in lines if line.startswith("Explanation:")), "")
    said = f"{first}: {explanation.removeprefix('Explanation:').strip()}" if explanation else first
    said = re.sub(_FILE, lambda file: file[0] if _is_users(file[0]) else "a library", said)
    return said.rstrip(" .:,")[:400]


# the user's line ---------------------------------------------------------------------------------


def user_line(error: BaseException) -> str:
    """The innermost line of the user's own code where ``error`` was met; empty if there is none."""
    inner = getattr(error, "inner_exception", None)
    for one in (error, inner):
        stack = getattr(one, "real_stack", None) or ()
        found = innermost((f.filename, f.lineno, f.line) for f in stack)
        if found:
            return found
    for one in (inner, error):
        if one is not None:
            found = _line_of_node(one) or _line_of_traceback(one)
            if found:
                return found
    return _line_in(str(error))  # torch keeps only the text of an error in the backend


def innermost(frames: Iterable[tuple[str, int | str | None, str | None]]) -> str:
    """The last of the frames ``(file, line, code)`` that is the user's, in words."""
    found = ""
    for file, number, code in frames:
        if _is_users(file):
            code = code or linecache.getline(file, int(number or 0))
            found = f"{file}, line {number}" + (f" ({code.strip()})" if code and code.strip() else "")
    return found


def _line_of_node(error: BaseException) -> str:
    """The user's line of the graph node that the engine was at, found in the innermost frame with a node."""
    found, at = "", error.__traceback__
    while at is not None:
        for value in at.tb_frame.f_locals.values():
            trace = value.meta.get("stack_trace") if isinstance(value, fx.Node) else None
            if trace:
                found = _line_in(trace) or found
        at = at.tb_next
    return found


def _line_in(trace: str) -> str:
    """The user's line in a printed stack."""
    return innermost(re.findall(r'File "(.+?)", line (\d+), in .*(?:\n(?!\s*File)(.*))?', trace))


def _line_of_traceback(error: BaseException) -> str:
    return innermost((f.filename, f.lineno, f.line) for f in traceback.extract_tb(error.__traceback__))


_PACKAGE = str(Path(__file__).resolve().parents[2])


@functools.cache
def _is_users(file: str) -> bool:
    """Whether a file is the user's (or of a library that is neither torch, Python's own nor this one)."""
    if file.startswith("<"):
        return file.startswith(("<ipython", "<stdin"))
    file = os.path.abspath(file)
    if any(part in file for part in (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")):
        roots = [torch.__path__[0]]
    else:
        paths = sysconfig.get_paths()
        roots = [torch.__path__[0], paths["stdlib"], paths["platstdlib"]]
    roots.append(_PACKAGE)
    return not any(file.startswith(os.path.abspath(root) + os.sep) for root in roots)


# what is refused, and for how long ---------------------------------------------------------------

TRIES = 4  # after so many failed captures a kind of call is not tried again
KINDS = 32  # after so many refused kinds in a row only every 64th call is tried


class _Refused:
    """A kind of call that could not be captured; tried again at the next call, then after 8 and after 64."""

    def __init__(self, error: CaptureError) -> None:
        self.what, self.remedy = str(error), error.remedy  # no traceback: its frames hold the critic
        self.failures, self.waited = 1, 0

    def waits(self) -> bool:
        self.waited += 1
        return self.failures >= TRIES or self.waited < 8 ** (self.failures - 1)


class _Same:
    """An object as part of a key: equal to itself while it lives, and to nothing afterwards."""

    def __init__(self, value: Any) -> None:
        self.reference, self._hash = weakref.ref(value), id(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        value = self.reference()
        return isinstance(other, _Same) and value is not None and value is other.reference()


class Refusals:
    """The refused kinds of call of one critic (or of the critics that one line of code makes).

    A kind is the batch's shape, strides, dtype and device, whether autocast is on, and what the critic
    refers to: the training modes of its modules, and which modules and objects a function closes over. A
    later call of the same kind may succeed: a critic may print a message in its first call only.
    """

    def __init__(self) -> None:
        self._of: dict[Any, _Refused] = {}
        self._in_a_row, self._passed, self._last = 0, 0, ("", "")

    def standing(self, critic: Critic, output: Output | None, x: Tensor) -> CaptureError | None:
        """The refusal of this kind of call, unless a capture is to be tried now."""
        found = self._of.get(_kind(critic, output, x))
        if found is not None:
            return refusal(found.what, found.remedy) if found.waits() else None
        if self._in_a_row < KINDS:
            return None
        self._passed += 1
        return None if self._passed % 64 == 0 else refusal(*self._last)

    def add(self, critic: Critic, output: Output | None, x: Tensor, error: CaptureError) -> None:
        """This kind of call could not be captured."""
        kind = _kind(critic, output, x)
        found = self._of.get(kind)
        if found is not None:
            found.failures, found.waited = found.failures + 1, 0
            found.what, found.remedy = str(error), error.remedy
            return
        self._of = {k: refused for k, refused in self._of.items() if _alive(k)}
        self._of[kind] = _Refused(error)
        self._in_a_row, self._last = self._in_a_row + 1, (str(error), error.remedy)

    def end(self, critic: Critic, output: Output | None, x: Tensor) -> None:
        """This kind of call was captured."""
        self._in_a_row = 0
        if self._of:
            self._of.pop(_kind(critic, output, x), None)

    def clear(self) -> None:
        """Forget all: the next call tries."""
        self.__init__()  # type: ignore[misc]


def _alive(kind: tuple[Any, ...]) -> bool:
    return all(part.reference() is not None for part in kind if isinstance(part, _Same))


def _kind(critic: Critic, output: Output | None, x: Tensor) -> tuple[Any, ...]:
    """What a refusal is about."""
    parts: list[Any] = [x.shape, x.stride(), x.dtype, x.device, torch.is_autocast_enabled(x.device.type)]
    for value in (*_reached(critic), *_reached(output)):
        if isinstance(value, Tensor):
            parts.append((value.shape, value.dtype, value.device, value.requires_grad))
            continue
        if isinstance(value, torch.nn.Module):
            parts.append(tuple([module.training for module in value.modules()]))
        try:
            parts.append(_Same(value))
        except TypeError:  # a number, a string, a list: fresh ones at every call are one kind
            parts.append(type(value))
    return tuple(parts)


def _reached(function: Any, depth: int = 3) -> Iterator[Any]:
    """The objects that a callable closes over, is bound to or wraps; itself if it is not a function."""
    if isinstance(function, functools.partial):
        inner = [function.func, *function.args, *function.keywords.values()]
    elif isinstance(function, types.MethodType):
        inner = [function.__self__, function.__func__]
    elif isinstance(function, types.FunctionType):
        yield function.__code__
        inner = [*_cells(function), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    else:
        yield function
        return
    for value in inner:
        if depth and isinstance(value, (functools.partial, types.MethodType, types.FunctionType)):
            yield from _reached(value, depth - 1)
        else:
            yield value


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not assigned yet
            yield cell.cell_contents
