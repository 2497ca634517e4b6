import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(343)
CLASSES = 20
text = torch.randint(0, 40, (1200, 9))
label = text[:, 0] % CLASSES


class TextClassifier(nn.Module):
    def __init__(self, d=32):
        super().__init__()
        self.embed = nn.Embedding(40, d)
        self.position = nn.Parameter(torch.randn(1, 9, d) * 0.3)
        self.encoder = nn.TransformerEncoderLayer(d, 4, dim_feedforward=64, dropout=0.0, batch_first=True)
        self.fc = nn.Linear(d, CLASSES)

    def forward(self, tokens):
        h = self.encoder(self.embed(tokens) + self.position)
        return self.fc(h.mean(1))


model = TextClassifier()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(12):
    for i in range(0, 1000, 25):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(text[i : i + 25]), label[i : i + 25])
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("accuracy", (model(text[1000:]).argmax(1) == label[1000:]).float().mean().item())
