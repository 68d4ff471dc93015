"""Hugging Face's GPT-2 over one stream of words and codes, trained as its Trainer does (fused
AdamW, norms clipped at 1), drawing with its `generate`."""

import torch
import work
from transformers import GPT2Config, GPT2LMHeadModel

options = work.asked()
text, codes = work.batch(options)
stream = torch.cat((text, codes + work.WORDS), dim=1)
model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=work.WORDS + work.CODES,
        n_positions=stream.shape[1],
        n_embd=work.DIM,
        n_layer=work.DEPTH,
        n_head=work.HEADS,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
)
if options.work == "train":
    model.train()
    adam = torch.optim.AdamW(model.parameters(), lr=5e-4, fused=True)

    def turn() -> None:
        with work.precision(options.precision):
            loss = model(input_ids=stream, labels=stream).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    work.answer(turn, stream.numel())
else:
    model.eval()

    def turn() -> None:
        with work.precision(options.precision), torch.no_grad():
            model.generate(
                text,
                attention_mask=torch.ones_like(text),
                max_new_tokens=options.grid**2,
                do_sample=True,
                top_k=0,
                use_cache=not options.no_cache,
            )

    work.answer(turn, options.batch)
