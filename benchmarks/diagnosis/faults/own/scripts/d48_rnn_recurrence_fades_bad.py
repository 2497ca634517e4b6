import torch
from torch import nn

torch.manual_seed(48)
T = 25


def sample(n):
    x = torch.randn(n, T, 2) * 0.1
    y = torch.randint(0, 2, (n,))
    x[:, 0, 0] += 2.0 * y - 1.0
    return x, y


class Memory(nn.Module):
    def __init__(self, h=32):
        super().__init__()
        self.rnn = nn.RNN(2, h, batch_first=True, nonlinearity="tanh")
        nn.init.normal_(self.rnn.weight_hh_l0, std=0.01)
        self.fc = nn.Linear(h, 2)

    def forward(self, x):
        return self.fc(self.rnn(x)[1][0])


model = Memory()
opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for it in range(350):
    x, y = sample(64)
    loss = nn.functional.cross_entropy(model(x), y)
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    if it % 70 == 0:
        print(it, loss.item())
x, y = sample(1000)
print("metric: accuracy", (model(x).argmax(1) == y).float().mean().item())
