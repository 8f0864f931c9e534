import pytest
import torch

from cyclegan.pool import ImagePool


def numbered(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2)


def test_a_pool_that_is_not_full_returns_its_input():
    pool = ImagePool(3)
    fakes = numbered(1, 2, 3)
    torch.testing.assert_close(pool(fakes), fakes)
    assert len(pool.images) == 3


def test_a_full_pool_exchanges_half_of_the_pictures():
    pool = ImagePool(50)
    pool(numbered(*range(50)))
    returned = [int(pool(numbered(n))[0, 0, 0, 0]) for n in range(50, 2050)]
    exchanged = [(n, old) for n, old in enumerate(returned, start=50) if old != n]
    assert 0.45 < len(exchanged) / 2000 < 0.55
    # Every picture is either returned or kept, exactly once.
    kept = [int(image[0, 0, 0]) for image in pool.images]
    assert sorted(returned + kept) == list(range(2050))


def test_a_pool_keeps_copies():
    pool = ImagePool(2)
    fakes = numbered(1, 2).clone()
    pool(fakes)
    fakes.zero_()
    assert [int(image[0, 0, 0]) for image in pool.images] == [1, 2]


def test_a_pool_of_size_0_returns_its_input():
    fakes = numbered(1, 2)
    assert ImagePool(0)(fakes) is fakes


def test_a_restored_pool_returns_the_same_pictures():
    pool, other, returned = ImagePool(5), ImagePool(5), []
    pool(numbered(*range(20)))
    other.load_state_dict(pool.state_dict())
    for each in (pool, other):
        torch.manual_seed(1)
        returned.append(each(numbered(*range(20, 60))))
    assert torch.equal(*returned)


def test_a_negative_size_is_rejected():
    with pytest.raises(ValueError, match="-1"):
        ImagePool(-1)


def test_a_pool_of_another_crop_size_starts_anew():
    pool = ImagePool(2)
    pool(torch.zeros(2, 3, 8, 8))
    assert pool(torch.ones(1, 3, 16, 16)).shape == (1, 3, 16, 16) and len(pool.images) == 1


def test_pictures_of_several_sizes_are_no_pool():
    state = ImagePool(2).state_dict() | {"images": [torch.zeros(3, 8, 8), torch.zeros(3, 4, 4)]}
    with pytest.raises(ValueError, match="differ in size"):
        ImagePool(2).load_state_dict(state)
