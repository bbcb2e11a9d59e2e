"""Small file sets in the true format, one module per data set, called like the data set's own.

Each has a function `write(root, monkeypatch, seed=0)`, which fills an empty folder and returns the
arguments that the data set is made with, as JSON can hold them. Another seed gives other pixels
under the same names. `monkeypatch` is for what is checked of published files, such as checksums; a
data set that needs no file returns what makes it small.
"""
