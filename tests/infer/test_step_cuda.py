"""The decoding step as one kernel, by an emulated GPU: against the decoder in float64, whatever the order in which
threads, copies and words come."""

import ctypes
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import danlu.infer.step_cuda as step_cuda
from danlu.infer.cache import Cache
from danlu.infer.graphs import DecodingGraphs
from danlu.infer.step_cuda import SOURCE, Model, RowStep
from danlu.model.decoder import Decoder
from danlu.model.integers import quantise_ends, to_int8
from danlu.model.parts import initialise
from danlu.model.projection import Quantised
from danlu.model.settings import ModelSettings

COMPILER = shutil.which("g++") or shutil.which("clang++")
MEMORY = 131_072
SHAPES = {
    "biases": {"hidden_size": 256, "heads": 4, "kv_heads": 1, "mlp_size": 264},
    "norms of heads": {
        "family": "qwen3", "hidden_size": 192, "heads": 6, "kv_heads": 2, "head_dim": 128, "mlp_size": 200,
        "tie_embeddings": False,
    },
    "wider than a tile": {
        "family": "mistral", "hidden_size": 1_096, "heads": 2, "kv_heads": 2, "head_dim": 64, "mlp_size": 1_032,
    },
}  # fmt: skip


class Emulated:
    """step_cuda.cu on a GPU that does not exist, with as few multiprocessors as the rows allow."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.seed, self.lose = folder, 0, 0

    def __call__(self, device: torch.device, names: dict[str, int]) -> step_cuda.Kernel:
        library = self._folder / f"{'-'.join(map(str, names.values()))}.so"
        here = Path(__file__).parent
        rows = max(2 * names["MLP"], names["HIDDEN"], names["HEAD"] * (names["QUERIES"] + 2) * names["KV_HEADS"])
        names = {"PROGRAMS": -(-rows // step_cuda.ROWS), "MEMORY": MEMORY, **names, "PATIENCE": 4_096}
        defined = [f"-D{name}={size}" for name, size in names.items()]
        places = [f"-I{here}", f"-I{SOURCE.parent}"]
        command = [str(COMPILER), "-std=c++17", "-O1", "-w", "-shared", "-fPIC", *places, *defined]
        if not library.exists():
            subprocess.run([*command, str(here / "emulated_step.cpp"), "-o", str(library)], check=True)
        run = ctypes.CDLL(str(library)).run
        run.restype = ctypes.c_bool

        def kernel(model: Model) -> None:
            assert run(ctypes.byref(model), self.seed, ctypes.c_long(self.lose)), (
                "the programs wait for one another for ever"
            )

        return kernel


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    if COMPILER is None:
        pytest.skip("needs a C++ compiler")
    return Emulated(tmp_path_factory.mktemp("emulated"))


def decoder_of(shape: dict[str, object]) -> Decoder:
    decoder = Decoder(ModelSettings.model_validate({"vocab_size": 301, "layers": 2, **shape}))
    initialise(decoder, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in decoder.named_parameters():
            if value.ndim == 1 and "norm" in name:
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.ndim == 1:
                value.normal_(generator=generator)
            else:
                value.mul_(4)  # so that who is attended matters
    return decoder.to(torch.bfloat16)


class Int4(Quantised):
    """4 bits as `Int4OnGPU` has them, which is there with a GPU only."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.group = 64
        groups = weight.double().unflatten(1, (-1, 64))
        low, high = groups.amin(-1), groups.amax(-1)
        scales = ((high - low) / 15).bfloat16()
        middles = (low + 8 * scales.double()).bfloat16()
        levels = ((groups - middles.double()[..., None]) / scales.double()[..., None] + 8).round().clamp(0, 15)
        self.exact = ((levels - 8) * scales.double()[..., None] + middles.double()[..., None]).flatten(1)
        shifts = 4 * torch.arange(8)[:, None]
        words = (levels.long().unflatten(2, (8, 8)) << shifts).sum(2).flatten(1)
        self.register_buffer("words", torch.where(words >= 2**31, words - 2**32, words).int())
        self.register_buffer("scales", torch.stack((scales, middles), -1).view(torch.int32)[..., 0].contiguous())

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        return self.exact.to(dtype)


def in_fewer_bits(decoder: Decoder, bits: int) -> Decoder:
    """Quantises it as `danlu.load` does; what it stands for then, in float64."""
    for block in decoder.blocks:
        for part in (block.qkv, block.o, block.gate_up, block.down):
            part.quantise(Int4(part.weight.data) if bits == 4 else to_int8(part.weight.data))
    quantise_ends(decoder)
    exact = Decoder(decoder.settings.model_copy(update={"tie_embeddings": False})).double()
    for mine, other in zip(exact.blocks, decoder.blocks, strict=True):
        for part in ("qkv", "o", "gate_up", "down"):
            getattr(mine, part).weight.data = getattr(other, part).quantised.dequantised(torch.float64)
            getattr(other, part).weight = None
    exact.load_state_dict(
        {
            name: value.double()
            for name, value in decoder.state_dict().items()
            if value.is_floating_point() and "quantised" not in name and "rows" not in name
        },
        strict=False,
    )
    exact.embed.weight.data = decoder.embed(torch.arange(decoder.settings.vocab_size)).double()
    exact.head.linear.weight.data = decoder.head.quantised.dequantised(torch.float64)
    return exact


def filled(decoder: Decoder, length: int, window: int | None) -> Cache:
    shape, cache = decoder.settings, Cache(1, 10_000, window)
    cache.reserve(1, length)
    generator = torch.Generator().manual_seed(1)
    size = (1, cache.length, shape.kv_heads, shape.head_size)
    cache.layers = [
        (torch.randn(size, generator=generator).bfloat16(), torch.randn(size, generator=generator).bfloat16())
        for _ in range(shape.layers)
    ]
    return cache


def expected(
    decoder: Decoder, cache: Cache, token: int, place: int, exact: Decoder | None = None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Logits [V] in float64 after a step, and each layer's new key and value. Attends to those that the step has put
    into the cache: a key between two bf16 numbers may be rounded either way, and is `require_cached`'s to judge.
    """
    if exact is None:
        exact = Decoder(decoder.settings).double()
        exact.load_state_dict({name: value.double() for name, value in decoder.state_dict().items()})
    fresh: list[tuple[Tensor, Tensor]] = []

    def attend(layer: int, q_11HD: Tensor, k_11KD: Tensor, v_11KD: Tensor) -> Tensor:
        fresh.append((k_11KD[0, 0], v_11KD[0, 0]))
        first = 0 if cache.window is None else max(0, place + 1 - cache.window)
        keys, values = (part[:, first : place + 1].cpu().double().transpose(1, 2) for part in cache.layers[layer])
        return F.scaled_dot_product_attention(q_11HD.transpose(1, 2), keys, values, enable_gqa=True).transpose(1, 2)

    with torch.no_grad():
        hidden = exact(torch.tensor([[token]]), torch.tensor([[place]]), attend)
        return exact.head.logits(hidden[0, 0]), fresh


def require_cached(cache: Cache, place: int, fresh: list[tuple[Tensor, Tensor]]) -> None:
    for (keys, values), (key, value) in zip(cache.layers, fresh, strict=True):
        torch.testing.assert_close(keys[0, place].double(), key, rtol=2**-8, atol=2e-3)
        torch.testing.assert_close(values[0, place].double(), value, rtol=2**-8, atol=2e-3)


def turns_of(decoder: Decoder, cache: Cache) -> tuple[Tensor, Tensor]:
    places = torch.arange(cache.length, device=decoder.norm.weight.device)
    cos, sin = decoder.places(places[:, None], torch.bfloat16)
    return cos.flatten(1), sin.flatten(1)


@pytest.mark.parametrize(
    ("name", "window", "place"),
    [
        ("biases", None, 0),
        ("biases", None, 200),
        ("biases", 70, 200),
        ("norms of heads", None, 5),
        ("norms of heads", 130, 300),
        ("wider than a tile", None, 70),
    ],
)
def test_gives_what_the_decoder_gives_in_whatever_order_its_threads_run(
    name: str, window: int | None, place: int, built: Emulated
) -> None:
    decoder = decoder_of(SHAPES[name])
    cache = filled(decoder, 320, window)
    step, found = RowStep(decoder, cache, turns_of(decoder, cache), built), []
    for seed in range(2):
        built.seed = seed
        found.append(step.logits(torch.tensor([[300], [place]])).clone())
        logits, fresh = expected(decoder, cache, 300, place)
        require_cached(cache, place, fresh)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0][0].double(), logits, rtol=2**-8, atol=float(logits.abs().max()) / 300)


@pytest.mark.parametrize(
    ("bits", "shape"),
    [
        (8, {"hidden_size": 256, "heads": 4, "kv_heads": 1, "mlp_size": 2_176}),
        (8, {"family": "llama", "hidden_size": 2_304, "heads": 2, "kv_heads": 2, "head_dim": 64, "mlp_size": 384}),
        (4, {"hidden_size": 256, "heads": 4, "kv_heads": 1, "mlp_size": 4_352}),
        (4, {"family": "qwen3", "hidden_size": 512, "heads": 6, "kv_heads": 2, "head_dim": 128, "mlp_size": 768}),
    ],
)
def test_weights_in_fewer_bits(bits: int, shape: dict[str, object], built: Emulated) -> None:
    decoder = decoder_of(shape)
    exact = in_fewer_bits(decoder, bits)
    cache = filled(decoder, 320, None)
    step, found = RowStep(decoder, cache, turns_of(decoder, cache), built), []
    for seed in range(2):
        built.seed = seed
        found.append(step.logits(torch.tensor([[300], [200]])).clone())
    assert torch.equal(*found)
    logits, fresh = expected(decoder, cache, 300, 200, exact)
    require_cached(cache, 200, fresh)
    torch.testing.assert_close(found[0][0].double(), logits, rtol=2**-8, atol=float(logits.abs().max()) / 300)


def test_goes_on_from_token_to_token(built: Emulated) -> None:
    decoder = decoder_of(SHAPES["biases"])
    cache = filled(decoder, 64, None)
    step = RowStep(decoder, cache, turns_of(decoder, cache), built)
    for place, token in enumerate((5, 300, 5, 9)):
        built.seed = place
        found = step.logits(torch.tensor([[token], [place]]))[0].double()
        logits, fresh = expected(decoder, cache, token, place)
        require_cached(cache, place, fresh)
        torch.testing.assert_close(found, logits, rtol=2**-8, atol=float(logits.abs().max()) / 300)


def test_a_weight_that_is_not_a_number_is_told(built: Emulated) -> None:
    decoder = decoder_of(SHAPES["biases"])
    decoder.blocks[1].down.weight.data[17, 3] = float("nan")
    cache = filled(decoder, 64, None)
    step = RowStep(decoder, cache, turns_of(decoder, cache), built)
    assert step.logits(torch.tensor([[1], [3]])).isnan().all()


def test_programs_that_wait_in_vain_give_up_and_say_so(built: Emulated) -> None:
    decoder = decoder_of(SHAPES["biases"])
    cache = filled(decoder, 64, None)
    step, inputs = RowStep(decoder, cache, turns_of(decoder, cache), built), torch.tensor([[1], [3]])
    assert not step.logits(inputs).isnan().any() and not step.lost()
    for lose in (5, 700, 2_000):
        built.lose = lose
        again = RowStep(decoder, cache, turns_of(decoder, cache), built)
        assert again.logits(inputs).isnan().any() and again.lost()
    built.lose = 0


def test_fits_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    about = SimpleNamespace(major=9, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    monkeypatch.setattr(step_cuda, "find_spec", lambda _: about)
    shape = {**SHAPES["biases"], "mlp_size": 512}
    made = decoder_of(shape)
    assert RowStep.fit(made)
    assert not RowStep.fit(decoder_of(shape).half())
    made.blocks[1].down.quantise(to_int8(made.blocks[1].down.weight.data))
    assert not RowStep.fit(made), "of more than one kind"
    for bits in (8, 4):
        made = decoder_of(shape)
        in_fewer_bits(made, bits)
        assert RowStep.fit(made)
    made = decoder_of(SHAPES["biases"])
    for block in made.blocks:
        for part in (block.qkv, block.o, block.gate_up, block.down):
            part.quantise(to_int8(part.weight.data))
    assert not RowStep.fit(made), "264 are no whole number of 16 bytes' shares"
    assert not RowStep.fit(decoder_of({**shape, "mlp_size": 16_896})), "too many rows for a program"
    about.major = 8
    assert not RowStep.fit(decoder_of(shape))


def test_compiles_for_hopper() -> None:
    pytest.importorskip("cuda.bindings")
    names = {
        **step_cuda.TUNED,
        "LAYERS": 48,
        "HIDDEN": 1024,
        "MLP": 4864,
        "VOCAB": 151_936,
        "KV_HEADS": 4,
        "QUERIES": 4,
        "HEAD": 64,
    }
    options = {"PROGRAMS": 132, "MEMORY": 232_448, **names, "BIASED": 1, "QK_NORM": 0, "BLOCK_BITS": 16, "END_BITS": 16}
    assert step_cuda.compiled("sm_90", options).startswith(b"\x7fELF")
    with pytest.raises(RuntimeError, match="too many rows for a program"):
        step_cuda.compiled("sm_90", {**options, "MLP": 20_000})


on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9, reason="needs a Hopper GPU"
)


@on_hopper
def test_several_kernels_go_on_where_the_one_gave_up() -> None:
    decoder = decoder_of(SHAPES["biases"])
    cache = filled(decoder, 64, None)
    cache.layers = [(keys.cuda(), values.cuda()) for keys, values in cache.layers]
    graphs = DecodingGraphs(decoder.cuda(), cache)
    logits, (tokens, _) = graphs.logits([300], [5]), graphs.likeliest([300], [5], begun=False, goes_on=True)
    assert graphs._alone is not None
    graphs._alone._lost.fill_(1)
    with pytest.warns(UserWarning, match="several kernels go on"):
        assert graphs.likeliest([300], [5], begun=False, goes_on=False)[0] == tokens
    assert graphs._alone is None
    torch.testing.assert_close(graphs.logits([300], [5]), logits, rtol=2**-6, atol=float(logits.abs().max()) / 50)


def no_compiler(*_: object) -> None:
    raise RuntimeError("no compiler")


def test_says_that_it_could_not_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    about = SimpleNamespace(multi_processor_count=132, shared_memory_per_block_optin=232_448)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    monkeypatch.setattr(step_cuda, "_compiled", no_compiler)
    with pytest.raises(step_cuda.NotBuilt, match=r"no compiler|cuda"):
        step_cuda.on_gpu(torch.device("cuda"), step_cuda.TUNED)


@on_hopper
def test_several_kernels_compute_where_the_one_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_cuda, "_compiled", no_compiler)
    decoder = decoder_of(SHAPES["biases"])
    cache = filled(decoder, 64, None)
    cache.layers = [(keys.cuda(), values.cuda()) for keys, values in cache.layers]
    with pytest.warns(UserWarning, match="several kernels go on"):
        assert DecodingGraphs(decoder.cuda(), cache).logits([300], [5]).isfinite().all()


@pytest.mark.prove
@on_hopper
@pytest.mark.parametrize("name", SHAPES)
def test_the_same_on_a_gpu_and_every_time(name: str) -> None:
    decoder = decoder_of(SHAPES[name])
    cache = filled(decoder, 640, None)
    turns = [part.cuda() for part in turns_of(decoder, cache)]
    cache.layers = [(keys.cuda(), values.cuda()) for keys, values in cache.layers]
    decoder.cuda()
    assert RowStep.fit(decoder)
    step, inputs = RowStep(decoder, cache, (turns[0], turns[1])), torch.tensor([[300], [600]], device="cuda")
    first = step.logits(inputs).clone()
    logits, _ = expected(deepcopy(decoder).cpu(), cache, 300, 600)
    torch.testing.assert_close(first[0].double().cpu(), logits, rtol=2**-8, atol=float(logits.abs().max()) / 300)
    for _ in range(200):
        for _ in range(500):
            step.logits(inputs)
        assert torch.equal(step.logits(inputs), first)


@pytest.mark.prove
@on_hopper
@pytest.mark.parametrize("bits", [8, 4])
def test_weights_in_fewer_bits_on_a_gpu_and_every_time(bits: int) -> None:
    decoder = decoder_of({"vocab_size": 1_003, "hidden_size": 512, "heads": 8, "kv_heads": 2, "mlp_size": 4_352})
    exact, cache = in_fewer_bits(decoder, bits), filled(decoder, 640, None)
    turns = [part.cuda() for part in turns_of(decoder, cache)]
    cache.layers = [(keys.cuda(), values.cuda()) for keys, values in cache.layers]
    assert RowStep.fit(decoder.cuda())
    step, inputs = RowStep(decoder, cache, (turns[0], turns[1])), torch.tensor([[300], [600]], device="cuda")
    first = step.logits(inputs).clone()
    logits, _ = expected(decoder, cache, 300, 600, exact)
    torch.testing.assert_close(first[0].double().cpu(), logits, rtol=2**-8, atol=float(logits.abs().max()) / 300)
    for _ in range(100):
        for _ in range(500):
            step.logits(inputs)
        assert torch.equal(step.logits(inputs), first)
