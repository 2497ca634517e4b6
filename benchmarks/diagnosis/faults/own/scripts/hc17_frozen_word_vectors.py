import torch
from torch import nn

torch.manual_seed(417)
vocab, d = 100, 16
topic = torch.arange(vocab) % 4
centres = torch.randn(4, d)
vectors = centres[topic] + 0.4 * torch.randn(vocab, d)
texts = torch.randint(0, vocab, (1500, 10))
main_topic = nn.functional.one_hot(topic[texts], 4).sum(1).argmax(1)


class TextGRU(nn.Module):
    def __init__(self, vectors):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(vectors, freeze=True)
        self.gru = nn.GRU(d, 24, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(48, 4)

    def forward(self, x):
        h, _ = self.gru(self.embedding(x))
        return self.fc(h.max(dim=1).values)


model = TextGRU(vectors)
optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
for epoch in range(8):
    for idx in torch.randperm(1500).split(50):
        loss = nn.functional.cross_entropy(model(texts[idx]), main_topic[idx])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("accuracy", (model(texts).argmax(1) == main_topic).float().mean().item())
