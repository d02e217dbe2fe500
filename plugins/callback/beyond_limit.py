"""Hosts that plays need whatever --limit says. See DOCUMENTATION for how a play names them."""

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

sys.path.insert(0, str(Path(__file__).parents[1] / "plugin_utils"))
import ansible_private

DOCUMENTATION = """
    name: beyond_limit
    type: aggregate
    short_description: hosts that plays need whatever --limit says
    description:
      - A playbook with a play that has the variable flowerbed_beyond_limit, a list of hosts, runs on these hosts, too,
        where --limit leaves them out.
      - "For example: a play with vars: {flowerbed_beyond_limit: [localhost, server]}."
"""

VARIABLE = "flowerbed_beyond_limit"


class CallbackModule(CallbackBase):
    """Widens --limit before the first play."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "beyond_limit"

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Add the hosts that the playbook's plays name."""
        for play in playbook.get_plays():
            if VARIABLE in play.vars:
                ansible_private.widen_limit(play, play.vars[VARIABLE])
