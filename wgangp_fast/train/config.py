"""The one configuration: the argument of :func:`wgangp_fast.train.train`, and the command line's flags."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wgangp_fast import models
from wgangp_fast.data import UserError

from .presets import COMMON, LOSS_SETTINGS, PRESETS

# The default of every setting: "take it from the preset". Any, so that the fields keep their own types.
_UNSET: Any = None

# What may differ between a run and its continuation without changing any number that is computed.
# (The penalty's two paths agree to rounding.)
RESUMABLE = {"iters", "outdir", "penalty", "tick", "snapshot", "keep", "resume", "dry_run", "graphs"}


@dataclass(frozen=True)
class Config:
    """Settings of a run. ``Config(preset="digits", batch=32)`` fills the others from the preset."""

    preset: str = _UNSET
    """Where settings that are not given come from: digits, toy-8gaussians, toy-25gaussians, toy-swissroll."""
    data: str = _UNSET
    """An embedded set (digits, toy-...) or a .npy file: uint8 images or float points [N,2]."""
    outdir: str = _UNSET
    """Where the numbered run folder is made. Default: runs, or the place of the run that is resumed."""
    batch: int = _UNSET
    """Samples in a minibatch, of the critic and of the generator."""
    iters: int = _UNSET
    """Generator iterations: one generator step (none in the first), then n_critic critic steps."""
    seed: int = _UNSET
    """Of the weights, the data's order, the latents and the interpolation."""
    resume: str | None = _UNSET
    """Run folder to continue, exactly, from its newest checkpoint."""
    penalty: Literal["fast", "stock"] = _UNSET
    """fast: wgangp_fast's engine; stock: autograd.grad(create_graph=True). Equal up to rounding."""
    graphs: bool = _UNSET
    """On a GPU, replay the critic's steps as one CUDA graph; the same numbers as without."""
    dry_run: bool = False
    """Print the settings and the networks, and stop."""

    loss: Literal["wgan-gp", "wgan", "gan", "lsgan"] = _UNSET
    """wgan clips weights, gan is the non-saturating one. Brings its own optimiser settings."""
    one_sided: bool = _UNSET
    """Penalise only gradient norms above 1."""
    lambda_gp: float = _UNSET
    """Weight of the gradient penalty."""
    clip: float = _UNSET
    """Bound of the critic's parameters for the loss wgan."""
    n_critic: int = _UNSET
    """Critic steps for each generator step."""
    optimizer: Literal["adam", "rmsprop"] = _UNSET
    """Of both networks."""
    lr: float = _UNSET
    """Learning rate of both networks."""
    beta1: float = _UNSET
    """Adam's first decay."""
    beta2: float = _UNSET
    """Adam's second decay."""
    ema_kimg: float = _UNSET
    """Half-life of the generator's moving average in thousands of real samples shown; 0: no average."""

    critic: str = _UNSET
    """A name of wgangp_fast.models.names()."""
    generator: str = _UNSET
    """A name of wgangp_fast.models.names()."""
    critic_dim: int = _UNSET
    """Width: filters of the first layer, or of every hidden layer of a perceptron."""
    generator_dim: int = _UNSET
    """Width: channels in front of the last layer, or of every hidden layer of a perceptron."""
    critic_norm: Literal["none", "layer", "instance", "batch"] = _UNSET
    """Convolutional critics only; batch is refused under the gradient penalty."""
    generator_norm: Literal["none", "layer", "instance", "batch"] = _UNSET
    """Convolutional generators only."""
    latent: int = _UNSET
    """Length of z; fixed at 2 for the toy generator."""

    device: str = _UNSET
    """cpu, cuda, cuda:1, ...; auto: a GPU if there is one."""
    threads: int = _UNSET
    """Threads of torch on the CPU; 0: torch's own choice. The last bits of a sum depend on it."""
    tick: int = _UNSET
    """Iterations between lines of stats.jsonl."""
    snapshot: int = _UNSET
    """Iterations between sample grids and checkpoints."""
    keep: int = _UNSET
    """How many checkpoints stay."""

    def __post_init__(self) -> None:
        saved = read_config(Path(self.resume)) if self.resume else {}
        preset = self.preset or saved.get("preset", "digits")
        if preset not in PRESETS:
            raise UserError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
        loss = self.loss or saved.get("loss") or PRESETS[preset].get("loss", COMMON["loss"])
        if loss not in LOSS_SETTINGS:
            raise UserError(f"unknown loss {loss!r}; known: {', '.join(LOSS_SETTINGS)}")
        outdir = str(Path(self.resume).parent) if self.resume else "runs"
        values = {**COMMON, **PRESETS[preset], **LOSS_SETTINGS[loss], **saved}
        values |= {"preset": preset, "loss": loss, "outdir": outdir}
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is None and field.name != "resume":
                object.__setattr__(self, field.name, values[field.name])
        self._check()

    def _check(self) -> None:
        for name in (
            "batch",
            "iters",
            "n_critic",
            "critic_dim",
            "generator_dim",
            "latent",
            "tick",
            "snapshot",
            "keep",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0; got {getattr(self, name)}")
        for name in ("lambda_gp", "ema_kimg", "seed", "threads"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative; got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1); got {getattr(self, name)}")
        for name in ("critic", "generator"):
            if getattr(self, name) not in models.names():
                raise UserError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(models.names())}")
        if self.loss == "wgan-gp" and self.critic_norm == "batch":
            raise UserError(
                "critic_norm batch couples the samples of a batch, so a per-sample gradient penalty has no "
                "meaning; use layer, instance or none, or another loss"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)


def read_config(folder: Path) -> dict[str, Any]:
    """The settings saved in a run folder.

    Raises:
        UserError: not a run folder, or its config.json is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"cannot resume: {folder} is not a run folder (no config.json)")
    try:
        saved = json.loads(path.read_text())
        known = {field.name for field in dataclasses.fields(Config)}
        return {name: value for name, value in saved.items() if name in known}
    except (ValueError, AttributeError):
        raise UserError(f"cannot resume: {path} is damaged") from None


def check_resumable(saved: dict[str, Any], config: Config) -> None:
    """Refuse to continue a run under other settings.

    Raises:
        UserError: names each setting that differs, as ``name: saved -> given``.
    """
    now = config.to_dict()
    changed = [
        f"{name}: {saved.get(name)!r} -> {now[name]!r}"
        for name in now
        if name not in RESUMABLE and saved.get(name) != now[name]
    ]
    if changed:
        raise UserError(f"cannot resume {config.resume} with other settings ({'; '.join(changed)})")
