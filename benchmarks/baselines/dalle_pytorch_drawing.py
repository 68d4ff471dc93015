"""Run by benchmarks/photos.py in the baselines' environment: DALLE-pytorch's whole chain. Its dVAE
learns as its train_vae.py does, for a share of the minutes, then its transformer as its
train_dalle.py does (Adam, norms clipped at 0.5), at our shape, our batch and with mirrored
pictures, too. It draws with guidance, which its own loop forgets after the first code (it clears
the captions that it goes on with).

    python dalle_pytorch_drawing.py PICTURES.npz MINUTES --out FOLDER [--kept 0.1]
"""

import argparse

import dalle_pytorch_vae as dvae
import drawing
import rebuilding
import torch
from dalle_pytorch_import import DALLE
from torch import Tensor, nn

DIM, DEPTH, HEADS = 192, 4, 4  # those of preset scenes
DROPPED = 0.2  # captions, so that there can be guidance: as in its README


def transformer(data: dict[str, Tensor], vae: nn.Module) -> DALLE:
    return DALLE(
        dim=DIM,
        vae=vae,
        num_text_tokens=1 + int(max(data[f"{side}_words"].max() for side in ("train", "holdout"))),
        text_seq_len=data["train_words"].shape[1],
        depth=DEPTH,
        heads=HEADS,
        dim_head=DIM // HEADS,
    )


def learn(model: DALLE, codes: Tensor, text: Tensor, options: argparse.Namespace) -> None:
    """From codes (views, B, N) and captions (B, T)."""
    weights = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.Adam(weights, lr=options.rate)

    def turn(rows: Tensor, over: float) -> Tensor:
        views = torch.randint(len(codes), (len(rows),))
        with drawing.precision():
            shown = codes[views, rows]
            loss = model(text[rows], shown, return_loss=True, null_cond_prob=DROPPED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 0.5)
        adam.step()
        adam.zero_grad()
        return loss

    drawing.learn(turn, len(text), options.minutes * (1 - options.share), options)


def picture(model: DALLE, text: Tensor, options: argparse.Namespace) -> Tensor:
    """One picture for each caption (B, T), -1 to 1 (B, 3, P, P)."""
    codes = torch.zeros(len(text), 0, dtype=torch.long)
    for _ in range(options.grid**2):
        said = model(text.clone(), codes)[:, -1]  # which are cleared where they are left out
        alone = model(text.clone(), codes, null_cond_prob=1.0)[:, -1]
        logits = (alone + (said - alone) * options.guidance)[:, model.num_text_tokens :].float()
        least = logits.topk(max(int(options.kept * logits.shape[1]), 1)).values[:, -1:]
        chances = logits.masked_fill(logits < least, -torch.inf).softmax(1)
        codes = torch.cat((codes, chances.multinomial(1)), dim=1)
    return model.vae.decode(codes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=float, default=0.1, help="of the codes: as its generate.py")
    options = drawing.asked(parser, rate=3e-4, guidance=3)
    data = drawing.load(options.pictures)
    arrays = {side: data[side].numpy() for side in ("train", "holdout")}
    vae = dvae.build(arrays["train"].shape[-1], options.grid, hidden=256, blocks=2)
    parts = argparse.Namespace(**{**vars(options), "minutes": options.minutes * options.share})
    coder = dvae.Coder(vae)

    def learn_vae() -> None:
        vae.load_state_dict(dvae.train(arrays, parts).state_dict())

    drawing.trained(vae, options.out, learn_vae)
    codes_of = (coder.encode, coder.decode)
    rebuilding.say(**rebuilding.answer(*codes_of, dvae.CODES, arrays["holdout"], options.out))
    torch.manual_seed(options.seed)
    model = transformer(data, vae)

    def learn_transformer() -> None:
        with torch.no_grad():
            views = (data["train"], data["train"].flip(-1))
            codes = [torch.cat([coder.encode(part) for part in view.split(250)]) for view in views]
        learn(model, torch.stack(codes), data["train_words"], options)

    drawing.trained(model, options.out, learn_transformer)
    drawing.draw(lambda text: picture(model, text, options), data["holdout_words"], options)


if __name__ == "__main__":
    main()
