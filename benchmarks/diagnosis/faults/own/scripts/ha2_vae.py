import torch
from torch import nn
from sklearn.datasets import load_digits

digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32)
y = torch.tensor(digits.target)

torch.manual_seed(2)


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.mean, self.log_variance = nn.Linear(64, 64), nn.Linear(64, 8), nn.Linear(64, 8)
        self.decode = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, x):
        h = torch.relu(self.encode(x))
        mean, log_variance = self.mean(h), self.log_variance(h)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decode(z), mean, log_variance


model = Vae()
optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
for epoch in range(6):
    for index in torch.randperm(len(x)).split(64):
        optimizer.zero_grad()
        out, mean, log_variance = model(x[index])
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
        loss = nn.functional.binary_cross_entropy_with_logits(out, x[index], reduction="sum") / len(index) + kl
        loss.backward()
        optimizer.step()
