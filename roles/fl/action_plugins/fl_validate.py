"""Check the whole inventory, once a playbook, and hand out all hosts' fl_* variables. Connects to nothing."""

import json
import sys
from pathlib import Path

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as ansible_version

ROLE = Path(__file__).parents[1]


class ActionModule(ActionBase):
    """Fails with all problems of the inventory, or returns what there is to know of its hosts, each by their names.

    `hosts`: their fl_* variables and defaults; `overrides`: what a device has otherwise than the run; `fixed`: what
    only a deployment can change; `chosen`: the devices of a run. With `as_deployed`, it is a problem if what only a
    deployment can change is not what is deployed.
    """

    _VALID_ARGS = frozenset(("as_deployed",))

    def run(self, tmp=None, task_vars=None):
        """Validate, or repeat what this playbook's first call found."""
        result = super().run(tmp, task_vars)
        # Ansible's own temporary folder lives as long as this ansible-playbook, and all its workers know it.
        memory = Path(constants.DEFAULT_LOCAL_TMP, "fl_fleet.json")
        if not memory.exists():
            problems, fleet = self._validate(task_vars)
            if problems:
                count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
                lines = [f"Nothing was done, because of {count}:", *(f"- {text}" for text in problems)]
                return {**result, "failed": True, "msg": "\n".join(lines)}
            memory.write_text(json.dumps(fleet))
        return {**result, **json.loads(memory.read_text()), "_ansible_verbose_override": True}

    def _validate(self, task_vars):
        """Return the problems, as sentences, and if there are none what is known of the hosts."""
        sys.path.insert(0, str(ROLE))
        import fl_validator
        from fl_validator import chosen, controller, deployed, values

        config_file = task_vars["ansible_config_file"]
        problems = controller.problems(sys.version_info[:2], ansible_version, config_file, ROLE.parents[1])
        if problems:
            return problems, {}
        from fl_validator.read import read  # uses what another version of Ansible need not have

        fleet = read(task_vars, self._task, self._loader)
        options = {name: self._task.args.get(name, False) for name in self._VALID_ARGS}
        problems = fl_validator.validate(fleet, **options)
        if problems:
            return problems, {}
        return [], {
            "hosts": values.typed_values(fleet), "overrides": deployed.overrides(fleet),
            "fixed": deployed.fixed(fleet), "chosen": chosen.chosen(fleet),
        }  # fmt: skip
