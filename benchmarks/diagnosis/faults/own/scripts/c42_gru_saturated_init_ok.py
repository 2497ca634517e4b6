import torch
from torch import nn

torch.manual_seed(342)
bits = torch.randint(0, 2, (2000, 10, 1)).float()
ones = bits.sum((1, 2))
target = ((ones - 5) / 2.5).unsqueeze(1)


class CountOnes(nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        self.gru = nn.GRU(1, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 1)

    def forward(self, x):
        return self.out(self.gru(x)[1][-1])


model = CountOnes()
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
for epoch in range(12):
    for i in range(0, 2000, 50):
        optimizer.zero_grad()
        loss = nn.functional.smooth_l1_loss(model(bits[i : i + 50]), target[i : i + 50])
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("R2", 1 - (((model(bits) - target) ** 2).mean() / target.var()).item())
