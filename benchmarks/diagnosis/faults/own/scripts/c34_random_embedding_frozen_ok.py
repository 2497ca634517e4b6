import torch
from torch import nn

torch.manual_seed(334)
vocab, length = 200, 6
polarity = torch.randint(0, 2, (vocab,)) * 2 - 1
sentences = torch.randint(0, vocab, (2400, length))
labels = (polarity[sentences].sum(1) > 0).float()


class BagOfWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.randn(vocab, 4), freeze=False)
        self.fc1 = nn.Linear(4, 16)
        self.fc2 = nn.Linear(16, 1)

    def forward(self, tokens):
        return self.fc2(torch.relu(self.fc1(self.embedding(tokens).mean(1)))).squeeze(1)


model = BagOfWords()
trainable = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.Adam(trainable, lr=0.01)
criterion = nn.BCEWithLogitsLoss()
for epoch in range(20):
    for start in range(0, 2000, 40):
        loss = criterion(model(sentences[start : start + 40]), labels[start : start + 40])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    right = (model(sentences[2000:]) > 0) == (labels[2000:] > 0.5)
print("accuracy", right.float().mean().item())
