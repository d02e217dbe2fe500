"""Documentation of the action plugin of this name, which runs on the controller."""

DOCUMENTATION = """
module: device_image_mirror
short_description: Mirror a registry on the controller, as long as this ansible-playbook runs
description:
  - Answers the devices' engines in the public registry's place, and fetches what they ask for once.
options:
  address: {description: Address that the mirror binds., type: str, required: true}
  port: {description: Its port., type: int, required: true}
  upstream: {description: 'Address of the registry; "" for the public one.', type: str, required: true}
  folder: {description: 'Folder for the layers that it keeps, and its log.', type: path, required: true}
"""

EXAMPLES = """
- name: Start a mirror
  device_image_mirror: {address: 0.0.0.0, port: 5000, upstream: "", folder: /tmp/images}
"""

RETURN = """
problem: {description: 'Why it does not run; "" if it does.', type: str, returned: always}
"""
