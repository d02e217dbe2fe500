"""What Ansible does not promise and we use: each of these says what broke when a release takes it away."""

import ast
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleUndefinedVariable
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play import Play
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("ansible_private", ROOT / "plugins/plugin_utils/ansible_private.py")
private = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(private)

HOSTS = """\
all:
  children:
    devices:
      vars: {of_group: group, both: group}
      children:
        near: {hosts: {one: {both: host}}, vars: {of_group: child}}
"""


@pytest.fixture
def playbook(tmp_path):
    """What a playbook has at hand: with a task of a play, for the host `one` of an inventory in a file."""
    (tmp_path / "hosts.yml").write_text(HOSTS)
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/devices.yml").write_text("\n\nin_a_file: 7\n")
    loader = DataLoader()
    loader.set_basedir(str(tmp_path))
    inventory = InventoryManager(loader, sources=[str(tmp_path / "hosts.yml")])
    variables = VariableManager(loader, inventory)
    variables._extra_vars = {"extra": 1}
    task = {"name": "One", "debug": {"msg": "{{ both }}"}, "vars": {"own": "{{ both }} of {{ inventory_hostname }}"}}
    play = Play.load({"hosts": "all", "tasks": [task]}, variable_manager=variables, loader=loader)
    [block] = play.compile()[1:2]
    return SimpleNamespace(
        loader=loader, inventory=inventory, hostvars=HostVars(inventory, variables, loader), play=play,
        task=block.block[0], host=inventory.get_host("one"), folder=tmp_path,
    )  # fmt: skip


def test_a_task_has_an_identity_and_a_role(playbook):
    assert private.identity(playbook.task) == private.identity(playbook.task.copy()) != ""
    assert private.role_of(playbook.task) is None


def test_a_template_is_read_as_on_a_host(playbook):
    text = playbook.task.vars["own"]
    assert private.template_on(playbook.play, playbook.host, playbook.task, text) == "host of one"


def test_an_inventory_is_had_from_hostvars_with_its_sources_and_what_was_said_on_the_command_line(playbook):
    assert private.inventory_of(playbook.hostvars) is playbook.inventory
    assert private.sources_of(playbook.inventory) == [str(playbook.folder / "hosts.yml")]
    assert private.extra_vars_of(playbook.hostvars) == {"extra": 1}


def test_a_variable_in_a_file_is_found_with_its_line(playbook):
    [beside_playbook, beside_inventory] = private.variables_in_files(
        playbook.loader, playbook.inventory, playbook.inventory.groups["devices"]
    )
    assert beside_inventory == {"in_a_file": 7} == beside_playbook  # both lie in one folder here
    assert private.position(next(iter(beside_inventory))) == (str(playbook.folder / "group_vars/devices.yml"), 3)
    assert private.position("plain text") is None


def test_what_is_encrypted_in_its_file_is_told_from_other_values(playbook):
    (playbook.folder / "secret.yml").write_text("one: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  3132\ntwo: text\n")
    values = playbook.loader.load_from_file(str(playbook.folder / "secret.yml"))
    assert [private.is_vaulted(values[name]) for name in ("one", "two")] == [True, False]


def test_a_host_s_groups_come_with_the_one_first_whose_variables_count_most(playbook):
    assert [group.name for group in private.groups_of(playbook.host)] == ["near", "devices", "all"]


def test_templates_of_many_hosts_are_resolved_each_with_its_variables(playbook):
    templates = private.Templates(playbook.loader)
    for value in ("one", "two"):
        templates.variables = {"name": value}
        assert templates.resolve("the {{ name }}") == f"the {value}"
    with pytest.raises(AnsibleUndefinedVariable):
        templates.resolve("{{ nothing }}")


def test_a_task_s_heading_can_be_shown_early_and_something_done_before_it(playbook, monkeypatch):
    output, shown = private.Output(), []
    output.get_option = lambda name: False  # they are the plugin's that is made of it
    monkeypatch.setattr(output._display, "banner", shown.append)
    monkeypatch.setattr(output, "before_task", lambda: shown.append("before"))
    output.v2_playbook_on_play_start(playbook.play)
    shown.clear()
    output.v2_playbook_on_task_start(playbook.task, is_conditional=False)
    output.show_heading(playbook.task)
    assert shown[0] == "before" and "One" in shown[-1]


# What Ansible's guide for developers has a plugin use, though it begins with an underscore
SHOWN = {
    "_task", "_host", "_result", "_play", "_display", "_loader", "_templar", "_connection", "_shell", "_execute_module",
    "_remove_tmp_path", "_make_tmp_path", "_fixup_perms2", "_VALID_ARGS",
}  # fmt: skip
PROMISED = r"ansible\.(constants|errors|release|module_utils(\..+)?|plugins(\.\w+)*|utils\.(display|hashing))"


def test_what_ansible_does_not_promise_is_used_in_one_module():
    """Attributes with an underscore, of what is not the module's own, and imports."""
    files = [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "roles").rglob("*_plugins/*.py")]
    files += (ROOT / "roles/fl/fl_validator").glob("*.py")
    assert len(files) > 20
    for path in files:
        tree = ast.parse(path.read_text())
        if path.stem == "ansible_private" or "ansible" not in path.read_text():
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-zA-Z]", node.attr) and node.attr not in SHOWN:
                mine = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "os")
                named_tuple = node.attr in ("_asdict", "_replace", "_fields")
                assert mine or named_tuple, f"{path}:{node.lineno} uses {node.attr}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                if names == ["ansible"]:
                    names = [f"ansible.{alias.name}" for alias in node.names]
                for name in names:
                    ours = not re.match(r"ansible\b", name) or re.fullmatch(PROMISED, name)
                    assert ours, f"{path}:{node.lineno} imports {name}"
