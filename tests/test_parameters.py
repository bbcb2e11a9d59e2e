"""Constructor parameters: each text stands once, in the class that owns it, and help shows it."""

import inspect
import pkgutil
from importlib import import_module

import docstring_parser
import lightning
import pytest
import torch
from jsonargparse import ArgumentParser

import detaux_pl
from detaux_pl.disentangle.beta_vae import BetaVAE
from detaux_pl.multitask.auxi_learn import AuxiLearn
from detaux_pl.multitask.hard_parameter_sharing import HardParameterSharing
from detaux_pl.multitask.single_task import SingleTask
from detaux_pl.settings.build import constructor_defaults

ROOMS = ("cluster", "data", "disentangle", "losses", "models", "multitask")


def _ours():
    for room in ROOMS:
        package = import_module(f"detaux_pl.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for cls in vars(import_module(module.name)).values():
                if inspect.isclass(cls) and cls.__module__ == module.name:
                    yield cls


CLASSES = list(_ours())


def _texts(cls):
    """Return the texts of the parameters that the docstring of a class gives by itself."""
    parsed = docstring_parser.parse(cls.__dict__.get("__doc__") or "")
    return {param.arg_name: " ".join((param.description or "").split()) for param in parsed.params}


def _help(cls, capsys):
    parser = ArgumentParser(prog="x")
    parser.add_class_arguments(cls, "x")
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    return " ".join(capsys.readouterr().out.split())


def test_no_text_is_written_twice():
    assert len(CLASSES) > 100
    twice = [
        f"{cls.__name__}.{name}, as in {base.__name__}"
        for cls in CLASSES
        for base in cls.__mro__[1:]
        if base.__module__.startswith(detaux_pl.__name__)
        for name, text in _texts(cls).items()
        if _texts(base).get(name) == text
    ]
    assert twice == []


def test_a_text_is_of_a_parameter_that_the_constructor_states():
    """Help takes the text of what `**kwargs` hands on from the class that states it."""
    unseen = [
        f"{cls.__name__}.{name}"
        for cls in CLASSES
        for name in _texts(cls)
        if name not in inspect.signature(cls).parameters
    ]
    assert unseen == []


@pytest.mark.parametrize(
    ("cls", "texts"),
    [
        (
            BetaVAE,
            [
                "--x.beta BETA Weight of the divergence; 1 for a plain VAE.",
                "--x.latent_dim LATENT_DIM Number of latents K. (type: int, default: 10)",
                "--x.lr LR Learning rate; > 0. (type: float, default: 0.0001)",
            ],
        ),
        (
            AuxiLearn,
            [
                "--x.n_auxiliary N_AUXILIARY Auxiliary classes of each principal class. Paper: 5.",
                "--x.hyper_every HYPER_EVERY Training steps from one hyper step to the next.",
                "--x.meta_lr META_LR Learning rate of the meta parameters.",
                "Number of classes of each task, the principal one first.",
            ],
        ),
    ],
)
def test_help_shows_what_is_inherited(cls, texts, capsys):
    shown = _help(cls, capsys)
    assert [text for text in texts if text not in shown] == []


def test_defaults_are_those_of_the_class_that_states_them():
    shared = constructor_defaults(HardParameterSharing)
    assert shared["lr"] == 5e-4
    assert shared["hidden"] == 512
    assert constructor_defaults(AuxiLearn)["meta_weight_decay"] == 5e-3
    assert shared.keys() - constructor_defaults(SingleTask).keys() == {"weighting"}


@pytest.mark.parametrize(
    ("cls", "given"),
    [(BetaVAE, {}), (SingleTask, {"task_sizes": (10,)}), (AuxiLearn, {"task_sizes": (10,)})],
)
def test_an_unknown_argument_is_refused(cls, given):
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        cls(image_shape=(3, 16, 16), **given, foo=1)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "x")
    assert "foo" not in constructor_defaults(cls)
    with pytest.raises(Exception, match="foo"):
        parser.parse_object({"x": {"image_shape": [3, 16, 16], **given, "foo": 1}})


def test_a_checkpoint_of_the_command_line_is_loaded(tmp_path):
    """It holds what the constructor takes of what the command line offers, and the rest too."""
    model, path = BetaVAE((3, 16, 16), beta=2.0, latent_dim=3), tmp_path / "last.ckpt"
    saved = {
        "_class_path": "detaux_pl.disentangle.beta_vae.BetaVAE",
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
        **{name: model.hparams[name] for name in constructor_defaults(BetaVAE)},
        "n_classes": 10,
    }
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": saved,
        "pytorch-lightning_version": lightning.__version__,
    }
    torch.save(checkpoint, path)
    loaded = BetaVAE.load_from_checkpoint(path, weights_only=True)
    assert (loaded.beta, loaded.n_subspaces) == (2.0, 3)
