"""Run by benchmarks/photos.py in the baselines' environment: a diffusion model of pixels that knows
classes, diffusers' UNet2DModel (cosine schedule, velocities, mirrored pictures, averaged weights;
drawn in DDIM steps with guidance).

    python diffusion.py PICTURES.npz MINUTES --out FOLDER [--widths 32 64 128]
"""

import argparse

import drawing
import rebuilding
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional as F

CHANNELS_LAST = torch.channels_last
DROPPED = 0.1  # classes, so that there can be guidance
WARMUP = 0.05  # of the run; then the rate falls to 0 in a line
TIMES, DRAWN_IN = 1000, 50  # steps
AVERAGED = 0.999  # at most: diffusers begins with less, and has 0.9965 after 2,500 steps
NOISING = {
    "num_train_timesteps": TIMES,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
}


def build(px: int, classes: int, widths: list[int]) -> UNet2DModel:
    """With attention where a map has at most 16 x 16 places. One class more: none."""
    seen = [px >> level <= 16 for level in range(len(widths))]
    model = UNet2DModel(
        sample_size=px,
        block_out_channels=tuple(widths),
        down_block_types=tuple("AttnDownBlock2D" if near else "DownBlock2D" for near in seen),
        up_block_types=tuple("AttnUpBlock2D" if near else "UpBlock2D" for near in seen[::-1]),
        attention_head_dim=32,
        norm_num_groups=min(32, min(widths) // 4),
        num_class_embeds=classes + 1,
    )
    return model.eval().to(memory_format=CHANNELS_LAST)  # in training mode it leaves that format


def learn(
    model: UNet2DModel, pictures: Tensor, classes: Tensor, options: argparse.Namespace
) -> None:
    """From pictures, uint8 (B, 3, P, P), and their classes (B,)."""
    noise, none = DDPMScheduler(**NOISING), model.config.num_class_embeds - 1
    adam = torch.optim.AdamW(model.parameters(), lr=options.rate)
    average = EMAModel(model.parameters(), decay=AVERAGED)

    def turn(rows: Tensor, over: float) -> Tensor:
        for group in adam.param_groups:
            group["lr"] = options.rate * min(over / WARMUP + 1e-3, (1 - over) / (1 - WARMUP))
        clean = pictures[rows].float() / 127.5 - 1
        mirrored = torch.rand(len(rows), 1, 1, 1) < 0.5
        clean = torch.where(mirrored, clean.flip(-1), clean)
        times, chance = torch.randint(TIMES, (len(rows),)), torch.randn_like(clean)
        dirty = noise.add_noise(clean, chance, times).contiguous(memory_format=CHANNELS_LAST)
        told = torch.where(torch.rand(len(rows)) < DROPPED, none, classes[rows])
        with drawing.precision():
            found = model(dirty, times, class_labels=told).sample.float()
        loss = F.mse_loss(found, noise.get_velocity(clean, chance, times))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        average.step(model.parameters())
        return loss

    drawing.learn(turn, len(pictures), options.minutes, options)
    average.copy_to(model.parameters())


def picture(model: UNet2DModel, classes: Tensor, options: argparse.Namespace) -> Tensor:
    """One picture of each class (B,), -1 to 1 (B, 3, P, P)."""
    scheduler = DDIMScheduler(**NOISING, timestep_spacing="trailing")
    scheduler.set_timesteps(DRAWN_IN)
    nothing = torch.full_like(classes, model.config.num_class_embeds - 1)
    x = torch.randn(len(classes), 3, model.config.sample_size, model.config.sample_size)
    for time in scheduler.timesteps:
        both = x.repeat(2, 1, 1, 1).contiguous(memory_format=CHANNELS_LAST)
        found = model(both, time, class_labels=torch.cat((classes, nothing))).sample.float()
        said, alone = found.chunk(2)
        velocity = alone + (said - alone) * options.guidance
        x = scheduler.step(velocity, time, x, use_clipped_model_output=True).prev_sample
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    options = drawing.asked(parser, rate=1e-3, guidance=2)
    data = drawing.load(options.pictures)
    pictures, classes = data["train"], data["train_classes"]
    torch.manual_seed(options.seed)
    model = build(pictures.shape[-1], int(classes.max()) + 1, options.widths)
    rebuilding.say(parameters=sum(p.numel() for p in model.parameters()))
    drawing.trained(model, options.out, lambda: learn(model, pictures, classes, options))
    drawing.draw(lambda part: picture(model, part, options), data["holdout_classes"], options)


if __name__ == "__main__":
    main()
