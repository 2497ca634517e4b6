import copy
import torch
from torch import nn
from sklearn.datasets import load_digits

torch.manual_seed(19)
digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32)
y = torch.tensor(digits.target)
clients = torch.randperm(len(x)).chunk(4)


class MLP(nn.Module):
    def __init__(self, dim_hidden):
        super().__init__()
        self.layer_input = nn.Linear(64, dim_hidden)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.3)
        self.layer_hidden = nn.Linear(dim_hidden, 10)
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x):
        x = self.relu(self.dropout(self.layer_input(x)))
        x = self.layer_hidden(x)
        return self.softmax(x)


def local_update(net, idx, epochs=3):
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    for _ in range(epochs):
        for b in idx[torch.randperm(len(idx))].split(30):
            net.zero_grad()
            loss = nn.functional.cross_entropy(net(x[b]), y[b])
            loss.backward()
            optimizer.step()
    return net.state_dict(), loss.item()


glob = MLP(64)
for rnd in range(4):
    states = [local_update(copy.deepcopy(glob), c) for c in clients]
    glob.load_state_dict({k: sum(s[0][k] for s in states) / len(states) for k in states[0][0]})
    print("round", rnd, sum(s[1] for s in states) / len(states))
glob.eval()
print("metric: accuracy", (glob(x).argmax(1) == y).float().mean().item())
