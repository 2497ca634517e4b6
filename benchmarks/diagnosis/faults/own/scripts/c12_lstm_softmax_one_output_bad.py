import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(312)
VOCAB, LENGTH = 30, 12
positive = torch.arange(5)
tokens = torch.randint(0, VOCAB, (1500, LENGTH))
labels = (torch.isin(tokens, positive).sum(1) >= 2).float()


class SentimentLSTM(nn.Module):
    def __init__(self, embedding_dim=16, hidden_dim=24):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, embedding_dim)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, batch_first=True)
        self.fc = nn.Linear(hidden_dim, 1)

    def forward(self, text):
        output, (hidden, cell) = self.lstm(self.embedding(text))
        score = self.fc(hidden.squeeze(0))
        return F.softmax(score, dim=1).squeeze(1)


model = SentimentLSTM()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
criterion = nn.BCELoss()
for epoch in range(8):
    for start in range(0, 1200, 30):
        predictions = model(tokens[start : start + 30])
        loss = criterion(predictions, labels[start : start + 30])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print(f"Epoch {epoch + 1}, loss {loss.item():.4f}")
with torch.no_grad():
    said, truth = model(tokens[1200:]) > 0.5, labels[1200:] > 0.5
print("balanced accuracy", ((said & truth).sum() / truth.sum() + (~said & ~truth).sum() / (~truth).sum()).item() / 2)
