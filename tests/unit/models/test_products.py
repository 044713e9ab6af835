"""Products of float32 matrices on a CPU are exact to float32, and have the gradients of torch's."""

from __future__ import annotations

import pytest
import torch

from polyray.models.products import added_product, product, use_onednn

IN, OUT = 576, 192


def _matrices(
    rows: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(rows, IN, dtype=dtype),
        torch.randn(OUT, IN, dtype=dtype) / IN**0.5,
        torch.randn(OUT, dtype=dtype),
    )


@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("strided", [False, True])
def test_product_is_exact_to_float32(rows: int, strided: bool) -> None:
    x, weight, bias = _matrices(rows)
    given = (x.T.contiguous().T, weight.T.contiguous().T) if strided else (x, weight)
    exact = x.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(product(*given, bias).double(), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        added_product(exact.float(), *given, 0.5).double(), exact + 0.5 * (exact - bias), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_have_torchs_product(dtype: torch.dtype) -> None:
    x, weight, bias = _matrices(12, dtype)
    assert torch.equal(product(x, weight, bias), torch.nn.functional.linear(x, weight, bias))
    assert torch.equal(
        added_product(x @ weight.T, x, weight, 2.0), (x @ weight.T).addmm_(x, weight.T, alpha=2.0)
    )


@pytest.mark.parametrize(("trained", "count"), [("nothing", 0), ("bias", 1), ("weight", 2), ("", 3)])
def test_linear_layers_keep_their_gradients(trained: str, count: int) -> None:
    model = torch.nn.Sequential(
        torch.nn.Linear(IN, OUT), torch.nn.SiLU(), torch.nn.Linear(OUT, 3, bias=False)
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained in name)
    x = torch.randn(2, 5, IN, requires_grad=True)
    found = []
    for change in (lambda _: None, use_onednn):
        change(model)
        model.zero_grad()
        x.grad = None
        output = model(x)
        output.square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found.append((output.detach(), x.grad, *gradients))
    assert len(found[0]) == len(found[1]) == 2 + count
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
