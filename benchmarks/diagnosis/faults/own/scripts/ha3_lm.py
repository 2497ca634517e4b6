import torch
from torch import nn

torch.manual_seed(3)
text = "to be or not to be that is the question whether tis nobler in the mind to suffer " * 20
letters = sorted(set(text))
data = torch.tensor([letters.index(c) for c in text])


class Lm(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.embed, self.position = nn.Embedding(len(letters), width), nn.Embedding(16, width)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True, norm_first=True), 2)
        self.head = nn.Linear(width, len(letters))

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.encoder(self.embed(x) + self.position(torch.arange(x.shape[1])), mask=mask))


model = Lm()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(300):
    start = torch.randint(0, len(data) - 17, (16,))
    batch = torch.stack([data[s : s + 17] for s in start])
    loss = nn.functional.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
