"""Trains a small model on a scan, in Lightning's shape: a data module, a model, and a loop that can be stopped.

    python train_torch.py --uri grpc://127.0.0.1:8815 --path /lake/rows --epochs 2 --checkpoint run.pt

The loop keeps the model's state and the data's together; started again with the same checkpoint it goes on at the next
batch, on any number of DataLoader workers, and ends with the weights that a run without a stop has.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jetbridge as jb
import torch
from torch import nn


class Rows:
    """The data, with the hooks of a LightningDataModule."""

    def __init__(self, uri: str, path: str, workers: int) -> None:
        scan = jb.connect(uri).dataset(path).select("n", "x")
        data = jb.torch.IterableDataset(scan, batch_size=256, shuffle=True, seed=1, shuffle_buffer=4)
        self.loader = jb.torch.DataLoader(data, num_workers=workers)
        self.data = data

    def train_dataloader(self) -> jb.torch.DataLoader:
        return self.loader

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)


class Half(nn.Module):
    """Learns that x is half of n."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        n = batch["n"].float().unsqueeze(1) / 5_000
        return nn.functional.mse_loss(self.layer(n).squeeze(1), batch["x"] / 5_000)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Trainer:
    """The loop: epochs, steps, and a checkpoint of everything."""

    def __init__(self, epochs: int, checkpoint: Path | None, stop_after: int | None) -> None:
        self.epochs, self.checkpoint, self.stop_after = epochs, checkpoint, stop_after
        self.steps = 0

    def fit(self, model: Half, rows: Rows) -> None:
        optimizer = model.configure_optimizers()
        first = self.restore(model, optimizer, rows)
        for epoch in range(first, self.epochs):
            # Does nothing where this is the epoch of the checkpoint, which goes on.
            rows.data.set_epoch(epoch)
            loss = torch.zeros(())
            for batch in rows.train_dataloader():
                loss = model.training_step(batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                self.steps += 1
                if self.steps == self.stop_after:
                    self.save(model, optimizer, rows)
                    print(f"stopped after {self.steps} steps")
                    return
            print(f"epoch {epoch}: loss {loss.item():.6f}")
        print(f"weight {model.layer.weight.item():.6f}, bias {model.layer.bias.item():.6f}")

    def save(self, model: Half, optimizer: torch.optim.Optimizer, rows: Rows) -> None:
        if self.checkpoint is not None:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "data": rows.state_dict()}
            torch.save(state, self.checkpoint)

    def restore(self, model: Half, optimizer: torch.optim.Optimizer, rows: Rows) -> int:
        """Goes on from the checkpoint if there is one; the epoch to begin with."""
        if self.checkpoint is None or not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rows.load_state_dict(state["data"])
        epoch = int(state["data"]["epoch"])
        print(f"goes on in epoch {epoch} after {sum(steps for _, _, steps in state['data']['taken'])} steps")
        return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uri", default=None)
    parser.add_argument("--path", required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--stop-after", type=int, help="steps after which the run is broken off")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(args.uri, args.path, args.workers)
    Trainer(args.epochs, args.checkpoint, args.stop_after).fit(Half(), rows)


if __name__ == "__main__":
    main()
