from __future__ import annotations

import json

from detaux_pl.artifacts.files import write_json
from detaux_pl.report.sections import candidates, discoveries, shortcuts
from detaux_pl.report.style import to_svg
from tests.report.fake_predictions import view_of
from tests.report.test_report import Page, rows_of

MAIN = "hard_parameter_sharing"
NAMES = ["<b>cat</b>", "dog"]


def alarm(name, cells):
    return {
        "name": name, "effect": 0.94, "p_value": 0.001, "sentence": f"Shortcut alarm: {name}.",
        "rare": 7, "cells": cells, "known": {"place": 0.98}, "alike": ["KMeans 8 · subspace 1"],
    }  # fmt: skip


def cell(label, ids):
    return {"label": label, "group": 1, "n": len(ids), "of": 30, "expected": 9.5, "ids": ids}


def test_alarms_are_shown_with_the_exceptions(tmp_path):
    view = view_of(tmp_path, NAMES, 40, {MAIN: (1.0, 1)}, baseline=None)
    related = {"name": "KMeans 2 · subspace 1", "kind": "shortcut", "effect": 0.94,
               "p_value": 0.001, "purity": 0.97, "depth": None}  # fmt: skip
    found = {
        "sentence": "Shortcut alarm: both.",
        "alarms": [alarm("one", [cell(0, [3, 5]), cell(1, [20])]), alarm("two", [])],
        "relations": [related] * 30,
    }
    (tmp_path / "cluster").mkdir()
    write_json(tmp_path / "cluster" / "shortcuts.json", found)
    report = {"principal": "animal", **shortcuts.SECTION.describe(view)}
    json.dumps(report, allow_nan=False)
    assert report["shortcuts"] == {**found, "classes": NAMES}
    pictures = list(shortcuts.SECTION.draw(view, report))
    assert [picture.name for picture in pictures] == ["shortcut1"]  # the other has no image
    charts = {name: to_svg(figure, name, alt) for name, alt, figure in pictures}
    (part,) = shortcuts.SECTION.render(report, charts)
    page = f'<section id="shortcuts">{part.body}</section>'
    assert Page(page).open == []
    assert "<b>" not in page
    assert charts["shortcut1"] in page
    assert len(rows_of(page, "shortcuts")) == 20
    assert "Shown are 20 of 30 groupings" in page
    assert page.count("place 0.98") == 2


def test_runs_of_earlier_versions_have_no_such_section(tmp_path):
    view = view_of(tmp_path, NAMES, 40, {MAIN: (1.0, 1)}, baseline=None)
    report = {"principal": "animal", **shortcuts.SECTION.describe(view)}
    assert list(shortcuts.SECTION.draw(view, report)) == []
    assert shortcuts.SECTION.render(report, {}) == []


def test_candidates_of_earlier_versions_have_no_relation():
    one = {
        "name": "KMeans 2", "n_classes": 2, "balance": 1.0, "ami_principal": 0.0,
        "stability": 0.9, "restarts": None, "learnability": None, "gain": None, "refused": None,
    }  # fmt: skip
    verdict = {"found": False, "chosen": [], "sentence": "", "headline": "", "details": []}
    report = {"principal": "animal", "arms": {}}
    heads = []
    for other in ({}, {"relation": "shortcut", "effect": 0.5, "p_value": 0.001}):
        given = {**report, "candidates": {"verdict": verdict, "candidates": [one | other]}}
        (part,) = candidates.SECTION.render(given, {})
        heads.append("relation to animal" in part.body)
        assert ("V 0.50" in part.body) == bool(other)
    assert heads == [False, True]


def test_what_groups_are_good_for_is_a_table():
    worth = {"accuracy": 0.9, "balanced": 0.6, "worst": 0.1, "gain": 0.0, "p_value": None}
    better = {**worth, "balanced": 0.7, "gain": 0.1, "p_value": 0.02}
    judged = {
        "name": "<b>KMeans 2", "use": "balance", "p_value": 0.02, "sentence": "",
        "uses": {"leave": worth, "learn": {**worth, "p_value": 0.5}, "balance": better},
    }  # fmt: skip
    verdict = {"found": False, "chosen": [], "sentence": "", "headline": "", "details": []}
    found = {"verdict": verdict, "candidates": [], "uses": [judged]}
    report = {"principal": "animal", "arms": {}, "candidates": found}
    (part,) = candidates.SECTION.render(report, {})
    assert "<b>KMeans" not in part.body
    page = f'<section id="uses">{part.body.partition("What the groups are good for")[2]}</section>'
    rows = rows_of(page, "uses")
    assert [row[1] for row in rows] == ["leave", "learn", "balance"]
    assert [row[-2:] for row in rows] == [["", ""], ["+0.0", "0.500"], ["+10.0", "0.020"]]


def test_alarms_of_further_discoveries_are_told(tmp_path):
    view = view_of(tmp_path, NAMES, 40, {MAIN: (1.0, 1)}, baseline=None)
    folder = tmp_path / "discoveries" / "other" / "cluster"
    folder.mkdir(parents=True)
    found = {"sentence": "", "alarms": [alarm("<b>one", [])], "relations": []}
    write_json(folder / "shortcuts.json", found)
    report = {"principal": "animal", **discoveries.SECTION.describe(view)}
    (part,) = discoveries.SECTION.render(report, {})
    assert "other: Shortcut alarm: &lt;b&gt;one." in part.body
