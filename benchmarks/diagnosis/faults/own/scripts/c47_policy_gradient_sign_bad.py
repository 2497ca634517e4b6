import torch
from torch import nn
from torch.distributions import Categorical

torch.manual_seed(348)


def play(policy, n=32, size=7, steps=12):
    """A walk on a line: start in the middle, reward at the right end."""
    place = torch.full((n,), size // 2)
    log_probs, rewards = [], []
    for _ in range(steps):
        state = nn.functional.one_hot(place, size).float()
        choice = Categorical(logits=policy(state))
        action = choice.sample()
        log_probs.append(choice.log_prob(action))
        place = (place + 2 * action - 1).clamp(0, size - 1)
        rewards.append((place == size - 1).float() - (place == 0).float())
    return torch.stack(log_probs), torch.stack(rewards)


policy = nn.Sequential(nn.Linear(7, 32), nn.Tanh(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
for episode in range(200):
    log_probs, rewards = play(policy)
    returns = rewards.flip(0).cumsum(0).flip(0)
    advantage = (returns - returns.mean()) / (returns.std() + 1e-6)
    loss = (log_probs * advantage).sum(0).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if episode % 40 == 0:
        print(episode, "reward", rewards.sum(0).mean().item())
with torch.no_grad():
    print("mean reward of a step", play(policy, 500)[1].mean().item())
