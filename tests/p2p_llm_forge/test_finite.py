"""The quick look for values that are no numbers misses none, and takes no large sum for one."""

import pytest
import torch

from p2p_llm_forge.finite import is_finite

INFINITY = float("inf")


@pytest.mark.parametrize("at", [0, 1, 4095, 99_999])
@pytest.mark.parametrize("value", [INFINITY, -INFINITY, float("nan")])
def test_one_value_that_is_no_number_is_found_wherever_it_lies(at: int, value: float) -> None:
    values = torch.ones(100_000)
    values[at] = value
    assert not is_finite(values)


def test_infinities_of_both_signs_do_not_hide_each_other() -> None:
    assert not is_finite(torch.tensor([INFINITY, 1.0, -INFINITY]))


def test_numbers_whose_sum_overflows_are_still_numbers() -> None:
    largest = torch.finfo(torch.float32).max
    assert is_finite(torch.tensor([largest, largest, largest]))
    assert not is_finite(torch.tensor([largest, largest, float("nan")]))


def test_no_values_at_all_are_finite() -> None:
    assert is_finite(torch.empty(0))
