import torch
from torch import nn

torch.manual_seed(6)
online = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
target = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
target.load_state_dict(online.state_dict())
optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
for step in range(400):
    state, action = torch.randn(64, 4), torch.randint(0, 2, (64, 1))
    reward = (state[:, :1] > 0).float() * (action * 2 - 1)
    following = state + 0.1 * torch.randn(64, 4)
    with torch.no_grad():
        wanted = reward + 0.9 * target(following).amax(1, keepdim=True)
    loss = nn.functional.smooth_l1_loss(online(state).gather(1, action), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 49:
        target.load_state_dict(online.state_dict())
