"""Muon on convolutions (Jordan et al., 2024, kellerjordan.github.io/posts/muon), AdamW on everything else.

    m <- mu m + g                      g, m: a convolution's gradient and momentum, (out, in h w)
    u  = g + mu m                      Nesterov, mu = 0.6 [airbench]
    U  = orthogonal(u)                 near the closest matrix with orthonormal rows (or columns)
    w <- sqrt(out) w / |w|             the norm is held, so a step is a rotation [airbench]
    w <- w - 20 lr U                   20: then one lr suits both Muon and AdamW [ours]
"""

import torch
from torch import Tensor


class Muon(torch.optim.AdamW):
    """params, lr, and AdamW's betas, weight_decay; parameters of four dimensions get Muon's step, others AdamW's."""

    def __init__(self, params, lr: float, mu: float = 0.6, scale: float = 20.0, fast: bool = False, **adamw):
        self.mu, self.scale, self.fast = mu, scale, fast  # fast: products in bfloat16
        super().__init__(params, lr=lr, **adamw)

    def add_param_group(self, group: dict) -> None:
        """Momentum is there from the start, so that the first step is like every other."""
        super().add_param_group(group)
        for w in self.param_groups[-1]["params"]:
            if w.dim() == 4:
                self.state[w]["momentum"] = torch.zeros_like(w)

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient; a convolution's is None afterwards."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.dim() == 4 and w.grad is not None:
                    self._rotate(w, torch.tensor(self.scale * group["lr"], dtype=torch.float64).to(w))
                    w.grad = None  # AdamW passes it over
        super().step()
        return loss

    def _rotate(self, w: Tensor, lr: Tensor) -> None:
        m = self.state[w]["momentum"].mul_(self.mu).add_(w.grad)
        u = w.grad.add(m, alpha=self.mu).flatten(1)
        with torch.autocast(w.device.type, torch.bfloat16, enabled=self.fast):
            U = orthogonal(u).view_as(w)
        w.mul_(len(w) ** 0.5 / w.norm())
        w.addcmul_(U.to(w), lr, value=-1)


def orthogonal(u: Tensor, steps: int = 3) -> Tensor:
    """Newton-Schulz steps that bring all singular values of u (n, m) near 1 (between some 0.7 and 1.2 after five)."""
    X = u / (u.norm() + 1e-7)
    X = X.T if len(u) > u.shape[1] else X
    for _ in range(steps):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    return X.T if len(u) > u.shape[1] else X
