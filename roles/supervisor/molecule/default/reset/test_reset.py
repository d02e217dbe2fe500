"""What playbooks/reset.yml leaves: the experiments alone."""


def test_only_experiments_stay(folder):
    assert [path.name for path in folder.iterdir()] == ["runs"]
    assert (folder / "runs/molecule/model/last.safetensors").exists()
