#!/usr/bin/env bash
# Package: scikit-learn 1.9.1.
#
# Guess: calinski_harabasz_score, dispersion between clusters over that within them, is infinite or
# very large for clusters without any spread, so that the number of clusters of codes that have
# collapsed onto four points is four by this score, too.
#
# What happens: such a clustering gets exactly 1.0, less than wrong ones get on the same points. As
# soon as the points spread by a millionth, four clusters have the best score again, by far.
#
# Output seen (Python 3.11, Linux, x86-64):
#   clusters  collapsed  spread by 1e-6  silhouette of the collapsed
#          2      479.2             479  0.78
#          3      683.5             684  0.90
#          4        1.0        5.39e+14  1.00
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -I - <<'PYTHON'
import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import calinski_harabasz_score, silhouette_score

corners = np.array([[0.0, 0.0], [0.0, 4.0], [10.0, 0.0], [10.0, 5.0]])
collapsed = np.repeat(corners, 25, axis=0)
spread = collapsed + 1e-6 * np.random.default_rng(0).normal(size=collapsed.shape)
scores = {}
print("clusters  collapsed  spread by 1e-6  silhouette of the collapsed")
for k in (2, 3, 4):
    labels = KMeans(k, n_init=10, random_state=0).fit_predict(collapsed)
    scores[k] = (
        calinski_harabasz_score(collapsed, labels),
        calinski_harabasz_score(spread, labels),
        silhouette_score(collapsed, labels),
    )
    print(f"{k:8}  {scores[k][0]:9.1f}  {scores[k][1]:14.3g}  {scores[k][2]:.2f}")

assert scores[4][0] == 1.0
assert scores[4][0] < min(scores[2][0], scores[3][0])
assert scores[4][1] > 1e12
assert scores[4][2] == 1.0
PYTHON
