#!/usr/bin/env bash
# Package: optuna 5.0.0.
#
# Guess: the choices 1 and 1.0 of suggest_categorical, which many an estimator tells apart (for
# max_features of scikit-learn's forests: one feature, all features), are two choices, in the record
# of the study as in the trials. Or they are refused.
#
# What happens: both are tried, but as they are equal in Python every trial is recorded with the
# first of them. A trial that ran with 1.0 says 1, and so does best_params, which give another value
# when they are run again. So it is with 1 and True, and with 0 and False. Name the choices by
# strings.
#
# Output seen (Python 3.11, Linux, x86-64):
#   ran with      1.0 1 1.0 1.0 1 1 1.0 1.0
#   recorded with 1 1 1 1 1 1 1 1
#   best value 0.9 with {'max_features': 1}
#   best_params again: 0.5
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    optuna==5.0.0 numpy==2.4.6
"$folder/venv/bin/python" -I - <<'PYTHON'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial):
    choice = trial.suggest_categorical("max_features", [1, 1.0])
    trial.set_user_attr("ran with", repr(choice))
    return 0.9 if isinstance(choice, float) else 0.5


study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
study.optimize(objective, n_trials=8)
ran = [trial.user_attrs["ran with"] for trial in study.trials]
recorded = [repr(trial.params["max_features"]) for trial in study.trials]
again = objective(optuna.trial.FixedTrial(study.best_params))
print("ran with     ", *ran)
print("recorded with", *recorded)
print("best value", study.best_value, "with", study.best_params)
print("best_params again:", again)

assert set(ran) == {"1", "1.0"}
assert set(recorded) == {"1"}
assert (study.best_value, again) == (0.9, 0.5)
for first, second in ((1, True), (True, 1), (0, False)):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ran = set()
    for _ in range(8):
        trial = study.ask()
        ran.add(repr(trial.suggest_categorical("choice", [first, second])))
        study.tell(trial, 0.0)
    assert ran == {repr(first), repr(second)}
    assert {repr(trial.params["choice"]) for trial in study.trials} == {repr(first)}
PYTHON
