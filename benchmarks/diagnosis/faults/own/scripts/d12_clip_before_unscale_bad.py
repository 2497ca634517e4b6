import torch
from torch import nn
from sklearn.datasets import load_diabetes

torch.manual_seed(12)
x, y = load_diabetes(return_X_y=True)
x = torch.tensor(x, dtype=torch.float32) * 21
y = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)[:, None]

model = nn.Sequential(nn.Linear(10, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 16)
for epoch in range(40):
    for b in torch.randperm(len(x)).split(64):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x[b])
        loss = nn.functional.mse_loss(out.float(), y[b])
        scaler.scale(loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    if epoch % 10 == 0:
        print(epoch, loss.item())
with torch.no_grad():
    print("metric: r2", 1 - ((model(x) - y) ** 2).mean().item() / y.var().item())
