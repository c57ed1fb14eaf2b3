"""A process that does what it is told with the real Hub client: JSON lines in, JSON lines out."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback

from huggingface_hub import HfApi, snapshot_download

from hf_tinybert import hub
from hf_tinybert.cli import main


def push(folder, repo_id, **kwargs):
    private = kwargs.pop("private", None)
    name = hub.create_repository(repo_id, kwargs.get("token"), private)
    return hub.push(folder, name, **kwargs).oid


def command(argv):
    """A command of `hf-tinybert`: its exit status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as end:
            code = end.code
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def upload(folder, repo_id):
    """Everything that lies in a folder, as users upload who do not use `hf-tinybert push`."""
    HfApi().create_repo(repo_id)
    return HfApi().upload_folder(folder_path=folder, repo_id=repo_id).oid


ACTIONS = {"upload": upload, "push": push, "download": snapshot_download, "command": command}

for line in sys.stdin:
    asked = json.loads(line)
    try:
        answer = {"result": ACTIONS[asked.pop("do")](**asked)}
    except Exception as error:
        traceback.print_exc()
        answer = {"error": type(error).__name__, "message": str(error)}
    print("ANSWER", json.dumps(answer), flush=True)
