"""lightly's SimCLR on the same encoder and cores: what a user of the best-known library gets for the same minutes.

    python benchmarks/lightly_simclr.py --epochs 6 --seeds 0          a file of ours, read out as in speedrun.py

Heads, loss, transforms, SGD and its cosine are lightly's own for CIFAR-10 (its cifar10_benchmark.py: batches of 128,
lr 0.06, momentum 0.9, weight decay 5e-4, NT-Xent with temperature 0.5, no blur); the encoder is that of the preset,
whitened as ours. PIL images through a DataLoader; networks in bf16 where ours are. Nothing reads a label but
the read-out. Minutes: all steps, as in speedrun.py.
"""

import json
import time
from pathlib import Path

import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from timing import hardware
from torch import nn
from torch.utils.data import DataLoader, Dataset

import semppl_mini as s
from semppl_mini import parallel
from semppl_mini.files import make_folder, write_json
from semppl_mini.keeping.command import Parser, command
from semppl_mini.keeping.run import software
from semppl_mini.readout import untrained_encoder

ROOT = Path(__file__).resolve().parents[1]
TRANSFORM = dict(input_size=32, cj_strength=0.5, gaussian_blur=0.0)


class TwoViews(Dataset):
    def __init__(self, images):
        self.pixels, self.views = images.permute(0, 2, 3, 1).contiguous().numpy(), SimCLRTransform(**TRANSFORM)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int):
        return self.views(Image.fromarray(self.pixels[i]))


def train(config, data: s.Data, epochs: int, workers: int) -> tuple[nn.Module, list[dict]]:
    """The encoder after so many epochs, and a record an epoch."""
    torch.manual_seed(config.seed)
    encoder = untrained_encoder(config, data).to(memory_format=torch.channels_last)
    model = nn.Sequential(encoder, SimCLRProjectionHead(encoder.dim, encoder.dim, 128)).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, compare = torch.optim.SGD(trained, lr=0.06, momentum=0.9, weight_decay=5e-4), NTXentLoss()
    loader = DataLoader(TwoViews(data.train.images), 128, shuffle=True, drop_last=True, num_workers=workers)
    schedule, history = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader)), []
    for epoch in range(epochs):
        start, losses = time.perf_counter(), []
        for first, second in loader:
            x = torch.cat([first, second]).contiguous(memory_format=torch.channels_last)
            with parallel.autocast_of(config, x.device):
                z = model(x).float()
            loss = compare(*z.chunk(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        history.append({"epoch": epoch + 1, "loss": sum(losses) / len(losses), "seconds": time.perf_counter() - start})
        print(json.dumps(history[-1]), flush=True)
    return encoder, history


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "yardsticks")
    args = parser.parse_args()
    for seed in args.seeds:
        name = f"lightly-simclr-epochs={args.epochs}-seed{seed}"
        config = s.presets.cifar10_cpu().replace(seed=seed)
        data = s.data_for(config, args.data)
        encoder, history = train(config, data, args.epochs, args.workers)
        result = {"name": name, "data": data.provenance, "config": config.to_dict(), "history": history}
        result |= {"seconds": sum(record["seconds"] for record in history), "hardware": hardware()}
        result |= {"read": s.evaluate(encoder, config, data, "val"), "software": software()}
        write_json(make_folder(args.out) / f"{name}.json", result)
        print(name, f"{result['seconds'] / 60:.1f} min", json.dumps(result["read"]), flush=True)


if __name__ == "__main__":
    command(main, "lightly_simclr")
