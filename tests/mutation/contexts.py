"""A pytest plugin for `coverage run`: every test, and every shared fixture, is a context of its own.

Processes that a test starts inherit its name by the environment; the forked ones all belong to the fixture that starts
their server, and so to every test that uses it. Names, times and fixtures are written to COVERAGE_TESTS as JSON.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import coverage
import pytest

VARIABLE = "COVERAGE_CONTEXT"
_tests: dict[str, dict[str, Any]] = {}
_fixtures: dict[str, float] = {}


def _enter(name: str) -> str:
    before, os.environ[VARIABLE] = os.environ.get(VARIABLE, ""), name
    current = coverage.Coverage.current()
    if current is not None:
        current.switch_context(name)
    return before


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    before, start = _enter(f"test:{item.nodeid}"), time.perf_counter()
    try:
        return (yield)
    finally:
        _enter(before)
        seen = _tests.setdefault(item.nodeid, {})
        seen |= {"seconds": time.perf_counter() - start, "fixtures": sorted(item.fixturenames)}


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    if fixturedef.scope == "function":
        return (yield)
    name = f"{fixturedef.baseid}::{fixturedef.argname}"
    before, start = _enter(f"fixture:{name}"), time.perf_counter()
    try:
        return (yield)
    finally:
        _enter(before)
        _fixtures[name] = time.perf_counter() - start


def pytest_runtest_logreport(report):
    outcomes = _tests.setdefault(report.nodeid, {}).setdefault("outcomes", [])
    outcomes.append(report.outcome)


def pytest_sessionfinish():
    Path(os.environ["COVERAGE_TESTS"]).write_text(
        json.dumps({"tests": _tests, "fixtures": _fixtures}), encoding="utf-8"
    )
