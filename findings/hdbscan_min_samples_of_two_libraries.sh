#!/usr/bin/env bash
# Packages: hdbscan 0.8.44 and scikit-learn 1.9.1.
#
# Guess: sklearn.cluster.HDBSCAN, which began as the hdbscan package, gives its clusters for the same
# points and the same settings, but for their numbers and ties.
#
# What happens: min_samples counts neighbours in hdbscan, and in scikit-learn neighbours and the point
# itself, so that k here is k + 1 there. Where min_samples is left out it is min_cluster_size in both,
# and the clusters differ all the same. On 300 points of six blobs, with k = 3, one finds two
# clusters and the other seven. A setting that a paper or a study gives for one library is another
# one in the other.
#
# Output seen (Python 3.11, Linux, x86-64); ARI of the labels, noise included:
#   min_samples  clusters: hdbscan  sklearn  ARI: the same k  sklearn with k + 1
#             2                  7        9             0.67                0.99
#             3                  2        7             0.09                1.00
#             5                  2        2             0.90                1.00
#            10                  2        2             0.93                1.00
#      left out                  2        2             0.93
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    hdbscan==0.8.44 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
"$folder/venv/bin/python" -I -W ignore - <<'PYTHON'
import hdbscan
from sklearn.cluster import HDBSCAN
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

points, _ = make_blobs(300, centers=6, cluster_std=1.2, random_state=0)


def first(k):
    exact = {"approx_min_span_tree": False}
    return hdbscan.HDBSCAN(min_cluster_size=8, min_samples=k, **exact).fit(points).labels_


def second(k):
    return HDBSCAN(min_cluster_size=8, min_samples=k, copy=True).fit(points).labels_


print("min_samples  clusters: hdbscan  sklearn  ARI: the same k  sklearn with k + 1")
same, shifted = {}, {}
for k in (2, 3, 5, 10, None):
    ours, theirs = first(k), second(k)
    same[k] = adjusted_rand_score(ours, theirs)
    shifted[k] = adjusted_rand_score(ours, second(k + 1)) if k else float("nan")
    line = f"{k or 'left out':>11}  {ours.max() + 1:17}  {theirs.max() + 1:7}  {same[k]:15.2f}"
    print(line + (f"  {shifted[k]:18.2f}" if k else ""))

assert max(same.values()) < 0.95
assert same[3] < 0.2
assert min(value for k, value in shifted.items() if k) > 0.99
PYTHON
