import torch
from torch import nn
from torch.distributions import Categorical

torch.manual_seed(402)


class Maze:
    """A line of nine places: reward at the right end, a small cost for each step."""

    def __init__(self, n=16, size=9):
        self.n, self.size = n, size

    def reset(self):
        self.place = torch.randint(1, self.size - 2, (self.n,))
        return self.state()

    def state(self):
        return nn.functional.one_hot(self.place, self.size).float()

    def step(self, action):
        self.place = (self.place + 2 * action - 1).clamp(0, self.size - 1)
        return self.state(), (self.place == self.size - 1).float() - 0.05


policy = nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
env = Maze()
for episode in range(150):
    state, log_probs, rewards = env.reset(), [], []
    for _ in range(15):
        distribution = Categorical(logits=policy(state))
        action = distribution.sample()
        state, reward = env.step(action)
        log_probs.append(distribution.log_prob(action))
        rewards.append(reward)
    returns = torch.stack(rewards).flip(0).cumsum(0).flip(0)
    loss = -(torch.stack(log_probs) * (returns - returns.mean())).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if episode % 30 == 0:
        print(episode, "return", returns[0].mean().item())
print("return at the end (at most 11)", returns[0].mean().item())
