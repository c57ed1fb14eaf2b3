"""`--own-times N`: the N slowest tests by their own setup and call, and the shared fixtures apart.

A fixture of a session or a module is made in the setup of the first test that asks for it; its time is no time of
that test.
"""

from __future__ import annotations

import time

import pytest

SHARED: dict[str, float] = {}
OWN: dict[str, float] = {}
_within: list[float] = []


def pytest_addoption(parser):
    parser.addoption("--own-times", type=int, default=0, metavar="N", help="the N slowest tests by their own time")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    if fixturedef.scope == "function":
        return (yield)
    start = time.perf_counter()
    _within.append(0.0)
    try:
        return (yield)
    finally:
        inner = _within.pop()
        taken = time.perf_counter() - start
        name = f"{fixturedef.baseid or 'tests'}::{fixturedef.argname}"
        SHARED[name] = SHARED.get(name, 0.0) + taken - inner
        if _within:
            _within[-1] += taken
        else:
            OWN[request._pyfuncitem.nodeid] = OWN.get(request._pyfuncitem.nodeid, 0.0) - taken


def pytest_runtest_logreport(report):
    if report.when in ("setup", "call"):
        OWN[report.nodeid] = OWN.get(report.nodeid, 0.0) + report.duration


def pytest_terminal_summary(terminalreporter, config):
    count = config.getoption("--own-times")
    for title, times in (("tests", OWN), ("shared fixtures", SHARED)) if count else ():
        terminalreporter.section(f"slowest {title}")
        for name, seconds in sorted(times.items(), key=lambda item: -item[1])[:count]:
            terminalreporter.line(f"{seconds:7.2f} s  {name}")
        terminalreporter.line(f"{sum(times.values()):7.2f} s  all of them")
