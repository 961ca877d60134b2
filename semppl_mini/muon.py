"""Muon on convolutions (Jordan et al., 2024, kellerjordan.github.io/posts/muon), AdamW on everything else.

    m <- mu m + g                    g, m: a convolution's gradient and its momentum, (out, in h w); mu = 0.6
    u  = g + mu m                    Nesterov
    U  = orthogonal(u)               near the matrix with orthonormal rows (or columns) that is closest to u
    w <- sqrt(out) w / |w|           the norm is held, in place of weight decay: for convolutions before a norm
    w <- w - 20 lr U                 by the factor one lr suits both, as in AdamW's own step [ours]

mu (apart from config.momentum, which is AdamW's), the norm and three steps of Newton-Schulz are airbench94_muon.py's.
"""

import math

import torch
from torch import Tensor


class Muon(torch.optim.AdamW):
    """params, lr, and AdamW's betas and weight_decay; parameters of four dimensions get Muon's step, others AdamW's.

    scale: 20 above. bf16: Newton-Schulz in bfloat16, for hardware that has it. ValueError: mu or scale out of range."""

    def __init__(self, params, lr: float, betas=(0.9, 0.99), weight_decay=0.01, mu=0.6, scale=20.0, bf16=False):
        if not 0 <= mu < 1 or not 0 < scale < math.inf:
            raise ValueError(f"Muon: mu = {mu}, scale = {scale}; give mu from 0 to less than 1 and a positive scale.")
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)
        self.defaults |= {"mu": mu, "scale": scale, "bf16": bf16}  # copied with the optimizer, no part of its state

    def add_param_group(self, group: dict) -> None:
        """Momentum is there from the start, so that the first step is like every other."""
        super().add_param_group(group)
        for w in self.param_groups[-1]["params"]:
            if w.dim() == 4:
                self.state[w] = {"step": torch.tensor(0.0), "momentum": torch.zeros_like(w)}  # AdamW reads step

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient. A closure is evaluated first, its loss returned."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        turned = {w: w.grad for group in self.param_groups for w in group["params"] if w.dim() == 4}
        for group in self.param_groups:
            rate = torch.tensor(-self.defaults["scale"] * group["lr"], dtype=torch.float64)  # a tensor: XLA would
            rate = rate.to(group["params"][0], non_blocking=True) if group["params"] else rate  # compile 0 and 1 anew
            for w in group["params"]:
                if turned.get(w) is not None:
                    self._turn(w, rate)
                    w.grad = None  # so that AdamW passes it over
        super().step()
        for w, gradient in turned.items():
            w.grad = gradient
        return loss

    def _turn(self, w: Tensor, rate: Tensor) -> None:
        mu, bf16 = self.defaults["mu"], self.defaults["bf16"]
        m = self.state[w]["momentum"].mul_(mu).add_(w.grad)
        U = orthogonal(w.grad.add(m, alpha=mu).flatten(1), bf16=bf16).view_as(w)
        w.mul_(len(w) ** 0.5 / w.norm().clamp(min=1e-7))  # of zeros: they stay
        w.addcmul_(U, rate)


def orthogonal(u: Tensor, steps: int = 3, bf16: bool = False) -> Tensor:
    """u (n, m) by Newton-Schulz: singular values of 2% of its norm or more come to between 0.68 and 1.21."""
    X = u / (u.norm() + 1e-7)
    X = X.T if len(u) > u.shape[1] else X
    X = X.bfloat16() if bf16 else X
    for _ in range(steps):
        A = X @ X.T
        A = torch.addmm(A, A, A, beta=-4.7750, alpha=2.0315)
        X = torch.addmm(X, A, X, beta=3.4445)  # 3.4445 X + (-4.7750 A + 2.0315 A A) X, rounded once
    return (X.T if len(u) > u.shape[1] else X).to(u.dtype)
