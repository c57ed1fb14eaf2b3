"""`hf-tinybert push`: upload a student's folder to the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_tinybert.cli import arguments
from hf_tinybert.hub import upload


@dataclass
class PushArguments:
    """What to upload, and where to."""

    folder: str = field(metadata={"help": "Folder of the student; may also stand first, without --folder."})
    repo_id: str = field(metadata={"help": "Repository, OWNER/NAME; created if it is not there."})
    private: bool | None = field(
        default=None, metadata={"help": "Whether a new repository is private; as your account says by default."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch; created if it is not there. Default: main."})
    commit_message: str = field(default="Upload student", metadata={"help": "Message of the commit."})
    token: str | None = field(
        default=None, metadata={"help": "By default HF_TOKEN, or the token that `hf auth login` stored."}
    )


def run(argv: Sequence[str]) -> None:
    """Upload weights, tokenizer, card, pictures and `onnx/` of a folder, and nothing else."""
    argv = arguments.named_first(argv, "--folder")
    (args,) = arguments.parse("push", "Upload a student to the Hub.", (PushArguments,), argv)
    upload.check_folder(args.folder)
    name = upload.create_repository(args.repo_id, args.token, args.private)
    done = upload.push(args.folder, name, args.token, args.revision, args.commit_message)
    print("\n".join(upload.files_of(args.folder)))
    print(f"\n{name}: {done.commit_url}")
