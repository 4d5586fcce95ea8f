"""The one configuration: the argument of :func:`wgangp_fast.training.train`, and the command line's flags."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wgangp_fast.errors import UserError
from wgangp_fast.files import read_text
from wgangp_fast.training import data, models

from .losses import LOSSES
from .presets import COMMON, LOSS_SETTINGS, PRESETS

# The default of every setting: "take it from the preset". Any, so that the fields keep their own types.
_UNSET: Any = None

# How a command is run, which no run folder remembers.
ONCE = {"resume", "dry_run", "force"}
# What may differ between a run and its continuation without changing any number that is computed.
# (The penalty's two paths agree to rounding.)
RESUMABLE = ONCE | {
    "iters", "outdir", "penalty", "tick", "snapshot", "keep", "graphs", "placement", "device", "tensorboard",
    "on_divergence",
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Settings of a run. ``Config(preset="digits", batch=32)`` fills the others from the preset."""

    preset: str = _UNSET
    """Where settings that are not given come from: digits, lsun64-dcgan, lsun64-resnet, lsun128, cifar10,
    cifar10-resnet, cifar10-resnet-acgan, mnist, toy, toy-8gaussians, toy-25gaussians, toy-swissroll."""
    data: str = _UNSET
    """A folder that `wgangp-fast prepare` made, or a set it understands (LSUN LMDB, image folder, zip,
    CIFAR-10, IDX, .npy: images, or float points [N,2]), or the name of an embedded one (digits, toy-...)."""
    outdir: str = _UNSET
    """Where the numbered run folder is made. Default: runs, or the place of the run that is resumed."""
    batch: int = _UNSET
    """Samples in a minibatch of the critic, of all processes and accumulated parts together."""
    iters: int = _UNSET
    """Generator iterations: one generator step (none in the first), then n_critic critic steps."""
    seed: int = _UNSET
    """Of the weights, the data's order, the latents and the interpolation."""
    resume: str | None = _UNSET
    """Run folder to continue, exactly, from its newest checkpoint; auto: the newest of this preset and
    data in outdir that is not finished, or a new one."""
    force: bool = False
    """Resume although settings changed."""
    penalty: Literal["fast", "stock"] = _UNSET
    """fast: wgangp_fast's engine; stock: autograd.grad(create_graph=True). Equal up to rounding."""
    dry_run: bool = False
    """Print the settings and the networks, and stop."""

    size: int = _UNSET
    """Side that photographs are cropped and resized to where data is not prepared yet; prepared data and
    arrays keep their own."""
    holdout: int = _UNSET
    """Samples that are not trained on, whose critic loss is in every tick; -1: a tenth, at most 256."""
    flip: Literal["none", "sample", "batch"] = _UNSET
    """Mirror images with probability 1/2: each by itself, or a whole batch at once."""
    dequantize: bool = _UNSET
    """Add uniform noise of one grey level to uint8 images."""
    placement: Literal["auto", "device", "ahead", "plain"] = _UNSET
    """device: the whole set in the GPU's memory; ahead: batches made by a thread; auto: what fits."""

    loss: Literal["wgan-gp", "wgan", "gan", "lsgan", "gan-gp"] = _UNSET
    """wgan clips weights, gan is the non-saturating one; all but gan-gp, which is gan with the gradient
    penalty, bring their own optimiser settings."""
    one_sided: bool = _UNSET
    """Penalise only gradient norms above 1."""
    lambda_gp: float = _UNSET
    """Weight of the gradient penalty."""
    acgan_critic: float = _UNSET
    """Weight of the classification of real samples in the critic's loss, for networks with classes."""
    acgan_generator: float = _UNSET
    """Weight of the classification of generated samples in the generator's loss, likewise."""
    clip: float = _UNSET
    """Bound of the critic's parameters for the loss wgan."""
    n_critic: int = _UNSET
    """Critic steps for each generator step."""
    optimizer: Literal["adam", "rmsprop"] = _UNSET
    """Of both networks."""
    lr: float = _UNSET
    """Learning rate of both networks."""
    lr_decay: Literal["none", "linear"] = _UNSET
    """linear: the rate falls to 0 at the last iteration."""
    beta1: float = _UNSET
    """Adam's first decay."""
    beta2: float = _UNSET
    """Adam's second decay."""
    generator_batch: int = _UNSET
    """Samples in a generator step; 0: as batch."""
    accumulate: int = _UNSET
    """Parts that each batch is cut into, whose gradients add up: less memory, the same step. Batch norm sees
    one part at a time."""
    precision: Literal["float32", "bf16"] = _UNSET
    """bf16: scores and images in bfloat16 autocast; the penalty and all sums stay float32."""
    ema_kimg: float = _UNSET
    """Half-life of the generator's moving average in thousands of real samples shown; 0: no average."""

    critic: str = _UNSET
    """A name of wgangp_fast.training.models.names()."""
    generator: str = _UNSET
    """A name of wgangp_fast.training.models.names()."""
    critic_dim: int = _UNSET
    """Width: filters of the first layer, or of every hidden layer of a perceptron."""
    generator_dim: int = _UNSET
    """Width: channels in front of the last layer, or of every hidden layer of a perceptron."""
    critic_norm: Literal["none", "layer", "instance", "batch"] = _UNSET
    """Where the network has places for it; batch is refused under the gradient penalty."""
    generator_norm: Literal["none", "layer", "instance", "batch"] = _UNSET
    """Where the network has places for it."""
    padding: Literal["symmetric", "same"] = _UNSET
    """Of strided convolutions: same is TensorFlow's, of the papers' released code, one row and column less in
    front; symmetric has an operator fewer in each."""
    latent: int = _UNSET
    """Length of z; fixed at 2 for the toy generator."""

    device: str = _UNSET
    """cpu, cuda, cuda:1, ...; auto: a GPU if there is one."""
    threads: int = _UNSET
    """Threads of torch on the CPU; 0: torch's own choice. The last bits of a sum depend on it."""
    graphs: bool = _UNSET
    """On one GPU, replay the critic's steps as one CUDA graph; the same numbers as without."""
    tick: int = _UNSET
    """Iterations between lines of stats.jsonl."""
    snapshot: int = _UNSET
    """Iterations between sample grids and checkpoints."""
    keep: int = _UNSET
    """How many checkpoints stay."""
    loss_limit: float = _UNSET
    """A critic loss beyond it, like one that is not finite, counts as divergence."""
    on_divergence: Literal["stop", "rollback"] = _UNSET
    """stop: save the state for a look and leave; rollback: go on from the last checkpoint with other random
    numbers, three times at most without a new checkpoint."""
    tensorboard: bool = _UNSET
    """Write the statistics for TensorBoard too, into the run folder."""

    def __post_init__(self) -> None:
        saved = read_config(Path(self.resume)) if self.resume not in (None, "auto") else {}
        preset = self.preset or saved.get("preset", "digits")
        if preset not in PRESETS:
            raise UserError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
        loss = self.loss or saved.get("loss") or PRESETS[preset].get("loss", COMMON["loss"])
        if loss not in LOSS_SETTINGS:
            raise UserError(f"unknown loss {loss!r}; known: {', '.join(LOSS_SETTINGS)}")
        outdir = str(Path(self.resume).parent) if saved and self.resume else "runs"
        values = {**COMMON, **PRESETS[preset], **LOSS_SETTINGS[loss], **saved}
        values |= {"preset": preset, "loss": loss, "outdir": outdir}
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is None and field.name != "resume":
                object.__setattr__(self, field.name, values[field.name])
        if self.data not in data.names() and Path(self.data).exists():
            # A run folder is read from other places too.
            object.__setattr__(self, "data", str(Path(self.data).absolute()) if self.data else "")
        self._check()

    def _check(self) -> None:
        for allowed, holds, names in _BOUNDS:
            for name in names:
                if not holds(getattr(self, name)):
                    raise UserError(f"{name} must be {allowed}; got {getattr(self, name)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        for name in ("critic", "generator"):
            known = [n for n in models.names() if n.endswith(name)]
            if getattr(self, name) not in known:
                raise UserError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.data == "":
            raise UserError(
                f"the preset {self.preset} needs data: --data FOLDER, such as one made by wgangp-fast prepare"
            )
        if LOSSES[self.loss].penalised and self.critic_norm == "batch":
            raise UserError(
                "critic_norm batch couples the samples of a batch, so a per-sample gradient penalty has no "
                "meaning; use layer, instance or none, or another loss"
            )
        for name in ("batch", "generator_batch"):
            if getattr(self, name) % self.accumulate:
                raise UserError(
                    f"{name} {getattr(self, name)} cannot be cut into accumulate {self.accumulate} equal "
                    "parts"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def lasting(self) -> dict[str, Any]:
        """What a run folder remembers."""
        return {name: value for name, value in self.to_dict().items() if name not in ONCE}


# What numbers must be, and which; a NaN fails every comparison.
_BOUNDS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("at least 1", lambda v: v >= 1, (
        "batch", "iters", "n_critic", "critic_dim", "generator_dim", "latent", "tick", "snapshot", "keep",
        "accumulate",
    )),
    ("above 0", lambda v: v > 0, ("lr", "clip", "loss_limit")),
    ("at least 0", lambda v: v >= 0, (
        "lambda_gp", "ema_kimg", "seed", "threads", "generator_batch", "size", "acgan_critic",
        "acgan_generator",
    )),
    ("at least -1", lambda v: v >= -1, ("holdout",)),
    ("in [0, 1)", lambda v: 0 <= v < 1, ("beta1", "beta2")),
)  # fmt: skip

# The command line's parser refuses other words; Python callers are told here.
_CHOICES = {
    "penalty": ("fast", "stock"),
    "flip": ("none", "sample", "batch"),
    "placement": ("auto", "device", "ahead", "plain"),
    "optimizer": ("adam", "rmsprop"),
    "lr_decay": ("none", "linear"),
    "precision": ("float32", "bf16"),
    "on_divergence": ("stop", "rollback"),
    "critic_norm": ("none", "layer", "instance", "batch"),
    "generator_norm": ("none", "layer", "instance", "batch"),
    "padding": ("symmetric", "same"),
}


# Of what a run folder remembers: what its file holds must be of the same kinds. Choices are words.
_KINDS: dict[str, type] = {
    field.name: {"bool": bool, "int": int, "float": float}.get(str(field.type), str)
    for field in dataclasses.fields(Config)
    if field.name not in ONCE
}


def read_config(folder: Path) -> dict[str, Any]:
    """The settings saved in a run folder.

    Raises:
        UserError: not a run folder, or its config.json is damaged.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a run folder (no config.json)")
    try:
        saved = json.loads(read_text(path))
        found = {name: value for name, value in saved.items() if name in _KINDS}
    except (ValueError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged: it is not a run's settings in JSON") from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error})") from None
    for name, value in found.items():
        kind = _KINDS[name]
        if type(value) is not kind and not (kind in (float, bool) and type(value) is int):
            raise UserError(f"{path} is damaged: {name} is {value!r}, and should be of type {kind.__name__}")
    return found


def changes(saved: dict[str, Any], config: Config) -> list[str]:
    """The settings that differ and change what is computed, as ``name: saved -> given``."""
    now = config.to_dict()
    # The rate's way to 0 depends on where it ends.
    free = RESUMABLE - {"iters"} if config.lr_decay != "none" else RESUMABLE
    return [
        f"{name}: {saved[name]!r} -> {now[name]!r}"
        for name in now
        if name not in free and name in saved and saved[name] != now[name]
    ]
