"""Documentation of the action plugin of this name, which runs on the controller."""

DOCUMENTATION = """
module: support_bundle
short_description: Write what was collected of all hosts into one archive, without secrets
description:
  - Takes what C(support_files) has registered as C(support_collected) on each host, and what the role board has found.
  - Takes out secrets, which it knows from the hosts' variables and this process's environment, or by their form.
  - Finds the lines that most likely explain a failure. Keeps the latest five archives in the folder.
options:
  folder: {description: Where the archive is written., type: path, required: true}
  hosts: {description: Whose it is made of., type: list, elements: str, required: true}
  sentence: {description: What the run said in the end., type: str}
  since: {description: 'When it began, in seconds since 1970; by default a day ago.', type: float}
  deployed: {description: 'File that says what is deployed, for the secrets in it.', type: path, required: true}
"""

EXAMPLES = """
- name: Write the bundle
  support_bundle: {folder: runs/first/support, hosts: [server, rpi-1], deployed: .flowerbed/lab/server/deployed.json}
"""

RETURN = """
path: {description: 'The archive; "" where it could not be written.', type: str, returned: always}
bytes: {description: Its size., type: int, returned: when it is written}
problem: {description: 'Why it could not be written; "" where it was.', type: str, returned: always}
away: {description: 'Why a host was not looked at, by host.', type: dict, returned: always}
likely: {description: 'The lines, each with host, file and line.', type: list, returned: always}
"""
