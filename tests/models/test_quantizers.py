"""Each quantizer against its paper's equations, written out anew, and against the library
`vector-quantize-pytorch`; codes and vectors there and back; what keeps a codebook alive."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import vector_quantize_pytorch as library
from conftest import same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, multiprocessing
from torch.nn import functional as F

from dallebaby_cli.config import DVAEConfig
from dallebaby_cli.models.tokenizers import quantizers
from dallebaby_cli.models.tokenizers.quantizers import FSQ, VQ, Gumbel, GumbelVQ, cooled

LEVELS = st.lists(st.integers(2, 9), min_size=1, max_size=5).map(tuple)
ANY = pytest.mark.parametrize("name", ["fsq", "vq", "gumbel", "gumbel-free"])
CODES = 1000


def build(name: str) -> FSQ | VQ | GumbelVQ | Gumbel:
    """A quantizer with as many codes as each other."""
    torch.manual_seed(0)
    return quantizers.build(DVAEConfig(quantizer=name, codebook=CODES))  # type: ignore[arg-type]


def features_of(quantizer: FSQ | VQ | GumbelVQ | Gumbel, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(2, quantizer.features, 4, 4, generator=generator)


# ---------------------------------------------------------------- all of them


@ANY
@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_what_was_quantized_is_what_is_looked_up(name: str, seed: int) -> None:
    quantizer = build(name).eval()
    vectors, codes, _ = quantizer(features_of(quantizer, seed))
    assert vectors.shape == (2, quantizer.channels, 4, 4) and vectors.dtype == torch.float32
    assert codes.shape == (2, 4, 4) and codes.min() >= 0 and codes.max() < quantizer.codes == CODES
    torch.testing.assert_close(quantizer.lookup(codes), vectors, atol=1e-6, rtol=0)


@ANY
def test_every_code_can_be_reached(name: str) -> None:
    quantizer = build(name).eval()
    codes = torch.randperm(CODES).view(1, 25, 40)
    if name == "gumbel-free":
        features = F.one_hot(codes, CODES).movedim(-1, 1).float()
    elif name == "fsq":
        assert isinstance(quantizer, FSQ)
        half = (quantizer.levels - 1).view(1, -1, 1, 1) * (1 + 1e-3) / 2
        offset = (quantizer.levels % 2 == 0).view(1, -1, 1, 1) * 0.5
        steps = quantizer.lookup(codes) * (quantizer.levels // 2).view(1, -1, 1, 1)
        features = torch.atanh((steps + offset) / half) - torch.atanh(offset / half)
    else:
        features = 3 * quantizer.lookup(codes)  # any length
    assert torch.equal(quantizer(features).codes, codes)


@ANY
def test_the_precision_around_it_changes_nothing(name: str) -> None:
    model = build(name).eval()
    features = features_of(model)
    assert torch.equal(model(features.bfloat16()).codes, model(features.bfloat16().float()).codes)
    assert model(features.bfloat16()).vectors.dtype == torch.float32


@ANY
def test_gradients_reach_the_features_and_the_codebook(name: str) -> None:
    quantizer = build(name).train()
    features = features_of(quantizer).requires_grad_()
    vectors, _, loss = quantizer(features, 0.0)
    (vectors.square().sum() + vectors.sum() + loss).backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    for parameter in quantizer.parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0


# ---------------------------------------------------------------- finite scalar quantization


@given(LEVELS)
@settings(deadline=None, max_examples=30)
def test_fsq_codes_and_vectors_are_one_to_one(levels: tuple[int, ...]) -> None:
    fsq = FSQ(levels)
    codes = torch.arange(fsq.codes).view(1, 1, -1)
    vectors = fsq.lookup(codes)
    assert vectors.unique(dim=-1).shape == vectors.shape
    assert vectors.min() >= -1 and vectors.max() <= 1
    for channel, level in enumerate(levels):
        assert len(vectors[:, channel].unique()) == level


@given(LEVELS, st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_fsq_looks_up_what_it_quantized(levels: tuple[int, ...], seed: int) -> None:
    fsq = FSQ(levels)
    generator = torch.Generator().manual_seed(seed)
    features = 4 * torch.randn(2, len(levels), 3, 3, generator=generator)
    vectors, codes, _ = fsq(features)
    torch.testing.assert_close(fsq.lookup(codes), vectors, atol=1e-6, rtol=0)
    assert codes.min() >= 0 and codes.max() < fsq.codes


def test_fsq_is_the_papers_equation_for_odd_levels() -> None:
    features = torch.linspace(-6, 6, 101).view(1, 1, 101, 1)
    expected = torch.round(torch.tanh(features) * 2 * (1 + 1e-3)) / 2
    torch.testing.assert_close(FSQ((5,))(features).vectors, expected)


def test_fsq_passes_gradients_straight_through() -> None:
    features = torch.tensor([0.3, -1.2]).view(1, 1, 2, 1).requires_grad_()
    FSQ((5,))(features).vectors.sum().backward()
    slope = (1 - torch.tanh(features.detach()) ** 2) * 2 * (1 + 1e-3) / 2
    torch.testing.assert_close(features.grad, slope)


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (7, 5, 5, 5, 5), (8, 8, 6)])
def test_fsq_agrees_with_the_library(levels: tuple[int, ...]) -> None:
    ours, theirs = FSQ(levels), library.FSQ(list(levels))
    features = 3 * torch.randn(4, len(levels), 8, 8, generator=torch.Generator().manual_seed(0))
    vectors, codes, _ = ours(features)
    their_vectors, their_codes = theirs(features)
    assert torch.equal(codes, their_codes.long())
    torch.testing.assert_close(vectors, their_vectors)
    torch.testing.assert_close(ours.lookup(codes), theirs.indices_to_codes(their_codes))


# ---------------------------------------------------------------- vector quantization


def test_vq_is_the_papers_equations() -> None:
    vq = VQ(codes=7, dim=3, commitment=0.25).eval()
    features = torch.randn(2, 3, 2, 2).requires_grad_()
    vectors, codes, loss = vq(features)
    book = [row / row.norm() for row in vq.codebook.detach()]
    errors = []
    for b in range(2):
        for i in range(2):
            for j in range(2):
                z = features[b, :, i, j].detach()
                z = z / z.norm()
                distances = [float((z - e).square().sum()) for e in book]
                nearest = distances.index(min(distances))
                assert codes[b, i, j] == nearest
                torch.testing.assert_close(vectors[b, :, i, j].detach(), book[nearest])
                errors.append(min(distances) / 3)
    # both terms have the same value; what differs is where their gradients go
    assert loss.item() == pytest.approx((1 + 0.25) * sum(errors) / len(errors), rel=1e-5)


def test_vq_agrees_with_the_library() -> None:
    ours = VQ(codes=50, dim=8, commitment=1).train()
    ours.idle.zero_()  # as after a while: nothing is moved
    theirs = library.VectorQuantize(
        dim=8, codebook_size=50, accept_image_fmap=True, learnable_codebook=True, ema_update=False,
        commitment_weight=1, rotation_trick=False,
    ).train()  # fmt: skip
    book = F.normalize(ours.codebook.detach(), dim=-1)
    with torch.no_grad():
        theirs._codebook.embed.copy_(book[None])
    features = torch.randn(3, 8, 5, 5).requires_grad_()
    copy = features.detach().clone().requires_grad_()
    vectors, codes, loss = ours(features)
    their_vectors, their_codes, their_loss = theirs(F.normalize(copy, dim=1))
    assert torch.equal(codes, their_codes)
    torch.testing.assert_close(vectors, their_vectors)
    torch.testing.assert_close(loss, 2 * their_loss.squeeze())  # theirs is one term for both
    (vectors.square().sum() + vectors.sum() + loss).backward()
    (their_vectors.square().sum() + their_vectors.sum() + their_loss.squeeze()).backward()
    torch.testing.assert_close(features.grad, copy.grad)
    theirs_grad = theirs._codebook.embed.grad[0]
    along = (theirs_grad * book).sum(-1, keepdim=True) * book  # ours cannot leave the sphere
    torch.testing.assert_close(ours.codebook.grad, theirs_grad - along)


def test_vq_on_the_sphere_agrees_with_the_library() -> None:
    ours = VQ(codes=50, dim=8, commitment=0.25).eval()
    theirs = library.VectorQuantize(
        dim=8, codebook_size=50, use_cosine_sim=True, accept_image_fmap=True
    ).eval()
    theirs._codebook.embed.copy_(F.normalize(ours.codebook.detach(), dim=-1)[None])
    vectors, codes, _ = ours(features := 5 * torch.randn(3, 8, 5, 5))
    their_vectors, their_codes, _ = theirs(features)
    assert torch.equal(codes, their_codes)
    torch.testing.assert_close(vectors, their_vectors)


def test_vq_starts_from_the_first_batch() -> None:
    vq = VQ(codes=16, dim=4, commitment=0.25)
    features = torch.randn(2, 4, 8, 8)
    codes = vq(features).codes
    rows = F.normalize(features.movedim(1, -1).reshape(-1, 4), dim=-1)
    for code in vq.codebook.detach():
        assert (rows - code).abs().amax(-1).min() < 1e-6, "each code is one of the features"
    assert len(codes.unique()) == 16


def test_vq_moves_dead_codes_to_where_the_error_is() -> None:
    vq = VQ(codes=8, dim=4, commitment=0.25, patience=5)
    same = torch.ones(1, 4, 8, 8)
    vq(same)  # so all codes are equal
    wide = torch.randn(1, 4, 8, 8)
    passes = [vq(wide) for _ in range(12)]
    assert len(passes[0].codes.unique()) == 1 and len(passes[-1].codes.unique()) == 8
    assert passes[-1].loss < 0.5 * passes[0].loss
    before = vq.codebook.detach().clone()
    for _ in range(12):
        vq(wide)
    assert torch.equal(vq.codebook, before), "codes in use stay where they are"
    vq.eval()
    for _ in range(12):
        vq(same)
    assert torch.equal(vq.codebook, before), "nothing moves while it is only looked at"


def test_vq_survives_features_that_are_no_numbers() -> None:
    vq = VQ(codes=8, dim=4, commitment=0.25, patience=2)
    for _ in range(5):
        vq(torch.full((1, 4, 2, 2), math.nan))
    assert vq.codebook.isfinite().all()


PROCESSES = 2


def pass_shares(rank: int, folder: Path, batches: list[Tensor]) -> None:
    """One of several processes: pass its share of some batches, keep what becomes of the codes."""
    meet = f"file://{folder / 'meet'}"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=PROCESSES)
    torch.save(after(batches, slice(rank, None, PROCESSES)), folder / f"{rank}.pt")
    dist.destroy_process_group()


def after(batches: list[Tensor], share: slice = slice(None)) -> dict[str, Tensor]:
    torch.manual_seed(0)
    vq = VQ(codes=16, dim=4, commitment=0.25, patience=2)
    for features in batches:
        vq(features[share])
    return vq.state_dict()


@pytest.mark.slow
def test_vq_on_several_processes_moves_the_codes_that_one_would(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(4, 4, 2, 2, generator=generator) for _ in range(8)]
    multiprocessing.spawn(pass_shares, (tmp_path, batches), nprocs=PROCESSES)
    alone = after(batches)
    assert not torch.equal(alone["codebook"], after(batches[:1])["codebook"]), "some moved"
    for rank in range(PROCESSES):
        assert same(torch.load(tmp_path / f"{rank}.pt"), alone)


# ---------------------------------------------------------------- Gumbel-softmax among vectors


def near(**changed: object) -> GumbelVQ:
    given = {"codes": 6, "dim": 3, "temperatures": (1.0, 0.1), "anneal_fraction": 0.5}
    quantizer = GumbelVQ(**(given | {"kl_weight": 1.0} | changed))  # type: ignore[arg-type]
    quantizer.idle.zero_()  # as after a while: nothing is moved
    return quantizer.train()


def test_near_gumbel_passes_on_one_code_with_the_gradients_of_the_mixture() -> None:
    """y_k = exp((log pi_k + g_k) / tau) / sum, with g = -log(-log u) (Jang et al., eq. 2)."""
    quantizer, features = near(), torch.randn(2, 3, 4, 4).requires_grad_()
    torch.manual_seed(5)
    vectors = quantizer(features, progress=0.2).vectors
    torch.manual_seed(5)
    chance, book = cooled((1.0, 0.1), 0.5, 0.2), F.normalize(quantizer.codebook, dim=-1)
    z = features / features.norm(dim=1, keepdim=True)
    logits = quantizers.NEARNESS * torch.einsum("bdij,kd->bijk", z, book)
    noise = -torch.empty_like(logits).exponential_().log()  # -log of -log u
    powers = ((logits + chance * noise) / max(chance, quantizers.SOFT)).exp()
    drawn = book[powers.argmax(-1)].movedim(-1, 1)
    torch.testing.assert_close(vectors, drawn)
    mixture = (powers / powers.sum(-1, keepdim=True) @ book).movedim(-1, 1)
    up = torch.randn(vectors.shape)
    ours, theirs = (
        torch.autograd.grad(x, features, up, retain_graph=True)[0] for x in (vectors, mixture)
    )
    torch.testing.assert_close(ours, theirs)


def test_near_gumbel_draws_codes_as_often_as_their_nearness_says() -> None:
    torch.manual_seed(0)
    quantizer = near(temperatures=(1.0, 1.0), dim=6)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.eye(6))
    feature = F.normalize(torch.tensor([1.0, 0.95, 0.9, 0.85, 0.0, -1.0]), dim=0)
    drawn = quantizer(feature.view(1, 6, 1, 1).expand(1, 6, 100, 100)).vectors.mean((0, 2, 3))
    expected = (quantizers.NEARNESS * feature).softmax(0)
    torch.testing.assert_close(drawn, expected, atol=0.02, rtol=0)


def test_near_gumbel_takes_the_nearest_code_once_it_is_trained_and_starts_as_vq() -> None:
    quantizer, vq = near(codes=16, dim=4), VQ(codes=16, dim=4, commitment=0.25)
    quantizer.load_state_dict(vq.state_dict())
    features = torch.randn(2, 4, 8, 8)
    quantizer(features), vq(features)
    assert torch.equal(quantizer.codebook, vq.codebook), "from the first batch"
    quantizer.eval(), vq.eval()
    assert torch.equal(quantizer(features).codes, vq(features).codes)
    torch.testing.assert_close(quantizer(features).vectors, vq(features).vectors)


# ---------------------------------------------------------------- Gumbel-softmax of free logits


def gumbel(**changed: object) -> Gumbel:
    given = {"codes": 6, "dim": 3, "temperatures": (1.0, 0.1), "anneal_fraction": 0.5}
    return Gumbel(**(given | {"kl_weight": 1.0} | changed))  # type: ignore[arg-type]


def test_gumbel_is_the_papers_equation() -> None:
    """y_k = exp((log pi_k + g_k) / tau) / sum, with g = -log(-log u) (Jang et al., eq. 2)."""
    quantizer = gumbel().train()
    logits = torch.randn(1, 6, 2, 2)
    torch.manual_seed(5)
    vectors = quantizer(logits, progress=0.2).vectors
    torch.manual_seed(5)
    noise = -torch.empty_like(logits).exponential_().log()  # -log of -log u
    tau = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.4))
    for i in range(2):
        for j in range(2):
            powers = ((logits[0, :, i, j] + noise[0, :, i, j]) / tau).exp()
            weights = powers / powers.sum()
            expected = sum(weights[k] * quantizer.codebook[k] for k in range(6))
            torch.testing.assert_close(vectors[0, :, i, j], expected)


def test_gumbel_draws_codes_as_often_as_the_logits_say() -> None:
    torch.manual_seed(0)
    quantizer = gumbel(temperatures=(0.01, 0.01), dim=6).train()
    with torch.no_grad():
        quantizer.codebook.copy_(torch.eye(6))
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, 0.0])
    drawn = quantizer(logits.view(1, 6, 1, 1).expand(1, 6, 100, 100)).vectors.mean((0, 2, 3))
    torch.testing.assert_close(drawn, logits.softmax(0), atol=0.02, rtol=0)


def test_gumbel_loss_is_the_divergence_in_nats_a_token() -> None:
    quantizer = gumbel(kl_weight=0.5)
    certain = torch.zeros(2, 6, 3, 3)
    certain[:, 2] = 1000
    assert quantizer(certain).loss.item() == pytest.approx(0.5 * math.log(6))
    assert quantizer(torch.zeros(2, 6, 3, 3)).loss.item() == pytest.approx(0, abs=1e-6)
    logits = torch.randn(1, 6, 1, 1)
    p, uniform = (torch.distributions.Categorical(logits=x.flatten()) for x in (logits, 0 * logits))
    expected = torch.distributions.kl_divergence(p, uniform)
    assert quantizer(logits).loss.item() == pytest.approx(0.5 * expected.item(), rel=1e-5)


def test_gumbel_cools_with_the_share_of_the_run_that_is_over() -> None:
    heats = [cooled((1.0, 0.1), 0.5, i / 20) for i in range(21)]
    assert heats[0] == 1.0 and heats == sorted(heats, reverse=True)
    assert heats[10:] == pytest.approx([0.1] * 11) and heats[5] == pytest.approx(0.55)
    assert cooled((1.0, 0.1), 0, 0) == pytest.approx(0.1)


def test_gumbel_chooses_hard_once_it_is_trained() -> None:
    quantizer = gumbel().eval()
    logits = torch.randn(1, 6, 4, 4)
    vectors, codes, _ = quantizer(logits, 0.0)
    assert torch.equal(codes, logits.argmax(1))
    torch.testing.assert_close(vectors, quantizer.codebook.detach()[codes].movedim(-1, 1))
