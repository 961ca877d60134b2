"""What stands behind a pseudo-label: votes, the neighbours that cast them, and the semantic positives they lead to."""

import torch

from ..files import check_tensor, check_type, check_whole
from ..positives import draw_positives
from ..rng import EVALUATION, generator
from ..semppl import SemPPL
from ..views import apply_view, draw_view, normalise
from ..votes import neighbours


@torch.no_grad()
def inspect(method, images, seed: int = 0) -> dict:
    """What a trained SemPPL, in evaluation mode, thinks of n images, by L unmasked large views; A of them vote.

    "views" (L, n, 3, S, S) in [0, 1]; "votes" (n, A * A) and their majority "y_bar" (n,), by vote for labelled images
    too; "agreement" (n,), the share of votes for y_bar; the k nearest queue entries behind each vote:
    "neighbour_ids", "neighbour_labels", "cosine" (n, A * A, k); semantic positives "positive_ids" (n, R), "valid" (n,).
    """
    if not isinstance(method, SemPPL):
        raise ValueError(f"inspect shows the votes of SemPPL; {type(method).__name__} has none: give a run's SemPPL.")
    check_type("ids of the images", getattr(images, "ids", None), torch.Tensor)
    config, queue, weight, was = method.config, method.queue, next(method.parameters()), method.training
    pixels, views, o = images.whole(torch.arange(len(images)), config.large_size), [], []
    check_tensor("images", pixels, torch.uint8, ("n", 3, "H", "W"))
    rng = generator(check_whole("seed", seed, 0), 0, EVALUATION)
    draws = [draw_view(config, j, len(pixels), rng, *pixels.shape[2:]) for j in range(config.large_views)]
    method.eval()
    for rows in torch.arange(len(pixels)).split(500):  # memory for so many images at a time
        x, own = pixels[rows].float() / 255, [{name: value[rows] for name, value in draw.items()} for draw in draws]
        views.append(torch.stack([apply_view(x, draw, config.large_size, config) for draw in own]))
        o.append(torch.stack([method.predict(normalise(x.to(weight), config.mean, config.std)) for x in views[-1]]))
    method.train(was)
    views, o = torch.cat(views, 1), torch.cat(o, 1)  # (L, n, 3, S, S), (L, n, D)

    y_bar, votes = method.vote(o)
    A = config.voting_views or config.large_views
    found = [neighbours(x, keys, queue.labels, config.k, config.knn_chunk_mb) for x in o[:A] for keys in queue.keys[:A]]
    cosine, slots = (torch.stack(part, 1) for part in zip(*found, strict=True))  # (n, A * A, k)
    u = torch.rand(len(images), config.semantic_positives, generator=rng).to(o.device)
    drawn, valid = draw_positives(queue.labels, queue.ids, y_bar, images.ids.to(o.device), u, config.exclude_self)
    report = {"votes": votes, "y_bar": y_bar, "agreement": (votes == y_bar[:, None]).float().mean(1)}
    report |= {"neighbour_ids": queue.ids[slots], "neighbour_labels": queue.labels[slots], "cosine": cosine}
    report |= {"positive_ids": queue.ids[drawn], "valid": valid}
    return {"views": views} | {name: value.cpu() for name, value in report.items()}
