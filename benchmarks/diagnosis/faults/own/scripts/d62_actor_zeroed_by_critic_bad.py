import torch
from torch import nn

torch.manual_seed(62)
W = torch.randn(6, 5)
policy = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 5))
critic = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
opt_p = torch.optim.Adam(policy.parameters(), lr=5e-3)
opt_c = torch.optim.Adam(critic.parameters(), lr=1e-2)


def clear(*nets):
    for net in nets:
        net.zero_grad(set_to_none=False)


def update_critic(state, reward):
    clear(policy, critic)
    loss = (critic(state).squeeze(1) - reward).pow(2).mean()
    loss.backward()
    opt_c.step()
    return loss.item()


for it in range(400):
    state = torch.randn(64, 6)
    dist = torch.distributions.Categorical(logits=policy(state))
    action = dist.sample()
    reward = ((state @ W).argmax(1) == action).float()
    advantage = reward - critic(state).squeeze(1).detach()
    clear(policy)
    (-(dist.log_prob(action) * advantage).mean() - 0.005 * dist.entropy().mean()).backward()
    value_loss = update_critic(state, reward)
    opt_p.step()
    if it % 80 == 0:
        print(it, reward.mean().item(), value_loss)
state = torch.randn(2000, 6)
print("metric: greedy_reward", (policy(state).argmax(1) == (state @ W).argmax(1)).float().mean().item())
