"""Run by benchmarks/photos.py in the baselines' environment: DALLE-pytorch's whole chain. Its dVAE
learns as its train_vae.py does, for a share of the minutes, then its transformer as its
train_dalle.py does (Adam, norms clipped at 0.5), at our shape and batch; it draws with guidance,
which its own loop forgets after the first code (it clears the captions that it goes on with).

    python dalle_pytorch_drawing.py PICTURES.npz MINUTES --out FOLDER
"""

import argparse

import dalle_pytorch_vae as dvae
import drawing
import rebuilding
import torch
from dalle_pytorch_import import DALLE
from torch import Tensor

DIM, DEPTH, HEADS = 256, 6, 4  # those of preset scenes
DROPPED = 0.2  # captions, so that there can be guidance: as in its README
KEPT = 0.5  # share of the logits that may be drawn: its default


def transformer(data: dict[str, Tensor], vae: torch.nn.Module) -> DALLE:
    return DALLE(
        dim=DIM,
        vae=vae,
        num_text_tokens=1 + int(data["train_words"].max()),
        text_seq_len=data["train_words"].shape[1],
        depth=DEPTH,
        heads=HEADS,
        dim_head=DIM // HEADS,
    )


def picture(model: DALLE, text: Tensor, options: argparse.Namespace) -> Tensor:
    """One picture for each caption (B, T), -1 to 1 (B, 3, P, P)."""
    codes = torch.zeros(len(text), 0, dtype=torch.long)
    for _ in range(options.grid**2):
        said = model(text.clone(), codes)[:, -1]
        alone = model(text.clone(), codes, null_cond_prob=1.0)[:, -1]
        logits = (alone + (said - alone) * options.guidance)[:, model.num_text_tokens :]
        least = logits.topk(max(int(KEPT * logits.shape[1]), 1)).values[:, -1:]
        chances = logits.masked_fill(logits < least, -torch.inf).softmax(1)
        codes = torch.cat((codes, chances.multinomial(1)), dim=1)
    return model.vae.decode(codes)


def main() -> None:
    options = drawing.asked(argparse.ArgumentParser(description=__doc__))
    data = drawing.load(options.pictures)
    arrays = {side: data[side].numpy() for side in ("train", "holdout")}
    parts = argparse.Namespace(**{**vars(options), "minutes": options.minutes * options.share})
    vae = dvae.train(arrays, parts)
    coder = dvae.Coder(vae.eval())
    codes_of = (coder.encode, coder.decode)
    rebuilding.say(**rebuilding.answer(*codes_of, dvae.CODES, arrays["holdout"], options.out))
    with torch.inference_mode():
        codes = torch.cat([coder.encode(part) for part in data["train"].split(250)]).clone()

    torch.manual_seed(options.seed)
    model = transformer(data, vae)
    weights = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.Adam(weights, lr=options.rate)

    def turn(rows: Tensor, over: float) -> Tensor:
        text = data["train_words"][rows]
        loss = model(text, codes[rows], return_loss=True, null_cond_prob=DROPPED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 0.5)
        adam.step()
        adam.zero_grad()
        return loss

    minutes = options.minutes * (1 - options.share)
    steps, seconds = drawing.learn(turn, len(codes), minutes, options)
    rebuilding.say(train_steps=steps, train_seconds=seconds)
    model.eval()
    drawing.draw(lambda text: picture(model, text, options), data["holdout_words"], options)


if __name__ == "__main__":
    main()
