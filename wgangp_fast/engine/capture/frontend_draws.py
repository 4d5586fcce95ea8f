"""Random numbers that the critic draws in Python, with :mod:`random`, numpy, or generators of these.

Stock code draws them anew at every call, and so does the engine: before the guards of a captured graph are
checked, its numbers are drawn in the same order and from the same generators, and passed to it as inputs. A
float is an input of the graph. An integer or a choice is a constant, guarded by its value, because it may be
a size or decide a branch: each value has a graph of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ... import rng as streams
from ...errors import CaptureError
from ..torch_internals import dynamo, dynamo_options
from . import frontend_guards as guards
from .patching import OutputGraph, Source, Translator, Variable

MOST = 32  # at most so many graphs for different integers

_NAMES = (
    "random uniform triangular randint randrange choice choices sample gauss normalvariate lognormvariate "
    "expovariate betavariate gammavariate vonmisesvariate paretovariate weibullvariate getrandbits "
    "rand randn random_sample random_integers standard_normal normal integers permutation beta binomial "
    "chisquare dirichlet exponential gamma geometric gumbel laplace logistic lognormal poisson "
    "standard_exponential standard_gamma standard_cauchy standard_t multivariate_normal"
)

_DRAWS = frozenset(_NAMES.split())


class Draw(NamedTuple):
    """One call of a generator's method."""

    stream: streams.Stream
    name: str
    args: tuple[object, ...]
    kwargs: dict[str, object]

    def key(self) -> tuple[object, ...]:
        return id(self.stream), self.name, repr(self.args), repr(self.kwargs)

    def value(self) -> object:
        value = getattr(self.stream, self.name)(*self.args, **self.kwargs)
        return float(value) if type(value) is np.float64 else value


class Draws:
    """Numbers drawn for one call.

    Attributes:
        program: the sequence of draws that they belong to.
        values: the numbers, in order.
    """

    def __init__(self, program: tuple[object, ...] = (), values: Iterable[object] = ()) -> None:
        self.program, self.values = program, list(values)


NONE = Draws()


class Program:
    """A sequence of draws."""

    def __init__(self, draws: list[Draw], whole: bool) -> None:
        self.whole = whole  # integers are among them: then each graph has its own program
        self.draws = draws  # keeps the generators alive, so that their ids stay theirs
        self.key = tuple([draw.key() for draw in draws])

    def draw(self) -> Draws:
        return Draws(self.key, [draw.value() for draw in self.draws])


class Tape(Draws):
    """The random numbers that a capture in progress draws."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []
        self.complete = self.whole = False  # the graph is finished; it depends on integers
        self._before: dict[int, tuple[streams.Stream, object]] = {}
        self._output: OutputGraph = None

    def draw(self, output: OutputGraph, draw: Draw) -> object:
        """Draw for the graph that ``output`` builds; another attempt of the front end begins anew."""
        if self._output is not output:
            self.undo()
            self.draws, self._output = [], output
            self.program, self.values[:] = (), []
        if id(draw.stream) not in self._before:
            self._before[id(draw.stream)] = draw.stream, streams.state(draw.stream)
        value = draw.value()
        self.draws.append(draw)
        self.values.append(value)
        self.program = (*self.program, draw.key())
        return value

    def finish(self) -> None:
        """The graph is finished: nothing more is drawn for it."""
        self.complete = True
        self.undo()

    def undo(self) -> None:
        """Put the generators back into their states before the capture."""
        streams.restore(self._before.values())

    def as_program(self) -> Program:
        return Program(self.draws, self.whole)


class Front(Protocol):
    """What the parts of the front end ask of it: see :class:`.frontend.FrontEnd`."""

    programs: list[Program]
    tape: Tape
    numbers: bool
    depends_on_numbers: bool

    def read_number(self) -> None: ...

    def blame(self, tx: Translator, what: str, remedy: str) -> CaptureError: ...


# in the front end ----------------------------------------------------------------------------------


def drawn(
    front: Front, tx: Translator, function: Variable, args: list[Variable], kwargs: dict[str, Variable]
) -> Variable | None:
    """The variable for the number drawn, if ``function``, a variable of the front end, draws; else None."""
    found = _stream_of(tx, function)
    if found is None:
        return None
    stream, name, source = found
    members = [*args, *kwargs.values()]
    if name not in _DRAWS or not all(member.is_python_constant() for member in members):
        raise front.blame(
            tx,
            f"the critic calls {name} of a random number generator, which the engine cannot repeat",
            "draw with random() or uniform(), or with torch",
        )
    if source is not None:
        guards.install(source, dynamo.GuardBuilder.ID_MATCH)
    constants = tuple([a.as_python_constant() for a in args])
    named = {k: v.as_python_constant() for k, v in kwargs.items()}
    value = front.tape.draw(tx.output, Draw(stream, name, constants, named))
    return _variable(front, tx, value)


def _stream_of(tx: Translator, function: Variable) -> tuple[streams.Stream, str, Source] | None:
    """``(generator, method, source of the generator or None)`` for a bound method of a generator."""
    value = getattr(function, "value", None)
    stream = getattr(value, "__self__", None)
    if streams.is_stream(stream):
        base = getattr(getattr(function, "source", None), "base", None)
        source = base if base is not None and _resolved(tx, base) is stream else None
        return stream, getattr(value, "__name__", ""), source
    owner: Variable = getattr(function, "obj", None)
    owner = owner.realize() if hasattr(owner, "realize") else owner
    source = getattr(owner, "source", None)
    names = (
        getattr(function, name, None) for name in ("name", "method_name")
    )  # the second from torch 2.15 on
    name = next(filter(None, names), None) or getattr(getattr(function, "fn", None), "__name__", None)
    if source is None or name is None:
        return None
    if streams.is_stream(getattr(owner, "value", None)) or type(owner).__name__ == "RandomVariable":
        return _resolved(tx, source), name, source
    return None


def missed() -> bool:
    """Whether the code being compiled draws from a Python generator that was not recognised here: Dynamo
    would keep such numbers, or draw them otherwise."""
    output = dynamo.InstructionTranslator.current_tx().output
    known = output.side_effects.id_to_variable.values()
    generators = [variable for variable in known if type(variable).__name__ == "RandomVariable"]
    return bool(output.random_calls) or any(map(output.side_effects.is_modified, generators))


def _resolved(tx: Translator, source: Source) -> Any:
    scope = {"G": tx.output.root_tx.f_globals, "L": tx.output.root_tx.f_locals}
    name = source.name() if callable(source.name) else source.name
    try:
        return eval(name, scope)
    except Exception:
        return None


def _variable(front: Front, tx: Translator, value: object) -> Variable:
    draws = dynamo.LocalSource("draws", is_input=True)
    guards.install(dynamo.AttrSource(draws, "program"), guards.equals)
    source = dynamo.GetItemSource(dynamo.AttrSource(draws, "values"), len(front.tape.values) - 1)
    if isinstance(value, np.ndarray):
        return dynamo.VariableBuilder(tx, source)(value)
    if type(value) is float:
        builder = dynamo.VariableBuilder(tx, source)
        with dynamo_options({"assume_static_by_default": False}, {}):  # make it an input at once
            return getattr(builder, "wrap_symfloat", builder)(value)
    if not isinstance(value, (int, str, list, tuple, np.integer, np.bool_)):
        raise front.blame(
            tx, f"the critic draws a {type(value).__name__} at random", "draw a float or an int"
        )
    if sum(program.whole for program in front.programs) >= MOST:
        raise front.blame(
            tx,
            f"the critic draws whole numbers at random in Python, and each value needs a graph of its own: "
            f"{MOST} are kept",
            "make an index tensor of the number and use it with torch operators (gather, roll by indexing)",
        )
    front.tape.whole = True
    guards.install(source, guards.equals)
    return dynamo.SourcelessBuilder.create(tx, value)
