import torch
from torch import nn

torch.manual_seed(351)
alphabet = 12
sequences = torch.randint(0, alphabet, (1500, 8))
answers = sequences[:, 2]


class Recall(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(alphabet, 16)
        self.lstm = nn.LSTM(16, 48, num_layers=2, batch_first=True)
        self.out = nn.Linear(48, alphabet)

    def forward(self, s):
        h, _ = self.lstm(self.emb(s))
        return self.out(h[:, -1])


model = Recall()
optimizer = torch.optim.Adam(model.parameters(), lr=0.008)
criterion = nn.NLLLoss()
for epoch in range(14):
    for i in range(0, 1500, 50):
        log_p = torch.log_softmax(model(sequences[i : i + 50]), 1)
        loss = criterion(log_p, answers[i : i + 50])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(epoch, loss.item())
with torch.no_grad():
    print("accuracy", (model(sequences).argmax(1) == answers).float().mean().item())
