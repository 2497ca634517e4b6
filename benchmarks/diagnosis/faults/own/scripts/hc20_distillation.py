import torch
from torch import nn
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

torch.manual_seed(420)
digits = load_digits()
x, y = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
fitted = LogisticRegression(max_iter=500).fit(digits.data / 16, digits.target)
teacher = nn.Linear(64, 10)
teacher.weight.data = torch.tensor(fitted.coef_, dtype=torch.float32)
teacher.bias.data = torch.tensor(fitted.intercept_, dtype=torch.float32)
teacher.eval()
student = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
optimizer = torch.optim.Adam(student.parameters(), lr=0.005)
T, alpha = 3.0, 0.7
kl = nn.KLDivLoss(reduction="batchmean")
for epoch in range(8):
    for idx in torch.randperm(len(x)).split(40):
        with torch.no_grad():
            soft = torch.softmax(teacher(x[idx]) / T, 1)
        logits = student(x[idx])
        loss = alpha * T * T * kl(torch.log_softmax(logits / T, 1), soft)
        loss = loss + (1 - alpha) * nn.functional.cross_entropy(logits, y[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
print("accuracy", (student(x).argmax(1) == y).float().mean().item())
