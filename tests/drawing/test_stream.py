"""The stream: codes as they are decided, which everything that draws is made of."""

import numpy as np
import pytest
import torch

from dallebaby_cli.config import SampleConfig
from dallebaby_cli.drawing.sampler import Drawing, Sampler, first_rows
from dallebaby_cli.models import device as devices
from dallebaby_cli.models.transformer import Transformer

PROMPTS = ["a red car", "a blue house left of a green tree", ""]
SEEDS = [3, 4, 5]


@pytest.mark.parametrize("rows", [0, 2])
def test_each_moment_decides_codes_and_changes_none(sampler: Sampler, rows: int) -> None:
    kept = first_rows(torch.arange(4 * rows).view(rows, 4)) if rows else None
    config = SampleConfig(batch_size=2)
    moments = list(sampler.stream(PROMPTS, SEEDS, config, kept))
    end = sampler.draw(PROMPTS, SEEDS, config, kept)
    for first, size in ((0, 2), (2, 1)):
        batch = [moment for moment in moments if moment.first == first]
        assert [moment.count for moment in batch] == list(range(4 * rows, 17))
        assert [moment.finished for moment in batch] == [False] * (len(batch) - 1) + [True]
        for moment in batch:
            assert moment.codes.shape == moment.known.shape == (size, 4, 4)
            assert (moment.known.flatten(1).sum(1) == moment.count).all()
            now = torch.where(moment.known, end[first : first + size], 0)
            assert torch.equal(moment.codes, now), "later moments leave it as it is"
        assert batch[0].done == first + size * rows / 4 and batch[-1].done == first + size


def test_painted_moments_come_to_the_finished_picture(sampler: Sampler) -> None:
    moments = list(sampler.stream(PROMPTS, SEEDS, SampleConfig()))
    pictures = [sampler.paint(moment.codes, moment.known) for moment in moments]
    assert len(np.unique(pictures[0])) == 1
    whole = sampler.generate(PROMPTS, seed=SEEDS[0])
    assert np.array_equal(pictures[-1], whole)
    assert not np.array_equal(pictures[-2], whole)


def test_a_sketch_shows_every_moment_of_all_candidates(sampler: Sampler) -> None:
    seen: list[Drawing] = []
    config = SampleConfig(batch_size=4)
    sketch = sampler.sketch(PROMPTS[:2], 3, 7, config, best=1, watch=seen.append)
    done = [moment.done for moment in seen]
    assert done == sorted(done) and done[0] == 0 and done[-1] == 6
    assert len({d for d in done if 0 < d < 4}) == 15, "it moves within a batch"
    drawn = torch.cat([moment.codes for moment in seen if moment.finished])
    assert torch.equal(sketch.codes, drawn[[seed - 7 for seed in sketch.seeds]])


def test_nothing_is_done_after_a_stream_is_closed(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    decode_one = Transformer.decode_one

    def counted(model: Transformer, number: torch.Tensor, *more: object) -> torch.Tensor:
        read.append(int(number))
        return decode_one(model, number, *more)

    monkeypatch.setattr(Transformer, "decode_one", counted)
    stream = sampler.stream(PROMPTS, SEEDS, SampleConfig(batch_size=2))
    for moment in stream:
        if moment.count == 3:
            break
    assert read == [0, 1], "work is done when it is asked for"
    stream.close()
    assert list(stream) == [] and read == [0, 1]


def test_who_reads_the_stream_computes_as_before(
    sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "native_bf16", lambda device: True)
    for _ in sampler.stream(PROMPTS, SEEDS, SampleConfig()):
        assert not torch.is_autocast_enabled("cpu") and not torch.is_inference_mode_enabled()


def test_two_streams_at_a_time_do_not_mix(sampler: Sampler) -> None:
    both = [sampler.stream([p], [s], SampleConfig()) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    *_, ends = zip(*both, strict=True)
    together = sampler.draw(PROMPTS, SEEDS, SampleConfig())
    assert torch.equal(torch.cat([end.codes for end in ends]), together)
