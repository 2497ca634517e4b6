import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from sklearn.datasets import load_digits

torch.manual_seed(66)
d = load_digits()
ds = TensorDataset(torch.tensor(d.images / 16, dtype=torch.float32), torch.tensor(d.target))
loader = DataLoader(ds, batch_size=4, shuffle=True, drop_last=True)
grad_accum_steps = 16


class Classifier(nn.Module):
    def __init__(self, w=48):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, w), nn.ReLU(), nn.Linear(w, 10))

    def forward(self, x):
        return self.net(x)


model = Classifier()
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
optimizer.zero_grad()
step = 0
for epoch in range(7):
    for images, labels in loader:
        loss = nn.functional.cross_entropy(model(images), labels)
        (loss / grad_accum_steps).backward()
        step += 1
        if step % grad_accum_steps == 0:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    print(epoch, loss.item())
with torch.no_grad():
    print("metric: accuracy", (model(ds.tensors[0]).argmax(1) == ds.tensors[1]).float().mean().item())
