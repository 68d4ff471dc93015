"""DALLE-pytorch's transformer with the settings of its train_dalle.py (Adam, norms clipped at 0.5,
rotary positions, shifted tokens). Its dVAE is as small as can be: painting hardly counts."""

import torch
import work
from dalle_pytorch_import import DALLE, DiscreteVAE

options = work.asked()
vae = DiscreteVAE(
    image_size=64,
    num_tokens=work.CODES,
    codebook_dim=8,
    num_layers=(64 // options.grid).bit_length() - 1,
    hidden_dim=8,
)
model = DALLE(
    dim=work.DIM,
    vae=vae,
    num_text_tokens=work.WORDS,
    text_seq_len=work.TEXT,
    depth=work.DEPTH,
    heads=work.HEADS,
    dim_head=work.DIM // work.HEADS,
)
text, codes = work.batch(options)
if options.work == "train":
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-4)

    def turn() -> None:
        with work.precision(options.precision):
            loss = model(text, codes, return_loss=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        adam.step()
        adam.zero_grad()

    work.answer(turn, options.batch * (work.TEXT + options.grid**2))
else:

    def turn() -> None:
        with work.precision(options.precision):
            model.generate_images(
                text.clone(), cond_scale=options.guidance, use_cache=not options.no_cache
            )

    work.answer(turn, options.batch)
