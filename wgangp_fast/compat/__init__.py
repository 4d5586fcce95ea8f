"""The gradient penalties that existing code calls: their names, arguments and conventions, our engine.

Change the import and nothing else: ``from wgangp_fast.compat import compute_gradient_penalty``. Where two
projects gave one name to different functions, the second has its project's name in front and is imported
``as`` the old one.

| function | follows | alpha weights | lambda | samples | norm over |
|---|---|---|---|---|---|
| `compute_gradient_penalty` | PyTorch-GAN and its copies | real | outside | attached | sample |
| `gradient_penalty` | aladdinpersson's WGAN-GP, both forms | real | outside | attached | sample |
| `progan_gradient_penalty` | aladdinpersson's ProGAN | real | outside | fake detached | sample |
| `calc_gradient_penalty` | caogang/wgan-gp | real | inside, 10 | detached | sample |
| `cal_gradient_penalty` | pix2pix and CycleGAN since 2018 | real | inside, 10 | attached | sample; + 1e-16 |
| `lynnho_gradient_penalty` | LynnHo | FAKE | outside | detached | sample |
| `ctgan_calc_gradient_penalty` | ctgan 0.12, a method | real, one a pac | inside, 10 | attached | pac |
| `gradient_penalty_loss` | basicsr 1.4 and mmagic 1 | real | outside | detached | pixel or sample |
| `paper_gradient_penalty` | Gulrajani et al., inline | FAKE | outside | attached | sample |
| `compute_grad_pen` | AMP, a method | - | inside, 10 | attached | row; centred at 0 |
| `gail_compute_grad_pen` | GAIL of a2c-ppo-acktr, a method | expert | inside, 10 | attached | row |
| `stylegan2_gradient_penalty` | stylegan2-pytorch >= 1.9 | - | inside, 10 | a graph | sample; centred at 0 |
| `gigagan_gradient_penalty` | gigagan-pytorch >= 0.3 | - | inside, 10 | a graph | sample; centred at 0 |
| `magvit2_gradient_penalty` | magvit2-pytorch >= 0.5 | - | outside | a graph | sample; centred at 0 |
| `muse_maskgit_gradient_penalty` | muse-maskgit-pytorch <= 0.3.5 | - | inside, 10 | a graph | sample |
| `phenaki_gradient_penalty` | phenaki-pytorch <= 0.5.0 | - | inside, 10 | a graph | sample |
| `lucidrains_gradient_penalty` | any of lucidrains': say `center=` | - | inside, 10 | a graph | sample |
| `wasserstein_gradient_penalty` | torchgan 0.1 | - | outside | a graph | batch |
| `WassersteinGradientPenalty` | torchgan 0.1 | real, one a batch | in `train_ops` | attached | batch |
| `ZeroCenteredGradientPenalty` | R3GAN | - | outside | a graph | sample; centred at 0 |

Each docstring says which releases, or which commit of a project without releases, were read. A norm is
centred at 1 where the table says nothing.

Attached: gradients flow back into `real` and `fake` (and a generator behind them) where they require them.
A graph: the critic has run already, so autograd differentiates the caller's graph, at stock speed unless the
critic is accelerated (:func:`wgangp_fast.accelerate`).

What is common to all: alpha comes from torch's global generator, one uniform number a sample unless the
table says otherwise, in the default dtype and drawn in the same order as the original, so a seeded run
stays the same run (but for PyTorch-GAN itself, which draws from numpy). Samples may have any number of
dimensions. Of several outputs of a critic (tuple or list) the first is the score. ``device`` arguments are
accepted; alpha always ends on the samples' device. Mixed dtypes promote as in the originals' arithmetic.
"""

from .graph import WassersteinGradientPenalty, ZeroCenteredGradientPenalty, wasserstein_gradient_penalty
from .lucidrains import (
    gigagan_gradient_penalty,
    lucidrains_gradient_penalty,
    magvit2_gradient_penalty,
    muse_maskgit_gradient_penalty,
    phenaki_gradient_penalty,
    stylegan2_gradient_penalty,
)
from .samples import (
    cal_gradient_penalty,
    calc_gradient_penalty,
    compute_grad_pen,
    compute_gradient_penalty,
    ctgan_calc_gradient_penalty,
    gail_compute_grad_pen,
    gradient_penalty,
    gradient_penalty_loss,
    lynnho_gradient_penalty,
    paper_gradient_penalty,
    progan_gradient_penalty,
)

__all__ = [
    "WassersteinGradientPenalty",
    "ZeroCenteredGradientPenalty",
    "cal_gradient_penalty",
    "calc_gradient_penalty",
    "compute_grad_pen",
    "compute_gradient_penalty",
    "ctgan_calc_gradient_penalty",
    "gail_compute_grad_pen",
    "gigagan_gradient_penalty",
    "gradient_penalty",
    "gradient_penalty_loss",
    "lucidrains_gradient_penalty",
    "lynnho_gradient_penalty",
    "magvit2_gradient_penalty",
    "muse_maskgit_gradient_penalty",
    "paper_gradient_penalty",
    "phenaki_gradient_penalty",
    "progan_gradient_penalty",
    "stylegan2_gradient_penalty",
    "wasserstein_gradient_penalty",
]
