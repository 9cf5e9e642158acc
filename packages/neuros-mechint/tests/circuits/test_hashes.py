import torch

from neuros_mechint.circuits._hashes import row_hashes


def test_rows_are_told_by_their_content_not_by_their_place() -> None:
    x = torch.arange(12.0).reshape(4, 3)
    assert row_hashes(x) == row_hashes(x.flip(0))
    assert not row_hashes(x) & row_hashes(x + 1e-6)
    assert len(row_hashes(torch.ones(5, 2))) == 1


def test_data_type_shape_and_every_input_count() -> None:
    x, y = torch.ones(2, 4), torch.tensor([0, 1])
    hashes = [
        row_hashes(x),
        row_hashes(x.reshape(2, 2, 2)),
        row_hashes(x.double()),
        row_hashes(x.bfloat16()),
        row_hashes((x, y)),
        row_hashes({"x": x, "y": y}),
    ]
    assert len(frozenset().union(*hashes)) == 4 * 1 + 2 + 2


def test_tensors_without_the_batch_belong_to_no_row() -> None:
    x = torch.ones(2, 4)
    assert row_hashes((x, torch.zeros(3))) == row_hashes((x, torch.ones(3)))
