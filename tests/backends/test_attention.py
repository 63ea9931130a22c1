"""Attention on a GPU, with fakes of its kernels; kernels that are not installed."""

import importlib.util
import inspect
import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from torch.nn.attention import varlen
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoTokenizer
from transformers.utils import is_flash_attn_2_available, is_kernels_available

from didact.core.backends import attention
from didact.core.backends.models import ModelSpec, load_model, load_tokenizer, quickstart_model
from didact.core.errors import RecipeError

TINY = quickstart_model() | {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}
FRESH = {"config": TINY, "tokenizer": "characters"}


LENGTHS = torch.tensor([3, 1, 7, 4])
REAL = inspect.signature(varlen.varlen_attn)


def by_row(query, key, value, ends, scale):
    """Causal attention over [total, H, D], one row after another."""
    rows = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        row = (each[start:end].transpose(0, 1)[None] for each in (query, key, value))
        out = scaled_dot_product_attention(*row, is_causal=True, scale=scale, enable_gqa=True)
        rows.append(out[0].transpose(0, 1))
    return torch.cat(rows)


class Kernels:
    """FAKES of the kernels of torch and of flash-attn: their signatures, computed row by row."""

    def __init__(self):
        self.calls = []

    def computed(self, name, query, key, value, ends, longest, scale):
        assert ends.dtype == torch.int32 and longest == int(ends.diff().max())
        assert query.is_contiguous() and key.is_contiguous() and value.is_contiguous()
        self.calls.append((name, key.shape[1]))
        return by_row(query, key, value, ends, scale)

    def varlen_attn(self, *given, **named):
        """FAKE of torch.nn.attention.varlen.varlen_attn of the torch that is installed."""
        call = REAL.bind(*given, **named)
        call.apply_defaults()
        asked = call.arguments
        assert asked["window_size"] == (-1, 0), "not causal"
        fewer = asked["query"].shape[1] != asked["key"].shape[1]
        assert asked["enable_gqa"] == fewer and asked["cu_seq_q"] is asked["cu_seq_k"]
        names = ("query", "key", "value", "cu_seq_q", "max_q", "scale")
        return self.computed("torch", *(asked[name] for name in names))

    def varlen_attn_of_2_11(
        self, query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *,
        return_aux=None, scale=None, window_size=(-1, -1),
    ):  # fmt: skip
        """FAKE of an older varlen_attn, whose keys and values have as many heads as queries."""
        assert window_size == (-1, 0) and query.shape == key.shape == value.shape
        return self.computed("torch", query, key, value, cu_seq_q, max_q, scale)

    def varlen_attn_of_2_10(
        self, query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None
    ):
        """FAKE of a varlen_attn that has no scale."""
        raise AssertionError("called")

    def flash_attn_varlen_func(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
        softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
        deterministic=False, return_attn_probs=False, block_table=None,
    ):  # fmt: skip
        """FAKE of flash_attn.flash_attn_varlen_func 2.x."""
        assert causal and cu_seqlens_q is cu_seqlens_k and max_seqlen_q == max_seqlen_k
        return self.computed("flash-attn", q, k, v, cu_seqlens_q, max_seqlen_q, softmax_scale)


@pytest.fixture
def kernels(monkeypatch):
    """An Ampere GPU and torch's kernel, as fakes, without flash-attn."""
    fakes = Kernels()
    real = partial(fakes.varlen_attn)
    real.__signature__ = REAL
    monkeypatch.setattr(varlen, "varlen_attn", real)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    attention._kernel.cache_clear()
    attention._keywords.cache_clear()
    yield fakes
    attention._kernel.cache_clear()
    attention._keywords.cache_clear()


def value_and_gradients(rows, heads, scale, size=8):
    draw = torch.Generator().manual_seed(heads)
    packing = attention.Packing(LENGTHS, torch.device("cpu"))
    given = [
        torch.randn(1, n, int(LENGTHS.sum()), size, generator=draw).requires_grad_()
        for n in (4, heads, heads)
    ]
    out = rows(*given, packing, scale)
    weights = torch.randn(out.shape, generator=draw)
    return out, *torch.autograd.grad((out * weights).sum(), given)


def assert_same_as_by_row(rows, heads, scale=None):
    found = value_and_gradients(rows, heads, scale)
    wanted = value_and_gradients(attention._by_row, heads, scale)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_variable_length_attention_equals_padded_rows_in_value_and_gradient(kernels, heads, scale):
    assert_same_as_by_row(attention._flash, heads, scale)
    assert kernels.calls == [("torch", heads)]


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("heads", [4, 2, 1])
def test_the_kernel_of_flash_attn_equals_padded_rows_too(kernels, heads, scale, monkeypatch):
    here(kernels, monkeypatch)
    assert_same_as_by_row(attention._flash_package, heads, scale)
    assert kernels.calls == [("flash-attn", heads)]


@pytest.mark.parametrize("heads", [4, 2])
def test_a_kernel_without_grouped_heads_gets_them_repeated(kernels, heads, monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", kernels.varlen_attn_of_2_11)
    assert attention._kernel(torch.device("cuda", 0), 8) is attention._flash
    assert_same_as_by_row(attention._flash, heads)
    assert kernels.calls == [("torch", 4)]


def here(kernels, monkeypatch):
    """Install the fake of flash-attn."""
    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = kernels.flash_attn_varlen_func
    package.__spec__ = importlib.util.spec_from_loader("flash_attn", None)
    monkeypatch.setitem(sys.modules, "flash_attn", package)


def missing(kernels, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)


def before_scale(kernels, monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", kernels.varlen_attn_of_2_10)


def old_gpu(kernels, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))


@pytest.mark.parametrize(
    ("prepare", "size", "chosen", "said"),
    [
        ([], 64, "_flash", ""),
        ([here], 64, "_flash", ""),
        ([missing, here], 64, "_flash_package", "no torch.nn.attention.varlen; flash-attn is used"),
        ([missing], 64, "_by_row", "has no torch.nn.attention.varlen; rows are padded"),
        ([before_scale], 64, "_by_row", "no 'scale' or no 'window_size'; rows are padded"),
        ([], 20, "_by_row", "heads of a multiple of 8, these have 20; rows are padded"),
        ([here], 20, "_flash_package", "these have 20; flash-attn is used"),
        ([here], 264, "_by_row", "no kernel is for heads of 264 on this GPU; rows are padded"),
        ([here, old_gpu], 64, "_by_row", "no kernel is for heads of 64 on this GPU"),
    ],
)
def test_the_best_kernel_for_the_gpu_is_taken_and_a_slower_one_told_once(
    kernels, monkeypatch, caplog, prepare, size, chosen, said
):
    for step in prepare:
        step(kernels, monkeypatch)
    gpu = torch.device("cuda", 0)
    assert attention._kernel(gpu, size) is attention._kernel(gpu, size)
    assert attention._kernel(gpu, size) is getattr(attention, chosen)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == bool(said) and said in "".join(told)


class OnGpu(torch.Tensor):
    """FAKE of a tensor on a GPU: says so, and computes on the CPU."""

    is_cuda = True


def test_half_precision_on_a_gpu_goes_by_the_kernel_and_float32_by_padded_rows(kernels):
    packing = attention.Packing(LENGTHS, torch.device("cpu"))
    for dtype, calls in ((torch.float32, 0), (torch.bfloat16, 1)):
        given = torch.randn(1, 4, 15, 8).to(dtype).as_subclass(OnGpu)
        out, _ = attention.attend(None, given, given, given, None, packing=packing)
        assert out.shape == (1, 15, 4, 8) and len(kernels.calls) == calls


@pytest.mark.skipif(
    is_flash_attn_2_available() or is_kernels_available(), reason="flash attention is here"
)
@pytest.mark.parametrize("origin", ["config", "path"])
def test_flash_attention_that_is_not_installed_is_refused_in_one_line(origin, tmp_path):
    tokenizer = load_tokenizer(ModelSpec(**FRESH))
    if origin == "path":
        load_model(ModelSpec(**FRESH), tokenizer).save_pretrained(tmp_path)
    where = FRESH if origin == "config" else {"path": str(tmp_path)}
    said = r"model.* 'attention: flash_attention_2': .*install flash-attn.*'attention: packed'"
    with pytest.raises(RecipeError, match=said) as told:
        load_model(ModelSpec(**where, attention="flash_attention_2"), tokenizer)
    assert "\n" not in str(told.value)


def test_another_package_that_is_not_installed_is_named(monkeypatch, tmp_path):
    def lacking(*given, **options):
        raise ImportError("\nThis needs `sentencepiece`.\nSee its page.")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lacking)
    with pytest.raises(RecipeError, match=r"^tokenizer .* not here: This needs `sentencepiece`.$"):
        load_tokenizer(ModelSpec(path=str(tmp_path)))
