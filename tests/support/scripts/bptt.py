"""An RNN language model by truncated backpropagation: the state goes on, its graph does not."""

import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.rnn, self.decoder = nn.Embedding(7, 5), nn.LSTM(5, 6), nn.Linear(6, 7)

    def forward(self, tokens, state):
        output, state = self.rnn(self.embedding(tokens), state)
        return self.decoder(output), state


def build():
    torch.manual_seed(0)
    return Model().double()


def text():
    return torch.randint(7, (16, 3), generator=torch.Generator().manual_seed(3))


if __name__ == "__main__":
    model, tokens, state = build(), text(), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = nn.CrossEntropyLoss()
    for start in range(0, 12, 4):
        if state is not None:
            state = tuple(part.detach() for part in state)
        model.zero_grad()
        output, state = model(tokens[start : start + 4], state)
        loss = criterion(output.view(-1, 7), tokens[start + 1 : start + 5].view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
