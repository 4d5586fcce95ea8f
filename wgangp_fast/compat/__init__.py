"""The gradient penalties that existing code calls: their names, arguments and conventions, our engine.

Change the import and nothing else: ``from wgangp_fast.compat import compute_gradient_penalty``. Where two
projects gave one name to different functions, the second has its project's name in front and is imported
``as`` the old one.

| function | as in | alpha weights | lambda | samples | norm over |
|---|---|---|---|---|---|
| `compute_gradient_penalty` | PyTorch-GAN | real | outside | attached | sample |
| `gradient_penalty` | aladdinpersson, both forms | real | outside | attached | sample |
| `calc_gradient_penalty` | caogang/wgan-gp | real | inside, 10 | detached | sample |
| `cal_gradient_penalty` | pix2pix, CycleGAN | real | inside, 10 | attached | sample; + 1e-16 |
| `lynnho_gradient_penalty` | LynnHo | FAKE | outside | detached | sample |
| `ctgan_calc_gradient_penalty` | CTGAN, a method | real, one a pac | inside, 10 | attached | pac |
| `gradient_penalty_loss` | BasicSR and mmagic | real | outside | detached | pixel or sample |
| `paper_gradient_penalty` | Gulrajani et al., inline | FAKE | outside | attached | sample |
| `compute_grad_pen` | AMP, a method | - | inside, 10 | attached | row; zero-centred |
| `lucidrains_gradient_penalty` | lucidrains | - | inside, 10 | a graph | sample |
| `wasserstein_gradient_penalty` | torchgan | - | outside | a graph | batch |
| `WassersteinGradientPenalty` | torchgan | real, one a batch | in `train_ops` | attached | batch |
| `ZeroCenteredGradientPenalty` | R3GAN | - | outside | a graph | sample; zero-centred |

Attached: gradients flow back into `real` and `fake` (and a generator behind them) where they require them.
A graph: the critic has run already, so ordinary autograd differentiates the caller's graph, at stock speed.

What is common to all: alpha comes from torch's global generator, one uniform number a sample unless the
table says otherwise, in the default dtype and drawn in the same order as the original, so a seeded run
stays the same run (PyTorch-GAN's older copies drew from numpy). Samples may have any number of
dimensions. Of several outputs of a critic (tuple or list) the first is the score. ``device`` arguments are
accepted; alpha always ends on the samples' device. Mixed dtypes promote as in the originals' arithmetic.
"""

from .graph import (
    WassersteinGradientPenalty,
    ZeroCenteredGradientPenalty,
    lucidrains_gradient_penalty,
    wasserstein_gradient_penalty,
)
from .samples import (
    cal_gradient_penalty,
    calc_gradient_penalty,
    compute_grad_pen,
    compute_gradient_penalty,
    ctgan_calc_gradient_penalty,
    gradient_penalty,
    gradient_penalty_loss,
    lynnho_gradient_penalty,
    paper_gradient_penalty,
)

__all__ = [
    "WassersteinGradientPenalty",
    "ZeroCenteredGradientPenalty",
    "cal_gradient_penalty",
    "calc_gradient_penalty",
    "compute_grad_pen",
    "compute_gradient_penalty",
    "ctgan_calc_gradient_penalty",
    "gradient_penalty",
    "gradient_penalty_loss",
    "lucidrains_gradient_penalty",
    "lynnho_gradient_penalty",
    "paper_gradient_penalty",
    "wasserstein_gradient_penalty",
]
