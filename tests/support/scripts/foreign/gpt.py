"""nanoGPT's train.py, by heart: the model computes its loss, a method of it builds the optimizer."""
# ruff: noqa

import inspect
import math
from contextlib import nullcontext
import torch
import torch.nn as nn
from torch.nn import functional as F

init_from = "scratch"
gradient_accumulation_steps = 2
max_iters = 4
eval_interval = 2
device = "cpu"


class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.ln, self.fc, self.proj = nn.LayerNorm(n), nn.Linear(n, 2 * n), nn.Linear(2 * n, n)

    def forward(self, x):
        return x + self.proj(F.gelu(self.fc(self.ln(x))))


class GPT(nn.Module):
    def __init__(self, vocab, n, layers):
        super().__init__()
        self.transformer = nn.ModuleDict(
            dict(
                wte=nn.Embedding(vocab, n),
                h=nn.ModuleList([Block(n) for _ in range(layers)]),
                ln_f=nn.LayerNorm(n),
            )
        )
        self.lm_head = nn.Linear(n, vocab, bias=False)
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            torch.nn.init.normal_(module.weight, mean=0.0, std=0.02)

    def forward(self, idx, targets=None):
        x = self.transformer.wte(idx)
        for block in self.transformer.h:
            x = block(x)
        x = self.transformer.ln_f(x)
        if targets is not None:
            logits = self.lm_head(x)
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
        else:
            logits = self.lm_head(x[:, [-1], :])
            loss = None
        return logits, loss

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        param_dict = {pn: p for pn, p in self.named_parameters() if p.requires_grad}
        decay = [p for p in param_dict.values() if p.dim() >= 2]
        nodecay = [p for p in param_dict.values() if p.dim() < 2]
        groups = [{"params": decay, "weight_decay": weight_decay}, {"params": nodecay, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)

    def estimate_mfu(self, fwdbwd_per_iter, dt):
        return 0.1


torch.manual_seed(1337)
ctx = nullcontext()


def get_batch(split):
    x = torch.randint(20, (4, 8))
    return x, (x + 1) % 20


if init_from == "scratch":
    print("Initializing a new model from scratch")
    model = GPT(20, 16, 3)
elif init_from == "resume":
    model = GPT(20, 16, 3)
    model.load_state_dict(torch.load("ckpt.pt")["model"])
model.to(device)
scaler = torch.amp.GradScaler("cpu", enabled=False)
optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), "cpu")
checkpoint = None


@torch.no_grad()
def estimate_loss():
    out = {}
    model.eval()
    for split in ["train", "val"]:
        losses = torch.zeros(2)
        for k in range(2):
            X, Y = get_batch(split)
            with ctx:
                logits, loss = model(X, Y)
            losses[k] = loss.item()
        out[split] = losses.mean()
    model.train()
    return out


def get_lr(it):
    return 6e-4 * (it + 1)


X, Y = get_batch("train")
iter_num = 0
raw_model = model
while True:
    lr = get_lr(iter_num)
    for param_group in optimizer.param_groups:
        param_group["lr"] = lr
    if iter_num % eval_interval == 0:
        losses = estimate_loss()
        print(f"step {iter_num}: train loss {losses['train']:.4f}")
    for micro_step in range(gradient_accumulation_steps):
        with ctx:
            logits, loss = model(X, Y)
            loss = loss / gradient_accumulation_steps
        X, Y = get_batch("train")
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    mfu = raw_model.estimate_mfu(1, 2)
    lossf = loss.item() * gradient_accumulation_steps
    iter_num += 1
    if iter_num > max_iters:
        break
