"""Documentation of the action plugin of this name, which runs on the controller."""

DOCUMENTATION = """
module: fl_validate
short_description: Check the whole inventory, and hand out all hosts' fl_* variables
description:
  - Reads all hosts of the inventory at once and connects to none of them. Fails with all that is wrong, a sentence
    each, with file and line.
  - Only a playbook's first call does the work; later ones repeat what it found.
  - It is part of the role fl, whose package C(fl_validator) does the checks.
options:
  as_deployed:
    description: Whether it is a problem if something that only a deployment can change is not what is deployed.
    type: bool
    default: false
"""

EXAMPLES = """
- name: Validate the inventory
  fl_validate:
    as_deployed: true
  register: fl_fleet
  run_once: true
  delegate_to: localhost
"""

RETURN = """
hosts: {description: 'By host, its fl_* variables, defaults included.', type: dict, returned: success}
overrides: {description: 'By device, what it has otherwise than the run.', type: dict, returned: success}
fixed: {description: 'By host, the variables that only a deployment can change.', type: dict, returned: success}
"""
