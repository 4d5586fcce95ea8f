"""What torch.compile's front end (Dynamo) is taught while a critic is captured.

Dynamo turns some Python values into graph inputs or refuses them, where a critic means plain constants,
and draws random numbers from other streams than stock code. Each patch is active only while one critic is
compiled, under the capture's lock, has its reason beside it, and names the part of torch that it changes; a
torch without that part is left as it is, and what the patch would have allowed takes the stock path.
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
    """Carries a refusal through the front end, as torch's own exceptions carry what they wrap."""

    def __init__(self, inner: CaptureError) -> None:
        super().__init__(str(inner))
        self.inner_exception = inner


class FrontEnd:
    """What the front end has learnt of one critic at one kind of batch.

    Attributes:
        programs: the sequences of random numbers that its graphs draw in Python; the last used first.
        tape: what the capture in progress draws.
        numbers: numbers read from constant tensors become constants.
        depends_on_numbers: in the capture in progress some did.
    """

    def __init__(self) -> None:
        self.programs: list[Program] = []
        self.tape = Tape()
        self.numbers = self.depends_on_numbers = False
        self._read = False
        self._blamed: tuple[str, str] | None = None

    def compile(self, call: Callable[[Draws], T]) -> T:
        """``call(draws)``, which compiles the critic and runs it once, with a wider front end."""
        self.numbers, self.depends_on_numbers, self._read, self._blamed = False, False, False, None
        self.tape = Tape()
        try:
            return self._attempt(call)
        except Exception:
            if self.tape.complete or not self.may_try_again():
                raise
        if self._blamed is not None:
            raise _Refused(refusal(*self._blamed))
        # A number that is only multiplied with stays a number of each call, whatever it changes to. What
        # failed needs its value.
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
        """``call(*arguments, draws)`` with the numbers of each known sequence, until one is no ``miss``.

        The streams are left as the sequence that fitted leaves them; untouched if something was raised.
        """
        before = streams.states(draw.stream for program in self.programs for draw in program.draws)
        for program in self.programs:
            draws = program.draw()
            after = streams.states(stream for stream, _ in before)
            streams.restore(before)  # who looks at the graph that fits sees them as they were
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
        """Whether a failure of the capture in progress is not the end, or has a reason that is known here."""
        return self._read or self._blamed is not None

    def read_number(self) -> None:
        """The critic reads a number from constant tensors."""
        self._read = True

    def blame(self, tx: Translator, what: str, remedy: str) -> CaptureError:
        """What to say if this capture fails, which torch does not say as well; with the user's line."""
        frames = []
        while tx is not None:
            frames.append((tx.f_code.co_filename, tx.lineno, None))
            tx = tx.parent
        line = innermost(reversed(frames))
        self._blamed = (f"{what}, at {line}" if line else what), remedy
        return CaptureError(what)  # torch writes into what it lets through

    def _patches(self) -> list[Patch]:
        values = frontend_values
        found = frontend_objects.patches(self)  # without these, numbers may be wrong: nothing is captured
        for group in (
            _of_numpy,
            values.shape_patches,
            values.number_patches,
            frontend_calls.patches,
            frontend_calls.printing,
        ):
            with contextlib.suppress(Unavailable):  # what it would have allowed takes the stock path
                found += group(self)
        return found


def _of_numpy(front: FrontEnd) -> list[Patch]:
    return _always()


@functools.cache
def _always() -> list[Patch]:
    return frontend_numpy.patches()
