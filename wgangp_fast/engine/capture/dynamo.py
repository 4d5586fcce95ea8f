"""From any callable to a functional ATen graph, by torch.compile's front end.

Dynamo finds the parameters (also through closures), inlines the Python, and guards every value that the
graph depends on. The engine calls it for every penalty: while the guards hold it hands over the current
parameters, otherwise it compiles again, so nothing goes stale. The backend that we give to Dynamo computes no
score. It returns a :class:`Binding`: which graph was chosen, and the values of its leaves. The graph is
traced to ATen operators without mutation, and cut in two. The *prologue*, which depends on parameters and not
on x (spectral norm, weight norm), runs under ordinary autograd; ``derive`` differentiates the rest, the
*critic*.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx

from ... import checks, wrappers
from ...errors import CaptureError, ManyCapturesWarning, NotNow, Unavailable, UntestedTorchWarning
from ...rules.nodes import Argument
from ...wrappers import Critic, Output
from .. import lookups, torch_internals
from ..derive.four_sweeps import derive
from ..ir import Leaf
from ..torch_internals import dynamo
from .frontend import FrontEnd
from .frontend_calls import LOGS
from .frontend_draws import NONE, Draws, missed
from .hoist_parameters import Captured, split
from .refusals import Refusals, explained, raise_out_of_memory, refusal, warn_user
from .trace import trace


@dataclass
class Binding:
    """A captured graph and the current values of its leaves: what one call hands to its plan."""

    captured: Captured
    leaves: tuple[Leaf, ...]


MOST = 256  # captures kept of one critic; at a call their guards are checked one after the other
MANY, MANY_ALIKE = 64, 32  # warn at so many: of all kinds of batch, of one kind
_this_thread = threading.local()  # has ``call``, the call of :func:`bind` that is running
_said: set[str] = set()  # warnings given once in a process


class _Miss(Exception):
    """The guards of no compiled entry hold for this call."""


class Stopped(Exception):
    """A call ended as soon as its graph was known; nothing of the graph ran.

    Attributes:
        captured: the graph.
    """

    def __init__(self, captured: Captured) -> None:
        self.captured = captured


#: called with the graph of a call and its inputs, before anything of the graph runs
Before = Callable[[Captured, tuple[Leaf, ...]], None]


@dataclass
class _Call:
    """The running call of :func:`bind`. Dynamo passes no arguments of ours; what it calls looks here.

    Attributes:
        kind: the compiled function for this kind of batch.
        before: called with the graph before anything of it runs.
        ran: whether a graph ran.
    """

    kind: _Compiled
    before: Before | None
    ran: bool = False


def _body(critic: Critic, output: Output | None, x: Tensor, draws: Draws) -> object:
    # Dynamo traces this function; Python executes it only if no compiled entry matched the call. (The test is
    # not is_compiling(), which is one flag for all threads.)
    if not torch.compiler.is_dynamo_compiling():
        raise _Miss
    result = critic(x)
    return result if output is None else output(result)


def _forget(code: types.CodeType) -> None:
    """Free what Dynamo would otherwise keep for ever of a code object whose critic was deleted.

    Its compiled entries refer to the code in ``orig_code_map``, and the code to the entries. Their guards
    have registered finalizers on classes and functions that live as long as the process.
    """
    torch_internals.forget_compiled(code)
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        waiting = finalizer.peek()
        manager = getattr(getattr(waiting[1], "func", None), "__self__", None) if waiting else None
        if type(manager).__name__ == "CheckFunctionManager":
            entry = getattr(getattr(manager, "guard_manager", None), "cache_entry", manager)
            if entry is None:
                finalizer.detach()


class _Compiled:
    """The compiled function for one kind of batch, with its own code object: Dynamo keeps guards by that."""

    def __init__(self, name: str, line: int) -> None:
        # Dynamo remembers by file, line and name which values change: make those unique.
        code = _body.__code__.replace(co_name=name, co_firstlineno=line)
        # Dynamo puts compiled code among the function's globals: a copy of them dies with the function.
        self.function = types.FunctionType(code, dict(_body.__globals__), name)
        self.compiled = torch.compile(self.function, backend=_backend, fullgraph=True)
        self.made: list[weakref.ref[Captured]] = []
        self.front = FrontEnd()
        weakref.finalize(self, _forget, code).atexit = False

    def cached(self, *arguments: Any) -> Any:
        """Run the compiled entry whose guards hold; compile nothing."""
        if self.front.programs:
            run = functools.partial(torch_internals.call_compiled, self.function)
            return self.front.replay(run, arguments, _Miss)
        return torch_internals.call_compiled(self.function, *arguments, NONE)

    def count(self) -> int:
        """Graphs that are alive."""
        self.made = [reference for reference in self.made if reference() is not None]
        return len(self.made)


class _Entry:
    """What is kept for one critic: compiled functions by kind of batch, and refusals.

    Attributes:
        refused: why the last call ran on the stock path; None if it was captured.
        warned: the warnings that were given about it.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.kinds: dict[Hashable, _Compiled] = {}
        self.refusals = Refusals()
        self.refused: str | None = None
        self.warned: set[str] = set()

    def at(self, x: Tensor) -> _Compiled:
        """The compiled function for batches like ``x``."""
        kind = (x.shape, x.stride(), x.dtype, x.device, x.requires_grad)
        found = self.kinds.get(kind)
        if found is None:
            with _entries_lock:
                made = _Compiled(f"critic_{self.number}_{len(self.kinds)}", 100_000 + self.number)
                found = self.kinds.setdefault(kind, made)
        return found

    def room(self) -> None:
        """Warn once when there are many captures, long before there is no room for another.

        Raises:
            CaptureError: there are :data:`MOST`.
        """
        counts = [kind.count() for kind in self.kinds.values()]
        total, alike = sum(counts), max(counts)
        if total < MANY and alike < MANY_ALIKE:
            return
        what = f"{total} captures of this critic are kept, one for each kind of batch"
        remedy = "give it batches of few shapes (drop_last=True, padding)"
        if alike >= MANY_ALIKE:
            what = f"{alike} captures of this critic are kept for one kind of batch: a Python value changes"
            remedy = "make that value a tensor, or a float attribute of the module"
        if total >= MOST:
            raise refusal(what, remedy)
        if "many" not in self.warned:
            self.warned.add("many")
            warn_user(
                f"{what}. Each takes time and memory; beyond {MOST} the stock path runs. Remedy: {remedy}.",
                ManyCapturesWarning,
            )


_entries: WeakKeyDictionary[object, _Entry] = WeakKeyDictionary()
_entries_lock = threading.Lock()
_compile_lock = threading.RLock()  # Dynamo's configuration and tracing are global to the process
_count = 0


def _key(critic: Critic) -> object:
    """The owner of compiled code: a module, or a function's code (a lambda made anew has the same)."""
    if isinstance(critic, torch.nn.Module):
        return critic
    code = getattr(critic, "__code__", None) or getattr(getattr(critic, "__func__", None), "__code__", None)
    return code if code is not None else type(critic)


def entry(critic: Critic) -> _Entry:
    """The entry of an unwrapped critic, made on first use."""
    global _count
    key = _key(critic)
    found = _entries.get(key)
    if found is None:
        with _entries_lock:
            found = _entries.get(key)
            if found is None:
                _count += 1
                found = _entries[key] = _Entry(_count)
    return found


def bind(
    critic: Critic,
    output: Output | None,
    x: Tensor,
    before: Before | None = None,
) -> Binding:
    """Capture ``critic`` at ``x``, or reuse an earlier capture; return it with the current leaves.

    Args:
        critic: an unwrapped critic.
        output: picks the score from what the critic returns, or None.
        x: ``[N, ...]``; the penalty points require a gradient.
        before: called with the graph and its inputs before anything of the graph runs; what it raises ends
            the call.

    Raises:
        CaptureError: it cannot be captured (a graph break, an operator without second derivative, ...).
        TypeError: the critic returns something other than one tensor.
    """
    torch_internals.require()
    own = entry(critic)
    outer = getattr(_this_thread, "call", None)
    call = _this_thread.call = _Call(own.at(x), before)
    try:
        if torch_internals.dispatch_modes_are_active():
            with _unobserved():
                result = _run(own, call, critic, output, x)
        else:
            result = _run(own, call, critic, output, x)
    finally:
        _this_thread.call = outer
    if not isinstance(result, Binding):
        if not call.ran:
            raise NotNow("torch.compile is disabled (TORCHDYNAMO_DISABLE or a stance)")
        raise TypeError(
            f"the critic must return one tensor, got {type(result).__name__}: pass output=, a function that "
            f"picks the score (for example output=lambda result: result[0])"
        )
    own.refused = None
    return result


def look(critic: Critic, output: Output | None, x: Tensor) -> Captured:
    """The graph that :func:`bind` would use; nothing of it runs."""
    try:
        bind(critic, output, x, stop)
    except Stopped as stopped:
        return stopped.captured
    raise NotNow("torch.compile is disabled (TORCHDYNAMO_DISABLE or a stance)")


def stop(captured: Captured, inputs: tuple[Leaf, ...]) -> None:
    """End the call here.

    Raises:
        Stopped: always.
    """
    raise Stopped(captured)


@contextlib.contextmanager
def _unobserved() -> Iterator[None]:
    """Switch off dispatch modes (a FLOP counter, a memory tracker) and their module hooks during a capture.

    Dynamo compiles nothing under a mode. The sweeps do run under it. Under a mode of fake or traced tensors
    there are no numbers on which a plan could run.
    """
    kind = torch_internals.mode_without_numbers()
    if kind is not None:
        raise NotNow(f"a {kind} tensor mode is active")
    registries = torch_internals.global_module_hooks()
    kept = [list(registry.items()) for registry in registries]
    for registry in registries:
        for handle, hook in list(registry.items()):
            if "tracker" in getattr(hook, "__module__", ""):
                del registry[handle]
    try:
        with torch_internals.without_dispatch_modes():
            yield
    finally:
        for registry, items in zip(registries, kept):
            registry.clear()
            registry.update(items)


def _run(own: _Entry, call: _Call, critic: Critic, output: Output | None, x: Tensor) -> Any:
    kind = call.kind
    try:
        try:
            return kind.cached(critic, output, x)
        except _Miss:
            pass
        standing = own.refusals.standing(critic, output, x)
        if standing is None:
            with _compile_lock:
                try:
                    return kind.cached(critic, output, x)  # another thread may have compiled it meanwhile
                except _Miss:
                    own.room()
                    return _compile(own, kind, critic, output, x)
    except (Stopped, CaptureError):
        raise
    except Exception as error:
        raise_out_of_memory(error)
        standing = explained(error)
        if not isinstance(standing, NotNow):
            own.refusals.add(critic, output, x, standing)
    raise standing  # outside the handler: the front end's error, whose frames hold the critic, is not chained


def _compile(own: _Entry, kind: _Compiled, critic: Critic, output: Output | None, x: Tensor) -> Any:
    strange = lookups.untested()
    if strange is not None and "untested" not in _said:
        _said.add("untested")
        warn_user(strange, UntestedTorchWarning)
    wrapper = wrappers.left_on(critic)
    if wrapper is not None:
        raise refusal(*wrapper)
    # Python numbers of a module that change at every call (a fade-in factor, a counter) become inputs once
    # they change; recurrent layers are traced through; hooks added later are noticed; what the critic prints
    # is printed after the graph, at each call.
    wanted = {
        "allow_rnn": True,
        "allow_unspec_int_on_nn_module": True,
        "use_numpy_random_stream": True,  # numpy's random numbers, never torch's in their place
        "reorderable_logging_functions": {print, warnings.warn, *LOGS},
        "recompile_limit": MOST,
        "accumulated_recompile_limit": 16 * MOST,
    }
    needed = {"skip_nnmodule_hook_guards": False}
    if lookups.RELEASE < (2, 13):  # which does not notice requires_grad_() otherwise
        needed["skip_tensor_guards_with_matching_dict_tags"] = False
    patch = torch_internals.dynamo_options(needed, wanted)
    try:
        with patch, warnings.catch_warnings(), torch_internals.quiet():
            warnings.simplefilter("ignore")
            result = kind.front.compile(lambda draws: kind.compiled(critic, output, x, draws))
    except Stopped:
        own.refusals.end(critic, output, x)
        raise
    except _Miss:
        raise NotNow("torch.compile is disabled (TORCHDYNAMO_DISABLE or a stance)") from None
    own.refusals.end(critic, output, x)
    return result


# the backend -------------------------------------------------------------------------------------


def _python_effects(inputs: tuple[str, ...]) -> bool:
    """Whether the code that Dynamo is compiling changes Python objects in a way that a later call can notice.

    Not so if a tensor replaces an attribute that the code does not read (old weight norms). True if unknown.
    """
    try:
        own, TensorVariable = (dynamo.AttributeMutationNew, dynamo.ValueMutationNew), dynamo.TensorVariable
        effects = dynamo.InstructionTranslator.current_tx().output.side_effects
        if effects.tensor_hooks:
            return True
        read = {_path(name) for name in inputs}
        for changed in filter(effects.is_modified, list(effects.id_to_variable.values())):
            if isinstance(changed.mutation_type, own):
                continue  # an object that the code itself makes
            stored = effects.store_attr_mutations.get(changed, {})
            owner = getattr(changed.source, "name", None)
            owner = _path(str(owner() if callable(owner) else owner))
            known = stored and all(isinstance(v, TensorVariable) for v in stored.values())
            if not known or any((*owner, name) in read for name in stored):
                return True
        return False
    except (Unavailable, AttributeError, AssertionError, TypeError):
        return True


def _path(source: str) -> tuple[str, ...]:
    """The attribute names that lead to an object, in whichever form Dynamo writes them."""
    skipped = {"__dict__", "_modules", "_parameters", "_buffers"}
    return tuple(word for word in re.findall(r"\w+", source) if word not in skipped)


def _backend(gm: fx.GraphModule, example_inputs: list[Argument]) -> Callable[..., tuple[object, ...]]:
    """Dynamo calls this with each new graph: trace and cut it, return the function that makes bindings."""
    captured = split(*trace(gm, example_inputs))
    if missed():
        raise CaptureError("the critic draws random numbers in Python in a way that the engine does not know")
    captured.python_effects = _python_effects(captured.input_names)
    kind = _this_thread.call.kind
    kind.made.append(weakref.ref(captured))
    front = kind.front
    captured.draws = bool(front.tape.values)
    if captured.draws:
        captured.host = "its Python draws random numbers at each call, which a replay would repeat"
    elif front.depends_on_numbers:
        captured.host = "its Python depends on the numbers in a buffer, at which no replay would look again"
    if front.may_try_again():  # derive now: after a failure there is no later attempt
        derive(captured.critic, True, captured.requiring_grad())
    prologue, sources, extras = captured.prologue, captured.leaf_sources, captured.extra_outputs
    front.tape.finish()

    def bound(*inputs: Argument) -> tuple[object, ...]:
        call = _this_thread.call
        call.ran = True
        if captured.refused is not None:
            raise refusal(*captured.refused)
        if captured.host is not None and checks.capturing(inputs[captured.x_index].device):
            raise NotNow(captured.host)
        if call.before is not None:
            call.before(captured, inputs)
        with checks.as_traced(inputs[captured.x_index].device):
            computed = prologue.forward(*inputs) if prologue is not None else ()
        banks = {"input": inputs, "prologue": computed}
        binding = Binding(captured, tuple([banks[bank][i] for bank, i in sources]))
        return tuple([binding if bank == "score" else banks[bank][i] for bank, i in extras])

    return bound
