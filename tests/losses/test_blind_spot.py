"""Blind spots against loops over their definition."""

from __future__ import annotations

import pytest
import torch

from detaux_pl.losses.blind_spot import blind_spot_loss, hide_pixels


def test_hidden_pixels_hold_a_neighbour_and_the_others_themselves():
    torch.manual_seed(0)
    images = torch.arange(4 * 3 * 5 * 6).view(4, 3, 5, 6).float()
    seen, hidden = hide_pixels(images, 0.3)
    assert hidden.shape == (4, 1, 5, 6)
    shifts = set()
    for n, row, column in ((n, i, j) for n in range(4) for i in range(5) for j in range(6)):
        if not hidden[n, 0, row, column]:
            assert torch.equal(seen[n, :, row, column], images[n, :, row, column])
            continue
        around = [
            (di, dj)
            for di in (-1, 0, 1)
            for dj in (-1, 0, 1)
            if torch.equal(seen[n, :, row, column], images[n, :, (row + di) % 5, (column + dj) % 6])
        ]
        assert len(around) == 1
        shifts.add(around[0])
    assert len(shifts) == 1
    assert shifts != {(0, 0)}


def test_the_share_is_met():
    torch.manual_seed(0)
    _, hidden = hide_pixels(torch.rand(100, 3, 32, 32), 0.2)
    assert hidden.float().mean() == pytest.approx(0.2, abs=0.005)


def test_the_loss_is_the_mean_over_hidden_pixels():
    torch.manual_seed(0)
    made, images = torch.rand(2, 3, 2, 4, 4, dtype=torch.float64)
    hidden = torch.rand(3, 1, 4, 4) < 0.5
    errors = [
        float((made[n, c, i, j] - images[n, c, i, j]) ** 2)
        for n in range(3)
        for c in range(2)
        for i in range(4)
        for j in range(4)
        if hidden[n, 0, i, j]
    ]
    expected = sum(errors) / len(errors)
    assert blind_spot_loss(made, images, hidden).item() == pytest.approx(expected, rel=1e-9)
    assert blind_spot_loss(made, images, torch.zeros_like(hidden)) == 0


def test_shown_pixels_have_no_gradient():
    made = torch.rand(2, 3, 4, 4, requires_grad=True)
    hidden = torch.rand(2, 1, 4, 4) < 0.5
    blind_spot_loss(made, torch.rand(2, 3, 4, 4), hidden).backward()
    assert torch.equal((made.grad != 0).any(1, keepdim=True), hidden)
