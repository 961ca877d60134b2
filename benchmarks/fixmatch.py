"""FixMatch (Sohn et al., NeurIPS 2020, arXiv 2001.07685): what a user with 500 labels would choose instead of SemPPL.

    python benchmarks/fixmatch.py epochs=12 labelled_share=0.125          options and files as of speedrun.py

Under our `fit`: the encoder, optimizer, sampler and strong views (view 1) are those of the config. View 0 is weak, a
mirrored and shifted image. With a linear layer on the encoder f and its class probabilities p,

    L_s = cross-entropy of labelled images, weak view        y_bar = argmax p(weak), where max p(weak) >= 0.95
    L_u = cross-entropy of strong views with y_bar, mean over all unlabelled images, 0 without a y_bar

    loss = L_s + L_u                                         the target, an EMA, is read out, as in the paper

Ours: one batch norm over both views of all images; the views, in place of RandAugment.
"""

import copy
from dataclasses import dataclass, replace

import speedrun
import torch
import torch.nn.functional as F
from torch import nn

import semppl_mini as s
from semppl_mini import networks, parallel
from semppl_mini.keeping.command import command
from semppl_mini.readout import share_right
from semppl_mini.rng import INIT, generator

CONFIDENT = 0.95


@dataclass(frozen=True)
class WeakAndStrong(s.ImageSet):
    """Images whose view 0 is weak: flipped, and a crop of 7/8 of each side."""

    def finish(self, prepared, draws, config):
        weak, box = dict(draws[0]), draws[0]["box"]
        whole = box.new_tensor(self.size)  # (2,)
        side = (whole * 7 / 8).round()
        place = box[:, :2] / (whole - box[:, 2:]).clamp(min=1)  # of the strong crop, in [0, 1]
        weak["box"] = torch.cat([(place * (whole - side)).round(), side.expand(len(box), 2)], 1)
        weak["factors"] = torch.tensor([1.0, 1.0, 1.0, 0.0]).to(box).expand(len(box), 4)
        weak |= {name: torch.zeros_like(weak[name]) for name in ("grey", "blur", "solarize")}
        return super().finish(prepared, [weak, *draws[1:]], config)


class FixMatch(s.Method):
    reads = "target.encoder"

    def __init__(self, config, num_classes: int, num_images: int = 0):
        super().__init__(config, num_classes)
        f = networks.networks(config, generator(config.seed, 0, INIT))["encoder"]
        head = nn.utils.skip_init(nn.Linear, f.dim, num_classes)
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
        self.online = nn.ModuleDict({"encoder": f, "head": head})
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, views, batch, draws):
        with parallel.autocast_of(self.config, views[0].device):
            features = self.online["encoder"](torch.cat(views[:2]))
            weak, strong = parallel.at_least_float(self.online["head"](features)).chunk(2)  # each (B, C)
        confidence, y_bar = weak.detach().softmax(1).max(1)  # (B,)
        unlabelled = batch.labels < 0
        used = unlabelled & (confidence >= CONFIDENT)
        L_s = F.cross_entropy(weak, batch.labels, ignore_index=-1)
        L_u = (F.cross_entropy(strong, y_bar, reduction="none") * used).sum() / unlabelled.sum()
        with torch.no_grad():  # batch norms of the target keep statistics of their own
            self.target["encoder"](views[0])
        o = F.normalize(parallel.at_least_float(features.detach()), dim=1).unflatten(0, (2, -1))
        return L_s + L_u, {"terms": {"L_s": L_s, "L_u": L_u}, "o": o, "y_bar": y_bar, "used": used}

    def count(self, seen, batch, truth_of):
        unlabelled, used, truth = batch.labels < 0, seen["used"], truth_of[batch.ids]
        right, known = seen["y_bar"] == truth, truth >= 0  # y_bar is a class, so never -1, an unknown one
        return {
            "pseudo_label_accuracy": ((right & unlabelled).sum(), (unlabelled & known).sum()),
            "coverage": (used.sum(), unlabelled.sum()),
            "purity": ((right & used).sum(), (used & known).sum()),
        }


def read(run, data) -> dict:
    """Its own classifier's accuracy on validation images, beside the read-outs of speedrun.py."""
    model = nn.Sequential(run.method.target["encoder"], run.method.target["head"]).eval()
    logits = s.method.encode(model, data.val, run.config)
    return {"classifier": share_right(logits.argmax(1), data.val.truth)}


def weak_views(data: s.Data) -> s.Data:
    return replace(data, train=WeakAndStrong(**vars(data.train)))


if __name__ == "__main__":
    command(lambda: speedrun.main(FixMatch, weak_views, read), "fixmatch")
