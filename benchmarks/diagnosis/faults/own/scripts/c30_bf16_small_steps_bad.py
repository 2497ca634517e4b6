import torch
from torch import nn

torch.manual_seed(344)
dtype = torch.bfloat16
x = torch.randn(1024, 12)
y = torch.sin(x[:, :3]).sum(1, keepdim=True) + 0.3 * x[:, 3:4]


class ResidualMLP(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.inp = nn.Linear(12, width)
        self.block1 = nn.Linear(width, width)
        self.block2 = nn.Linear(width, width)
        self.out = nn.Linear(width, 1)

    def forward(self, x):
        x = torch.tanh(self.inp(x))
        x = x + torch.tanh(self.block1(x))
        x = x + torch.tanh(self.block2(x))
        return self.out(x)


model = ResidualMLP().to(dtype)
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-5, weight_decay=0.0)
for step in range(1500):
    index = torch.randint(0, 1024, (64,))
    prediction = model(x[index].to(dtype)).float()
    loss = nn.functional.mse_loss(prediction, y[index])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 250 == 0:
        print(step, loss.item())
with torch.no_grad():
    error = nn.functional.mse_loss(model(x.to(dtype)).float(), y)
print("R2", 1 - (error / y.var()).item())
