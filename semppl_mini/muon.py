"""Muon on convolutions (Jordan et al., 2024, kellerjordan.github.io/posts/muon), AdamW on everything else.

    m <- mu m + g                    g, m: a convolution's gradient and its momentum, (out, in h w); mu = 0.6
    u  = g + mu m                    Nesterov
    U  = orthogonal(u)               near the matrix with orthonormal rows (or columns) that is closest to u
    w <- sqrt(out) w / |w|           the norm is held, in place of weight decay: for convolutions before a norm
    w <- w - 20 lr U                 by the factor one lr suits both, as in AdamW's own step [ours]

mu (apart from config.momentum, which is AdamW's), the norm and three steps of Newton-Schulz are airbench94_muon.py's.
"""

import torch
from torch import Tensor


class Muon(torch.optim.AdamW):
    """params, lr, and AdamW's betas and weight_decay; parameters of four dimensions get Muon's step, others AdamW's.

    scale: 20 above. bf16: Newton-Schulz in bfloat16, for hardware that has it.
    """

    def __init__(self, params, lr: float, mu: float = 0.6, scale: float = 20.0, bf16: bool = False, **adamw):
        self.mu, self.scale, self.bf16 = mu, scale, bf16
        super().__init__(params, lr=lr, **adamw)

    def add_param_group(self, group: dict) -> None:
        """Momentum is there from the start, so that the first step is like every other."""
        super().add_param_group(group)
        for w in self.param_groups[-1]["params"]:
            if w.dim() == 4:
                self.state[w] = {"step": torch.tensor(0.0), "momentum": torch.zeros_like(w)}  # wants steps

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient. A closure is evaluated first, its loss returned."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        turned = {w: w.grad for group in self.param_groups for w in group["params"] if w.dim() == 4}
        for group in self.param_groups:
            for w in group["params"]:
                if turned.get(w) is not None:
                    self._turn(w, self.scale * group["lr"])
                    w.grad = None  # so that AdamW passes it over
        super().step()
        for w, gradient in turned.items():
            w.grad = gradient
        return loss

    def _turn(self, w: Tensor, lr: float) -> None:
        m = self.state[w]["momentum"].mul_(self.mu).add_(w.grad)
        U = orthogonal(w.grad.add(m, alpha=self.mu).flatten(1), bf16=self.bf16).view_as(w)
        w.mul_(len(w) ** 0.5 / w.norm())
        w.addcmul_(U, torch.tensor(-lr, dtype=torch.float64).to(w))  # a tensor: XLA would compile anew for 0 and 1


def orthogonal(u: Tensor, steps: int = 3, bf16: bool = False) -> Tensor:
    """u (n, m) by Newton-Schulz: singular values of 2% of its norm or more come to between 0.68 and 1.21."""
    X = u / (u.norm() + 1e-7)
    X = X.T if len(u) > u.shape[1] else X
    X = X.bfloat16() if bf16 else X
    for _ in range(steps):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return (X.T if len(u) > u.shape[1] else X).to(u.dtype)
