import random
import torch
from torch import nn

random.seed(0)
torch.manual_seed(354)
SIZE, GAMMA = 8, 0.9


def step(place, action):
    place = max(0, min(SIZE - 1, place + (1 if action else -1)))
    done = place == SIZE - 1
    return place, (1.0 if done else -0.1), done


encode = lambda places: nn.functional.one_hot(torch.as_tensor(places), SIZE).float()
q_net = nn.Sequential(nn.Linear(SIZE, 32), nn.ReLU(), nn.Linear(32, 2))
target_net = nn.Sequential(nn.Linear(SIZE, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(q_net.parameters(), lr=0.005)
memory = []
for episode in range(60):
    place = random.randrange(SIZE - 1)
    for _ in range(20):
        action = random.randrange(2)
        after, reward, done = step(place, action)
        memory.append((place, action, reward, after, float(done)))
        place = after
        if len(memory) >= 64:
            s, a, r, s2, d = (torch.tensor(column) for column in zip(*random.sample(memory, 32)))
            q = q_net(encode(s)).gather(1, a.unsqueeze(1))
            with torch.no_grad():
                target = r.unsqueeze(1) + GAMMA * target_net(encode(s2)).max(1, keepdim=True)[0] * (1 - d.unsqueeze(1))
            loss = ((q - target) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if done:
            break
    if episode % 5 == 0:
        target_net.load_state_dict(q_net.state_dict())
right = q_net(encode(list(range(SIZE - 1))))
truth = torch.tensor([GAMMA ** (SIZE - 2 - p) - 0.1 * sum(GAMMA**k for k in range(SIZE - 2 - p)) for p in range(SIZE - 1)])
print("R2 of Q", 1 - (((right[:, 1] - truth) ** 2).mean() / truth.var()).item())
