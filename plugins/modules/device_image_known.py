"""Documentation of the action plugin of this name, which runs on the controller."""

DOCUMENTATION = """
module: device_image_known
short_description: Ask registries which images some names mean
description:
  - By what a registry says of an image, what devices hand to each other is checked.
  - What a registry said earlier counts while it says nothing.
options:
  names: {description: The images., type: list, elements: str, required: true}
  upstream: {description: 'Address of the registry; "" for the public one.', type: str, required: true}
  ids: {description: 'Ids that the user gives, by name; these are not asked for.', type: dict, required: true}
  folder: {description: Folder for what registries said (known.json)., type: path, required: true}
"""

EXAMPLES = """
- name: Ask the registries
  device_image_known: {names: ["debian:bookworm"], upstream: "", ids: {}, folder: /tmp/images}
  run_once: true
  delegate_to: localhost
"""

RETURN = """
known:
  description: By name and processor ("" for any), the ids that the image may have on an engine.
  type: dict
  returned: always
problems:
  description: By name, why its registry could not be asked, the end of a sentence.
  type: dict
  returned: always
"""
