"""IFND: incremental false negative detection for contrastive learning (Chen et al., ICLR 2022, arXiv 2106.03719).

    q_i = n(g(f(x_i)))           query of view i                                            theta: f, g
    k_j = n(g_t(f_t(x_j)))       key of large view j of the same image, by the target or (config) the online network
    s_in = q_i . k_n

Every E epochs k-means puts the keys v of all training images into K_m clusters, on M levels. An image's pseudo-label
y is its nearest unit centroid c_y, and the share r of images with the largest confidence

    kappa = exp(v . c_y / tau) / sum_k exp(v . c_k / tau)

is accepted; r grows linearly from 0 to 1 over the epochs. FN_m(i) = { n : i and n accepted, y_n = y_i on level m }, and

    eliminate   L_i = -log( exp(s_ip / tau) / ( exp(s_ip / tau) + sum_{n not in FN_m(i)} exp(s_in / tau) ) )
    attract     L_i = mean_{j in {p} u FN_m(i)} -log( exp(s_ij / tau) / sum_{all candidates} exp(s_in / tau) )

and the loss is the mean over images, levels and pairs of views. Who is not accepted stands for itself, and no image is
ever its own negative. r = 0 is plain InfoNCE: MoCo v2 with a queue, or SimCLR, but with B - 1 negatives, the keys of
one view, where SimCLR has the 2B - 2 of both.

Negatives are the keys of the batch, for all ordered pairs of views; or, with `key_queue`, earlier keys, for queries of
all views but the last large one, whose keys they meet (MoCo v2). Unspecified, so ours: labels by unit centroids, r per
level, no labels before epoch E. Of several processes each has its own queries and all keys.
Shapes: B batch, N candidates, D embedding width, M levels, n images by id, Q queue."""

import copy
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import parallel
from ..method import Batch, Method, encode
from ..networks import networks
from ..rng import CLUSTERS, INIT, generator

LONG = 2**30  # images times clusters that take minutes, which is said [ours]


def different_views(config) -> None:
    """ValueError unless an image has two views to compare."""
    if config.large_views + config.small_views < 2:
        raise ValueError(f"method = {config.method!r} compares different views and there is 1; give large_views=2.")


def embed_together(views: list[Tensor], networks: nn.ModuleDict, config) -> Tensor:
    """g(f(x)), (V, B, D): batch statistics span the views, as in the official codes of SimCLR and CARP."""
    with parallel.autocast_of(config, views[0].device):
        z = parallel.together(networks["encoder"], networks["projector"], views, config.microbatches)
    return parallel.at_least_float(z)


# ---- losses: pure functions of tensors ------------------------------------------------------------------------------


def similarities(q: Tensor, key: Tensor, candidates: Tensor, own: Tensor, tau: float) -> Tensor:
    """s / tau, (B, 1 + N), the positive first, -inf where own (B, N): q, key (B, D), candidates (N, D)."""
    negative = (q @ candidates.T / tau).masked_fill(own, -torch.inf)
    return torch.cat([(q * key).sum(1, keepdim=True) / tau, negative], 1)


def false_negatives(y: Tensor, y_candidates: Tensor, own: Tensor) -> Tensor:
    """FN_m(i), (M, B, N): labels y (M, B) and y_candidates (M, N), -1 where not accepted; own (B, N)."""
    return (y[:, :, None] == y_candidates[:, None]) & (y[:, :, None] >= 0) & ~own


def eliminate(s: Tensor, fn: Tensor) -> Tensor:
    """InfoNCE without the false negatives: s (B, 1 + N), fn (B, N) -> (B,)."""
    return s.masked_fill(F.pad(fn, (1, 0)), -torch.inf).logsumexp(1) - s[:, 0]


def attract(s: Tensor, fn: Tensor) -> Tensor:
    """InfoNCE with the false negatives as further positives (SupCon's form): s (B, 1 + N), fn (B, N) -> (B,)."""
    positive = F.pad(fn, (1, 0), value=True)
    return -torch.where(positive, s.log_softmax(1), 0).sum(1) / positive.sum(1)


def acceptance_at(acceptance: tuple, epoch: int, epochs: int) -> float:
    """r of an epoch (0, 1, ...): linear from the first epoch's to the last's."""
    return acceptance[0] + (acceptance[1] - acceptance[0]) * epoch / max(epochs - 1, 1)


def confidence(v: Tensor, centroids: Tensor, tau: float, chunk_mb: float) -> tuple[Tensor, Tensor]:
    """Unit v (n, D), centroids (K, D) -> label (n,) of the nearest one, and its kappa (n,) in (0, 1]."""
    rows = max(1, int(chunk_mb * 2**20 / (4 * len(centroids))))
    found = [(part @ centroids.T / tau).softmax(1).max(1) for part in v.split(rows)]
    return torch.cat([y for _, y in found]), torch.cat([kappa for kappa, _ in found])


def cluster(v: Tensor, k: int, seed: int) -> Tensor:
    """Unit centroids (k, D) of scikit-learn's mini-batch k-means of v (n, D) on the CPU."""
    from sklearn.cluster import MiniBatchKMeans  # here, as it takes a third of the package's time to import

    start = "k-means++" if k <= 1000 else "random"  # k-means++ takes k passes over 3 k images [ours]
    kmeans = MiniBatchKMeans(k, init=start, n_init=3, batch_size=max(4096, k), random_state=seed).fit(v.numpy())
    return F.normalize(torch.from_numpy(kmeans.cluster_centers_).to(v.dtype), dim=1)


class PseudoLabels(nn.Module):
    """Label, confidence and acceptance of every image on every level, by image id, in buffers."""

    def __init__(self, levels: int, images: int):
        super().__init__()
        self.register_buffer("labels", torch.full((levels, images), -1))  # (M, n), -1 = none yet
        self.register_buffer("kappa", torch.zeros(levels, images))  # (M, n), 0 = none yet
        self.register_buffer("accepted", torch.zeros(levels, images, dtype=torch.bool))  # (M, n)

    def of(self, ids: Tensor) -> Tensor:
        """Labels (M, B) of the images ids (B,), -1 where not accepted or where ids is -1."""
        return torch.where(self.accepted[:, ids] & (ids >= 0), self.labels[:, ids], -1)

    def accept(self, r: float) -> None:
        """Accept, on each level, the round(r n) images with the largest kappa; of equal ones the smaller ids."""
        count = round(r * int((self.labels[0] >= 0).sum()))
        best = self.kappa.sort(dim=1, descending=True, stable=True).indices[:, :count]
        self.accepted.zero_().scatter_(1, best, True)


class KeyQueue(nn.Module):
    """FIFO of the keys and ids of all images, in buffers; empty slots have id -1."""

    def __init__(self, capacity: int, dim: int):
        super().__init__()
        self.register_buffer("keys", torch.zeros(capacity, dim))  # (Q, D)
        self.register_buffer("ids", torch.full((capacity,), -1))  # (Q,)
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))  # the next slot to write

    def enqueue(self, keys: Tensor, ids: Tensor) -> None:
        """Write detached keys (B, D), ids (B,) over the oldest; of a batch larger than the queue, the last Q."""
        Q = len(self.ids)
        slot = (self.pointer + torch.arange(len(ids), device=ids.device)[-Q:]) % Q
        self.keys[slot], self.ids[slot] = keys[-Q:].to(self.keys.dtype), ids[-Q:]
        self.pointer.copy_((self.pointer + len(ids)) % Q)


class IFND(Method):
    """Query and key networks, pseudo-labels, perhaps a queue."""

    def __init__(self, config, num_classes: int, num_images: int):
        super().__init__(config, num_classes)
        self.online = networks(config, generator(config.seed, 0, INIT))  # encoder f, projector g
        del self.online["predictor"]
        self.target = copy.deepcopy(self.online).requires_grad_(False) if config.keys == "target" else nn.ModuleDict()
        self.pseudo = PseudoLabels(max(1, len(config.clusters)), num_images)
        self.queue = KeyQueue(config.key_queue, config.embedding_dim)

    @staticmethod
    def check(config, data=None) -> None:
        different_views(config)
        if data and max(config.clusters, default=0) > (n := len(data.train)):
            raise ValueError(f"clusters = {config.clusters} asks for more than the {n} images; give at most {n}.")

    @staticmethod
    def images_in(tensors: dict) -> int:
        labels = tensors.get("pseudo.labels")  # a column an image
        return labels.shape[-1] if isinstance(labels, Tensor) and labels.dim() else 0

    def query(self, x: Tensor) -> Tensor:
        """n(g(f(x))), (B, D); a `key` is the same of the target, never with a gradient."""
        return F.normalize(embed_together([x], self.online, self.config)[0], dim=1)

    @torch.no_grad()
    def key(self, x: Tensor) -> Tensor:
        return F.normalize(embed_together([x], self.target, self.config)[0], dim=1)

    def forward(self, views: list[Tensor], batch: Batch, draws) -> tuple[Tensor, dict]:
        cfg, L, Q = self.config, self.config.large_views, self.config.key_queue
        ids = parallel.gather(batch.ids)
        if batch.oracle is not None:
            self.pseudo.labels[:, ids], self.pseudo.accepted[:, ids] = parallel.gather(batch.oracle), True

        # Queries i meet the keys j of their own image's other views.
        pairs = [(i, j) for i in range(len(views)) for j in ((L - 1,) if Q else range(L)) if i != j]
        asking, asked = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
        if cfg.keys == "online":
            z = F.normalize(embed_together(views, self.online, cfg), dim=2)  # (L + V, B, D)
            q, k = {i: z[i] for i in asking}, {j: z[j] for j in asked}
        else:
            q = dict(zip(asking, parallel.apart(self.query, [views[i] for i in asking], cfg), strict=True))
            k = dict(zip(asked, parallel.apart(self.key, [views[j] for j in asked], cfg), strict=True))

        # Which candidates are the image itself, and which share its accepted label, on each level.
        candidate_ids = self.queue.ids.clone() if Q else ids  # (N,)
        own = (candidate_ids == batch.ids[:, None]) | (candidate_ids < 0)  # (B, N), no negatives
        y = self.pseudo.of(batch.ids)  # (M, B)
        fn = false_negatives(y, self.pseudo.of(candidate_ids), own)  # (M, B, N)

        name, compare = ("L_elim", eliminate) if cfg.false_negatives == "eliminate" else ("L_attr", attract)
        candidates = {j: self.queue.keys.clone() if Q else parallel.gather(k[j]) for j in k}  # each (N, D)
        s = [similarities(q[i], k[j], candidates[j], own, cfg.tau) for i, j in pairs]  # each (B, 1 + N)
        loss = torch.stack([compare(pair, level).mean() for pair in s for level in fn]).mean()
        if Q:
            self.queue.enqueue(parallel.gather(k[L - 1].detach()), ids)
        seen = {"ids": batch.ids, "candidate_ids": candidate_ids, "own": own, "fn": fn, "accepted": y >= 0}
        return loss, {"terms": {name: loss.detach()}, "o": torch.stack(list(q.values())).detach(), **seen}

    def before_epoch(self, epoch: int, epochs: int, embed) -> None:
        """Cluster every E epochs, accept more every epoch: embed() -> `self.embed` of all, (n, D), and ids (n,)."""
        cfg = self.config
        if cfg.oracle or not cfg.clusters or not any(cfg.acceptance):
            return
        if epoch and epoch % cfg.recluster == 0:
            self.recluster(*embed(), generator(cfg.seed, epoch, CLUSTERS).initial_seed())
        self.pseudo.accept(acceptance_at(cfg.acceptance, epoch, epochs))

    def recluster(self, v: Tensor, ids: Tensor, seed: int) -> None:
        """Labels and confidence of all images, keys v (n, D): processes share out levels, then each level's images."""
        cfg, (n, D), pseudo, M = self.config, v.shape, self.pseudo, len(self.config.clusters)
        centroids = [v.new_zeros(K, D, device=pseudo.labels.device) for K in cfg.clusters]
        for level in range(parallel.rank(), M, parallel.size()):
            if n * (K := cfg.clusters[level]) > LONG:
                tqdm.write(f"IFND puts {n:,} images into {K:,} clusters, level {level + 1} of {M}.", file=sys.stderr)
            centroids[level].copy_(cluster(v, K, seed))
        parallel.wait()
        parallel.total(centroids)  # of a level all but one are 0
        for level, c in enumerate(centroids):
            found = confidence(v[parallel.share(n)], c.cpu(), cfg.tau, cfg.knn_chunk_mb)
            y, kappa = (parallel.gather(x.to(c.device))[:n] for x in found)
            pseudo.labels[level, ids], pseudo.kappa[level, ids] = y, kappa.to(pseudo.kappa)

    def embed(self, images, **reading) -> Tensor:
        """Unit keys (n, D) of whole images, batch norm frozen, on the CPU: images and reading as of `encode`."""
        part = self.online if self.config.keys == "online" else self.target
        with parallel.autocast_of(self.config, self.pseudo.labels.device):  # as in training
            keys = encode(nn.Sequential(part["encoder"], part["projector"]), images, self.config, **reading)
        return F.normalize(keys, dim=1)

    def count(self, seen: dict, batch: Batch, truth_of: Tensor) -> dict:
        """Sums over all processes and, but for the first, all levels; pairs are those of known true classes."""
        mine, theirs = truth_of[seen["ids"]][:, None], truth_of[seen["candidate_ids"].clamp(min=0)]  # (B, 1), (N,)
        other, accepted = ~seen["own"] & (mine >= 0) & (theirs >= 0), seen["accepted"]  # (B, N), (M, B)
        same, fn = other & (mine == theirs), other & seen["fn"]  # (B, N), (M, B, N)
        left, found = other & ~fn, (fn & same).sum()
        counts = {
            "false_negatives_before": (same.sum(), other.sum()),  # of the image's class, before any is found
            "false_negatives": ((left & same).sum(), left.sum()),  # those that are left
            "acceptance": (accepted.sum(), torch.ones_like(accepted, dtype=torch.long).sum()),  # of images
            "pair_precision": (found.clone(), fn.sum()),  # found pairs that are of one class
            "pair_recall": (found, same.sum() * len(fn)),  # pairs of one class that are found
        }
        parallel.total([part for both in counts.values() for part in both])
        return counts
