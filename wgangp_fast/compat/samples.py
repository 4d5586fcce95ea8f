"""The functions that are given a critic and samples: all run on the engine."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor, nn

from .. import reference
from ..penalty import input_gradient, r1_penalty
from .shared import (
    Critic,
    Device,
    Named,
    between,
    check_callable,
    check_choice,
    check_device,
    check_number,
    check_pair,
    check_samples,
    check_weight,
    draw,
    first,
    given,
    is_device,
    labelled,
    mixed,
)


def compute_gradient_penalty(
    D: Critic,
    real_samples: Tensor,
    fake_samples: Tensor,
    device_or_labels: Any = None,
    *,
    device: Device | None = None,
    labels: Any = None,
) -> Tensor:
    """PyTorch-GAN: ``mean_i (||grad_x D(x_i)|| - 1)^2``, multiplied by lambda outside.

    Follows eriklindernoren/PyTorch-GAN since its penalty has one alpha a sample (no releases; read at
    e0a8f3c), and its copies. Its first version, with one alpha a pixel, norms over rows and lambda inside, is
    another penalty. The project draws alpha from numpy's generator, most copies from torch's; here it is
    torch's, so that ``torch.manual_seed`` sets it.

    Args:
        D: called as ``D(x)``, or ``D(x, labels)`` if labels are given.
        real_samples: ``[N, ...]``.
        fake_samples: shape of ``real_samples``.
        device_or_labels: the copies in use pass either in fourth place. A string, a number or a
            ``torch.device`` is a device, anything else labels.
        device: the device, by name.
        labels: the labels, by name.
    """
    if device_or_labels is not None:
        if is_device(device_or_labels):
            device = device_or_labels
        elif labels is not None:
            raise TypeError("labels: given twice, in fourth place and by name")
        else:
            labels = device_or_labels
    return _classic("D", D, labels, ("real_samples", real_samples), ("fake_samples", fake_samples), device)


@overload
def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, device: Device = "cpu") -> Tensor: ...
@overload
def gradient_penalty(
    critic: Critic, labels: Any, real: Tensor, fake: Tensor, device: Device = "cpu"
) -> Tensor: ...
def gradient_penalty(critic: Critic, *args: Any, **named: Any) -> Tensor:
    """aladdinpersson: ``gradient_penalty(critic, real, fake, device="cpu")``, and the conditional
    ``gradient_penalty(critic, labels, real, fake, device="cpu")``, which calls ``critic(x, labels)``.

    Follows the WGAN-GP tutorials of aladdinpersson/Machine-Learning-Collection (no releases) and their
    copies. The ProGAN one, with ``alpha`` and ``train_step``, is :func:`progan_gradient_penalty`; the
    ESRGAN one detaches ``fake``: pass ``fake.detach()`` where its generator would get a gradient. The
    number of arguments before ``device`` tells the two forms apart. ``mean_i (||grad_x D(x_i)|| - 1)^2``,
    multiplied by lambda outside; gradients flow into ``fake`` if it is still attached to its generator.
    """
    samples = len(args) - (len(args) > 0 and is_device(args[-1]))
    conditional = "labels" in named or samples + ("real" in named) + ("fake" in named) == 3
    return (_conditional if conditional else _unconditional)(critic, *args, **named)


def _unconditional(critic: Critic, real: Tensor, fake: Tensor, device: Device = "cpu") -> Tensor:
    return _classic("critic", critic, None, ("real", real), ("fake", fake), device)


def _conditional(critic: Critic, labels: Any, real: Tensor, fake: Tensor, device: Device = "cpu") -> Tensor:
    return _classic("critic", critic, labels, ("real", real), ("fake", fake), device)


def progan_gradient_penalty(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    alpha: float,
    train_step: int,
    device: Device = "cpu",
) -> Tensor:
    """aladdinpersson's ProGAN: ``mean_i (||grad_x D(x_i)|| - 1)^2`` of ``critic(x, alpha, train_step)``.

    Follows ``ProGAN/utils.py`` of aladdinpersson/Machine-Learning-Collection (no releases; read at 06bd820)
    and its copies; imported ``as gradient_penalty``. Multiplied by lambda outside; ``fake`` detached.

    Args:
        critic: called as ``critic(x, alpha, train_step)``.
        real: ``[N, ...]``.
        fake: shape of ``real``.
        alpha: how far the new resolution is faded in; not the weight between real and fake.
        train_step: the resolution.
        device: accepted; the weights end on the samples' device.
    """
    check_callable("critic", critic)
    check_pair(("real", real), ("fake", fake))
    check_device(device)
    weights = draw(real.shape[0])
    faded, finish = given(critic, alpha, train_step)
    return finish(between(faded, real, fake.detach(), weights))


def calc_gradient_penalty(
    netD: Critic, real_data: Tensor, fake_data: Tensor, *, LAMBDA: float = 10
) -> Tensor:
    """caogang/wgan-gp: ``LAMBDA * mean_i (||grad_x D(x_i)|| - 1)^2``, samples detached.

    Follows ``gan_cifar10.py`` of caogang/wgan-gp (no releases; read at a31f67d) and its copies. The original
    reads ``BATCH_SIZE``, ``LAMBDA`` and ``use_cuda`` from its module; here the first and the last come from
    ``real_data``. The norm is over all of a sample, as in its image scripts. ``LAMBDA`` only by name:
    projects that put it in fourth place (SinGAN) mean another norm and another alpha.
    """
    check_callable("netD", netD)
    check_number("LAMBDA", LAMBDA)
    check_pair(("real_data", real_data), ("fake_data", fake_data))
    alpha = draw(real_data.shape[0])
    return between(netD, real_data.detach(), fake_data.detach(), alpha) * LAMBDA


def cal_gradient_penalty(
    netD: Critic,
    real_data: Tensor,
    fake_data: Tensor,
    device: Device | None,
    type: str = "mixed",
    constant: float = 1.0,
    lambda_gp: float = 10.0,
) -> tuple[Tensor, Tensor] | tuple[float, None]:
    """pix2pix, CycleGAN: ``lambda_gp * mean_i (||grad_x D(x_i) + 1e-16|| - constant)^2`` and the gradients.

    Follows ``models/networks.py`` of junyanz/pytorch-CycleGAN-and-pix2pix (no releases; the same in every
    copy that was read). The 1e-16 is added to every element of the gradient before the norm. Unlike the
    original, the samples of ``"real"`` and ``"fake"`` are not switched to ``requires_grad`` in place.

    Args:
        netD: its output may be a PatchGAN map.
        real_data: ``[N, ...]``; may be None if ``type`` is ``"fake"``.
        fake_data: shape of ``real_data``; may be None if ``type`` is ``"real"``.
        device: accepted; alpha is drawn on the samples' device.
        type: where to penalise: ``"real"``, ``"fake"`` or ``"mixed"`` (between them).
        constant: the gradient norm that costs nothing.
        lambda_gp: the weight, inside.

    Returns:
        The penalty, a scalar, and the gradients ``[N, D]``, differentiable once more. ``(0.0, None)``, with
        nothing computed, if ``lambda_gp <= 0``.
    """
    check_number("lambda_gp", lambda_gp)
    if lambda_gp <= 0.0:
        return 0.0, None
    check_callable("netD", netD)
    check_number("constant", constant)
    check_choice("type", type, ("mixed", "real", "fake"))
    check_device(device)
    if type == "mixed":
        check_pair(("real_data", real_data), ("fake_data", fake_data))
        x = mixed(real_data, fake_data, draw(real_data.shape[0], real_data.device))
    else:
        name, x = ("real_data", real_data) if type == "real" else ("fake_data", fake_data)
        check_samples(name, x)
    gradients = input_gradient(netD, x, output=first).reshape(x.shape[0], -1)
    penalty = ((gradients + 1e-16).norm(2, dim=1) - constant).square().mean() * lambda_gp
    return penalty, gradients


def lynnho_gradient_penalty(
    f: Critic, real: Tensor, fake: Tensor | None, gp_mode: str, sample_mode: str
) -> Tensor:
    """LynnHo's ``gradient_penalty``; alpha weights FAKE, samples detached, lambda outside.

    Follows ``torchprob/gan/gradient_penalty.py`` of LynnHo/DCGAN-LSGAN-WGAN-GP-DRAGAN-Pytorch (no releases;
    read at edf855b).

    Args:
        f: the critic.
        real: ``[N, ...]``.
        fake: shape of ``real``; not used, and may be None, for ``"real"`` and ``"dragan"``.
        gp_mode: ``"1-gp"`` ``(n-1)^2``, ``"0-gp"`` ``n^2``, ``"lp"`` ``max(0, n-1)^2``, or ``"none"`` (zero).
        sample_mode: ``"line"`` between real and fake, ``"real"``, ``"fake"``, or ``"dragan"``: on the line
            from real to ``real + 0.5 * std(real) * beta``, beta uniform, one an element.
    """
    check_choice("gp_mode", gp_mode, ("1-gp", "0-gp", "lp", "none"))
    check_samples("real", real)
    if gp_mode == "none":
        return torch.zeros((), dtype=real.dtype, device=real.device)
    check_callable("f", f)
    check_choice("sample_mode", sample_mode, ("line", "real", "fake", "dragan"))
    real = real.detach()
    if sample_mode == "dragan":
        end = real + 0.5 * real.std() * torch.rand_like(real)
    elif sample_mode == "real":
        end = real
    else:
        check_pair(("real", real), ("fake", fake))
        assert fake is not None  # check_pair raised otherwise
        end = fake.detach()
    if sample_mode in ("real", "fake"):
        alpha = end.new_ones(real.shape[0])
    else:
        alpha = draw(real.shape[0], real.device)
    target = 0.0 if gp_mode == "0-gp" else 1.0
    # ``between`` weights its first samples by alpha; here these are the fake ones.
    return between(f, end, real, alpha, target=target, one_sided=gp_mode == "lp")


def ctgan_calc_gradient_penalty(
    discriminator: Critic,
    real_data: Tensor,
    fake_data: Tensor,
    device: Device | None = "cpu",
    pac: int = 10,
    lambda_: float = 10,
) -> Tensor:
    """CTGAN: ``lambda_ * mean_g (||grad D||_g - 1)^2``, one alpha and one norm a group of ``pac`` rows.

    Follows ctgan 0.12.1 (``Discriminator.calc_gradient_penalty``). Also a method:
    ``Discriminator.calc_gradient_penalty = ctgan_calc_gradient_penalty``.

    Args:
        discriminator: takes ``[N, D]`` rows and packs them itself: ``[N / pac, 1]``.
        real_data: ``[N, D]``, N a multiple of ``pac``.
        fake_data: shape of ``real_data``.
        device: accepted; alpha is drawn on the samples' device.
        pac: rows in a group.
        lambda_: the weight, inside.
    """
    check_callable("discriminator", discriminator)
    check_pair(("real_data", real_data), ("fake_data", fake_data))
    check_device(device)
    check_number("lambda_", lambda_)
    if real_data.dim() != 2:
        raise ValueError(f"real_data must be a table [N, D]; got shape {tuple(real_data.shape)}")
    if not isinstance(pac, int) or pac < 1 or real_data.shape[0] % pac:
        raise ValueError(f"pac must divide the {real_data.shape[0]} rows of real_data; got {pac!r}")
    alpha = draw(real_data.shape[0] // pac, real_data.device).repeat_interleave(pac)
    gradients = input_gradient(discriminator, mixed(real_data, fake_data, alpha), output=first)
    norm = reference.sample_norm(gradients.reshape(-1, pac * real_data.shape[1]))
    return (norm - 1).square().mean() * lambda_


def gradient_penalty_loss(
    discriminator: Critic,
    real_data: Tensor,
    fake_data: Tensor,
    weight: Tensor | None = None,
    norm_mode: str = "pixel",
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """BasicSR and mmagic: the penalty of each pixel's gradient (norm over channels), samples detached.

    ``mean (||weight * grad D|| - 1)^2 / mean(weight)``, multiplied by lambda outside. Follows basicsr 1.4.2
    (``basicsr.losses.gan_loss``), which has ``weight`` and no ``norm_mode``, and mmagic 1 (read at
    5e292aa), which has ``mask`` in its place. ``norm_mode="pixel"``, the default of both, is not the
    paper's norm.

    Args:
        discriminator: any critic.
        real_data: ``[N, C, ...]``.
        fake_data: shape of ``real_data``.
        weight: broadcasts to the samples, ``[N, 1, H, W]`` usually. mmagic calls it ``mask``.
        norm_mode: ``"pixel"``: norms over dimension 1; ``"HWC"``: over all of a sample.
        mask: ``weight`` under mmagic's name.
    """
    check_callable("discriminator", discriminator)
    check_pair(("real_data", real_data), ("fake_data", fake_data))
    check_choice("norm_mode", norm_mode, ("pixel", "HWC"))
    if real_data.dim() < 2:
        raise ValueError(f"real_data must be [N, C, ...]; got shape {tuple(real_data.shape)}")
    if weight is not None and mask is not None:
        raise TypeError("mask: weight is its other name; give one of them")
    name, weight = ("weight", weight) if mask is None else ("mask", mask)
    if weight is not None:
        check_weight(name, weight, real_data)
    # Both originals cast alpha to the samples' dtype.
    alpha = draw(real_data.shape[0]).to(real_data)
    real_data, fake_data = real_data.detach(), fake_data.detach()
    if weight is None and norm_mode == "HWC":
        return between(discriminator, real_data, fake_data, alpha)
    gradients = input_gradient(discriminator, mixed(real_data, fake_data, alpha), output=first)
    if weight is not None:
        gradients = gradients * weight
    norm = gradients.norm(2, dim=1) if norm_mode == "pixel" else reference.sample_norm(gradients)
    penalty = (norm - 1).square().mean()
    return penalty if weight is None else penalty / weight.mean()


def paper_gradient_penalty(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """The paper's TensorFlow code: ``mean_i (||grad D(x_i)|| - 1)^2``, ``x = real + alpha * (fake - real)``.

    Follows igul222/improved_wgan_training, where it stands inline in each script. Alpha weights FAKE; no
    epsilon in the root; multiplied by lambda outside.
    """
    check_callable("critic", critic)
    check_pair(("real", real), ("fake", fake))
    return between(critic, fake, real, draw(real.shape[0], real.device))


def compute_grad_pen(
    discriminator: Critic, expert_state: Tensor, expert_next_state: Tensor, lambda_: float = 10
) -> Tensor:
    """AMP (adversarial motion priors): ``lambda_ * mean_i ||grad D(s_i, s'_i)||^2`` on expert transitions.

    Follows ``rsl_rl/algorithms/amp_discriminator.py`` of AMP_for_hardware and its copies (no releases; read
    at b4666fa in fan-ziqi/rl_amp). Also a method: ``AMPDiscriminator.compute_grad_pen = compute_grad_pen``.
    Not every function of this name is zero-centred: GAIL's is :func:`gail_compute_grad_pen`, and some later
    AMP projects subtract 1 from the norm; see your project's source.

    Args:
        discriminator: takes the states side by side, ``[N, S + S']``.
        expert_state: ``[N, S]``.
        expert_next_state: ``[N, S']``.
        lambda_: the weight, inside.
    """
    check_callable("discriminator", discriminator)
    check_samples("expert_state", expert_state)
    check_samples("expert_next_state", expert_next_state)
    check_number("lambda_", lambda_)
    for name, states in (("expert_state", expert_state), ("expert_next_state", expert_next_state)):
        if states.dim() != 2 or states.shape[0] != expert_state.shape[0]:
            raise ValueError(f"{name} must be [N, S], one row a transition; got shape {tuple(states.shape)}")
    transitions = torch.cat([expert_state, expert_next_state], dim=-1)
    return r1_penalty(discriminator, transitions, gamma=2.0, output=first) * lambda_


def gail_compute_grad_pen(
    discriminator: Critic,
    expert_state: Tensor,
    expert_action: Tensor,
    policy_state: Tensor,
    policy_action: Tensor,
    lambda_: float = 10,
) -> Tensor:
    """GAIL: ``lambda_ * mean_i (||grad D(x_i)|| - 1)^2`` between the expert's rows and the policy's.

    Follows ``a2c_ppo_acktr/algo/gail.py`` of ikostrikov/pytorch-a2c-ppo-acktr-gail (no releases; read at
    0c17533) and its copies. Also a method: ``Discriminator.compute_grad_pen = gail_compute_grad_pen``. Alpha
    weights the EXPERT.

    Args:
        discriminator: takes state and action side by side, ``[N, S + A]``; a module without a ``forward`` of
            its own is scored by its ``trunk``, as the original is.
        expert_state: ``[N, S]``.
        policy_state: shape of ``expert_state``.
        expert_action: ``[N, A]``.
        policy_action: shape of ``expert_action``.
        lambda_: the weight, inside.
    """
    check_callable("discriminator", discriminator)
    check_number("lambda_", lambda_)
    named = {
        "expert_state": expert_state,
        "expert_action": expert_action,
        "policy_state": policy_state,
        "policy_action": policy_action,
    }
    for name, rows in named.items():
        check_samples(name, rows)
        if rows.dim() != 2 or rows.shape[0] != expert_state.shape[0]:
            raise ValueError(f"{name} must be [N, S], one row a transition; got shape {tuple(rows.shape)}")
    expert = torch.cat([expert_state, expert_action], dim=1)
    policy = torch.cat([policy_state, policy_action], dim=1)
    check_pair(("expert_state and expert_action", expert), ("policy_state and policy_action", policy))
    if isinstance(discriminator, nn.Module) and type(discriminator).forward is nn.Module.forward:
        discriminator = getattr(discriminator, "trunk", discriminator)
    return between(discriminator, expert, policy, draw(expert.shape[0])) * lambda_


def _classic(name: str, critic: Critic, labels: Any, real: Named, fake: Named, device: Any) -> Tensor:
    """``mean_i (n_i - 1)^2``, alpha drawn on the CPU for the real side, nothing detached."""
    check_callable(name, critic)
    check_pair(real, fake)
    check_device(device)
    alpha = draw(real[1].shape[0])
    critic, finish = labelled(critic, labels)
    return finish(between(critic, real[1], fake[1], alpha))
