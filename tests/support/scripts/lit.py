"""Lightning: the LightningModule is the outermost module, and itself never called."""

import lightning
import torch
import torch.nn.functional as F
from plain import batches, build
from torch.utils.data import DataLoader


class Lit(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = build(12)

    def training_step(self, batch, index):
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


if __name__ == "__main__":
    model = Lit()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(model, DataLoader(batches(4), batch_size=None))
