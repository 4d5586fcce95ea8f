"""The suite ``own``: somebody's own critic, and own penalty. What would they gain, and why?

The critic becomes a workload, the penalty a contestant called ``yours``. It may compute something else than
stock code does; that is said, and it is timed nevertheless.
"""

from __future__ import annotations

import copy
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from .. import verify
from ..cli_arguments import named
from ..cuda_graphs.guards import reachable
from ..errors import UserError
from ..explanation import explain
from ..training.explain_cli import maker, sides
from . import contestants as table
from . import measures
from .correctness import TOLERANCE, Answers, Draw, Judge, answers, errors, make, sample_alpha, three_way
from .measures import Entry, Settings, first_line, short
from .modes import FLOAT32, MODES, Mode
from .steps import CRITIC_STEP, Contestant, Step, Task, eager
from .workloads import Workload

YOURS = "yours"
Penalty = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Held(nn.Module):
    """A critic that is no module, with the modules that it refers to."""

    def __init__(self, critic: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.critic = critic
        self.held = nn.ModuleList(m for m in reachable(critic) if isinstance(m, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        return self.critic(x)


class Maker:
    """Makes the critic again and again, each time with the weights of the first."""

    def __init__(self, text: str) -> None:
        self.text, self.make = text, maker(text)
        self.first: nn.Module | None = None
        self.weights: dict[str, Any] = {}

    def __call__(self) -> nn.Module:
        critic = self.make()
        if not callable(critic):
            raise UserError(f"{self.text} must return a critic; it returned a {type(critic).__name__}")
        critic = critic if isinstance(critic, nn.Module) else Held(critic)
        if self.first is not None:
            if {*map(id, self.first.parameters())} & {*map(id, critic.parameters())}:
                raise UserError(
                    f"{self.text} must make a new critic at each call; two calls share parameters"
                )
            critic.load_state_dict(self.weights)
        return critic

    def keep(self, first: nn.Module) -> None:
        """``first`` has run once, so that its lazy layers know their sizes."""
        self.first, self.weights = first, copy.deepcopy(first.state_dict())


@dataclass(frozen=True)
class Yours:
    """The contestant that computes a task's loss with somebody's own penalty."""

    penalty: Penalty
    task: Task
    mode: Mode

    def __call__(self, critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        loss = self.task.combined(lambda score, real, fake, alpha: self.penalty(critic, real, fake))
        return eager(loss, self.mode)(critic, real, fake, alpha)


def brought(
    critic: str, shape: str, penalty: str | None, device: torch.device, mode: Mode, seed: int = 0
) -> tuple[dict[str, Workload], Callable[[Task], Mapping[str, Contestant]]]:
    """The workload by name, and the contestants of a task; all that was brought has run once.

    Raises:
        UserError: it does not run, or does not return what it must.
    """
    batch, *sample = sides(shape)
    new, own = Maker(critic), named(penalty) if penalty else None
    workload = Workload(new, tuple(sample), batch, batch, "quick", f"{critic} at {[batch, *sample]}")
    first, real, fake = _tried(f"--critic {critic}", lambda: workload.build(device, seed=seed))
    remedy = ": let the callable return lambda x: critic(x)[0], or what picks the score"
    _tensor(f"the critic at {[batch, *sample]}", lambda: first(real), remedy)
    if not any(p.requires_grad for p in first.parameters()):
        raise UserError(f"--critic {critic}: it has no parameters that could be trained")
    new.keep(first)
    _tried(f"--critic {critic}, made again", lambda: workload.build(device))
    if own is not None and _tensor(f"--penalty {penalty}", lambda: own(first, real, fake)).numel() != 1:
        raise UserError(f"--penalty {penalty} must return one number for the batch")

    def contestants(task: Task) -> dict[str, Contestant]:
        everybody = table.select(table.table(task, mode), task.ours)
        yours: dict[str, Contestant] = {} if own is None else {YOURS: Yours(own, task, mode)}
        return {table.BASELINE: everybody.pop(table.BASELINE), **yours, **everybody}

    return {critic: workload}, contestants


def _tried(what: str, call: Callable[[], Any]) -> Any:
    try:
        with torch.random.fork_rng(devices=[]):
            return call()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the user's code
        raise UserError(f"{what}: {first_line(error)}") from error


def _tensor(what: str, call: Callable[[], Any], remedy: str = "") -> Tensor:
    found = _tried(what, call)
    if not isinstance(found, Tensor):
        raise UserError(f"{what} must return a tensor; it returned a {type(found).__name__}{remedy}")
    return found


class OwnJudge(Judge):
    """Also judges critics that cannot be float64, and says how a penalty that draws its own alpha compares.

    Attributes:
        narrow: why the truth is stock code in float32, or empty.
        incomparable: why answers of this task are not compared, or empty.
        yours: how the penalty ``yours`` compares with stock code, empty where there is none.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.narrow, self.incomparable = "", ""
        self.yours: dict[str, Any] = {}
        self.draws = self._draws()
        if self.draws and (self.task.one_pass or self.device.type == "cuda"):
            where = "one pass over all samples" if self.task.one_pass else "float64 on a GPU"
            self.incomparable = f"the critic draws random numbers, which {where} draws in another order"

    def truth(self, seed: int) -> Answers:
        try:
            return super().truth(seed)
        except Exception as error:  # the critic's own: some of its tensors are float32 whatever it is given
            self.narrow = first_line(error)
        truth, stock = (answers(self.fresh(self._stock(mode), seed), seed) for mode in (FLOAT32, self.mode))
        self._known[seed] = truth, {k: max(e, TOLERANCE) for k, e in errors(stock, truth).items()}
        return truth

    def judge(self, contestant: Contestant, built: Any = None) -> tuple[bool, list[Draw]]:
        if self.incomparable or (isinstance(contestant, Yours) and self.task.one_pass):
            return True, []
        right, draws = super().judge(contestant, built)
        if not isinstance(contestant, Yours):
            return right, draws
        self.yours["agrees"] = right
        return True, []

    def draw(self, contestant: Contestant, seed: int, built: Any = None) -> Draw:
        if not isinstance(contestant, Yours):
            return super().draw(contestant, seed, built)
        theirs, alpha, between = self._of_yours(contestant, seed)
        wide = torch.float32 if self.narrow else torch.float64
        truth = self._at(alpha, self._stock(FLOAT32), seed, wide)
        stock = self._at(alpha, self._stock(self.mode), seed, torch.float32)
        off = errors(stock, truth)
        off = {k: max(e, TOLERANCE) for k, e in off.items()} if self.narrow else off
        value, expected = (float(found[0]["penalty"]) for found in (theirs, stock))
        for factor in (1.0, value / expected if value and expected else 1.0):
            scaled = {k: t if k.startswith("buffer ") else t / factor for k, t in theirs[0].items()}
            draw = three_way(errors([scaled], truth), off, seed)
            if draw.kept:
                break
        if draw.kept or not self.yours:
            finite = {"value": value, "stock": expected, "factor": factor, "error": draw.error}
            self.yours = {k: v if math.isfinite(v) else None for k, v in finite.items()}
            self.yours |= {"where": draw.where, "between": between}
        return draw

    def in_float64(self, entry: Entry) -> None:
        """Compare an entry with stock code, both in float64; it is wrong above :data:`TOLERANCE`."""
        if self.narrow or self.incomparable:
            return
        truth, loss = self.truth(self.seed), self.task.ours[entry.name]
        built = self.fresh(self.task.around(loss, FLOAT32), self.seed, torch.float64, products=False)
        # The package's own comparison would run stock code's slow convolutions once more.
        with mock.patch.dict(os.environ, {verify.ENVIRONMENT: "never"}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heard in float32
            off = errors(answers(built, self.seed), truth)
        draw = three_way(off, dict.fromkeys(off, 0.0), self.seed)
        entry.result["float64"] = {"error": min(draw.error, 1e300), "where": draw.where}
        if not draw.kept:
            entry.result |= {"status": "wrong", "message": f"{draw.where} in float64: error {draw.error:.1e}"}

    def _stock(self, mode: Mode) -> Contestant:
        return self.task.around(self.task.stock, mode)

    def _at(self, alpha: Tensor, contestant: Contestant, seed: int, dtype: torch.dtype) -> Answers:
        built = self.fresh(contestant, seed, dtype)
        inputs = (*built.inputs[:2], alpha.to(dtype))
        return answers(replace(built, inputs=inputs), seed, repeats=True)[:1]

    def _of_yours(self, contestant: Yours, seed: int) -> tuple[Answers, Tensor, bool]:
        """Answers of a penalty, its alpha, and whether it has one: whether it looked between the samples."""
        critic, real, fake = self.workload.build(self.device, torch.float32, seed, self.batch)
        looked: list[Tensor] = []

        def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            looked.extend(t.detach() for t in inputs if isinstance(t, Tensor))
            torch.manual_seed(seed)  # masks as stock code draws them, which is given its alpha

        with critic.register_forward_pre_hook(look):
            theirs = answers(make(contestant, critic, real, fake, seed), seed, repeats=True)[:1]
        found = [alpha for points in looked if (alpha := weights_of(points, real, fake)) is not None]
        return theirs, found[0] if found else sample_alpha(real, seed), bool(found)

    def _draws(self) -> bool:
        """Whether the critic draws random numbers elsewhere than in layers whose masks can be fixed."""
        critic, real, _ = self.workload.build(self.device, batch=self.batch)
        for layer in critic.modules():
            if isinstance(layer, nn.Dropout):
                layer.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            before = _random_state(self.device)
            critic(real)
            return not torch.equal(before, _random_state(self.device))


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def weights_of(points: Tensor, real: Tensor, fake: Tensor) -> Tensor | None:
    """``alpha`` ``[N]``, float64, so that ``points = alpha * real + (1 - alpha) * fake``, or None."""
    if points.shape != real.shape:
        return None
    span, off = ((t - fake).reshape(len(fake), -1).double() for t in (real, points))
    alpha = (span * off).sum(1) / span.square().sum(1)
    left = off - alpha[:, None] * span
    return alpha if bool(left.norm() <= TOLERANCE * span.norm()) else None


def measured(entries: Mapping[str, Entry], judge: Judge, name: str, settings: Settings) -> dict[str, Any]:
    """Times of those that are right, also in float64, and what runs for the critic."""
    assert isinstance(judge, OwnJudge)
    ours = [entry for key, entry in entries.items() if table.is_ours(key)]
    for entry in ours:
        judge.in_float64(entry)
    right = {key: entry for key, entry in entries.items() if entry.result["status"] == "ok"}
    row = measures.times(right, judge, name, settings)
    row |= {"narrow": judge.narrow, "incomparable": judge.incomparable, "yours": judge.yours}
    if YOURS in right:
        base = right[YOURS].result["seconds"]
        row["over_yours"] = {
            key: {k: v for k, v in measures.statistics(base, e.result["seconds"]).items() if "ratio" in k}
            for key, e in right.items()
            if table.is_ours(key)
        }
    if "ours" in right:
        row["runs"] = _what_runs(right["ours"], judge, MODES[settings.dtype])
        if row["runs"]["path"] == "stock":
            for entry in ours:
                entry.result["warnings"] = []  # the reason says it
    return row


def _what_runs(ours: Entry, judge: Judge, mode: Mode) -> dict[str, Any]:
    assert ours.built is not None
    with mode.loss(judge.device):
        found = explain(ours.built.critic, ours.built.inputs[0], loss=judge.task is CRITIC_STEP)
    return {key: getattr(found, key) for key in ("path", "apart", "verified", "forward_units")} | {
        "reason": short(found.reason.replace(os.getcwd() + os.sep, ""), 1000),
        "operators": len(found.rows),
        "generic": [one.op for one in found.generic],
    }


def notes(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What the rows say beside their times, in sentences."""
    for row in rows:
        step = row["step"].replace("_", " ")
        if "runs" in row:
            yield f"{step}: {_runs_in_words(row['runs'])}"
        if row["narrow"]:
            yield f"{step}: truth is stock code in float32, as the critic cannot be float64 ({row['narrow']})"
        if row["incomparable"]:
            yield f"{step}: answers are not compared here: {row['incomparable']}"
        for name, entry in row["contestants"].items():
            if "float64" in entry:
                wide = entry["float64"]
                yield f"{step}: {name} and stock in float64 differ by {wide['error']:.1e} ({wide['where']})"
        if row["yours"]:
            yield f"{step}: {_yours_in_words(row['yours'])}"
        for name, over in row.get("over_yours", {}).items():
            spread = f"p10-p90 {over['ratio_p10']:.2f}-{over['ratio_p90']:.2f}"
            yield f"{step}: {name} is {over['ratio']:.2f} times as fast as yours ({spread})"


def _runs_in_words(runs: Mapping[str, Any]) -> str:
    if runs["path"] == "stock":
        return f"on the stock path, so nothing is gained: {runs['reason']}"
    generic = f" ({', '.join(sorted(set(runs['generic'])))})" if runs["generic"] else ""
    apart = f"; real and fake are scored in passes of their own: {runs['apart']}" if runs["apart"] else ""
    return (
        f"on the engine: {runs['operators']} operators, {len(runs['generic'])} of them by the generic rule"
        f"{generic}; {runs['forward_units']:.2f} forward-units{apart}; first call: {runs['verified']}"
    )


def _yours_in_words(yours: Mapping[str, Any]) -> str:
    value, stock = ("not finite" if yours[k] is None else format(yours[k], ".6g") for k in ("value", "stock"))
    where = " at the same points" if yours["between"] else "; its points do not lie between real and fake"
    numbers = f"{value}, stock {stock}{where}"
    if not yours["agrees"]:
        return f"yours computes something else: {numbers}; worst: {yours['where']}"
    times = "" if yours["factor"] == 1 else f"{yours['factor']:.4g} times "
    return (
        f"yours is {times}the stock penalty, in value and gradients (error {yours['error']:.1e}): {numbers}"
    )
