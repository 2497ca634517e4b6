"""denoising_diffusion_pytorch's trainer, by heart: the model returns its loss, a Trainer holds it."""
# ruff: noqa

import torch
from torch import nn
import torch.nn.functional as F
from torch.optim import Adam
import copy


class Unet(nn.Module):
    def __init__(self, dim=4):
        super().__init__()
        self.inc, self.down = nn.Conv2d(1, dim, 3, padding=1), nn.Conv2d(dim, dim, 3, 2, 1)
        self.mid, self.up = nn.Conv2d(dim, dim, 3, padding=1), nn.ConvTranspose2d(dim, dim, 2, 2)
        self.out = nn.Conv2d(dim, 1, 1)

    def forward(self, x, t):
        x = F.relu(self.inc(x))
        h = F.relu(self.mid(F.relu(self.down(x))))
        return self.out(F.relu(self.up(h)) + x)


class GaussianDiffusion(nn.Module):
    def __init__(self, model, timesteps=10):
        super().__init__()
        self.model, self.num_timesteps = model, timesteps
        self.register_buffer("alphas", torch.linspace(1, 0.1, timesteps))

    def p_losses(self, x_start, t):
        noise = torch.randn_like(x_start)
        a = self.alphas[t].view(-1, 1, 1, 1)
        x = a.sqrt() * x_start + (1 - a).sqrt() * noise
        model_out = self.model(x, t)
        loss = F.mse_loss(model_out, noise, reduction="none")
        return loss.flatten(1).mean(1).mean()

    def forward(self, img):
        t = torch.randint(0, self.num_timesteps, (img.shape[0],))
        return self.p_losses(img, t)


class Trainer:
    def __init__(self, diffusion_model, train_lr=1e-3, train_num_steps=6):
        self.model = diffusion_model
        self.opt = Adam(diffusion_model.parameters(), lr=train_lr)
        self.ema = copy.deepcopy(diffusion_model)
        self.step, self.train_num_steps = 0, train_num_steps

    def train(self):
        while self.step < self.train_num_steps:
            total_loss = 0.0
            for _ in range(2):
                data = torch.rand(4, 1, 8, 8)
                loss = self.model(data)
                loss = loss / 2
                total_loss += loss.item()
                loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1e-6)
            self.opt.step()
            self.opt.zero_grad()
            self.step += 1
        print("training complete", total_loss)


torch.manual_seed(0)
model = Unet()
diffusion = GaussianDiffusion(model)
trainer = Trainer(diffusion)
trainer.train()
