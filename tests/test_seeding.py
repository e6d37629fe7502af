"""Every draw is a function of its name and place alone."""

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from skygen.seeding import Seeds


def test_the_same_name_draws_the_same_and_any_other_name_does_not() -> None:
    def draw(seed: int, purpose: str, *position: int | str) -> tuple[float, ...]:
        return tuple(torch.randn(4, generator=Seeds(seed).generator(purpose, *position)).tolist())

    names = [(1, "noise", 7, 0), (1, "noise", 7, 1), (1, "noise", 70), (2, "noise", 7, 0), (1, "order", 7, 0), (1, "noise")]
    draws = [draw(*name) for name in names]
    assert draws == [draw(*name) for name in names]
    assert len(set(draws)) == len(names)


def test_the_numbers_do_not_change_between_releases() -> None:
    """A run begun with one release must be continued by the next; these come from SHA-256, Philox and torch's generator."""
    assert Seeds(0).derive("noise", 1, 0) == 7288036628017344366
    assert Seeds(0).numpy("order", 0).permutation(8).tolist() == [6, 4, 5, 7, 3, 2, 0, 1]
    drawn = torch.randn(3, generator=Seeds(0).generator("noise", 1, 0))
    assert torch.allclose(drawn, torch.tensor([1.0533885956, 0.1804058999, 1.1546024084]), atol=1e-6)


def test_numpy_and_global_generators_follow_from_the_seed() -> None:
    first = Seeds(3).numpy("example", 5).random(3)
    assert np.array_equal(first, Seeds(3).numpy("example", 5).random(3))
    assert not np.array_equal(first, Seeds(3).numpy("example", 6).random(3))
    Seeds(3).reset_global("dropout", 1)
    dropped = torch.rand(3)
    torch.rand(100)
    Seeds(3).reset_global("dropout", 1)
    assert torch.equal(dropped, torch.rand(3))


def test_an_item_has_its_own_generator_whatever_was_drawn_before() -> None:
    seeds = Seeds(1)
    alone = torch.randn(2, generator=seeds.for_item("image", 4711))
    for index in range(3):
        torch.randn(5, generator=seeds.for_item("image", index))
    assert torch.equal(alone, torch.randn(2, generator=seeds.for_item("image", 4711)))


def test_types_are_checked_while_the_suite_runs() -> None:
    with pytest.raises(TypeCheckError):
        Seeds(0).derive(5)  # type: ignore[arg-type]
