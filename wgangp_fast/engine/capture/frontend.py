"""Patches that widen what torch.compile's front end (Dynamo) captures.

Dynamo turns some Python values into graph inputs, or refuses them, where a critic means plain constants; and
it takes random numbers from other generators than stock code. Each patch is active only while one critic is
compiled, under the capture's lock. Its reason stands beside it, and it names the part of torch that it
changes. A torch without that part is left as it is; critics that need the patch then run on the stock path.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TypeVar

from ... import rng as streams
from ...errors import CaptureError, Unavailable
from . import frontend_calls, frontend_draws, frontend_numpy, frontend_objects, frontend_values
from .frontend_draws import Draws, Program, Tape
from .patching import Patch, Translator, patched
from .refusals import innermost, refusal

T = TypeVar("T")


class _Refused(Exception):
    """Carries a refusal through the front end, which passes on an exception with what it wraps."""

    def __init__(self, inner: CaptureError) -> None:
        super().__init__(str(inner))
        self.inner_exception = inner


class FrontEnd:
    """What was learnt about one critic at one kind of batch, for its next captures.

    Attributes:
        programs: the sequences of random numbers that its graphs draw in Python, the last used first.
        tape: the random numbers that the capture in progress draws.
        numbers: whether numbers that are read from constant tensors become constants.
        depends_on_numbers: whether some did so in the capture in progress.
    """

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self.tape = Tape()
        self.numbers = self.depends_on_numbers = False
        self._read = False
        self._blamed: tuple[str, str] | None = None

    def compile(self, call: Callable[[Draws], T]) -> T:
        """``call(draws)``, which compiles the critic and runs it once, with the patches applied."""
        self.numbers, self.depends_on_numbers, self._read, self._blamed = False, False, False, None
        self.tape = Tape()
        try:
            return self._attempt(call)
        except Exception:
            if self.tape.complete or not self.may_try_again():
                raise
        if self._blamed is not None:
            raise _Refused(refusal(*self._blamed))
        # A number that is only a factor can be an input, new at each call. Here its value was needed, so the
        # next attempt makes it a constant.
        self.numbers, self.tape = True, Tape()
        return self._attempt(call)

    def _attempt(self, call: Callable[[Draws], T]) -> T:
        tape = self.tape
        try:
            with patched(self._patches()):
                result = call(tape)
        except BaseException:
            tape.undo()
            raise
        finally:
            if tape.complete and tape.values:
                self.programs.insert(0, tape.as_program())
        if tape.values:
            tape.as_program().draw()
        return result

    def replay(self, call: Callable[..., T], arguments: tuple[object, ...], miss: type[Exception]) -> T:
        """``call(*arguments, draws)`` with numbers drawn for each known sequence, until one fits.

        The generators are left in the state after that sequence; in their old state if something was raised.
        """
        before = streams.states(draw.stream for program in self.programs for draw in program.draws)
        for program in self.programs:
            draws = program.draw()
            after = streams.states(stream for stream, _ in before)
            streams.restore(before)  # ``before`` must see the generators as they were
            try:
                result = call(*arguments, draws)
            except miss:
                continue
            streams.restore(after)
            self.programs.remove(program)
            self.programs.insert(0, program)
            return result
        return call(*arguments, frontend_draws.NONE)

    def may_try_again(self) -> bool:
        """Whether another attempt may follow if the capture fails, or its reason is known here."""
        return self._read or self._blamed is not None

    def read_number(self) -> None:
        """Called when the critic reads a number from constant tensors."""
        self._read = True

    def blame(self, tx: Translator, what: str, remedy: str) -> CaptureError:
        """Set the reason to give if this capture fails, with the user's line; torch's own says less."""
        frames = []
        while tx is not None:
            frames.append((tx.f_code.co_filename, tx.lineno, None))
            tx = tx.parent
        line = innermost(reversed(frames))
        self._blamed = (f"{what}, at {line}" if line else what), remedy
        return CaptureError(what)  # a new one: torch writes into exceptions that pass through it

    def _patches(self) -> list[Patch]:
        values = frontend_values
        found = frontend_objects.patches(self)  # needed for right numbers: without them nothing is captured
        for group in (
            _of_numpy,
            values.shape_patches,
            values.number_patches,
            frontend_calls.patches,
            frontend_calls.printing,
        ):
            with contextlib.suppress(Unavailable):  # such critics run on the stock path
                found += group(self)
        return found


def _of_numpy(front: FrontEnd) -> list[Patch]:
    return _always()


@functools.cache
def _always() -> list[Patch]:
    return frontend_numpy.patches()
