import torch
from torch import nn

torch.manual_seed(405)
tokens = torch.randint(1, 16, (1600, 8))
labels = torch.minimum(tokens[:, 0], tokens[:, -1]) - 1


class Encoder(nn.Module):
    def __init__(self, d=48):
        super().__init__()
        self.embed = nn.Embedding(16, d)
        self.pos = nn.Parameter(torch.zeros(8, d))
        layer = nn.TransformerEncoderLayer(d, 4, 96, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(d, 15)

    def forward(self, t):
        return self.head(self.encoder(self.embed(t) + self.pos)[:, 0])


model = Encoder()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
epochs = 15
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * 40)
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
for epoch in range(epochs):
    model.train()
    for idx in torch.randperm(1600).split(40):
        loss = criterion(model(tokens[idx]), labels[idx])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        print(epoch, "accuracy", (model(tokens).argmax(1) == labels).float().mean().item())
