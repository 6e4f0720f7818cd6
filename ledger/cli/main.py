"""The commands of `forge-ledger`, put together.

IO: the terminal, through the commands.
"""

import click

from . import accuse, files, money, proofs, read, recover, verify
from .base import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Verify, read, prove and carry the ledger of a P2P-LLM-Forge network, offline."""


for _part in (verify, read, money, proofs, accuse, files, recover):
    for _command in _part.COMMANDS:
        main.add_command(_command)
