import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(18)
text = "once upon a time there was a king who had seven sons and the youngest son went out into the world to seek his luck. " * 8
vocab = sorted(set(text))
data = torch.tensor([vocab.index(c) for c in text])
config = {"context": 8, "d_model": 48, "vocab": len(vocab), "batch": 64}


def get_batches(cfg):
    ix = torch.randint(0, len(data) - cfg["context"] - 1, (cfg["batch"],))
    x = torch.stack([data[i:i + cfg["context"]] for i in ix])
    y = torch.stack([data[i + cfg["context"]] for i in ix])
    return x, y


class SimpleModel(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.embedding = nn.Embedding(cfg["vocab"], cfg["d_model"])
        self.linear = nn.Sequential(nn.Flatten(), nn.Linear(cfg["d_model"] * cfg["context"], 96), nn.ReLU(), nn.Linear(96, cfg["vocab"]))

    def forward(self, idx, targets=None):
        logits = self.linear(self.embedding(idx))
        if targets is None:
            return logits
        return logits, F.cross_entropy(logits, targets)


model = SimpleModel(config)
optimizer = torch.optim.SGD(model.parameters(), lr=0.015, momentum=0.9)
for step in range(220):
    xs, ys = get_batches(config)
    optimizer.zero_grad()
    _, loss = model(xs, ys)
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(step, loss.item())
xs, ys = get_batches({**config, "batch": 1000})
print("metric: accuracy", (model(xs).argmax(-1) == ys).float().mean().item())
