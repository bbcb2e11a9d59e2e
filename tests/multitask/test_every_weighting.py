"""What holds for every weighting, those of later files included.

That two ranks end with the weights and parameters of one is in `test_multitask_ddp.py`.
"""

from __future__ import annotations

import io

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from torch.utils.data import DataLoader

from detaux_pl.artifacts.labels import IGNORED
from detaux_pl.data.batch import Batch
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.multitask.weighting.base import Weighting
from tests.found import check_refusal, every, variants
from tests.multitask.test_gramian import Net

STEPS = 12
EPOCH = 3


def ready(cls, n_tasks, dtype=torch.float64):
    """Each kind of it that takes a number of tasks, as a model of a precision sets it up."""
    found = {}
    for name, weighting in variants(Weighting, cls).items():
        try:
            weighting.setup(n_tasks)
        except ValueError as error:
            check_refusal(error, str(n_tasks))
            continue
        found[name] = weighting.to(dtype)
    return found


def losses_of(step, n_tasks, dtype=torch.float64):
    """Losses of a net for a step, none of them alike, with what they share."""
    losses, shared = Net(seed=step, n_tasks=n_tasks, dtype=dtype).measure()
    scale = torch.linspace(0.5, 1.5, n_tasks, dtype=dtype) ** (step % EPOCH)
    return losses * scale, shared


@every(Weighting)
@pytest.mark.parametrize("n_tasks", [1, 2, 3])
def test_a_finite_sum_of_the_losses_whose_gradient_reaches_what_is_shared(cls, n_tasks):
    kinds = ready(cls, n_tasks)
    for name, weighting in kinds.items():
        for step in range(STEPS):
            losses, shared = losses_of(step, n_tasks)
            total = weighting(losses, shared)
            weights = weighting.weights.detach()
            assert weights.shape == (n_tasks,), name
            assert weights.isfinite().all(), name
            assert (weights >= 0).all(), name
            assert total.shape == (), name
            assert total.isfinite(), name
            slopes = torch.autograd.grad(total, losses, retain_graph=True)[0]
            torch.testing.assert_close(slopes, weights.to(slopes), rtol=1e-6, atol=1e-9, msg=name)
            total.backward()
            assert any(each.grad is not None and each.grad.any() for each in shared.parameters)
            if step % EPOCH == EPOCH - 1:
                weighting.end_epoch()
    if n_tasks > 1:
        assert kinds or ready(cls, 5 - n_tasks), f"{cls.__name__} takes neither 2 nor 3 tasks"


@every(Weighting)
def test_what_is_trained_is_no_function_of_the_seed_of_torch(cls):
    for name in ready(cls, 2):
        found = []
        for seed in (0, 1):
            weighting = ready(cls, 2)[name]
            for step in range(STEPS):
                losses, shared = losses_of(step, 2)
                torch.manual_seed(seed)
                before = torch.get_rng_state()
                weighting(losses, shared)
                assert torch.get_rng_state().equal(before), f"{name} draws from torch's generator"
            found.append(weighting.weights)
        assert torch.equal(*found), name


@every(Weighting)
@pytest.mark.parametrize("stop", [1, 4, 6, 11])
def test_a_resumed_weighting_goes_on_as_if_it_had_not_stopped(cls, stop):
    for name in ready(cls, 2):
        records = []
        for interrupted in (False, True):
            one, record = ready(cls, 2)[name], []
            for step in range(STEPS):
                if interrupted and step == stop:
                    saved = io.BytesIO()
                    torch.save(one.state_dict(), saved)
                    saved.seek(0)
                    one = ready(cls, 2)[name]
                    one.load_state_dict(torch.load(saved, weights_only=True))
                losses, shared = losses_of(step, 2)
                total = one(losses, shared)
                record.append(torch.cat([one.weights.detach(), total.detach()[None]]))
                if learnt := list(one.parameters()):
                    slopes = torch.autograd.grad(total, learnt)
                    with torch.no_grad():
                        for parameter, slope in zip(learnt, slopes, strict=True):
                            parameter -= 0.1 * slope
                if step % EPOCH == EPOCH - 1:
                    one.end_epoch()
            records.append(torch.stack(record))
        assert torch.equal(*records), f"{name} forgets something that is not in its state_dict"


@every(Weighting)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_of_less_precision_are_weighed(cls, dtype):
    for name, weighting in ready(cls, 2, dtype).items():
        for step in range(EPOCH):
            losses, shared = losses_of(step, 2, dtype)
            total = weighting(losses, shared)
            assert total.isfinite(), name
            assert weighting.weights.isfinite().all(), name
            total.backward()
            assert all(each.grad.isfinite().all() for each in shared.parameters), name


def images(n_tasks, batch_size):
    """Batches of 32 images of three classes, half of them without a label for the last task."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(32)
    targets = torch.randint(3, (32, n_tasks), generator=generator)
    targets[::2, -1] = IGNORED
    pixels = torch.rand(32, 3, 8, 8, generator=generator)
    batches = [Batch(pixels[k], targets[k], k) for k in rows.split(batch_size)]
    return DataLoader(batches, batch_size=None)


def train(weighting, epochs, folder, resume=None, **settings):
    """Train a small net; return it and the norm of the gradient at each step of the optimizer."""
    torch.manual_seed(0)
    model = HardParameterSharing(
        (3, 8, 8), (3, 3), "small_convnet", hidden=8, dropout=0.0, weighting=weighting, lr=0.01
    )
    norms = []

    def measure(trainer, model, optimizer):
        grads = [each.grad for each in model.parameters() if each.grad is not None]
        if grads:  # none before the first step
            norms.append(torch.stack([grad.norm() for grad in grads]).norm().item())

    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
        max_epochs=epochs,
        callbacks=[LambdaCallback(on_before_zero_grad=measure)],
        **settings,
    )
    trainer.fit(model, images(2, 8), images(2, 8), ckpt_path=resume)
    trainer.save_checkpoint(folder / f"{epochs}.ckpt")
    return model, norms


@pytest.mark.slow
@every(Weighting)
def test_a_resumed_training_that_accumulates_and_clips_is_the_uninterrupted_one(
    cls, tmp_path, monkeypatch
):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    for name in ready(cls, 2):
        made = [variants(Weighting, cls)[name] for _ in range(3)]
        settings = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05}
        whole, norms = train(made[0], 3, tmp_path, **settings)
        train(made[1], 2, tmp_path, **settings)
        resumed, _ = train(made[2], 3, tmp_path, tmp_path / "2.ckpt", **settings)
        assert torch.equal(whole.weighting.weights, resumed.weighting.weights), name
        assert whole.weighting.weights.isfinite().all(), name
        for (key, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
            assert torch.equal(one, other), (name, key)
            assert one.isfinite().all(), (name, key)
        assert len(norms) >= 5  # of 3 epochs of 2 steps, the last of which is not seen
        assert max(norms) <= 0.05 + 1e-6, f"{name} adds to the gradients after they are clipped"
