"""Products on a CPU are those of float64 to rounding, and oneDNN meets few numbers of rows."""

from __future__ import annotations

import pytest
import torch

from lora_s2s.fast_t5 import products


@pytest.mark.parametrize("rows", [1, 15, 16, 31, 56, 127, 128, 129, 200, 300])
@pytest.mark.parametrize("transposed", [False, True])
def test_products(rows: int, transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    met, onednn = set(), products._onednn

    def recorded(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        met.add(len(inputs))
        return onednn(inputs, weight)

    monkeypatch.setattr(products, "_onednn", recorded)
    generator = torch.Generator().manual_seed(rows)
    inputs, onto = (torch.randn(rows, size, generator=generator) for size in (40, 24))
    weight = torch.randn(24, 40, generator=generator)
    if transposed:
        weight = weight.t().contiguous().t()
    expected = inputs.double() @ weight.double().t()
    found = products.product(inputs, weight)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    added = products.product(inputs, weight, onto=onto, scale=0.25)
    torch.testing.assert_close(added.double(), onto + expected / 4, rtol=1e-5, atol=1e-5)
    assert met <= {128, 32}
    assert bool(met) == (rows >= 16)
    wide = products.product(inputs.double(), weight.double(), onto=onto.double(), scale=0.25)
    torch.testing.assert_close(wide, onto + expected / 4)


@pytest.mark.parametrize("emulated", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_summed_in_float32_where_a_cpu_lacks_them(
    dtype: torch.dtype, emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    met, onednn = list[torch.dtype](), products._onednn

    def recorded(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        met.append(inputs.dtype)
        return onednn(inputs, weight)

    def lacks(dtype: torch.dtype, _: torch.device) -> bool:
        return emulated and dtype.itemsize == 2

    monkeypatch.setattr(products, "_onednn", recorded)
    monkeypatch.setattr(products, "is_emulated", lacks)
    generator = torch.Generator().manual_seed(0)
    shapes = (200, 8), (24, 8), (200, 24)
    inputs, weight, onto = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
    by_float32 = [products._by_float32(inputs[:rows]) for rows in (15, 16)]
    assert by_float32 == [False, emulated]  # so few take longer to convert
    found = products.product(inputs, weight, onto=onto, scale=0.5)
    assert set(met) == ({torch.float32} if emulated else set())
    met.clear()
    gradient = products.weight_gradient(onto, inputs)
    assert set(met) == ({torch.float32} if emulated else set())
    expected = onto.double() + 0.5 * inputs.double() @ weight.double().t()
    torch.testing.assert_close(found, expected.to(dtype), rtol=0.02, atol=0.05)
    exact = (onto.double().t() @ inputs.double()).to(dtype)
    torch.testing.assert_close(gradient, exact, rtol=0.02, atol=0.1)
    narrow = products.narrow_product(inputs, weight.t())
    torch.testing.assert_close(
        narrow, (inputs.double() @ weight.double().t()).to(dtype), rtol=0.02, atol=0.05
    )
    products.add_narrow_product(onto, inputs, weight.t(), 0.5)
    torch.testing.assert_close(onto, expected.to(dtype), rtol=0.02, atol=0.05)
