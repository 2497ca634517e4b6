import torch
from torch import nn

torch.manual_seed(109)
arms = torch.tensor([0.1, 0.25, 0.4, 0.9, 0.3])
prefs = nn.Parameter(torch.zeros(5))
opt = torch.optim.SGD([prefs], lr=0.3)
baseline = 0.0
for it in range(400):
    dist = torch.distributions.Categorical(logits=prefs)
    a = dist.sample((32,))
    r = (torch.rand(32) < arms[a]).float()
    loss = -(dist.log_prob(a) * (r - baseline)).mean()
    opt.zero_grad()
    loss.backward()
    opt.step()
    baseline = 0.9 * baseline + 0.1 * r.mean().item()
    if it % 80 == 0:
        print(it, r.mean().item())
print("metric: probability_of_best_arm", prefs.softmax(0)[3].item())
